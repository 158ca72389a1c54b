//! The free list of slots of four bytes and more: a chain of *trunk slots* that hold *runs*.
//!
//! A trunk slot is itself free; it holds the offset of the next trunk and as many entries as fit into it, up to a page's worth
//! (as SQLite's freelist pages do for files). An entry is a run of free slots that lie one after another: the index of the first
//! and how many there are. So slots that come back in address order, forwards or backwards, are one entry however many they
//! are, and most frees and refills touch no slot but the first trunk. All trunks but the first are full of entries; `fill`
//! counts those of the first.
//!
//! ```text
//!   trunk ──► [ next │ run₁ run₂ … run_fill · · ]      next ──► [ next │ run₁ … run_capacity ] ──► …
//!
//!   run       length − 1, 13 bits │ index of the first slot, 19 bits
//! ```

use core::ptr::NonNull;

use crate::header::UNIT_SHIFTS;

const NONE: u32 = u32::MAX;
/// Bytes of a trunk slot that are used: a large slot's other pages stay untouched.
const TRUNK_BYTES_MAX: usize = 4096;

const INDEX_BITS: u32 = 19;
const _: () = assert!(1 << INDEX_BITS == (1usize << *UNIT_SHIFTS.end()) / 4, "every slot of four bytes has an index");

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
    const fn index(self) -> u32 {
        self.0 & ((1 << INDEX_BITS) - 1)
    }

    #[inline(always)]
    const fn length(self) -> usize {
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

/// The list's state, kept in the slab's header between calls.
#[derive(Clone, Copy)]
pub(crate) struct Trunks {
    /// Offset of the first trunk, in bytes.
    pub(crate) first: u32,
    /// Entries in it; 0 while there is none.
    pub(crate) fill: u32,
}

impl Trunks {
    pub(crate) const EMPTY: Self = Self { first: NONE, fill: 0 };

    const fn capacity(slot_bytes: usize) -> u32 {
        let bytes = if slot_bytes < TRUNK_BYTES_MAX { slot_bytes } else { TRUNK_BYTES_MAX };
        (bytes / 4 - 1) as u32
    }

    /// Adds a run of free slots.
    ///
    /// # Safety
    /// - `memory` is the slab that this list belongs to; the slots are of `slot_bytes`, a power of two of 4 or more.
    /// - The run's slots are slots of it that are not in the list and that nobody uses.
    #[inline(always)]
    pub(crate) unsafe fn push(&mut self, memory: NonNull<u8>, slot_bytes: usize, run: Run) {
        if self.fill > 0 {
            let last = word(memory, self.first, self.fill);
            // SAFETY: entry `fill` of the first trunk was written by a `push`.
            if let Some(joined) = Run(unsafe { last.read() }).joined(run) {
                // SAFETY: as above.
                return unsafe { last.write(joined.0) };
            }
        }
        let mut run = run;
        while self.first == NONE || self.fill == Self::capacity(slot_bytes) {
            let offset = run.index() * slot_bytes as u32;
            // SAFETY: the first slot of the run is free from now on, so its first word is the list's.
            unsafe { word(memory, offset, 0).write(self.first) };
            *self = Self { first: offset, fill: 0 };
            if run.length() == 1 {
                return;
            }
            run = Run::new(run.index() + 1, run.length() - 1);
        }
        self.fill += 1;
        // SAFETY: the first trunk is a free slot with room for `fill` entries behind the link.
        unsafe { word(memory, self.first, self.fill).write(run.0) };
    }

    /// Removes as many free slots as `out` has room for and writes their addresses there: those that lie one after another in
    /// descending order, because a magazine hands out from the end.
    ///
    /// # Safety
    /// As for [`push`](Self::push), and the list has at least `out.len()` slots.
    #[inline]
    pub(crate) unsafe fn pop(&mut self, memory: NonNull<u8>, slot_bytes: usize, out: &mut [usize]) {
        let base = memory.addr().get();
        let mut rest = out;
        while !rest.is_empty() {
            debug_assert!(self.first != NONE, "the slab counts its free slots");
            if self.fill == 0 {
                rest[0] = base + self.first as usize;
                // SAFETY: word 0 of a trunk is the link that `push` wrote.
                self.first = unsafe { word(memory, self.first, 0).read() };
                self.fill = if self.first == NONE { 0 } else { Self::capacity(slot_bytes) };
                rest = &mut rest[1..];
                continue;
            }
            let last = word(memory, self.first, self.fill);
            // SAFETY: entry `fill` of the first trunk was written by `push`.
            let run = Run(unsafe { last.read() });
            let count = rest.len().min(run.length());
            if count == run.length() {
                self.fill -= 1;
            } else {
                // SAFETY: as above.
                unsafe { last.write(Run::new(run.index() + count as u32, run.length() - count).0) };
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
    while length < most && addresses[length].wrapping_sub(addresses[length - 1]) == step {
        length += 1;
    }
    (length, step == slot_bytes)
}

/// Word `index` of the slot at `offset`: inside the slab and aligned to 4, because slots of 4 bytes and more are.
#[inline(always)]
fn word(memory: NonNull<u8>, offset: u32, index: u32) -> *mut u32 {
    memory.as_ptr().wrapping_add(offset as usize + 4 * index as usize).cast()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    /// # Safety
    /// As for [`Trunks::push`], for each of the addresses.
    unsafe fn push_all(trunks: &mut Trunks, memory: NonNull<u8>, slot_bytes: usize, addresses: &[usize]) {
        let mut rest = addresses;
        while !rest.is_empty() {
            let (length, ascends) = run_length(rest, slot_bytes);
            let lowest = if ascends { rest[0] } else { rest[length - 1] };
            let run = Run::new(((lowest - memory.addr().get()) / slot_bytes) as u32, length);
            // SAFETY: the caller's promise.
            unsafe { trunks.push(memory, slot_bytes, run) };
            rest = &rest[length..];
        }
    }

    #[test]
    fn every_slot_pushed_is_popped_once() {
        for slot_bytes in [4usize, 8, 16, 64, 1024, 8192] {
            let mut slab = vec![0u64; 65_536 / 8];
            let memory = NonNull::new(slab.as_mut_ptr().cast::<u8>()).unwrap();
            let base = memory.addr().get();
            let slots = 65_536 / slot_bytes;
            let mut trunks = Trunks::EMPTY;
            for round in 1..4 {
                let free: HashSet<usize> = (0..slots).step_by(round).map(|slot| base + slot * slot_bytes).collect();
                let addresses: Vec<usize> = free.iter().copied().collect();
                for addresses in addresses.chunks(7) {
                    // SAFETY: the slab is 64 KiB, and each slot is pushed once.
                    unsafe { push_all(&mut trunks, memory, slot_bytes, addresses) };
                }
                let mut popped = vec![0; free.len()];
                for popped in popped.chunks_mut(5) {
                    // SAFETY: as many are popped as were pushed.
                    unsafe { trunks.pop(memory, slot_bytes, popped) };
                }
                assert_eq!(popped.len(), free.len());
                assert_eq!(popped.into_iter().collect::<HashSet<_>>(), free, "every slot once");
                assert_eq!((trunks.first, trunks.fill), (NONE, 0));
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
            let mut trunks = Trunks::EMPTY;
            for batch in addresses.chunks(64) {
                // SAFETY: the slab is 64 KiB, and each slot is pushed once.
                unsafe { push_all(&mut trunks, memory, 16, batch) };
            }
            assert!(trunks.fill <= 2, "all but the trunk itself are a run on either side of it");
            let mut popped = vec![0; 4096];
            for popped in popped.chunks_mut(64) {
                // SAFETY: as many are popped as were pushed.
                unsafe { trunks.pop(memory, 16, popped) };
                assert!(popped.is_sorted_by(|a, b| a > b), "handed out from the end, they ascend");
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
