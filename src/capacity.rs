//! How much of each class the caches hold: the sizes of magazines, batches, depots and fresh ranges.
//!
//! A magazine holds two batches; a full or an empty magazine exchanges one batch with its bin, so that a thread at the edge
//! does not go to the bin every time. The depot keeps whole batches. Both are bounded by count and by bytes.

#![forbid(unsafe_code)]

use crate::size_class::{CLASS_COUNT, SizeClass};

/// Slots in a magazine, at most.
const MAGAZINE_SLOTS: usize = 128;
/// Bytes of slots in a magazine, at most, where that leaves at least two slots.
const MAGAZINE_BYTES: usize = 256 << 10;
/// Batches in a depot, at most.
const DEPOT_BATCHES: usize = 32;
/// Bytes of slots in a depot, at most, where that leaves at least one batch.
const DEPOT_BYTES: usize = 1 << 20;
/// Batches that come back one after another, without one taken, before the depot is emptied into its slabs.
pub(crate) const SURPLUS_BATCHES: u32 = 64;
/// Bytes of a fresh range: at least, where a batch is smaller; at most, where a slot is not larger.
const FRESH_BYTES: core::ops::RangeInclusive<usize> = 4 << 10..=64 << 10;

const fn clamp(value: usize, least: usize, most: usize) -> usize {
    if value < least {
        least
    } else if value > most {
        most
    } else {
        value
    }
}

/// Slots that a thread's magazine of this class holds; even.
pub(crate) const fn magazine_slots(class: SizeClass) -> usize {
    clamp(MAGAZINE_BYTES / class.slot_bytes(), 2, MAGAZINE_SLOTS)
}

/// Slots that a magazine and its bin exchange at once.
pub(crate) const fn batch_slots(class: SizeClass) -> usize {
    magazine_slots(class) / 2
}

/// Slots at the bottom of a magazine that a hardened family keeps back.
pub(crate) const fn quarantine_slots(class: SizeClass) -> usize {
    magazine_slots(class) / 4
}

/// Batches that a bin's depot keeps.
pub(crate) const fn depot_batches(class: SizeClass) -> usize {
    clamp(DEPOT_BYTES / (batch_slots(class) * class.slot_bytes()), 1, DEPOT_BATCHES)
}

/// Never-used slots that a thread takes at once, to hand them out in address order without a lock.
pub(crate) const fn fresh_slots(class: SizeClass) -> usize {
    let wanted = clamp(batch_slots(class) * class.slot_bytes(), *FRESH_BYTES.start(), *FRESH_BYTES.end());
    clamp(wanted / class.slot_bytes(), 1, usize::MAX)
}

/// Where each class's magazine begins in the array of a thread cache, in slots; the last entry is the array's length.
pub(crate) const MAGAZINE_STARTS: [usize; CLASS_COUNT + 1] = starts(false);
/// Where each class's depot begins in the array of a family, in slots; the last entry is the array's length.
pub(crate) const DEPOT_STARTS: [usize; CLASS_COUNT + 1] = starts(true);

const fn starts(of_depots: bool) -> [usize; CLASS_COUNT + 1] {
    let mut starts = [0; CLASS_COUNT + 1];
    let mut index = 0;
    while index < CLASS_COUNT {
        let class = SizeClass::from_index(index);
        let length = if of_depots { depot_batches(class) * batch_slots(class) } else { magazine_slots(class) };
        starts[index + 1] = starts[index] + length;
        index += 1;
    }
    starts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_exchanges_whole_batches_within_its_bounds() {
        for class in (0..CLASS_COUNT).map(SizeClass::from_index) {
            let (magazine, batch) = (magazine_slots(class), batch_slots(class));
            assert!(batch >= 1 && magazine == 2 * batch, "{class:?}");
            assert!(magazine * class.slot_bytes() <= MAGAZINE_BYTES || magazine == 2, "{class:?}");
            assert!(
                depot_batches(class) * batch * class.slot_bytes() <= DEPOT_BYTES || depot_batches(class) == 1,
                "{class:?}"
            );
            assert!(
                fresh_slots(class) * class.slot_bytes() <= *FRESH_BYTES.end() || fresh_slots(class) == 1,
                "{class:?}"
            );
        }
    }
}
