//! The free lists of the two tiny classes, whose slots are too small for an offset of four bytes.
//!
//! A slab of one-byte slots is cut into *runs* of 256, one of two-byte slots into runs of 65536, so that a link inside its run
//! fits into a slot. The head of each run and one bit that says whether the run has a free slot stand in a side table outside
//! the slab; the last slot of a list links to itself.
//!
//! ```text
//!   side table   [ bit per run, in words of 64 ][ head per run, u8 or u16 ]
//!   run          … [link] … [link] … [self] …
//! ```
//!
//! The table of a one-byte slab is 1.1 bytes per run of 256, in the unit's side table; the tables of all two-byte slabs of a region share a page.

use core::ptr::NonNull;

use crate::header::{UNIT_COUNT, UNIT_SHIFTS, side_table, two_byte_tables_at};

/// One of the two geometries: everything follows from whether a slot is one byte or two.
#[derive(Clone, Copy)]
pub(crate) struct Tiny {
    slot_shift: u32,
    unit_bytes: usize,
}

impl Tiny {
    pub(crate) const fn new(slot_bytes: usize, unit_bytes: usize) -> Self {
        debug_assert!(slot_bytes <= 2);
        Self { slot_shift: slot_bytes.trailing_zeros(), unit_bytes }
    }

    /// Bits of a slot's index inside its run: as many as a slot holds.
    const fn index_bits(self) -> u32 {
        8 << self.slot_shift
    }

    const fn run_count(self) -> usize {
        self.unit_bytes.div_ceil(1 << (self.index_bits() + self.slot_shift))
    }

    const fn word_count(self) -> usize {
        self.run_count().div_ceil(64)
    }

    /// Bytes of one slab's side table.
    pub(crate) const fn table_bytes(self) -> usize {
        self.word_count() * 8 + (self.run_count() << self.slot_shift)
    }

    /// Where in unit 0 the table of a unit is: the short ones of two-byte slots behind the headers, the others are side tables.
    pub(crate) const fn table_offset(self, unit: usize) -> usize {
        let unit_shift = self.unit_bytes.trailing_zeros();
        if self.is_in_side_table() {
            return side_table(unit_shift, unit).start;
        }
        two_byte_tables_at(unit_shift).start + unit * self.table_bytes().next_multiple_of(align_of::<u64>())
    }

    /// Whether slabs need their units' side tables.
    pub(crate) const fn is_in_side_table(self) -> bool {
        self.slot_shift == 0
    }

    /// Empties the table of a slab.
    ///
    /// # Safety
    /// `table` is the slab's side table, committed, and used by nobody else meanwhile.
    pub(crate) unsafe fn initialise(self, table: NonNull<u8>) {
        // SAFETY: the table's bits are its first `word_count` words. The heads need no value while the bits are clear.
        unsafe { table.write_bytes(0, self.word_count() * 8) };
    }

    /// Adds a free slot.
    ///
    /// # Safety
    /// - `memory` is a slab of this geometry and `table` its initialised side table; nobody else uses the table meanwhile.
    /// - `offset` is a slot of the slab that is not in the list and that nobody uses.
    pub(crate) unsafe fn push(self, memory: NonNull<u8>, table: NonNull<u8>, offset: u32) {
        let run = (offset >> (self.index_bits() + self.slot_shift)) as usize;
        let index = (offset >> self.slot_shift) & ((1 << self.index_bits()) - 1);
        let head = self.head(table, run);
        // SAFETY: word `run / 64` lies in the table.
        let word = unsafe { table.cast::<u64>().add(run / 64) };
        // SAFETY: initialised, aligned to 8 as the table is, and used by nobody else meanwhile.
        let word = unsafe { &mut *word.as_ptr() };
        let bit = 1 << (run % 64);
        // SAFETY: the head of a run whose bit is set has been written.
        let link = if *word & bit == 0 { index } else { unsafe { self.load(head) } };
        *word |= bit;
        // SAFETY: a free slot of the slab.
        let slot = unsafe { memory.add(offset as usize) };
        // SAFETY: the slot is free and holds a link.
        unsafe { self.store(slot, link) };
        // SAFETY: the head lies in the table.
        unsafe { self.store(head, index) };
    }

    /// Removes a free slot, looking at the runs from `hint` on; returns its offset and its run.
    ///
    /// # Safety
    /// As for [`push`](Self::push), and the list is not empty.
    pub(crate) unsafe fn pop(self, memory: NonNull<u8>, table: NonNull<u8>, hint: u32) -> (u32, u32) {
        let first = hint as usize / 64 % self.word_count();
        let mut index = first;
        let word = loop {
            // SAFETY: word `index` is below `word_count`, so inside the table, and aligned to 8.
            let word = unsafe { table.cast::<u64>().add(index) };
            // SAFETY: written by `initialise`; the list's owner is the only one to use the table.
            let word = unsafe { &mut *word.as_ptr() };
            if *word != 0 {
                break word;
            }
            index = (index + 1) % self.word_count();
            debug_assert!(index != first, "the slab counts its free slots");
        };
        let run = index * 64 + word.trailing_zeros() as usize;
        let head = self.head(table, run);
        // SAFETY: the head of a run whose bit is set has been written.
        let slot_index = unsafe { self.load(head) };
        let offset = (((run as u32) << self.index_bits()) | slot_index) << self.slot_shift;
        // SAFETY: a free slot of the slab.
        let slot = unsafe { memory.add(offset as usize) };
        // SAFETY: a free slot holds the link that `push` stored.
        let link = unsafe { self.load(slot) };
        if link == slot_index {
            *word &= *word - 1;
        } else {
            // SAFETY: the head lies in the table.
            unsafe { self.store(head, link) };
        }
        (offset, run as u32)
    }

    fn head(self, table: NonNull<u8>, run: usize) -> NonNull<u8> {
        table.map_addr(|table| table.saturating_add(self.word_count() * 8 + (run << self.slot_shift)))
    }

    /// # Safety
    /// `place` is a link of this geometry: one initialised byte, or two at an even address.
    unsafe fn load(self, place: NonNull<u8>) -> u32 {
        if self.slot_shift == 0 {
            // SAFETY: one initialised byte, as the caller promises.
            u32::from(unsafe { place.read() })
        } else {
            // SAFETY: two initialised bytes at an even address, as the caller promises.
            u32::from(unsafe { place.cast::<u16>().read() })
        }
    }

    /// # Safety
    /// `place` has room for a link of this geometry and belongs to the list.
    unsafe fn store(self, place: NonNull<u8>, link: u32) {
        if self.slot_shift == 0 {
            // SAFETY: one byte of the list's, as the caller promises; `link` fits, being below `1 << index_bits`.
            unsafe { place.write(link as u8) };
        } else {
            // SAFETY: two bytes of the list's at an even address; `link` fits as above.
            unsafe { place.cast::<u16>().write(link as u16) };
        }
    }
}

const _: () = {
    let mut shift = *UNIT_SHIFTS.start();
    while shift <= *UNIT_SHIFTS.end() {
        let unit = 1usize << shift;
        let room = side_table(shift, 1).end - side_table(shift, 1).start;
        assert!(Tiny::new(1, unit).table_bytes() <= room, "a one-byte slab's table is a side table");
        let tables = Tiny::new(2, unit).table_offset(UNIT_COUNT);
        assert!(tables <= two_byte_tables_at(shift).end, "all two-byte tables fit behind the headers");
        shift += 1;
    }
};

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_tiny_slot_pushed_is_popped_once() {
        for (slot_bytes, unit_bytes) in [(1usize, 1usize << 16), (2, 1 << 16), (2, 1 << 18)] {
            let tiny = Tiny::new(slot_bytes, unit_bytes);
            let mut slab = vec![0u64; unit_bytes / 8];
            let mut table = vec![u64::MAX; tiny.table_bytes().div_ceil(8)];
            let memory = NonNull::new(slab.as_mut_ptr().cast::<u8>()).unwrap();
            let table = NonNull::new(table.as_mut_ptr().cast::<u8>()).unwrap();
            // SAFETY: a table of its own size.
            unsafe { tiny.initialise(table) };
            for step in if cfg!(miri) { [509, 1021, 2039] } else { [1usize, 3, 257] } {
                let mut free = HashSet::new();
                for slot in (0..unit_bytes / slot_bytes).step_by(step) {
                    let offset = (slot * slot_bytes) as u32;
                    // SAFETY: each slot of the slab is pushed once.
                    unsafe { tiny.push(memory, table, offset) };
                    free.insert(offset);
                }
                let mut hint = 0;
                while !free.is_empty() {
                    // SAFETY: as many are popped as were pushed.
                    let (offset, run) = unsafe { tiny.pop(memory, table, hint) };
                    hint = run;
                    assert!(free.remove(&offset), "{offset} came back twice");
                }
            }
        }
    }
}
