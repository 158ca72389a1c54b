//! The free list of slots of four bytes and more: a chain of *trunk slots* that hold *runs*.
//!
//! A trunk slot is itself free; it holds the offset of the next trunk and as many entries as fit into it, up to a page's worth
//! (as SQLite's freelist pages do for files). An entry is a run of free slots that lie one after another: the index of the first
//! and how many there are. So slots that come back in address order, forwards or backwards, are one entry however many they
//! are, and most frees and refills touch no slot but the first trunk. All trunks but the first are full of entries; `top` is
//! the last entry of the first. A trunk links to the third after it, and the header knows the three first: so that a trunk can be
//! fetched into the processor's cache while others are used up.
//!
//! ```text
//!   top ──────────────────────────┐
//!   trunk₁  [ trunk₄ │ run₁ … run_n · · ]     trunk₂  [ trunk₅ │ run₁ … run_capacity ]     trunk₃  [ trunk₆ │ … ]     …
//!
//!   run       length − 1, 13 bits │ index of the first slot, 19 bits
//! ```

use core::ops::Range;
use core::ptr::NonNull;

use crate::size_class::SizeClass;
use crate::sync::Cell;

/// As an offset, no trunk.
const NONE: u32 = !3;
/// Entries of no trunk: it is full, and a new one is begun.
const NO_ROOM: u32 = u32::MAX;
/// Bytes of a trunk slot that are used: a large slot's other pages stay untouched.
const TRUNK_BYTES_MAX: usize = 4096;

const INDEX_BITS: u32 = 19;
/// How many slots an entry can tell apart.
pub(crate) const SLOTS_MAX: usize = 1 << INDEX_BITS;

/// Free slots that lie one after another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Run(u32);

impl Run {
    pub(crate) const LENGTH_MAX: usize = 1 << (u32::BITS - INDEX_BITS);

    /// `length` is from 1 to [`LENGTH_MAX`](Self::LENGTH_MAX).
    #[inline(always)]
    pub(crate) const fn new(index: u32, length: usize) -> Self {
        Self(index | ((length as u32 - 1) << INDEX_BITS))
    }

    #[inline(always)]
    pub(crate) const fn index(self) -> u32 {
        self.0 & ((1 << INDEX_BITS) - 1)
    }

    #[inline(always)]
    pub(crate) const fn length(self) -> usize {
        (self.0 >> INDEX_BITS) as usize + 1
    }

    /// This run and another as one, if the other begins where this ends or ends where this begins.
    #[inline(always)]
    fn joined(self, other: Self) -> Option<Self> {
        let length = self.length() + other.length();
        let first = if self.index() as usize + self.length() == other.index() as usize {
            self.index()
        } else if other.index() as usize + other.length() == self.index() as usize {
            other.index()
        } else {
            return None;
        };
        (length <= Self::LENGTH_MAX).then(|| Self::new(first, length))
    }
}

/// The list's state, in the slab's header.
pub(crate) struct Trunks {
    /// Offset of the first trunk's last entry in bytes, or of that trunk while it has none, or [`NONE`].
    top: Cell<u32>,
    /// How many entries the first trunk has, or [`NO_ROOM`] where there is none.
    entries: Cell<u32>,
    /// Offsets of the second and the third trunk, or [`NONE`].
    next: [Cell<u32>; 2],
    /// See [`loose`](Self::loose).
    loose: Cell<u32>,
}

impl Trunks {
    /// How many entries a full trunk has: as many words as a slot, but for the link.
    #[inline(always)]
    const fn capacity(slot_bytes: usize) -> u32 {
        (if slot_bytes < TRUNK_BYTES_MAX { slot_bytes } else { TRUNK_BYTES_MAX }) as u32 / 4 - 1
    }

    /// An empty list.
    pub(crate) const fn new() -> Self {
        let next = [Cell::new(NONE), Cell::new(NONE)];
        Self { top: Cell::new(NONE), entries: Cell::new(NO_ROOM), next, loose: Cell::new(0) }
    }

    /// The whole list in another place; this one is empty from now on.
    pub(crate) fn take_all(&self) -> Self {
        let all = Self::new();
        all.put_all(self);
        self.reset();
        all
    }

    /// Makes this list, which is empty, another one, which must not be used any more.
    pub(crate) fn put_all(&self, all: &Self) {
        self.top.set(all.top.get());
        self.entries.set(all.entries.get());
        self.next[0].set(all.next[0].get());
        self.next[1].set(all.next[1].get());
        self.loose.set(all.loose.get());
    }

    /// Makes the list empty, whatever it was.
    pub(crate) fn reset(&self) {
        self.top.set(NONE);
        self.entries.set(NO_ROOM);
        self.next.iter().for_each(|next| next.set(NONE));
        self.loose.set(0);
    }

    #[inline(always)]
    pub(crate) fn is_empty(&self) -> bool {
        self.top.get() == NONE
    }

    /// How many slots the trunks list that were filled since the last [`forget_loose`](Self::forget_loose), themselves included, if each
    /// entry is one slot. Also those that were taken again meanwhile.
    #[inline(always)]
    pub(crate) fn loose(&self) -> u32 {
        self.loose.get()
    }

    pub(crate) fn forget_loose(&self) {
        self.loose.set(0);
    }

    /// Adds a run of free slots, which came back in ascending order or in descending order.
    ///
    /// # Safety
    /// - `memory` is the slab that this list belongs to; the slots are of `slot_bytes`, a multiple of 4.
    /// - The run's slots are slots of it that are not in the list and that nobody uses.
    #[inline(always)]
    pub(crate) unsafe fn push(&self, memory: NonNull<u8>, slot_bytes: usize, run: Run, ascending: bool) {
        let (top, entries) = (self.top.get(), self.entries.get());
        if entries != 0 && entries != NO_ROOM {
            let last = word(memory, top);
            // SAFETY: the entry at `top` was written by a `push`.
            if let Some(joined) = Run(unsafe { load(last) }).joined(run) {
                // SAFETY: as above.
                unsafe { store(last, joined.0) };
                return;
            }
        }
        if entries >= Self::capacity(slot_bytes) {
            // SAFETY: the same contract, and the first trunk is full.
            unsafe { self.begin(memory, slot_bytes, run, ascending) };
        } else {
            self.top.set(top + 4);
            self.entries.set(entries + 1);
            // SAFETY: the first trunk is a free slot with room for an entry more.
            unsafe { store(word(memory, top + 4), run.0) };
        }
    }

    /// Adds a run whose first or last slot becomes the first trunk: the one from which the next run will hardly go on, so that
    /// the two can still be joined.
    ///
    /// # Safety
    /// As for [`push`](Self::push), and the first trunk is full.
    #[inline]
    unsafe fn begin(&self, memory: NonNull<u8>, slot_bytes: usize, run: Run, ascending: bool) {
        let capacity = Self::capacity(slot_bytes);
        let (mut first, mut length) = (run.index(), run.length());
        loop {
            length -= 1;
            let slot = if ascending { first } else { first + length as u32 };
            first += u32::from(ascending);
            let offset = slot * slot_bytes as u32;
            // SAFETY: the slot is free from now on, so its first word is the list's.
            unsafe { store(word(memory, offset), self.next[1].get()) };
            let top = self.top.replace(offset);
            self.next[1].set(self.next[0].get());
            if top == NONE {
                self.next[0].set(NONE);
            } else {
                self.next[0].set(top.wrapping_sub(4 * capacity));
                self.loose.set(self.loose.get().saturating_add(capacity + 1));
            }
            self.entries.set(0);
            if length == 0 {
                return;
            }
            if capacity > 0 {
                self.top.set(offset + 4);
                self.entries.set(1);
                // SAFETY: the trunk is a free slot with room for an entry.
                return unsafe { store(word(memory, offset + 4), Run::new(first, length).0) };
            }
        }
    }

    /// Takes the first trunk, which has no entries, out of the list; returns its offset.
    ///
    /// # Safety
    /// As for [`push`](Self::push); `top` is the offset of a trunk.
    #[inline(always)]
    unsafe fn pop_trunk(&self, memory: NonNull<u8>, slot_bytes: usize) -> u32 {
        let trunk = self.top.get();
        // SAFETY: word 0 of a trunk is the link that `begin` wrote.
        let link = unsafe { load(word(memory, trunk)) };
        if link != NONE {
            prefetch(word(memory, link));
        }
        // All trunks but the first are full.
        let (next, capacity) = (self.next[0].get(), Self::capacity(slot_bytes));
        self.top.set(if next == NONE { NONE } else { next.wrapping_add(4 * capacity) });
        self.entries.set(if next == NONE { NO_ROOM } else { capacity });
        self.next[0].set(self.next[1].get());
        self.next[1].set(link);
        trunk
    }

    /// Removes all free slots, several at a time: `each` gets the offset at which it is said that they are free, whether that is a trunk
    /// itself, and their indices. A trunk is told before it is read; the indices may be any, if clients have written to free slots.
    ///
    /// # Safety
    /// As for [`push`](Self::push), with the slots' class, but that `each` may diverge at what was not pushed.
    pub(crate) unsafe fn drain(
        &self,
        memory: NonNull<u8>,
        class: SizeClass,
        mut each: impl FnMut(u32, bool, Range<usize>),
    ) {
        let slot_bytes = class.slot_bytes();
        while !self.is_empty() {
            let entries = self.entries.get();
            // A link that was written over need not lead to the first byte of a slot.
            let index = class.slots_in(self.top.get().wrapping_sub(4 * entries) as usize);
            self.top.set((index * slot_bytes) as u32);
            each(self.top.get(), true, index..index + 1);
            // SAFETY: the same contract; `top` is the first trunk.
            let trunk = unsafe { self.pop_trunk(memory, slot_bytes) };
            for place in (1..=entries).map(|entry| trunk + 4 * entry) {
                // SAFETY: `push` wrote the trunk's entries.
                let run = Run(unsafe { load(word(memory, place)) });
                each(place, false, run.index() as usize..run.index() as usize + run.length());
            }
        }
    }

    /// Removes as many free slots as `out` has room for and writes their addresses there: those that lie one after another in
    /// descending order, because a magazine hands out from the end.
    ///
    /// # Safety
    /// As for [`push`](Self::push), and the list has at least `out.len()` slots.
    #[inline]
    pub(crate) unsafe fn pop(&self, memory: NonNull<u8>, slot_bytes: usize, out: &mut [usize]) {
        let base = memory.addr().get();
        let mut rest = out;
        while !rest.is_empty() {
            let top = self.top.get();
            debug_assert!(top != NONE, "the slab counts its free slots");
            if self.entries.get() == 0 {
                // SAFETY: the same contract; the first trunk has no entries.
                rest[0] = base + unsafe { self.pop_trunk(memory, slot_bytes) } as usize;
                rest = &mut rest[1..];
                continue;
            }
            let last = word(memory, top);
            // SAFETY: the entry at `top` was written by `push`.
            let run = Run(unsafe { load(last) });
            let count = rest.len().min(run.length());
            if count == run.length() {
                self.top.set(top.wrapping_sub(4));
                self.entries.set(self.entries.get() - 1);
            } else {
                // SAFETY: as above.
                unsafe { store(last, Run::new(run.index() + count as u32, run.length() - count).0) };
            }
            let (now, later) = rest.split_at_mut(count);
            let end = base + (run.index() as usize + count) * slot_bytes;
            for (before, place) in now.iter_mut().enumerate() {
                *place = end - (before + 1) * slot_bytes;
            }
            rest = later;
        }
    }
}

/// Addresses that are looked at together.
const AT_ONCE: usize = 8;

/// How many of the first addresses lie one after another, up to a run's limit, and whether they ascend (or it is just one).
#[inline(always)]
pub(crate) fn run_length(addresses: &[usize], slot_bytes: usize) -> (usize, bool) {
    let [first, second, ..] = *addresses else { return (1, true) };
    let step = second.wrapping_sub(first);
    if step != slot_bytes && step != slot_bytes.wrapping_neg() {
        return (1, true);
    }
    let most = addresses.len().min(Run::LENGTH_MAX);
    let mut length = 2;
    // Several at once, which the compiler makes into wide registers.
    while let Some(several) = addresses[length - 1..most].first_chunk::<{ AT_ONCE + 1 }>() {
        let mut wrong = 0;
        for place in 0..AT_ONCE {
            wrong |= several[place + 1].wrapping_sub(several[place]) ^ step;
        }
        if wrong != 0 {
            break;
        }
        length += AT_ONCE;
    }
    while length < most && addresses[length].wrapping_sub(addresses[length - 1]) == step {
        length += 1;
    }
    (length, step == slot_bytes)
}

/// The word at an offset of the slab: aligned to 4, because slots of 4 bytes and more are.
#[inline(always)]
fn word(memory: NonNull<u8>, offset: u32) -> *mut u32 {
    memory.as_ptr().wrapping_add(offset as usize).cast()
}

/// Reads a word of a trunk. Free slots are poisoned where AddressSanitizer is there: its compiler looks at every access, but not at
/// assembly.
///
/// # Safety
/// The word was written by [`store`], and nobody else uses it meanwhile.
#[inline(always)]
unsafe fn load(word: *const u32) -> u32 {
    #[cfg(all(family_alloc_instrumented, target_arch = "x86_64"))]
    {
        let value: u32;
        // SAFETY: the same contract.
        unsafe {
            core::arch::asm!("mov {0:e}, [{1}]", out(reg) value, in(reg) word, options(nostack, preserves_flags))
        };
        value
    }
    #[cfg(all(family_alloc_instrumented, target_arch = "aarch64"))]
    {
        let value: u32;
        // SAFETY: the same contract.
        unsafe {
            core::arch::asm!("ldr {0:w}, [{1}]", out(reg) value, in(reg) word, options(nostack, preserves_flags))
        };
        value
    }
    #[cfg(not(all(family_alloc_instrumented, any(target_arch = "x86_64", target_arch = "aarch64"))))]
    // SAFETY: the same contract.
    unsafe {
        word.read()
    }
}

/// Writes a word of a trunk, as [`load`] reads it.
///
/// # Safety
/// The word is one of a free slot, and nobody else uses it meanwhile.
#[inline(always)]
unsafe fn store(word: *mut u32, value: u32) {
    #[cfg(all(family_alloc_instrumented, target_arch = "x86_64"))]
    // SAFETY: the same contract.
    unsafe {
        core::arch::asm!("mov [{0}], {1:e}", in(reg) word, in(reg) value, options(nostack, preserves_flags))
    };
    #[cfg(all(family_alloc_instrumented, target_arch = "aarch64"))]
    // SAFETY: the same contract.
    unsafe {
        core::arch::asm!("str {1:w}, [{0}]", in(reg) word, in(reg) value, options(nostack, preserves_flags))
    };
    #[cfg(not(all(family_alloc_instrumented, any(target_arch = "x86_64", target_arch = "aarch64"))))]
    // SAFETY: the same contract.
    unsafe {
        word.write(value)
    };
}

/// Has the processor load what will be read soon.
#[inline(always)]
fn prefetch(place: *const u32) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: a hint, which never faults.
    unsafe {
        core::arch::x86_64::_mm_prefetch(place.cast(), core::arch::x86_64::_MM_HINT_T0)
    };
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    let _ = place;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn empty() -> Trunks {
        let trunks = Trunks::new();
        [&trunks.top, &trunks.entries, &trunks.next[0], &trunks.next[1]].iter().for_each(|cell| cell.set(0));
        trunks.reset();
        trunks.take_all()
    }

    /// # Safety
    /// As for [`Trunks::push`], for each of the addresses.
    unsafe fn push_all(trunks: &Trunks, memory: NonNull<u8>, slot_bytes: usize, addresses: &[usize]) {
        let mut rest = addresses;
        while !rest.is_empty() {
            let (length, ascends) = run_length(rest, slot_bytes);
            let lowest = if ascends { rest[0] } else { rest[length - 1] };
            let run = Run::new(((lowest - memory.addr().get()) / slot_bytes) as u32, length);
            // SAFETY: the caller's promise.
            unsafe { trunks.push(memory, slot_bytes, run, ascends) };
            rest = &rest[length..];
        }
    }

    #[test]
    fn every_slot_pushed_is_popped_once() {
        for slot_bytes in [4usize, 8, 16, 24, 40, 64, 144, 1024, 5120, 8192] {
            let mut slab = vec![0u64; 65_536 / 8];
            let memory = NonNull::new(slab.as_mut_ptr().cast::<u8>()).unwrap();
            let base = memory.addr().get();
            // Under Miri a part of the slab.
            let slots = 65_536 / slot_bytes / if cfg!(miri) { 8 } else { 1 };
            let trunks = empty();
            for round in 1..4 {
                let free: HashSet<usize> = (0..slots).step_by(round).map(|slot| base + slot * slot_bytes).collect();
                let addresses: Vec<usize> = free.iter().copied().collect();
                for addresses in addresses.chunks(7) {
                    // SAFETY: the slab is 64 KiB, and each slot is pushed once.
                    unsafe { push_all(&trunks, memory, slot_bytes, addresses) };
                }
                let mut popped = vec![0; free.len()];
                for popped in popped.chunks_mut(5) {
                    // SAFETY: as many are popped as were pushed.
                    unsafe { trunks.pop(memory, slot_bytes, popped) };
                }
                assert_eq!(popped.len(), free.len());
                assert_eq!(popped.into_iter().collect::<HashSet<_>>(), free, "every slot once");
                assert!(trunks.is_empty());
            }
        }
    }

    #[test]
    fn slots_in_order_are_one_run() {
        for backwards in [false, true] {
            let mut slab = vec![0u64; 65_536 / 8];
            let memory = NonNull::new(slab.as_mut_ptr().cast::<u8>()).unwrap();
            let mut addresses: Vec<usize> = (0..4096).map(|slot| memory.addr().get() + slot * 16).collect();
            if backwards {
                addresses.reverse();
            }
            let trunks = empty();
            for batch in addresses.chunks(64) {
                // SAFETY: the slab is 64 KiB, and each slot is pushed once.
                unsafe { push_all(&trunks, memory, 16, batch) };
            }
            let top = trunks.top.get() as usize;
            assert_eq!((top % 16, trunks.entries.get()), (4, 1), "all but the trunk itself are one run");
            let trunk = memory.addr().get() + top - 4;
            let mut popped = vec![0; 4096];
            for popped in popped.chunks_mut(64) {
                // SAFETY: as many are popped as were pushed.
                unsafe { trunks.pop(memory, 16, popped) };
                let run: Vec<_> = popped.iter().filter(|&&address| address != trunk).collect();
                assert!(run.is_sorted_by(|a, b| a > b), "handed out from the end, they ascend");
            }
            popped.sort_unstable();
            addresses.sort_unstable();
            assert_eq!(popped, addresses);
        }
    }

    #[test]
    fn runs_join_on_either_side_up_to_their_limit() {
        let run = Run::new(100, 10);
        assert_eq!(run.joined(Run::new(110, 5)), Some(Run::new(100, 15)));
        assert_eq!(run.joined(Run::new(95, 5)), Some(Run::new(95, 15)));
        assert_eq!(run.joined(Run::new(111, 5)), None);
        assert_eq!(run.joined(Run::new(94, 5)), None);
        assert_eq!(Run::new(0, Run::LENGTH_MAX).joined(Run::new(Run::LENGTH_MAX as u32, 1)), None);
        assert_eq!((Run::new((1 << 19) - 1, 1).index(), Run::new(0, 8192).length()), ((1 << 19) - 1, 8192));
    }
}
