//! The free list of a slab whose family keeps no states: a bit for each slot, and nothing in the slots.
//!
//! What a client writes to a slot after it freed it can so never lead an allocation astray, slots are handed out in the order
//! of their addresses however they came back, and which pages are free is seen without a list being gone through.
//!
//! Most slabs of small families never have a free slot but among their first. So the bits stand in the slab's header at
//! first. When a slot comes back that has no bit there, they move to where all have room, and in the header stands instead which
//! groups of words may have a bit set:
//!
//! ```text
//!   header   bits of slots 0 to 127     ──►    header   groups
//!                                              words    │ 64 bits │ 64 bits │ …     up to 64 groups of 1, 2, 4, … words
//! ```
//!
//! They stand in the side table of the slab's unit, in unit 0 of its region. Those of slots of 512 bytes and more (128, where units are
//! short) would have most of a page for themselves: they stand behind the region's headers, those of all classes of 512 to 1023
//! bytes first, then those of 1 KiB to 2 KiB less one, and so on. And those of 4 and 8 bytes are too many for a side table: they stand at the slab's end,
//! where then are no slots. Nobody touches any of these places before there are bits, and where a
//! slab's words have pages of their own these go back on `trim` while it has no free slots.
//!
//! **F1** A slot's bit is set exactly while it is recycled: free, and neither purged nor claimed. **F2** Only the holder of the bin's lock
//! touches bits. **F3** A group whose bit in the header is not set has no bit set.

use core::ops::Range;
use core::ptr::NonNull;

use super::page_set::words_of;
use super::{Geometry, first_offset, slots_start};
use crate::fault::{FaultKind, Truth};
use crate::header::{FREE_WORDS, SlabHeader, UNIT_COUNT, shared_bits_at, shared_bits_shift, side_table};
use crate::os;
use crate::size_class::SizeClass;
use crate::sync::Cell;

pub(super) const WORD_BITS: usize = u64::BITS as usize;
/// Slots whose bits fit into the header.
const HEADER_SLOTS: usize = FREE_WORDS * WORD_BITS;
/// So many words are looked through for slots that lie together.
pub(super) const GROUP_WORDS: usize = 8;
/// Groups of words that the header tells apart.
const GROUPS: usize = WORD_BITS;
/// Slabs that words at their end have pages of.
const LONG_BYTES: usize = 2 << 20;

/// No slab has the words of slots from this length on at its end: they fit into a side table.
pub(super) const BITS_ASIDE_FROM_BYTES: usize = 16;

/// In what the words stand.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// The slab's header, all of them.
    Header,
    /// The unit's side table.
    SideTable,
    /// Those of several units, behind the region's headers.
    Shared,
    /// The slab itself.
    Slab,
}

/// Where slots and bits are in all slabs of a bin.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    /// Slots of a slab that has no colour.
    pub(super) slots: usize,
    /// Where in a slab there can be no slots any more.
    pub(super) slots_end: usize,
    pub(super) place: Place,
    unit_shift: u32,
    /// What an address in a slab is masked with to get to where `words_at` counts from: the slab's first byte or the region's.
    mask: usize,
    words_at: usize,
    /// How far apart the words of two neighbouring units are, beside the units themselves.
    stride: usize,
    /// By how much a word's number is shifted to that of its group.
    group_shift: u32,
}

impl Shape {
    fn new(class: SizeClass, unit_shift: u32) -> Self {
        let unit_bytes = 1_usize << unit_shift;
        let most = class.slots_of(unit_bytes);
        let words = most.div_ceil(WORD_BITS);
        let group_shift = words.div_ceil(GROUPS).next_power_of_two().trailing_zeros();
        let mask = !((UNIT_COUNT << unit_shift) - 1);
        let of = |place, words_at, stride| Self {
            slots: most,
            slots_end: unit_bytes,
            place,
            unit_shift,
            mask,
            words_at,
            stride,
            group_shift,
        };
        let (bytes, slot_shift) = (words * size_of::<u64>(), class.slot_bytes().ilog2());
        let (side, shared, shared_shift) =
            (side_table(unit_shift, 0), shared_bits_at(unit_shift), shared_bits_shift(unit_shift));
        if most <= HEADER_SLOTS {
            of(Place::Header, 0, 0)
        } else if slot_shift >= shared_shift {
            // All units' words of the classes of one power of two take half of what is left by those of shorter slots.
            let left = shared.len() >> (slot_shift - shared_shift);
            of(Place::Shared, shared.end - left, left / 2 / UNIT_COUNT)
        } else if bytes <= side.len() {
            of(Place::SideTable, side.start, side.len())
        } else {
            debug_assert!(class.slot_bytes() < BITS_ASIDE_FROM_BYTES);
            // Pages of their own, where that is little of the slab.
            let is_long = unit_bytes >= LONG_BYTES;
            let end = unit_bytes - if is_long { bytes.next_multiple_of(os::page_bytes()) } else { bytes };
            Self { slots: class.slots_of(end), slots_end: end, mask: !(unit_bytes - 1), ..of(Place::Slab, end, 0) }
        }
    }

    /// The words of a slab.
    #[inline(always)]
    pub(super) fn words(self, slab: &SlabHeader) -> NonNull<u64> {
        let memory = slab.memory().addr();
        let unit = (memory >> self.unit_shift) % UNIT_COUNT;
        let address = (memory & self.mask) + self.words_at + unit * self.stride;
        // The region's provenance is exposed where the region is claimed.
        NonNull::new(core::ptr::with_exposed_provenance_mut(address)).unwrap_or(NonNull::dangling())
    }

    /// Where the words are now of a slab whose first slot is there, how many of its slots have a bit in them, and by how much a
    /// word's number is shifted to that of its group.
    ///
    /// # Safety
    /// A slab of this bin; the caller holds the bin's lock (F2).
    #[inline(always)]
    pub(super) unsafe fn bits_of(
        self,
        slab: &SlabHeader,
        class: SizeClass,
        first: usize,
    ) -> (*const Cell<u64>, usize, u32) {
        let slots = self.slots.min(class.slots_in(self.slots_end - first));
        if slab.side_ready.get() {
            // As cells, because nobody but the holder of the lock touches them.
            (self.words(slab).as_ptr().cast_const().cast(), slots, self.group_shift)
        } else {
            (slab.free.as_ptr(), slots.min(HEADER_SLOTS), 0)
        }
    }

    /// Whether slabs need their units' side tables.
    pub(super) fn is_in_side_table(self) -> bool {
        self.place == Place::SideTable
    }

    /// The bytes of a slab's words, if they have pages of their own.
    pub(super) fn pages_of_words(self) -> Option<usize> {
        let bytes = match self.place {
            Place::Header | Place::Shared => return None,
            Place::SideTable => self.stride,
            Place::Slab => (1 << self.unit_shift) - self.slots_end,
        };
        ((self.words_at | bytes) % os::page_bytes() == 0).then_some(bytes)
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
        Shape::new(self.class, self.unit_shift)
    }

    /// Makes sure that these slots have bits.
    ///
    /// # Safety
    /// As for [`set_free`](Self::set_free).
    pub(super) unsafe fn make_room(&self, slab: &SlabHeader, mut slots: impl Iterator<Item = Range<usize>>) {
        if !slab.side_ready.get() && slots.any(|slots| slots.end > HEADER_SLOTS) {
            // SAFETY: the same contract.
            unsafe { self.move_bits(self.shape(), slab) };
        }
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

    /// Sets the bit of a slot that is free from now on, if it is one of those in the header; whether it is.
    #[inline(always)]
    pub(super) fn set_free_in_header(&self, slab: &SlabHeader, slot: usize) -> bool {
        let is_there = !slab.side_ready.get() && slot < HEADER_SLOTS;
        if is_there {
            let (word, ones) = (slot / WORD_BITS, 1 << (slot % WORD_BITS));
            slab.free[word].set(self.with(slab, word, slab.free[word].get(), ones));
        }
        is_there
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
    /// As for [`set_free`](Self::set_free), in a slab whose bits have left the header.
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

    /// Moves the bits from the header to where all have room.
    ///
    /// # Safety
    /// As for [`set_free`](Self::set_free), in a slab whose bits are in the header.
    #[cold]
    #[inline(never)]
    unsafe fn move_bits(&self, shape: Shape, slab: &SlabHeader) {
        let words = shape.words(slab);
        if shape.place == Place::Slab {
            // What was there before the slab may be poisoned.
            // SAFETY: the slab's own words, where no slots are.
            unsafe { os::unpoison(words.cast(), (1 << shape.unit_shift) - shape.slots_end) };
        }
        if !(shape.place == Place::Slab && slab.zeroed.get()) {
            // SAFETY: the slab's own words, committed with it, with the region, or when it was opened.
            unsafe { words.write_bytes(0, shape.slots.div_ceil(WORD_BITS)) };
        }
        for (index, word) in slab.free.iter().enumerate() {
            // SAFETY: a slab with slots that have no bit in the header has more words than that.
            let place = unsafe { words.add(index) };
            // SAFETY: as above, and nobody else's (F2).
            unsafe { place.write(word.get()) };
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
        let base = slots_start(slab);
        let mut left = out.len();
        if !slab.side_ready.get() {
            for (index, word) in slab.free.iter().enumerate() {
                word.set(self.take_bits(word.get(), base, index, out, &mut left));
                if left == 0 {
                    return;
                }
            }
            self.report_miscounted(slab);
        }
        let shape = self.shape();
        // What was never handed out has no bit.
        let word_count = (slab.fresh.get() as usize).div_ceil(WORD_BITS);
        let (words, shift) = (shape.words(slab), shape.group_shift);
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
                    // That the group has more is known then.
                    if left == 0 && rest != 0 {
                        break;
                    }
                }
            }
            if rest == 0 {
                groups &= groups - 1;
            }
        }
        slab.free[0].set(groups);
    }

    /// Takes so many free slots (a power of two) that lie one after another, at a multiple of their number, if there are some among
    /// the first; returns the first.
    ///
    /// # Safety
    /// As for [`set_free`](Self::set_free).
    pub(super) unsafe fn take_group(&self, slab: &SlabHeader, count: usize) -> Option<usize> {
        let shape = self.shape();
        // SAFETY: the same contract.
        let (words, slots, _) = unsafe { shape.bits_of(slab, self.class, first_offset(slab)) };
        for index in 0..slots.div_ceil(WORD_BITS).min(GROUP_WORDS) {
            // SAFETY: one of the slab's words.
            let word = unsafe { words.add(index) };
            // SAFETY: initialised, and nobody else's (F2).
            let word = unsafe { &*word };
            let mut firsts = word.get();
            (0..count.trailing_zeros()).for_each(|step| firsts &= firsts >> (1 << step));
            // Every bit that is a multiple of `count`.
            firsts &= u64::MAX / ((1 << count) - 1);
            if firsts != 0 {
                let slot = firsts.trailing_zeros();
                word.set(word.get() & !(((1 << count) - 1) << slot));
                slab.used.set(slab.used.get() + count as u32);
                return Some(index * WORD_BITS + slot as usize);
            }
        }
        None
    }

    /// Takes slots of one word, as long as some are wanted; returns what is left of the word.
    #[inline(always)]
    fn take_bits(&self, word: u64, base: usize, index: usize, out: &mut [usize], left: &mut usize) -> u64 {
        let slot_bytes = self.class.slot_bytes();
        let (mut word, first) = (word, base + index * WORD_BITS * slot_bytes);
        if word == u64::MAX && *left >= WORD_BITS {
            // All of them, which the compiler makes into wide registers.
            let range = *left - WORD_BITS..*left;
            *left = range.start;
            out[range].iter_mut().rev().enumerate().for_each(|(slot, place)| *place = first + slot * slot_bytes);
            return 0;
        }
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
    pub(super) fn report_listed_twice(&self, slab: &SlabHeader, slot: usize) -> ! {
        let address = slots_start(slab) + slot * self.class.slot_bytes();
        self.report_under_lock(FaultKind::DoubleFree, address, Truth::Said)
    }

    /// Ends the process: a slab has fewer free slots than it counts, because somebody has written there, or a slot came back twice
    /// that had no bit.
    #[cold]
    #[inline(never)]
    fn report_miscounted(&self, slab: &SlabHeader) -> ! {
        self.report_under_lock(FaultKind::WriteAfterFree, slab.memory().addr(), Truth::Said)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::region::UnitPool;
    use crate::size_class::Classes;
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
            let step = if cfg!(miri) { 17 } else { 1 };
            for class in natural.chain(spaced).step_by(step) {
                let geometry = Geometry::plain(class, unit_shift, &pool);
                let slab = geometry.open(1).unwrap();
                let (slots, base, slot_bytes) = (geometry.slot_count(slab), slots_start(slab), class.slot_bytes());
                let first = first_offset(slab);
                assert!(first + slots * slot_bytes <= geometry.shape().slots_end && slots > 0);
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
        let class = SizeClass::natural(6);
        let geometry = Geometry::plain(class, 16, &pool);
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
        unsafe { geometry.give_run(geometry.shape(), slab, base, geometry.slot_count(slab)) };
        geometry.close(slab);
    }
}
