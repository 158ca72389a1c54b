//! The first units of a region, which are no slabs: headers, side tables of the tiny classes, or the states of all slots.
//!
//! ```text
//!   unit 0   │ two-byte classes' tables │ headers │ one-byte class's tables │      each but the headers only where it is needed
//!   units 0 to 7, where the family keeps states, hold those around the headers
//! ```

use core::ops::Range;
use core::ptr::NonNull;

use super::{UnitPool, dumps, unit_memory};
use crate::header::{RegionHeader, STATE_UNIT_COUNT, SlabHeader, header_pages};
use crate::huge_pages::Pages;
use crate::os;

/// Regions whose unit 0 is a mapping of its own where it could not be guarded.
const APART_COUNT: usize = 64;

impl UnitPool {
    /// Makes sure that the region of a slab has its side tables, of which the slab's own is `part`. `None`: there is no memory for them.
    pub(crate) fn side_tables(&mut self, header: &SlabHeader, part: Range<usize>) -> Option<()> {
        let region = self.region_of(header);
        if os::DECOMMITS {
            return if self.keeps_states { self.commit_states(region) } else { self.commit_part(region, part) };
        }
        self.commit_first(region)?;
        if region.fenced.get() {
            for part in self.around_headers(region) {
                // SAFETY: committed, and nothing is in it.
                if unsafe { os::unguard(part.0, part.1) } == os::Opened::Refused {
                    return None;
                }
            }
            region.fenced.set(false);
            if self.unit_bytes() == os::HUGE_PAGE_BYTES {
                // Few of its pages are ever touched.
                // SAFETY: unit 0 is committed.
                unsafe { os::advise_small(unit_memory(region, 1, self.unit_shift), self.unit_bytes()) };
            }
        }
        Some(())
    }

    /// Commits the pages that a part of unit 0 stands on, where it is counted how many are.
    fn commit_part(&self, region: &RegionHeader, part: Range<usize>) -> Option<()> {
        let page = os::page_bytes();
        let (first, end) = (part.start & !(page - 1), part.end.next_multiple_of(page));
        // SAFETY: inside unit 0.
        let start = unsafe { unit_memory(region, 1, self.unit_shift).add(first) };
        // SAFETY: in the region's reservation, which is never released. What is there already stays as it is.
        unsafe { os::recommit(start, end - first) }.then_some(())
    }

    /// Commits unit 0, in which nothing but the headers is used yet, so that it can be one mapping with the slabs behind it: the system
    /// bounds the number of mappings. All but the headers is guarded where the system can do that.
    pub(super) fn fence(&mut self, region: &'static RegionHeader, pages: Pages) {
        if !os::COMMIT_IS_FREE || self.keeps_states || self.commit_first(region).is_none() {
            return;
        }
        region.fenced.set(true);
        self.fence_count += 1;
        let (memory, bytes) = (unit_memory(region, 1, self.unit_shift), self.unit_bytes());
        // A family's first is left out: it has a few headers only.
        if self.fence_count > 1 || !dumps::may_be_partial(bytes) {
            // SAFETY: unit 0 is committed.
            unsafe { os::put_into_dumps(memory, bytes) };
        }
        let mut guarded = true;
        for part in self.around_headers(region) {
            // SAFETY: committed just now, and nothing is in it.
            guarded &= unsafe { os::guard(part.0, part.1) };
        }
        // What is guarded never becomes a huge page. Else unit 0 may, for the one page that is used of it, so it is a mapping of its own
        // until these are what is short.
        match pages {
            // SAFETY: as above.
            Pages::Huge if guarded || self.fence_count > APART_COUNT => unsafe { os::advise_huge(memory, bytes) },
            // SAFETY: as above.
            Pages::Huge | Pages::Small => unsafe { os::advise_small(memory, bytes) },
            Pages::AsTheSystemLikes => {}
        }
    }

    /// What lies before the headers in unit 0 and behind them: where it begins, and its length.
    fn around_headers(&self, region: &RegionHeader) -> impl Iterator<Item = (NonNull<u8>, usize)> + use<> {
        let (pages, memory) = (header_pages(), unit_memory(region, 1, self.unit_shift));
        [0..pages.start, pages.end..self.unit_bytes()].into_iter().filter(|part| !part.is_empty()).map(move |part| {
            // SAFETY: a part of unit 0, and so inside the region.
            (unsafe { memory.add(part.start) }, part.len())
        })
    }

    /// Commits what is not committed yet of unit 0.
    fn commit_first(&self, region: &RegionHeader) -> Option<()> {
        if region.committed.get() & 1 == 0 {
            for part in self.around_headers(region) {
                // SAFETY: in the region's reservation, which is never released, and not among the headers.
                if !unsafe { os::commit(part.0, part.1) } {
                    return None;
                }
            }
            region.committed.set(region.committed.get() | 1);
        }
        Some(())
    }

    /// How many of a region's first units hold side tables.
    pub(super) const fn side_unit_count(&self) -> usize {
        if self.keeps_states { STATE_UNIT_COUNT } else { 1 }
    }

    /// The units of a region that hold side tables.
    pub(super) const fn side_units(&self) -> u64 {
        (1 << self.side_unit_count()) - 1
    }

    pub(super) fn commit_states(&self, region: &RegionHeader) -> Option<()> {
        if !self.keeps_states || region.committed.get() & self.side_units() == self.side_units() {
            return Some(());
        }
        self.commit_first(region)?;
        for unit in 1..self.side_unit_count() {
            self.commit(region, 1 << unit)?;
        }
        let (memory, bytes) = (unit_memory(region, 1, self.unit_shift), self.side_unit_count() << self.unit_shift);
        if self.unit_bytes() == os::HUGE_PAGE_BYTES {
            // Few of its pages are ever touched.
            // SAFETY: committed just now.
            unsafe { os::advise_small(memory, bytes) };
        } else {
            // Small regions are many, and each is to be one mapping.
            // SAFETY: as above.
            unsafe { os::put_into_dumps(memory, bytes) };
        }
        Some(())
    }
}
