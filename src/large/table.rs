//! Where each live large allocation begins and how long it is: open addressing with linear probing.

use core::ptr::NonNull;

use crate::marks::{GENERATION_COUNT, Generation};
use crate::os;

#[derive(Clone, Copy)]
pub(super) struct Entry {
    pub(super) address: usize,
    /// Bytes, whole pages; where a mark stands behind what the client asked for, its generation and
    /// 1 are added.
    pub(super) length: usize,
}

/// The bits of a length that say of a mark.
const MARK_BITS: usize = 2 * GENERATION_COUNT - 1;

impl Entry {
    pub(super) fn bytes(self) -> usize {
        self.length & !MARK_BITS
    }

    /// The same allocation with a mark.
    pub(super) fn marked(self, generation: Generation) -> Self {
        Self { length: self.bytes() + 1 + usize::from(generation.number()), ..self }
    }

    /// The generation of its mark, if it has one.
    pub(super) fn mark(self) -> Option<Generation> {
        (self.length & MARK_BITS).checked_sub(1).and_then(Generation::new)
    }
}

/// `address` 0 is an empty place. Kept at most three quarters full.
pub(super) struct Table {
    places: Option<NonNull<Entry>>,
    capacity: usize,
}

// SAFETY: the places belong to this table alone.
unsafe impl Send for Table {}

impl Table {
    pub(super) const fn new() -> Self {
        Self { places: None, capacity: 0 }
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = Entry> {
        (0..self.capacity).map(|place| self.entry(place)).filter(|entry| entry.address != 0)
    }

    /// Bytes of a larger table, if this one has no room for one more than `count` entries.
    pub(super) fn outgrown(&self, count: usize) -> Option<usize> {
        let capacity = if self.capacity == 0 { os::page_bytes() / size_of::<Entry>() } else { self.capacity * 2 };
        ((count + 1) * 4 > self.capacity * 3).then_some(capacity * size_of::<Entry>())
    }

    /// Moves all entries to zeroed memory of so many bytes, more than it has; returns the memory that it had, and its bytes.
    pub(super) fn move_to(&mut self, places: NonNull<u8>, bytes: usize) -> Option<(usize, usize)> {
        let new = Self { places: Some(places.cast()), capacity: bytes / size_of::<Entry>() };
        let old = core::mem::replace(self, new);
        for entry in old.entries() {
            self.insert(entry);
        }
        old.places.map(|places| (places.as_ptr().expose_provenance(), old.capacity * size_of::<Entry>()))
    }

    pub(super) fn entry(&self, place: usize) -> Entry {
        debug_assert!(place < self.capacity);
        let places = self.places.unwrap_or(NonNull::dangling());
        // SAFETY: `place < capacity`, so the entry lies in the table.
        let entry = unsafe { places.add(place) };
        // SAFETY: all places of the table are initialised: zero from the system, or written by `set`.
        unsafe { entry.read() }
    }

    pub(super) fn set(&mut self, place: usize, entry: Entry) {
        debug_assert!(place < self.capacity);
        let places = self.places.unwrap_or(NonNull::dangling());
        // SAFETY: `place < capacity`, so the entry lies in the table.
        let slot = unsafe { places.add(place) };
        // SAFETY: the table belongs to this set, borrowed exclusively.
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
        self.set(hole, Entry { address: 0, length: 0 });
    }
}
