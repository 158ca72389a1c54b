//! The free list of slots of four bytes and more: a chain of *trunk slots*.
//!
//! A trunk slot is itself free; it holds the offset of the next trunk and of as many other free slots as fit into it, up to a
//! page's worth. So most frees and refills touch no slot but the first trunk (as SQLite's freelist pages do for files).
//! Offsets are in bytes from the start of the slab. All trunks but the first are full; `fill` counts the offsets in the first.
//!
//! ```text
//!   trunk ──► [ next │ o₁ o₂ … o_fill · · ]      next ──► [ next │ o₁ … o_capacity ] ──► …
//! ```

use core::ptr::NonNull;

const NONE: u32 = u32::MAX;
/// Bytes of a trunk slot that are used: a large slot's other pages stay untouched.
const TRUNK_BYTES_MAX: usize = 4096;

/// The list's state, kept in the slab's header between calls.
#[derive(Clone, Copy)]
pub(crate) struct Trunks {
    pub(crate) first: u32,
    pub(crate) fill: u32,
}

impl Trunks {
    pub(crate) const EMPTY: Self = Self { first: NONE, fill: 0 };

    const fn capacity(slot_bytes: usize) -> u32 {
        let bytes = if slot_bytes < TRUNK_BYTES_MAX { slot_bytes } else { TRUNK_BYTES_MAX };
        (bytes / 4 - 1) as u32
    }

    /// Adds one free slot.
    ///
    /// # Safety
    /// As for [`push`](Self::push).
    #[inline(always)]
    pub(crate) unsafe fn push_one(&mut self, memory: NonNull<u8>, slot_bytes: usize, address: usize) {
        let offset = (address - memory.addr().get()) as u32;
        if self.first != NONE && self.fill < Self::capacity(slot_bytes) {
            self.fill += 1;
            // SAFETY: the first trunk is a free slot with room for `fill` offsets behind the link.
            unsafe { word(memory, self.first, self.fill).write(offset) };
        } else {
            // SAFETY: the slot is free from now on, so its first word is the list's.
            unsafe { word(memory, offset, 0).write(self.first) };
            *self = Self { first: offset, fill: 0 };
        }
    }

    /// Adds free slots.
    ///
    /// # Safety
    /// - `memory` is the slab that this list belongs to; the slots are of `slot_bytes`, a power of two of 4 or more.
    /// - The `addresses` are slots of it, each once, that are not in the list and that nobody uses.
    #[inline(never)]
    pub(crate) unsafe fn push(&mut self, memory: NonNull<u8>, slot_bytes: usize, addresses: &[usize]) {
        let base = memory.addr().get();
        let capacity = Self::capacity(slot_bytes);
        let mut rest = addresses;
        while let Some((&address, others)) = rest.split_first() {
            let room = if self.first == NONE { 0 } else { capacity - self.fill };
            if room == 0 {
                // SAFETY: the caller's promise.
                unsafe { self.push_one(memory, slot_bytes, address) };
                rest = others;
                continue;
            }
            let (now, later) = rest.split_at(rest.len().min(room as usize));
            let places = word(memory, self.first, self.fill + 1);
            for (index, &address) in now.iter().enumerate() {
                // SAFETY: the first trunk is a free slot with room for `room` more offsets.
                unsafe { places.wrapping_add(index).write((address - base) as u32) };
            }
            self.fill += now.len() as u32;
            rest = later;
        }
    }

    /// Removes as many free slots as `out` has room for and writes their addresses there, so that those freed first are
    /// last in `out`, where a magazine takes them from first.
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
            let count = rest.len().min(self.fill as usize);
            let (now, later) = rest.split_at_mut(count);
            self.fill -= count as u32;
            // SAFETY: words `fill + 1` to `fill + count` of the first trunk were written by `push`.
            let entries = unsafe { core::slice::from_raw_parts(word(memory, self.first, self.fill + 1), count) };
            for (place, &offset) in now.iter_mut().rev().zip(entries) {
                *place = base + offset as usize;
            }
            rest = later;
        }
    }
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
                    unsafe { trunks.push(memory, slot_bytes, addresses) };
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
}
