//! As little as can be in magazines, depots and fresh ranges, so that every state is near.

use crate::size_class::{CLASS_COUNT, SizeClass};

pub(crate) const SURPLUS_BATCHES: u32 = 3;

pub(crate) const fn magazine_slots(_: SizeClass) -> usize {
    2
}

pub(crate) const fn batch_slots(class: SizeClass) -> usize {
    magazine_slots(class) / 2
}

pub(crate) const fn quarantine_slots(class: SizeClass) -> usize {
    magazine_slots(class) / 4
}

/// One, and none for the classes with an odd index, whose slots come back to their slabs at once.
pub(crate) const fn depot_batches(class: SizeClass) -> usize {
    1 - class.index() % 2
}

pub(crate) const fn fresh_slots(_: SizeClass) -> usize {
    1
}

pub(crate) const MAGAZINE_STARTS: [usize; CLASS_COUNT + 1] = starts(false);
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
