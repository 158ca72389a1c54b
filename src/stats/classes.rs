//! What a family holds of each of its size classes.

#![forbid(unsafe_code)]

use core::fmt;

use crate::size_class::{COUNT_MAX, Classes, SizeClass};

/// What a family holds of each of its size classes, smallest first; in [`Stats::classes`](super::Stats::classes). It is a slice: of 21 classes
/// if they are natural, of up to 104 if they are spaced.
///
/// ```
/// use family_alloc::{Family, Vec, family};
///
/// family! { struct Text { classes: Spaced } }
///
/// let v = Vec::<u8, _>::with_capacity_in(200, Text);
/// let stats = Text::stats();
/// let class = stats.classes.iter().find(|class| class.live_slots > 0).unwrap();
/// assert_eq!(class.slot_bytes, 208);
/// # drop(v);
/// ```
#[derive(Clone)]
pub struct ClassTable {
    classes: [ClassStats; COUNT_MAX],
    count: usize,
}

impl core::ops::Deref for ClassTable {
    type Target = [ClassStats];

    fn deref(&self) -> &[ClassStats] {
        &self.classes[..self.count]
    }
}

impl<'a> IntoIterator for &'a ClassTable {
    type Item = &'a ClassStats;
    type IntoIter = core::slice::Iter<'a, ClassStats>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Debug for ClassTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self).finish()
    }
}

impl PartialEq for ClassTable {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for ClassTable {}

impl ClassTable {
    pub(super) fn new(spacing: Classes, classes: impl Iterator<Item = SizeClass>) -> Self {
        let mut table = Self { classes: [ClassStats::default(); COUNT_MAX], count: 0 };
        for (place, class) in table.classes.iter_mut().zip(classes) {
            debug_assert_eq!(class.classes(), spacing);
            place.slot_bytes = class.slot_bytes();
            table.count += 1;
        }
        table
    }

    /// Says what there is of a class.
    pub(crate) fn set(&mut self, class: SizeClass, stats: ClassStats) {
        self.classes[class.index()] = stats;
    }
}

/// What a family holds of one size class at one moment; one of [`Stats::classes`](super::Stats::classes).
///
/// Every slot of a slab is in one of four places: `live_slots + cached_slots + depot_slots + free_slots` are all slots of
/// the class's slabs. Where a slab is no whole number of slots long, what is left behind the last one is never used.
///
/// ```
/// use family_alloc::{Family, Vec, family};
///
/// family! { struct Session; }
///
/// let v = Vec::<u8, _>::with_capacity_in(1000, Session);
/// let stats = Session::stats();
/// let class = stats.classes.iter().find(|class| class.slot_bytes == 1024).unwrap();
/// assert_eq!((class.live_slots, class.slab_count), (1, 1));
/// # drop(v);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClassStats {
    /// Bytes of a slot of this class.
    pub slot_bytes: usize,
    /// Slabs of this class.
    pub slab_count: usize,
    /// Slots that clients hold.
    pub live_slots: usize,
    /// Free slots that thread caches hold.
    pub cached_slots: usize,
    /// Free slots on their way from thread to thread.
    pub depot_slots: usize,
    /// Free slots in slabs, never used ones included. Also up to 63 pages' worth that a class's first slabs leave out, so that not all
    /// begin at the same place of a processor's caches.
    pub free_slots: usize,
    /// Those of `free_slots` that were used before and whose pages may hold memory.
    pub idle_slots: usize,
    /// Those of `free_slots` whose pages were given back to the system.
    pub purged_slots: usize,
}
