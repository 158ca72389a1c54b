//! The free list of a slab whose family keeps no states: a bit for each slot, and nothing in the slots.
//!
//! What a client writes to a slot after it freed it can so never lead an allocation astray, slots are handed out in the order
//! of their addresses however they came back, and which pages are free is seen without a list being gone through.
//!
//! Most slabs of small families never have a free slot but among their first. So the bits stand in the slab's header at
//! first, and the last bytes of the slab, which are no slots, stay untouched. When a slot comes back that has no bit there, they
//! move to these, and in the header stands instead which groups of words may have a bit set:
//!
//! ```text
//!   header   bits of slots 0 to 127                      header   groups
//!   slab     │ slots … │ untouched │              ──►    slab     │ slots … │ words of 64 bits │
//!                                                                             └ group ┘└ group ┘ …   at most 64
//! ```
//!
//! **F1** A slot's bit is set exactly while it is recycled: free, and neither purged nor claimed. **F2** Only the holder of the bin's lock
//! touches bits. **F3** A group whose bit in the header is not set has no bit set.

use core::ptr::NonNull;

use super::page_set::words_of;
use super::{Geometry, slab_memory};
use crate::fault::{FaultKind, Truth};
use crate::header::{FREE_WORDS, SlabHeader};

const WORD_BITS: usize = u64::BITS as usize;
/// Slots whose bits fit into the header.
const HEADER_SLOTS: usize = FREE_WORDS * WORD_BITS;
/// Groups of words that the header tells apart.
const GROUPS: usize = WORD_BITS;

/// Bytes of a slab that are kept for the bits of so many slots: none where those in the header are enough.
pub(super) const fn bitmap_bytes(slots: usize) -> usize {
    if slots <= HEADER_SLOTS { 0 } else { slots.div_ceil(WORD_BITS) * size_of::<u64>() }
}

/// Where slots and bits are in all slabs of a bin.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) slots: usize,
    /// Where in a slab the words begin.
    pub(super) words_at: usize,
    /// By how much a word's number is shifted to that of its group.
    group_shift: u32,
}

impl Shape {
    /// The words at the slab's end.
    #[inline(always)]
    fn words(self, slab: &SlabHeader) -> NonNull<u64> {
        // SAFETY: less than a slab's length, which is committed with it; a multiple of 8.
        unsafe { slab_memory(slab).add(self.words_at) }.cast()
    }
}

impl Geometry<'_> {
    /// Whether free lists are bitmaps of this kind.
    #[inline(always)]
    pub(crate) fn has_bitmap(&self) -> bool {
        !self.checks.keeps_states() && !self.is_tiny()
    }

    /// Where slots and bits are in the slabs of this bin.
    #[inline]
    pub(crate) fn shape(&self) -> Shape {
        let words_at = self.unit_bytes() - bitmap_bytes(self.class.slots_of(self.unit_bytes()));
        let words = (self.unit_bytes() - words_at) / size_of::<u64>();
        let group_shift = words.div_ceil(GROUPS).next_power_of_two().trailing_zeros();
        Shape { slots: self.class.slots_of(words_at), words_at, group_shift }
    }

    /// Changes many bits, those in the header or those of all slots, and notes that any of them may be set.
    ///
    /// # Safety
    /// A slab of this bin with a bitmap; the caller holds the bin's lock (F2), and asks for nothing else of the bits meanwhile.
    pub(super) unsafe fn change_free(&self, slab: &SlabHeader, change: impl FnOnce(&mut [u64])) {
        if slab.side_ready.get() {
            slab.free[0].set(u64::MAX);
            let words = self.shape().words(slab).as_ptr();
            // SAFETY: initialised when the bits moved there.
            return change(unsafe { core::slice::from_raw_parts_mut(words, self.slot_words()) });
        }
        let mut words = [0; FREE_WORDS];
        words.iter_mut().zip(&slab.free).for_each(|(word, free)| *word = free.get());
        change(&mut words);
        words.iter().zip(&slab.free).for_each(|(&word, free)| free.set(word));
    }

    /// Sets the bits of slots that lie one after another.
    ///
    /// # Safety
    /// Slots of `slab`, a slab of this bin with a bitmap, which are free from now on; the caller holds the bin's lock (F2).
    #[inline(always)]
    pub(super) unsafe fn set_free(&self, shape: Shape, slab: &SlabHeader, lowest: usize, count: usize) {
        if !slab.side_ready.get() {
            if lowest + count <= HEADER_SLOTS {
                for (word, ones) in words_of(lowest..lowest + count) {
                    slab.free[word].set(self.with(slab, word, slab.free[word].get(), ones));
                }
                return;
            }
            // SAFETY: the same contract.
            unsafe { self.move_bits(shape, slab) };
        }
        if count == 1 {
            // SAFETY: the same contract.
            return unsafe { self.set_word(shape, slab, lowest / WORD_BITS, 1 << (lowest % WORD_BITS)) };
        }
        for (word, ones) in words_of(lowest..lowest + count) {
            // SAFETY: the same contract.
            unsafe { self.set_word(shape, slab, word, ones) };
        }
    }

    /// # Safety
    /// As for [`set_free`](Self::set_free), in a slab whose bits are at its end.
    #[inline(always)]
    unsafe fn set_word(&self, shape: Shape, slab: &SlabHeader, word: usize, ones: u64) {
        // SAFETY: the word of a slot of the slab.
        let place = unsafe { shape.words(slab).add(word) };
        // SAFETY: initialised when the bits moved here, and nobody else's (F2).
        let before = unsafe { place.read() };
        // SAFETY: as above.
        unsafe { place.write(self.with(slab, word, before, ones)) };
        slab.free[0].set(slab.free[0].get() | 1 << (word >> shape.group_shift));
    }

    /// A word with more bits set, none of which was.
    #[inline(always)]
    fn with(&self, slab: &SlabHeader, word: usize, before: u64, ones: u64) -> u64 {
        if before & ones != 0 {
            self.report_listed_twice(slab, word * WORD_BITS + (before & ones).trailing_zeros() as usize);
        }
        before | ones
    }

    /// Moves the bits from the header to the end of the slab.
    ///
    /// # Safety
    /// As for [`set_free`](Self::set_free), in a slab whose bits are in the header.
    #[cold]
    #[inline(never)]
    unsafe fn move_bits(&self, shape: Shape, slab: &SlabHeader) {
        let words = shape.words(slab);
        if !slab.zeroed.get() {
            // SAFETY: the slab's own bytes behind its last slot.
            unsafe { words.write_bytes(0, shape.slots.div_ceil(WORD_BITS)) };
        }
        for (index, word) in slab.free.iter().enumerate() {
            // SAFETY: a slab with slots that have no bit in the header has more words than that.
            unsafe { words.add(index).write(word.get()) };
        }
        slab.free.iter().for_each(|word| word.set(0));
        // The first words are in the first group or in the first two.
        slab.free[0].set(0b11);
        slab.side_ready.set(true);
    }

    /// Takes as many free slots as `out` has room for, those with the lowest addresses first; the lowest stands last, because a
    /// magazine hands out from the end.
    ///
    /// # Safety
    /// As for [`set_free`](Self::set_free), and the bitmap has at least `out.len()` bits set.
    pub(super) unsafe fn take_free(&self, slab: &SlabHeader, out: &mut [usize]) {
        let base = slab.memory().addr();
        let mut left = out.len();
        if !slab.side_ready.get() {
            for (index, word) in slab.free.iter().enumerate() {
                word.set(self.take_bits(word.get(), base, index, out, &mut left));
            }
            return;
        }
        let shape = self.shape();
        let (words, word_count, shift) = (shape.words(slab), shape.slots.div_ceil(WORD_BITS), shape.group_shift);
        let mut groups = slab.free[0].get();
        while left > 0 {
            if groups == 0 {
                self.report_miscounted(slab);
            }
            let first = (groups.trailing_zeros() as usize) << shift;
            let mut rest = 0;
            for index in first..(first + (1 << shift)).min(word_count) {
                // SAFETY: one of the slab's words.
                let place = unsafe { words.add(index) };
                // SAFETY: initialised when the bits moved here, and nobody else's (F2).
                let before = unsafe { place.read() };
                if before != 0 {
                    let after = self.take_bits(before, base, index, out, &mut left);
                    rest |= after;
                    // SAFETY: as above.
                    unsafe { place.write(after) };
                }
            }
            if rest == 0 {
                groups &= groups - 1;
            }
        }
        slab.free[0].set(groups);
    }

    /// Takes slots of one word, as long as some are wanted; returns what is left of the word.
    #[inline(always)]
    fn take_bits(&self, word: u64, base: usize, index: usize, out: &mut [usize], left: &mut usize) -> u64 {
        let slot_bytes = self.class.slot_bytes();
        let (mut word, first) = (word, base + index * WORD_BITS * slot_bytes);
        while word != 0 && *left > 0 {
            *left -= 1;
            out[*left] = first + word.trailing_zeros() as usize * slot_bytes;
            word &= word - 1;
        }
        word
    }

    /// Ends the process: a slot came back to its slab that was free already.
    #[cold]
    #[inline(never)]
    fn report_listed_twice(&self, slab: &SlabHeader, slot: usize) -> ! {
        let address = slab.memory().addr() + slot * self.class.slot_bytes();
        self.report_under_lock(FaultKind::DoubleFree, address, Truth::Said)
    }

    /// Ends the process: a slab has fewer free slots than it counts, because somebody has written there.
    #[cold]
    #[inline(never)]
    fn report_miscounted(&self, slab: &SlabHeader) -> ! {
        let offset = Truth::Offset(self.shape().words_at);
        self.report_under_lock(FaultKind::WriteAfterFree, slab.memory().addr(), offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::Checks;
    use crate::huge_pages::HugePages;
    use crate::region::UnitPool;
    use crate::size_class::{Classes, SizeClass};
    use crate::sync::Lock;

    #[test]
    fn what_is_free_is_taken_once_in_the_order_of_addresses() {
        let mut random = 0x9E37_79B9_7F4A_7C15_u64;
        let mut draw = |below: usize| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (random >> 33) as usize % below
        };
        for unit_shift in [16, 21] {
            let pool = Lock::new(UnitPool::new(unit_shift));
            let natural = (2..unit_shift as usize).map(SizeClass::natural);
            let spaced = Classes::Spaced.all(1 << unit_shift).filter(|class| class.slot_bytes() >= 4);
            let step = if cfg!(miri) { 9 } else { 1 };
            for class in natural.chain(spaced).step_by(step) {
                let (checks, huge_pages) = (Checks::Default, HugePages::Never);
                let geometry = Geometry { class, unit_shift, tag: 77, checks, huge_pages, pool: &pool, family: "Bits" };
                let slab = geometry.open(1).unwrap();
                let (slots, base, slot_bytes) = (geometry.slot_count(), slab.memory().addr(), class.slot_bytes());
                assert!(slots * slot_bytes <= geometry.shape().words_at && slots > 0);
                assert_eq!(geometry.carve(slab, usize::MAX).len(), slots * slot_bytes);
                for density in [1, 5, 64] {
                    // Few and all, single slots and runs, in no order.
                    let mut free: Vec<usize> = (0..slots).filter(|_| draw(64) < density).collect();
                    let mut ranges: Vec<(usize, usize)> = Vec::new();
                    for &slot in &free {
                        match ranges.last_mut() {
                            Some((first, count)) if *first + *count == slot && draw(4) > 0 => *count += 1,
                            _ => ranges.push((slot, 1)),
                        }
                    }
                    (1..ranges.len()).for_each(|place| ranges.swap(place, draw(place + 1)));
                    for (first, count) in ranges {
                        // SAFETY: carved slots that nobody uses; there is no other thread.
                        unsafe { geometry.give_run(geometry.shape(), slab, base + first * slot_bytes, count) };
                    }
                    assert_eq!(geometry.recycled(slab), free.len());
                    while !free.is_empty() {
                        let count = free.len().min(1 + draw(300));
                        let mut out = vec![0; count];
                        // SAFETY: the slab has as many free slots; as above.
                        assert_eq!(unsafe { geometry.take(slab, &mut out) }.ok(), Some(count));
                        out.reverse();
                        let expected: Vec<usize> = free.drain(..count).map(|slot| base + slot * slot_bytes).collect();
                        assert_eq!(out, expected, "{slot_bytes} bytes, {slots} slots");
                    }
                    assert_eq!(geometry.recycled(slab), 0);
                }
                // SAFETY: slots that nobody uses.
                unsafe { geometry.give_run(geometry.shape(), slab, base, slots) };
                geometry.close(slab);
            }
        }
    }

    #[test]
    fn the_bits_leave_the_header_only_when_they_must() {
        let pool = Lock::new(UnitPool::new(16));
        let (checks, huge_pages) = (Checks::Default, HugePages::Never);
        let class = SizeClass::natural(6);
        let geometry = Geometry { class, unit_shift: 16, tag: 77, checks, huge_pages, pool: &pool, family: "Header" };
        let slab = geometry.open(1).unwrap();
        let base = geometry.carve(slab, usize::MAX).start;
        let give = |slot: usize, count: usize| {
            // SAFETY: carved slots that nobody uses; there is no other thread.
            unsafe { geometry.give_run(geometry.shape(), slab, base + slot * 64, count) };
            slab.side_ready.get()
        };
        assert!(!give(0, 1) && !give(127, 1) && !give(60, 10));
        assert!(give(128, 1));
        let mut out = [0; 13];
        // SAFETY: as many are free.
        assert_eq!(unsafe { geometry.take(slab, &mut out) }.ok(), Some(13));
        let slots: Vec<usize> = out.iter().rev().map(|address| (address - base) / 64).collect();
        assert_eq!(slots, [0].into_iter().chain(60..70).chain([127, 128]).collect::<Vec<_>>());
        // SAFETY: slots that nobody uses.
        unsafe { geometry.give_run(geometry.shape(), slab, base, geometry.slot_count()) };
        geometry.close(slab);
    }
}
