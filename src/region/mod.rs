//! The units of a family: which are free, which still hold memory, and when that memory goes back to the system.
//!
//! ```text
//!            take                 give                purge
//!   clean ─────────► slab of a class ─────► dirty ─────────► clean
//!                          ▲                  │
//!                          └──────────────────┘ take (preferred: its pages are there already)
//! ```
//!
//! A region's dirty units go back to the system once the first of them has been free for [`PURGE_AFTER_MILLISECONDS`], as seen
//! whenever slots come back to a bin, or at once through `trim`. A unit may serve any class of its family and never another static
//! family; heaps that keep no states share a pool, and so their units.
//!
//! The system is asked without the pool's lock, a few units at a time. These are neither clean nor dirty meanwhile: nobody can take them.

mod advice;
mod charge;
mod dumps;
mod leaving;
mod side;
#[cfg(test)]
mod tests;

use core::ptr::NonNull;

use crate::header::{Directory, RegionHeader, SlabHeader, UNIT_COUNT, WORN};
use crate::huge_pages::Pages;
use crate::os;
use crate::sync::{Lock, Relaxed};
use crate::waiting;

pub(crate) use charge::{commit_up_to, committed_bytes, forget_behind};
pub(crate) use dumps::{Dumped, dump_again, dump_more};
pub(crate) use leaving::{purge_aged, purge_all};
pub(crate) use side::give_side_back;

/// How long an empty slab keeps its pages: a program that empties and fills again within that time does not pay for them twice.
pub(crate) const PURGE_AFTER_MILLISECONDS: u64 = 1000;
/// Units that are on their way to the system at once.
const PURGE_BATCH: u32 = 8;
/// Under a limit on address space, units that a family has for each that it reserves more than it needs.
const LIMITED_SHARE: usize = 8;

/// A unit on its way to become a slab.
pub(crate) struct Unit {
    pub(crate) header: &'static SlabHeader,
    /// Whether all of it is known to read zero.
    pub(crate) zeroed: bool,
    /// Whether it was committed just now, so that nobody has ever had an address in it.
    pub(crate) is_new: bool,
}

/// The unit to be taken.
struct Choice {
    region: &'static RegionHeader,
    bit: u64,
    memory: NonNull<u8>,
    is_new: bool,
}

/// Units on their way to the system.
struct Batch {
    region: &'static RegionHeader,
    units: u64,
}

/// All units of one family, under one lock. `free = clean + dirty` over all regions, but for those on their way to the system; regions with a free unit are in `with_room`.
pub(crate) struct UnitPool {
    unit_shift: u32,
    /// Whether the first units of a region hold the states of all slots; else only unit 0 holds side tables.
    keeps_states: bool,
    /// What the family's mappings are called.
    name: &'static str,
    /// The region that was reserved last: the one that may become longer.
    newest: Option<&'static RegionHeader>,
    with_room: Option<&'static RegionHeader>,
    pub(crate) reserved_bytes: usize,
    pub(crate) dirty_count: usize,
    /// Slabs that are advised to use huge pages.
    huge_count: usize,
    /// Regions whose unit 0 is committed for its headers only.
    fence_count: usize,
    /// Whether there are units that a sanitizer has not been told of.
    has_untold: bool,
}

// SAFETY: the pool refers to region headers of its own family only, which belong to the lock around it (H2 in `header`).
unsafe impl Send for UnitPool {}

impl UnitPool {
    pub(crate) const fn new(unit_shift: u32) -> Self {
        Self {
            unit_shift,
            keeps_states: false,
            name: "",
            newest: None,
            with_room: None,
            reserved_bytes: 0,
            dirty_count: 0,
            huge_count: 0,
            fence_count: 0,
            has_untold: false,
        }
    }

    pub(crate) const fn with_states(self, keeps_states: bool) -> Self {
        Self { keeps_states, ..self }
    }

    pub(crate) const fn named(self, name: &'static str) -> Self {
        Self { name, ..self }
    }

    fn directory(&self) -> &'static Directory {
        Directory::of(self.unit_shift)
    }

    /// Bytes of slabs that are advised to use huge pages.
    pub(crate) fn huge_bytes(&self) -> usize {
        self.huge_count << self.unit_shift
    }

    /// Takes a free unit, one that still holds memory if there is one, for a slab that wants such pages. `None`: no address space
    /// or no memory.
    pub(crate) fn take(&mut self, pages: Pages) -> Option<Unit> {
        match self.with_room {
            Some(_) => self.bring_dirty_to_front(),
            None => _ = self.grow(pages)?,
        }
        let choice = match self.with_room.and_then(|first| self.choose(first)) {
            Some(choice) => choice,
            // Where the system refuses memory there may be some in another region yet.
            None => self.bring_committed_to_front()?,
        };
        Some(self.hand_out(choice, pages))
    }

    fn hand_out(&mut self, Choice { region, bit, memory, is_new }: Choice, pages: Pages) -> Unit {
        let (clean, dirty) = (region.clean.get(), region.dirty.get());
        let zeroed = dirty & bit == 0;
        if zeroed {
            region.clean.set(clean & !bit);
        } else {
            region.dirty.set(dirty & !bit);
            self.dirty_count -= 1;
        }
        // SAFETY: a unit of the region.
        let header = unsafe { self.directory().header(memory.addr().get()) };
        if !os::DECOMMITS && is_new && (pages == Pages::Huge || !dumps::may_be_partial(self.unit_bytes())) {
            // SAFETY: a unit of the region, committed just now.
            unsafe { os::put_into_dumps(memory, self.unit_bytes()) };
            header.extent.set(Dumped::All as u8);
        }
        self.advise(header, memory, pages, zeroed);
        self.huge_count += usize::from(header.advice.get() == Pages::Huge as u8);
        if region.clean.get() | region.dirty.get() == 0 {
            self.with_room = region.next_with_room.take();
        }
        // Relaxed: published by the tag, which the slab is not found without.
        header.memory.store(memory.as_ptr(), Relaxed);
        Unit { header, zeroed, is_new }
    }

    /// Takes a free unit of which all pages may hold memory, if there is one.
    pub(crate) fn take_worn(&mut self, pages: Pages) -> Option<Unit> {
        self.bring_to_front(|pool, region| pool.worn(region) != 0);
        let region = self.with_room?;
        let bit = self.worn(region);
        if bit == 0 {
            return None;
        }
        let memory = self.commit_slab(region, bit)?;
        Some(self.hand_out(Choice { region, bit, memory, is_new: false }, pages))
    }

    /// The first unit of a region of which all pages may hold memory, as a bit; 0 if it has none.
    fn worn(&self, region: &RegionHeader) -> u64 {
        let mut dirty = region.dirty.get();
        while dirty != 0 {
            let memory = unit_memory(region, lowest(dirty), self.unit_shift);
            // SAFETY: a unit of the region.
            if unsafe { self.directory().header(memory.addr().get()) }.fresh.get() == WORN {
                return lowest(dirty);
            }
            dirty &= dirty - 1;
        }
        0
    }

    /// The best free unit of a region: dirty, else committed, else any, which is then committed. `None`: the system refuses memory for it.
    fn choose(&self, region: &'static RegionHeader) -> Option<Choice> {
        let (clean, dirty, committed) = (region.clean.get(), region.dirty.get(), region.committed.get());
        let best = [dirty, clean & committed, clean].into_iter().find(|&units| units != 0)?;
        self.commit_states(region)?;
        let bit = lowest(best);
        let memory = self.commit_slab(region, bit)?;
        Some(Choice { region, bit, memory, is_new: committed & bit == 0 })
    }

    /// Makes the first region that can serve without the system the first of those with room, and finds its unit.
    #[cold]
    fn bring_committed_to_front(&mut self) -> Option<Choice> {
        let first = self.with_room?;
        let mut before = first;
        while let Some(region) = before.next_with_room.get() {
            let ready = (region.clean.get() | region.dirty.get()) & region.committed.get();
            if let Some(choice) = (ready != 0).then(|| self.choose(region)).flatten() {
                before.next_with_room.set(region.next_with_room.replace(Some(first)));
                self.with_room = Some(region);
                return Some(choice);
            }
            before = region;
        }
        None
    }

    /// Takes back the unit of an emptied slab.
    pub(crate) fn give(&mut self, header: &'static SlabHeader, now: u64) {
        let (region, bit) = self.make_room(header);
        if region.dirty.get() == 0 {
            region.dirty_since.set(now);
        }
        region.dirty.set(region.dirty.get() | bit);
        self.dirty_count += 1;
        waiting::add();
    }

    /// Takes back the unit of an emptied slab that holds no memory and reads zero.
    pub(crate) fn give_emptied(&mut self, header: &'static SlabHeader) {
        let (region, bit) = self.make_room(header);
        region.clean.set(region.clean.get() | bit);
    }

    /// The region of a unit that comes back, as one that has room, and the unit's bit in it.
    fn make_room(&mut self, header: &'static SlabHeader) -> (&'static RegionHeader, u64) {
        let address = header.memory().addr();
        let region = self.region_of(header);
        if region.clean.get() | region.dirty.get() == 0 {
            region.next_with_room.set(self.with_room.replace(region));
        }
        self.huge_count -= usize::from(header.advice.get() == Pages::Huge as u8);
        (region, 1 << ((address >> self.unit_shift) % UNIT_COUNT))
    }

    fn region_of(&self, header: &SlabHeader) -> &'static RegionHeader {
        // SAFETY: a slab lies in a claimed region.
        unsafe { self.directory().region(header.memory().addr()) }
    }

    fn unit_bytes(&self) -> usize {
        1 << self.unit_shift
    }

    /// Moves a region with a dirty unit to the front of those with room, if there is one and it is not there.
    fn bring_dirty_to_front(&mut self) {
        if self.dirty_count > 0 {
            self.bring_to_front(|_, region| region.dirty.get() != 0);
        }
    }

    /// Moves the first region that is wanted to the front of those with room, if there is one.
    fn bring_to_front(&mut self, is_wanted: impl Fn(&Self, &RegionHeader) -> bool) {
        let Some(first) = self.with_room.filter(|first| !is_wanted(self, first)) else { return };
        let mut before = first;
        while let Some(region) = before.next_with_room.get() {
            if is_wanted(self, region) {
                before.next_with_room.set(region.next_with_room.replace(Some(first)));
                self.with_room = Some(region);
                return;
            }
            before = region;
        }
    }

    /// Takes a few dirty units out of a region that has been asked for with `wanted`.
    fn take_dirty(&mut self, region: &'static RegionHeader, wanted: u64) -> Option<Batch> {
        let mut left = region.dirty.get() & wanted;
        let mut units = 0;
        for _ in 0..PURGE_BATCH {
            units |= lowest(left);
            left &= !units;
        }
        if units == 0 {
            return None;
        }
        region.dirty.set(region.dirty.get() & !units);
        self.dirty_count -= units.count_ones() as usize;
        if region.clean.get() | region.dirty.get() == 0 {
            self.leave_those_with_room(region);
        }
        Some(Batch { region, units })
    }

    /// Takes back what the system has taken of a batch, and what it has not.
    fn put_back(&mut self, batch: &Batch, purged: u64, now: u64) {
        let (region, refused) = (batch.region, batch.units & !purged);
        if region.clean.get() | region.dirty.get() == 0 {
            region.next_with_room.set(self.with_room.replace(region));
        }
        region.clean.set(region.clean.get() | purged);
        if refused != 0 {
            // What was not granted is not zero: it stays dirty, and is tried again later.
            region.dirty.set(region.dirty.get() | refused);
            region.dirty_since.set(now);
            self.dirty_count += refused.count_ones() as usize;
        }
    }

    fn leave_those_with_room(&mut self, region: &'static RegionHeader) {
        let mut before = self.with_room;
        if before.is_some_and(|first| core::ptr::eq(first, region)) {
            self.with_room = region.next_with_room.take();
            return;
        }
        while let Some(other) = before {
            if other.next_with_room.get().is_some_and(|next| core::ptr::eq(next, region)) {
                other.next_with_room.set(region.next_with_room.take());
                return;
            }
            before = other.next_with_room.get();
        }
    }

    /// The region whose dirty units have waited longest.
    fn dirty(&self) -> Option<&'static RegionHeader> {
        let with_room = core::iter::successors(self.with_room, |region| region.next_with_room.get());
        with_room.filter(|region| region.dirty.get() != 0).min_by_key(|region| region.dirty_since.get())
    }

    fn aged(&self, now: u64) -> Option<&'static RegionHeader> {
        let is_aged = |region: &&RegionHeader| {
            region.dirty.get() != 0 && now.saturating_sub(region.dirty_since.get()) >= PURGE_AFTER_MILLISECONDS
        };
        core::iter::successors(self.with_room, |region| region.next_with_room.get()).find(is_aged)
    }

    /// More units: the newest region becomes longer, or there is another. Asks for less where it is refused.
    fn grow(&mut self, pages: Pages) -> Option<&'static RegionHeader> {
        let mut wanted = self.wanted();
        let region = loop {
            if let Some(region) = self.extend(wanted).or_else(|| self.reserve(wanted, pages)) {
                break region;
            }
            if wanted == 1 {
                return None;
            }
            wanted /= 2;
        };
        region.next_with_room.set(self.with_room.replace(region));
        Some(region)
    }

    /// How many more units are reserved at once: as many as there are, so that a family takes no more than twice what it needs of
    /// a limit that is set later. Under a limit an eighth of them.
    fn wanted(&self) -> usize {
        if !os::EXTENDS {
            return UNIT_COUNT - self.side_unit_count();
        }
        let share = if os::address_space_limit().is_some() { LIMITED_SHARE } else { 1 };
        ((self.reserved_bytes >> self.unit_shift) / share).clamp(1, UNIT_COUNT - self.side_unit_count())
    }

    /// Makes the newest region longer by up to so many units, if nobody has the address space behind it.
    fn extend(&mut self, wanted: usize) -> Option<&'static RegionHeader> {
        let region = self.newest?;
        let count = usize::from(region.unit_count.get());
        let more = wanted.min(UNIT_COUNT - count);
        let end = region.memory.get().addr() + (count << self.unit_shift);
        if more == 0 {
            return None;
        }
        let space = os::reserve_at(end, more << self.unit_shift)?;
        space.as_ptr().expose_provenance();
        self.note_reserved(region, space, count, more);
        Some(region)
    }

    /// Reserves a region with so many units for slabs.
    fn reserve(&mut self, wanted: usize, pages: Pages) -> Option<&'static RegionHeader> {
        let region = self.directory().reserve_region(self.side_unit_count() + wanted)?;
        self.note_reserved(region, unit_memory(region, 1, self.unit_shift), 0, usize::from(region.unit_count.get()));
        region.clean.set(region.clean.get() & !self.side_units());
        self.fence(region, pages);
        region.before.set(self.newest.replace(region));
        Some(region)
    }

    /// Notes the units of a region that were reserved just now: `more` behind the first `count`.
    fn note_reserved(&mut self, region: &'static RegionHeader, space: NonNull<u8>, count: usize, more: usize) {
        region.unit_count.set((count + more) as u16);
        region.clean.set(region.clean.get() | (u64::MAX >> (UNIT_COUNT - more)) << count);
        self.reserved_bytes += more << self.unit_shift;
        let bytes = more << self.unit_shift;
        // SAFETY: reserved just now, for this family.
        unsafe { os::name(space, bytes, self.name) };
        // Until they are slabs. Some write what cannot even be read.
        // SAFETY: as above.
        unsafe { os::keep_out_of_dumps(space, bytes) };
        self.has_untold |= os::scans();
    }

    /// All regions, the newest first.
    fn regions(&self) -> impl Iterator<Item = &'static RegionHeader> + use<> {
        core::iter::successors(self.newest, |region| region.before.get())
    }

    /// Units that were reserved since a sanitizer was last told: where they begin, and their bytes. They count as told.
    pub(crate) fn take_untold(&mut self) -> Option<(NonNull<u8>, usize)> {
        if !self.has_untold {
            return None;
        }
        let untold = self.regions().find(|region| region.told_count.get() < region.unit_count.get());
        self.has_untold = untold.is_some();
        let region = untold?;
        let (told, count) = (region.told_count.replace(region.unit_count.get()), region.unit_count.get());
        Some((unit_memory(region, 1 << told, self.unit_shift), usize::from(count - told) << self.unit_shift))
    }

    fn commit(&self, region: &RegionHeader, bit: u64) -> Option<NonNull<u8>> {
        let memory = unit_memory(region, bit, self.unit_shift);
        if region.committed.get() & bit == 0 {
            // SAFETY: the unit lies in the region's reservation, which is never released.
            if !unsafe { os::commit(memory, self.unit_bytes()) } {
                return None;
            }
            region.committed.set(region.committed.get() | bit);
        }
        Some(memory)
    }
}

/// All units that have been reserved for slabs of a pool, whether they are slabs or not, when it is looked for them: their addresses.
pub(crate) fn all_units(pool: &Lock<UnitPool>) -> impl Iterator<Item = usize> + '_ {
    let units = pool.lock();
    let (unit_shift, side_units, regions) = (units.unit_shift, units.side_unit_count(), units.regions());
    drop(units);
    regions.flat_map(move |region| {
        // Under the lock, because a region may become longer.
        let of_pool = pool.lock();
        let (start, end) = (region.memory.get().addr(), usize::from(region.unit_count.get()));
        drop(of_pool);
        (side_units..end).map(move |unit| start + (unit << unit_shift))
    })
}

fn unit_memory(region: &RegionHeader, bit: u64, unit_shift: u32) -> NonNull<u8> {
    let offset = (bit.trailing_zeros() as usize) << unit_shift;
    // SAFETY: `bit` is below the region's `unit_count`, so the unit lies inside the reservation.
    let memory = unsafe { region.memory.get().add(offset) };
    NonNull::new(memory).unwrap_or(NonNull::dangling())
}

const fn lowest(bits: u64) -> u64 {
    bits & bits.wrapping_neg()
}
