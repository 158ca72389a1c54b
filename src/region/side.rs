//! The first units of a region, which are no slabs: headers, side tables, or the states of all slots.
//!
//! ```text
//!   unit 0   │ … │ headers │ bits │ … │ side tables of the units │      tables only where they are needed; of short units before the headers
//!   units 0 to 7, where the family keeps states, hold those around the headers
//! ```

use core::ptr::NonNull;

use super::{UnitPool, dumps, unit_memory};
use crate::header::{Directory, RegionHeader, STATE_UNIT_COUNT, SlabHeader, UNIT_COUNT, header_pages, side_table};
use crate::huge_pages::Pages;
use crate::os;

/// Regions whose unit 0 is a mapping of its own where it could not be guarded.
const APART_COUNT: usize = 64;

/// Gives the side table of a free unit back to the system, if it has pages of its own.
///
/// # Safety
/// The unit was a slab of a pool without states, is none, and cannot become one meanwhile.
pub(crate) unsafe fn give_side_back(unit: usize, unit_shift: u32) {
    let (number, region) = ((unit >> unit_shift) % UNIT_COUNT, unit & !((UNIT_COUNT << unit_shift) - 1));
    let table = side_table(unit_shift, number);
    // SAFETY: a unit of a claimed region.
    let header = unsafe { Directory::of(unit_shift).header(unit) };
    // `side_open` changes only where a slab is opened whose table is on the same pages: there is none beside this unit.
    if (table.start | table.end) % os::page_bytes() != 0 || !header.side_open.get() {
        return;
    }
    // The region's provenance is exposed where the region is claimed.
    if let Some(memory) = NonNull::new(core::ptr::with_exposed_provenance_mut(region + table.start)) {
        if os::DECOMMITS {
            header.side_open.set(false);
        }
        // SAFETY: accessible, whole pages, and whoever opens the next slab there takes nothing of them for written. Should the
        // system refuse, they stay.
        unsafe { os::purge(memory, table.len()) };
    }
}

impl UnitPool {
    /// Makes the side table of a slab's unit accessible, for good. `None`: there is no memory for it.
    pub(crate) fn open_side(&mut self, header: &SlabHeader) -> Option<()> {
        if header.side_open.get() {
            return Some(());
        }
        let (region, unit_zero) = (self.region_of(header), 1);
        let unit = (header.memory().addr() >> self.unit_shift) % UNIT_COUNT;
        let table = side_table(self.unit_shift, unit);
        let (page, headers) = (os::page_bytes(), header_pages(self.unit_shift));
        let pages = table.start & !(page - 1)..table.end.next_multiple_of(page);
        // SAFETY: a part of unit 0, and so inside the region.
        let start = unsafe { unit_memory(region, unit_zero, self.unit_shift).add(pages.start) };
        if pages.start < headers.end && headers.start < pages.end {
            // Long pages: it is accessible as the headers are, which must not be touched.
        } else if region.fenced.get() {
            // SAFETY: committed, and nothing is in it: all tables that stand there are opened together.
            if unsafe { os::unguard(start, pages.len()) } == os::Opened::Refused {
                return None;
            }
            if !region.opened.get() && self.unit_bytes() == os::HUGE_PAGE_BYTES {
                // Few of its pages are ever touched.
                let memory = unit_memory(region, unit_zero, self.unit_shift);
                // SAFETY: unit 0 is committed.
                unsafe { os::advise_small(memory, self.unit_bytes()) };
            }
            region.opened.set(true);
        } else if region.committed.get() & unit_zero == 0 {
            // In the region's reservation, which is never released; what is committed already stays as it is.
            let commit = if os::DECOMMITS { os::recommit } else { os::commit };
            // SAFETY: a part of unit 0.
            if !unsafe { commit(start, pages.len()) } {
                return None;
            }
        }
        // The other tables on these pages as well: they must not be opened a second time, because what cannot be unguarded is
        // replaced, with all that is in it.
        let count = pages.len() / table.len();
        let first = unit - unit % count;
        for unit in first.max(1)..(first + count).min(UNIT_COUNT) {
            let address = region.memory.get().addr() + (unit << self.unit_shift);
            // SAFETY: a unit of a claimed region; it need not be reserved to have a header.
            unsafe { self.directory().header(address) }.side_open.set(true);
        }
        Some(())
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

    /// What lies before the headers in unit 0 and behind them and the bits: where it begins, and its length.
    fn around_headers(&self, region: &RegionHeader) -> impl Iterator<Item = (NonNull<u8>, usize)> + use<> {
        let (pages, memory) = (header_pages(self.unit_shift), unit_memory(region, 1, self.unit_shift));
        [0..pages.start, pages.end..self.unit_bytes()].into_iter().filter(|part| !part.is_empty()).map(move |part| {
            // SAFETY: a part of unit 0, and so inside the region.
            (unsafe { memory.add(part.start) }, part.len())
        })
    }

    /// Commits what is not committed yet of unit 0.
    fn commit_first(&self, region: &RegionHeader) -> Option<()> {
        if region.committed.get() & 1 == 0 {
            for part in self.around_headers(region) {
                // SAFETY: in the region's reservation, which is never released, and not committed with the headers.
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
