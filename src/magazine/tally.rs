//! What a thread has allocated and freed with its cache of a family, counted without a step of the fast path.
//!
//! A magazine counts its frees anyhow: `room` loses one with each (M4). What came from the bin and
//! did not go back is held by the magazine or by a client, which says the rest.
//!
//! **M5** Over all magazines of a cache, `frees = freed - Σ room` and
//! `allocations = frees + taken - Σ held`, where a `room` below 0 is 0. The owner changes what
//! a call does not change, `freed` and `taken`, together with what makes up for it, by
//! [`Tally::change`]; others take no sum from the middle of that.

#![forbid(unsafe_code)]

use super::Cache;
#[cfg(doc)]
use super::Magazine;
use crate::size_class::SizeClass;
use crate::sync::{Acquire, AtomicCount, AtomicU32, Count, Relaxed, Release, fence};

/// How often a sum is tried that the owner changes meanwhile: a change is some ten instructions.
const TRIES: usize = if cfg!(loom) { 1 } else { 100 };

/// Allocations and frees since the first.
#[derive(Clone, Copy)]
pub(crate) struct Counts {
    pub(crate) allocations: Count,
    pub(crate) frees: Count,
}

impl Counts {
    pub(crate) const NONE: Self = Self { allocations: 0, frees: 0 };

    /// Allocations and frees as numbers that are as long everywhere.
    #[allow(clippy::unnecessary_cast, reason = "not where a count is a `usize`")]
    pub(crate) fn as_pair(self) -> (u64, u64) {
        (self.allocations as u64, self.frees as u64)
    }

    /// Both sums.
    pub(crate) fn plus(self, other: Self) -> Self {
        Self {
            allocations: self.allocations.wrapping_add(other.allocations),
            frees: self.frees.wrapping_add(other.frees),
        }
    }

    /// What of it is sure where a thread may be in the middle of a free: see [`Magazine::room_left`].
    pub(crate) fn surely(self) -> Self {
        Self { allocations: self.allocations.saturating_sub(1), ..self }
    }

    /// The later of each.
    pub(crate) fn at_least(self, other: Self) -> Self {
        Self { allocations: later(self.allocations, other.allocations), frees: later(self.frees, other.frees) }
    }

    /// As sums over several threads can be. What one of them freed may have been allocated by
    /// another whose count had been read by then: it was allocated all the same.
    pub(crate) fn in_order(self) -> Self {
        Self { allocations: later(self.allocations, self.frees), ..self }
    }
}

/// The larger of two counts that are near each other. An allocation count that is read while its
/// thread frees is too low by what it frees meanwhile, and of a thread that has allocated nothing
/// that is less than 0: a large number here.
fn later(one: Count, other: Count) -> Count {
    if one.wrapping_sub(other) <= Count::MAX / 2 { one } else { other }
}

/// What of M5 is not in the magazines.
pub(crate) struct Tally {
    freed: AtomicCount,
    /// Slots that came from bins, less those that went back.
    taken: AtomicCount,
    /// Odd during a change.
    version: AtomicU32,
}

/// Adds to what only its owner stores. Not a read-modify-write for the processor's other cores.
#[inline(always)]
#[cfg_attr(loom, track_caller)]
fn add(count: &AtomicCount, more: isize, order: core::sync::atomic::Ordering) {
    count.store(count.load(Relaxed).wrapping_add(more as Count), order);
}

impl Tally {
    pub(super) const fn new() -> Self {
        Self { freed: AtomicCount::new(0), taken: AtomicCount::new(0), version: AtomicU32::new(0) }
    }

    /// As new: another cache may have stood here, and the models know an atomic by its place.
    pub(super) fn reset(&self) {
        self.freed.store(0, Relaxed);
        self.taken.store(0, Relaxed);
        self.version.store(0, Relaxed);
    }

    /// Makes a change of the magazines that is no call of a client's. `store` returns by how much it
    /// changed the sum of `room`, and how many slots it took from the bin (negative: gave back).
    #[inline(always)]
    pub(super) fn change(&self, store: impl FnOnce() -> (isize, isize)) {
        // Relaxed, and the fence: whoever sees anything of what follows sees that it is odd, or more.
        self.version.store(self.version.load(Relaxed).wrapping_add(1), Relaxed);
        fence(Release);
        let (room, taken) = store();
        add(&self.freed, room, Relaxed);
        if taken != 0 {
            add(&self.taken, taken, Relaxed);
        }
        // Release: pairs with the first Acquire in `Cache::counts`, which sees all of the change.
        self.version.store(self.version.load(Relaxed).wrapping_add(1), Release);
    }

    /// Counts a free that no `room` counts.
    #[inline(always)]
    pub(super) fn count_free(&self) {
        // Release: pairs with the load in `Cache::counts`, which then sees the slot in the array.
        add(&self.freed, 1, Release);
    }
}

impl Cache {
    pub(crate) fn tally(&self) -> &Tally {
        &self.tally
    }

    /// What the owner has allocated and freed by now; exact for the owner, and for others while it
    /// is in no call. `classes` are the family's. Frees never go back, and allocations are too few
    /// by what is freed meanwhile, or one too many. `None`: it is in the middle of a change.
    pub(crate) fn counts(&self, classes: impl Iterator<Item = SizeClass> + Clone) -> Option<Counts> {
        (0..TRIES).find_map(|_| self.try_counts(classes.clone()))
    }

    fn try_counts(&self, classes: impl Iterator<Item = SizeClass> + Clone) -> Option<Counts> {
        // Acquire: pairs with the end of a change.
        let version = self.tally.version.load(Acquire);
        if version % 2 != 0 {
            core::hint::spin_loop();
            return None;
        }
        let taken = self.tally.taken.load(Relaxed);
        // Acquire, here and for `room`: who sees that a slot was freed sees it in the array below, so that it is not live as well.
        let freed = self.tally.freed.load(Acquire);
        let room: usize = classes.clone().map(|class| self.magazine(class).room_left()).sum();
        let held: usize = classes.map(|class| self.magazine(class).held(class)).sum();
        // Acquire: pairs with the fence in `change`: who has seen anything of a change sees another version.
        fence(Acquire);
        if self.tally.version.load(Relaxed) != version {
            return None;
        }
        let frees = freed.wrapping_sub(room as Count);
        Some(Counts { allocations: frees.wrapping_add(taken).wrapping_sub(held as Count), frees })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_below_nothing_is_no_large_one() {
        let counts = |allocations, frees| Counts { allocations, frees };
        let none_but_frees = counts(Count::MAX - 2, 40);
        assert_eq!(none_but_frees.at_least(Counts::NONE).as_pair(), (0, 40));
        assert_eq!(Counts::NONE.at_least(none_but_frees).as_pair(), (0, 40));
        assert_eq!(counts(50, 60).at_least(counts(51, 59)).as_pair(), (51, 60));
        assert_eq!(counts(50, 60).in_order().as_pair(), (60, 60));
        assert_eq!(none_but_frees.in_order().as_pair(), (40, 40));
        assert_eq!(counts(70, 60).in_order().as_pair(), (70, 60));
        assert_eq!(counts(0, 0).surely().as_pair(), (0, 0));
    }
}
