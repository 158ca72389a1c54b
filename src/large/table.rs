//! Where the live large allocations stand: a hash table of their addresses and lengths.
//!
//! Open addressing with linear probing (Knuth, TAOCP 6.4), in mappings of its own, at most three quarters full.

use core::ptr::NonNull;

use super::Piece;
use crate::os;

/// A live allocation; `address` 0 is an empty place.
#[derive(Clone, Copy)]
pub(super) struct Entry {
    pub(super) address: usize,
    pub(super) bytes: usize,
}

pub(super) struct Table {
    first: Option<NonNull<Entry>>,
    /// A power of two, or 0 while there is no memory.
    capacity: usize,
}

// SAFETY: the memory belongs to the table alone.
unsafe impl Send for Table {}

impl Table {
    pub(super) const fn new() -> Self {
        Self { first: None, capacity: 0 }
    }

    /// All entries.
    pub(super) fn entries(&self) -> impl Iterator<Item = Entry> {
        (0..self.capacity).map(|place| self.entry(place)).filter(|entry| entry.address != 0)
    }

    /// Makes sure that one more than `count` entries fit; returns the memory that is not needed for it any more. `None`: there is no
    /// memory.
    pub(super) fn make_room(&mut self, count: usize) -> Option<Option<Piece>> {
        if (count + 1) * 4 <= self.capacity * 3 {
            return Some(None);
        }
        let capacity = if self.capacity == 0 { os::page_bytes() / size_of::<Entry>() } else { self.capacity * 2 };
        let first = os::map(capacity * size_of::<Entry>(), os::page_bytes())?.cast::<Entry>();
        let old = core::mem::replace(self, Self { first: Some(first), capacity });
        for entry in old.entries() {
            self.insert(entry);
        }
        Some(old.first.map(|first| {
            let address = first.as_ptr().expose_provenance();
            Piece { is_huge: false, ..Piece::freed(address, old.capacity * size_of::<Entry>(), 0) }
        }))
    }

    pub(super) fn entry(&self, place: usize) -> Entry {
        debug_assert!(place < self.capacity);
        let first = self.first.unwrap_or(NonNull::dangling());
        // SAFETY: `place < capacity`, so the entry lies in the table.
        let entry = unsafe { first.add(place) };
        // SAFETY: all places of the table are initialised: zero from the system, or written by `set`.
        unsafe { entry.read() }
    }

    fn set(&mut self, place: usize, entry: Entry) {
        debug_assert!(place < self.capacity);
        let first = self.first.unwrap_or(NonNull::dangling());
        // SAFETY: `place < capacity`, so the entry lies in the table.
        let slot = unsafe { first.add(place) };
        // SAFETY: the table is borrowed exclusively.
        unsafe { slot.write(entry) };
    }

    fn home(&self, address: usize) -> usize {
        // Fibonacci hashing of the page number (Knuth, TAOCP 6.4).
        let hash = ((address >> 12) as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
        hash as usize & (self.capacity - 1)
    }

    pub(super) fn find(&self, address: usize) -> Option<usize> {
        if self.capacity == 0 {
            return None;
        }
        let mut place = self.home(address);
        loop {
            match self.entry(place).address {
                0 => return None,
                found if found == address => return Some(place),
                _ => place = (place + 1) & (self.capacity - 1),
            }
        }
    }

    /// There must be a free place.
    pub(super) fn insert(&mut self, entry: Entry) {
        let mut place = self.home(entry.address);
        while self.entry(place).address != 0 {
            place = (place + 1) & (self.capacity - 1);
        }
        self.set(place, entry);
    }

    /// Empties a place and moves later entries of its cluster up, so that probing never meets a hole (Knuth, TAOCP 6.4, R).
    pub(super) fn remove(&mut self, mut hole: usize) {
        let mask = self.capacity - 1;
        let mut place = hole;
        loop {
            place = (place + 1) & mask;
            let entry = self.entry(place);
            if entry.address == 0 {
                break;
            }
            let home = self.home(entry.address);
            if place.wrapping_sub(home) & mask >= place.wrapping_sub(hole) & mask {
                self.set(hole, entry);
                hole = place;
            }
        }
        self.set(hole, Entry { address: 0, bytes: 0 });
    }
}
