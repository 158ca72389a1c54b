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

    /// Adds a free slot.
    ///
    /// # Safety
    /// - `memory` is the slab that this list belongs to; the slots are of `slot_bytes`, a power of two of 4 or more.
    /// - `offset` is the start of a slot of it that is not in the list and that nobody uses.
    #[inline]
    pub(crate) unsafe fn push(&mut self, memory: NonNull<u8>, slot_bytes: usize, offset: u32) {
        if self.first != NONE && self.fill < Self::capacity(slot_bytes) {
            self.fill += 1;
            // SAFETY: the first trunk is a free slot with room for `fill` offsets behind the link.
            unsafe { write(memory, self.first, self.fill, offset) };
        } else {
            // SAFETY: the slot is free from now on, so its first word is the list's.
            unsafe { write(memory, offset, 0, self.first) };
            *self = Self { first: offset, fill: 0 };
        }
    }

    /// Removes a free slot and returns its offset.
    ///
    /// # Safety
    /// As for [`push`](Self::push), and the list is not empty.
    #[inline]
    pub(crate) unsafe fn pop(&mut self, memory: NonNull<u8>, slot_bytes: usize) -> u32 {
        debug_assert!(self.first != NONE, "the slab counts its free slots");
        if self.fill > 0 {
            // SAFETY: word `fill` of the first trunk was written by `push`.
            let offset = unsafe { read(memory, self.first, self.fill) };
            self.fill -= 1;
            return offset;
        }
        let offset = self.first;
        // SAFETY: word 0 of a trunk is the link that `push` wrote.
        self.first = unsafe { read(memory, offset, 0) };
        self.fill = if self.first == NONE { 0 } else { Self::capacity(slot_bytes) };
        offset
    }
}

/// # Safety
/// Word `index` of the slot at `offset` lies in the slab and belongs to the free list.
#[inline(always)]
unsafe fn write(memory: NonNull<u8>, offset: u32, index: u32, value: u32) {
    // SAFETY: inside the slab, as the caller promises.
    let word = unsafe { memory.add(offset as usize + 4 * index as usize) };
    // SAFETY: committed memory of a free slot, aligned to 4 because slots of 4 bytes and more are.
    unsafe { word.cast::<u32>().write(value) };
}

/// # Safety
/// As for [`write`], and the word has been written.
#[inline(always)]
unsafe fn read(memory: NonNull<u8>, offset: u32, index: u32) -> u32 {
    // SAFETY: inside the slab, as the caller promises.
    let word = unsafe { memory.add(offset as usize + 4 * index as usize) };
    // SAFETY: a word that `write` stored; aligned as there.
    unsafe { word.cast::<u32>().read() }
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
            let slots = 65_536 / slot_bytes;
            let mut trunks = Trunks::EMPTY;
            for round in 1..4 {
                let mut free = HashSet::new();
                for slot in (0..slots).step_by(round) {
                    let offset = (slot * slot_bytes) as u32;
                    // SAFETY: the slab is 64 KiB, and each slot is pushed once.
                    unsafe { trunks.push(memory, slot_bytes, offset) };
                    free.insert(offset);
                }
                while !free.is_empty() {
                    // SAFETY: as many are popped as were pushed.
                    let offset = unsafe { trunks.pop(memory, slot_bytes) };
                    assert!(free.remove(&offset), "{offset} came back twice");
                }
                assert_eq!((trunks.first, trunks.fill), (NONE, 0));
            }
        }
    }
}
