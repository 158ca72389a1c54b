//! Which slabs are worth the work of looking for pages to give back.
//!
//! It costs as much as going through a slab's list, and gives nothing where free slots are few. `hint` of a slab with a
//! bitmap is how many free slots stayed when that was last done, or fewer: it is done again when clearly more are free, or when
//! it was left half done.

#![forbid(unsafe_code)]

use super::Geometry;
use crate::header::SlabHeader;

/// One slot in so many must have come back since the last look.
const MORE_PART: usize = 16;

/// What part of a slab must be free.
#[derive(Clone, Copy)]
pub(crate) enum Least {
    /// A page's slots.
    Page,
    /// One slot in so many of those whose pages may hold memory.
    OfTouched(usize),
    /// One slot in so many of all.
    OfAll(usize),
}

/// One slot in this many of those that may hold memory must be free for a slab to be looked through where nobody asked for it.
const LEAST_PART: usize = 8;
/// The same, of all slots, where a huge page would be split for it.
const LEAST_PART_HUGE: usize = 2;

impl Least {
    /// Where nobody asked for it.
    pub(crate) fn where_unasked(is_huge: bool) -> Self {
        if is_huge { Self::OfAll(LEAST_PART_HUGE) } else { Self::OfTouched(LEAST_PART) }
    }
}

impl Geometry<'_> {
    /// Whether to look for pages to give back in a slab, of which at most so many slots may go. Unless a page's slots are enough,
    /// only if clearly more are free than when that was last done. The caller holds the bin's lock.
    pub(crate) fn is_worth_a_look(&self, slab: &SlabHeader, least: Least, most: usize) -> bool {
        let idle = self.idle(slab);
        let touched = slab.fresh.get().saturating_sub(slab.purged.get()) as usize;
        let (slots, part) = match least {
            Least::Page => return idle >= self.slots_of_a_page(),
            Least::OfTouched(part) => (touched, part),
            Least::OfAll(part) => (self.slot_count(slab), part),
        };
        let mut least = (slots / part).max(self.slots_of_a_page());
        if most < least {
            return false;
        }
        if self.has_bitmap() {
            let seen = slab.hint.get().min(idle as u32);
            slab.hint.set(seen);
            least = least.max(seen as usize + slots / MORE_PART);
        }
        idle >= least
    }

    /// Notes that a slab was looked through; `is_half_done` if more would have gone back, but somebody may need it. The caller
    /// holds the bin's lock.
    pub(super) fn note_look(&self, slab: &SlabHeader, is_half_done: bool) {
        slab.hint.set(if is_half_done { 0 } else { self.recycled(slab) as u32 });
    }

    /// Free slots of a slab whose pages may hold memory.
    pub(super) fn idle(&self, slab: &SlabHeader) -> usize {
        self.recycled(slab).saturating_sub(if self.has_bitmap() { 0 } else { slab.purged.get() as usize })
    }
}
