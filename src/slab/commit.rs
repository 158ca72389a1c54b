//! What of a slab is committed before it is used, where the system counts that ([`os::DECOMMITS`]).

use core::ops::Range;

use super::bitmap::Place;
use super::{Geometry, slab_memory, slots_memory};
use crate::header::SlabHeader;
use crate::os;
use crate::region::{commit_up_to, committed_bytes};

impl Geometry<'_> {
    /// Commits the next fresh slots; returns how many are there.
    pub(super) fn commit_slots(&self, slab: &SlabHeader, count: usize) -> usize {
        let slots_in = |bytes| self.class.slots_in(bytes) - (slab.fresh.get() as usize).min(self.class.slots_in(bytes));
        let end = (slab.fresh.get() as usize + count) * self.class.slot_bytes();
        if end > committed_bytes(slab) && !commit_up_to(slab, slab_memory(slab), end, self.unit_bytes()) {
            return count.min(slots_in(committed_bytes(slab)));
        }
        count
    }

    /// Makes pages usable that may be purged; `false`: the system refuses.
    #[inline(always)]
    pub(super) fn recommit(&self, slab: &SlabHeader, pages: Range<usize>) -> bool {
        let shift = os::page_bytes().trailing_zeros();
        // SAFETY: pages of the slab.
        let start = unsafe { slots_memory(slab).add(pages.start << shift) };
        // SAFETY: as above; they were committed with the slab.
        unsafe { os::recommit(start, pages.len() << shift) }
    }

    /// Commits the words at the end of a new slab, where that is counted; `false`: the system refuses.
    pub(super) fn commit_words(&self, slab: &SlabHeader) -> bool {
        if !os::DECOMMITS || !self.has_bitmap() {
            return true;
        }
        let shape = self.shape();
        let start = shape.slots_end & !(os::page_bytes() - 1);
        // SAFETY: a part of the slab, here and below.
        let memory = unsafe { slab_memory(slab).add(start) };
        // SAFETY: as above.
        shape.place != Place::Slab || unsafe { os::recommit(memory, self.unit_bytes() - start) }
    }
}
