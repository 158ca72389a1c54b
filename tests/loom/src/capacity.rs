//! As little as can be in magazines, depots and fresh ranges, so that every state is near.

use crate::checks::Checks;
use crate::size_class::SizeClass;

pub(crate) const EARNING_CALLS: u32 = 0;
pub(crate) const CALM_MILLISECONDS: u32 = 1000;
pub(crate) const CALM_EXCHANGES: u32 = 16;
pub(crate) const FIRST_BYTES: usize = 16 << 20;
pub(crate) const EARNING_EXCHANGES: u32 = 64;
pub(crate) const REFUSED_EXCHANGES: u32 = 16;
pub(crate) const CALM_BYTES: usize = 64 << 10;
pub(crate) const CACHE_BYTES: usize = 16 << 20;
pub(crate) const MAGAZINE_SLOTS: usize = 256;
/// None, so that slots of any length go from thread to thread.
pub(crate) const LINE_BYTES: usize = 0;
pub(crate) const DEPOT_LEAST_SLOTS: usize = 1;
pub(crate) const SURPLUS_SLOTS: u32 = 3;
/// None, so that slabs come and go.
pub(crate) const KEPT_SLABS: usize = 0;
/// None: statics outlive an execution, and memory does not.
pub(crate) const WARM_PIECES: usize = 0;

pub(crate) const fn magazine_slots(_: SizeClass, _: Checks, _: usize) -> usize {
    2
}

pub(crate) const fn is_grown(_: SizeClass, _: usize) -> bool {
    false
}

pub(crate) const fn first_slots(_: SizeClass, _: Checks, most: usize) -> usize {
    most
}

pub(crate) const fn batch_slots(_: usize) -> usize {
    1
}

pub(crate) const fn stocked_slots(_: usize) -> usize {
    0
}

pub(crate) const fn quarantine_slots(_: SizeClass) -> usize {
    0
}

/// One, and none for the classes with an odd index, whose slots come back to their slabs at once.
pub(crate) const fn depot_slots(class: SizeClass) -> usize {
    1 - class.index() % 2
}

pub(crate) const fn fresh_slots(_: SizeClass, _: usize, _: usize) -> usize {
    1
}

pub(crate) fn depot_start(class: SizeClass) -> usize {
    (0..class.index()).map(|index| depot_slots(class.classes().class(index))).sum()
}
