//! Where a family's large allocations have ever been, so that most families need not be asked whether one is theirs.

#![forbid(unsafe_code)]

use super::Larges;
use crate::header::note_memory;
use crate::sync::Relaxed;

/// Places of large allocations are compared in units of so many bytes, as a power of two: a number of 32 bits is enough for all addresses
/// of most systems.
const PLACE_SHIFT: u32 = if usize::BITS == 64 { 16 } else { 0 };

/// Where an address lies; far up some share a place.
fn place(address: usize) -> u32 {
    u32::try_from(address >> PLACE_SHIFT).unwrap_or(u32::MAX)
}

impl Larges {
    /// Notes memory that allocations may stand in, before one does.
    pub(super) fn note_place(&self, start: usize, bytes: usize) {
        // Relaxed: who looks for an allocation has its address, and was told it after this.
        self.first_below_end.fetch_max(!place(start), Relaxed);
        self.last.fetch_max(place(start + bytes - 1), Relaxed);
        note_memory(start, bytes);
    }

    /// Whether there has ever been memory for one.
    pub(crate) fn was_used(&self) -> bool {
        // Relaxed: for who has the family to itself.
        self.first_below_end.load(Relaxed) != 0
    }

    /// Whether a live allocation begins at an address; most often two loads say that none does.
    pub(crate) fn begins(&self, address: usize) -> bool {
        let (first, last) = (!self.first_below_end.load(Relaxed), self.last.load(Relaxed));
        (first..=last).contains(&place(address)) && {
            let set = self.set.lock();
            set.runs.live_bytes(address).or_else(|| set.singles.live_bytes(address)).is_some()
        }
    }
}
