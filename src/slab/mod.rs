//! One unit cut into slots of one class: which slots are out, which are free, and what was never used.
//!
//! | state of a slot | where it is |
//! | --- | --- |
//! | fresh | from the one with the number `fresh` on; never written since the unit was taken |
//! | used | out: live, in a thread's cache, or in the depot |
//! | recycled | in the free list: bits of the slab ([`bitmap`]), or beside the states ([`noted`]); of the tiny classes links in the slots ([`tiny`](crate::tiny)) |
//! | purged | in no list: its page went back to the system ([`pages`]); where states are kept it stays in the list |
//!
//! Equation: `used + recycled + purged = fresh`, without `purged` where states are kept, so what is recycled need not be counted. A slab
//! in which `used = 0` is empty and leaves its bin. Slots that somebody has claimed to order them or to give their pages back are used.
//!
//! **S1** All fields of a header but `memory`, `advice` and `side_open` are only touched under the lock of the slab's bin, or by who resets the family
//! once the bin has forgotten the slab.

mod bitmap;
mod colour;
mod commit;
mod lines;
mod list;
mod mixed;
mod noted;
mod open;
mod page_set;
mod pages;
mod receive;
mod reopen;
mod runs;
mod shelves;
mod worth;

#[cfg(all(unix, not(any(miri, loom))))]
pub(crate) use noted::begin_child;

use core::ops::Range;
use core::ptr::NonNull;

use crate::checks::Checks;
use crate::fault::{Fault, FaultKind, Truth, report_under_lock};
use crate::header::{Directory, SlabHeader, UNIT_COUNT};
use crate::huge_pages::{HugePages, Pages};
use crate::os::{self, Opened};
use crate::region::{Dumped, UnitPool, all_units, dump_more, forget_behind};
use crate::size_class::SizeClass;
use crate::sync::Lock;
use crate::tiny::Tiny;

use bitmap::{BITS_ASIDE_FROM_BYTES, Shape};
pub(crate) use noted::give_side_tables_back;
pub(crate) use open::Out;
pub(crate) use pages::{Claim, Found};
pub(crate) use shelves::{BinCounts, Fresh, Shelves, Taken, Twice};
pub(crate) use worth::Least;

/// What all slabs of one bin have in common.
#[derive(Clone, Copy)]
pub(crate) struct Geometry<'a> {
    pub(crate) class: SizeClass,
    pub(crate) unit_shift: u32,
    /// Family and class in one word, never 0.
    pub(crate) tag: u32,
    /// What the family verifies.
    pub(crate) checks: Checks,
    /// Whether slabs use huge pages.
    pub(crate) huge_pages: HugePages,
    /// Where the family's units come from and go to.
    pub(crate) pool: &'a Lock<UnitPool>,
    /// The family's name, for reports.
    pub(crate) family: &'static str,
}

#[cfg(test)]
impl<'a> Geometry<'a> {
    /// Of a bin of a test's: nothing is verified, and no page is huge.
    pub(crate) fn plain(class: SizeClass, unit_shift: u32, pool: &'a Lock<UnitPool>) -> Self {
        let (checks, huge_pages) = (Checks::Default, HugePages::Never);
        Self { class, unit_shift, tag: 77, checks, huge_pages, pool, family: "Test" }
    }
}

impl Geometry<'_> {
    fn unit_bytes(&self) -> usize {
        1 << self.unit_shift
    }

    /// The pages of the bin's first, second, … slab.
    fn pages_of_slab(&self, number: usize) -> Pages {
        let slot_bytes = self.class.slot_bytes();
        // Also what its bits take: few of their pages are ever touched.
        let rest = self.unit_bytes() - self.slot_count_from(0) * slot_bytes;
        self.huge_pages.of_slab(number, self.unit_bytes(), slot_bytes, rest)
    }

    /// Slots of a slab. What is left behind the last one is never used.
    #[inline(always)]
    pub(crate) fn slot_count(&self, slab: &SlabHeader) -> usize {
        self.slot_count_from(first_offset(slab))
    }

    /// Slots of a slab whose first one is there. Figures count as many in each slab as one without a colour has.
    #[inline(always)]
    pub(crate) fn slot_count_from(&self, first: usize) -> usize {
        self.class.slots_of(self.slots_end() - first)
    }

    /// Where in a slab there can be no slots any more.
    #[inline(always)]
    fn slots_end(&self) -> usize {
        let has_bits_behind = self.has_bitmap() && self.class.slot_bytes() < BITS_ASIDE_FROM_BYTES;
        if has_bits_behind { self.shape().slots_end } else { self.unit_bytes() }
    }

    fn is_tiny(&self) -> bool {
        self.class.slot_bytes() < 4
    }

    fn tiny(&self) -> Tiny {
        Tiny::new(self.class.slot_bytes(), self.unit_bytes())
    }

    /// Whether free slots are guarded.
    pub(crate) fn has_guards(&self) -> bool {
        self.checks.guards_slots_of(self.class.slot_bytes()) && self.class.slot_bytes() % os::page_bytes() == 0
    }

    /// Makes all of an empty slab accessible; `false`: some of its slots may be guarded still, and it must stay a slab of this class.
    pub(crate) fn unguard(&self, slab: &SlabHeader) -> bool {
        debug_assert_eq!(slab.used.get(), 0);
        let carved = slab.fresh.get() as usize * self.class.slot_bytes();
        // Where guards are what is not committed, whoever has the unit next commits it.
        // SAFETY: the slots that were ever handed out, all of them free now.
        os::DECOMMITS
            || !self.has_guards()
            || carved == 0
            || unsafe { os::unguard(slots_memory(slab), carved) } != Opened::Refused
    }

    /// Gives the units of all slabs of this bin back to the pool, whatever is in them: so many as it had.
    ///
    /// # Safety
    /// The bin has forgotten its slabs, and nobody uses any of their slots.
    pub(crate) unsafe fn close_all(&self, slab_count: usize) {
        // Some that stayed guarded once may be there beside those that the bin knew.
        let most = if self.has_guards() { usize::MAX } else { slab_count };
        self.each_slab(most, |slab| {
            slab.used.set(0);
            // What may be guarded still stays what it is, in no list, until this is asked for again.
            if self.unguard(slab) {
                // SAFETY: a slab whose slots nobody uses, and which is accessible.
                unsafe { self.clear_all(slab) };
                self.close(slab);
            }
        });
    }

    /// All slabs that have this bin's tag, so many at most. They may have another by the time that they are looked at, if the
    /// caller lets them.
    pub(crate) fn each_slab(&self, most: usize, mut each: impl FnMut(&'static SlabHeader)) {
        let directory = Directory::of(self.unit_shift);
        for unit in all_units(self.pool).filter(|&unit| directory.tag(unit) == self.tag).take(most) {
            // SAFETY: a unit of a claimed region.
            each(unsafe { directory.header(unit) });
        }
    }

    /// Makes the slots of a slab as they are when all of them have been freed.
    ///
    /// # Safety
    /// An accessible slab of this class of which nobody uses a slot.
    unsafe fn clear_all(&self, slab: &SlabHeader) {
        let memory = slots_memory(slab);
        let carved = slab.fresh.get() as usize * self.class.slot_bytes();
        if self.checks.is_hardened() {
            // What was free may be poisoned.
            // SAFETY: the slab's own memory, here and below.
            unsafe { os::unpoison(memory, carved) };
            // SAFETY: as above.
            let is_gone = unsafe { os::purge(memory, self.unit_bytes()) };
            if is_gone {
                forget_behind(slab, 0);
            }
            // SAFETY: as above.
            if !is_gone && unsafe { os::recommit(memory, carved.next_multiple_of(os::page_bytes())) } {
                // SAFETY: as above.
                unsafe { memory.write_bytes(0, carved) };
            }
        }
        // SAFETY: as above.
        unsafe { os::poison(memory, carved) };
    }

    /// Whether a slab is one of this bin's; a header's other fields belong to the lock of its own bin (S1).
    pub(crate) fn owns(&self, slab: &SlabHeader) -> bool {
        // Where a slot is freed once, its slab is open, as whoever handed it on has seen.
        Directory::of(self.unit_shift).tag(slab.memory().addr()) == self.tag
    }

    fn set_tag(&self, slab: &SlabHeader, tag: u32) {
        // SAFETY: the unit was taken from the pool and has not gone back.
        unsafe { Directory::of(self.unit_shift).set_tag(slab.memory().addr(), tag) };
    }

    /// Slots in the free list.
    #[inline(always)]
    pub(crate) fn recycled(&self, slab: &SlabHeader) -> usize {
        let free = (slab.fresh.get() - slab.used.get()) as usize;
        if self.has_bitmap() { free - slab.purged.get() as usize } else { free }
    }

    /// Slots that were never handed out since the unit was taken.
    pub(crate) fn fresh_room(&self, slab: &SlabHeader) -> usize {
        self.slot_count(slab) - slab.fresh.get() as usize
    }

    /// Hands out up to `most` fresh slots as one range of addresses: none if the system refuses memory for them.
    pub(crate) fn carve(&self, slab: &SlabHeader, most: usize) -> Range<usize> {
        let count = most.min(self.fresh_room(slab));
        let count = if os::DECOMMITS { self.commit_slots(slab, count) } else { count };
        self.carve_untouched(slab, count)
    }

    /// Hands out fresh slots that nobody may touch, unless they are committed.
    pub(crate) fn carve_untouched(&self, slab: &SlabHeader, most: usize) -> Range<usize> {
        let count = most.min(self.fresh_room(slab));
        let start = slots_start(slab) + slab.fresh.get() as usize * self.class.slot_bytes();
        let bytes = count * self.class.slot_bytes();
        slab.fresh.set(slab.fresh.get() + count as u32);
        slab.used.set(slab.used.get() + count as u32);
        self.debug_check(slab);
        let used_bytes = slab.fresh.get() as usize * self.class.slot_bytes();
        if !os::DECOMMITS && slab.extent.get() < Dumped::of(used_bytes) as u8 {
            dump_more(slab, first_offset(slab), used_bytes, self.unit_bytes());
        }
        start..start + bytes
    }

    /// Whether a range is the end of what has been carved.
    pub(crate) fn is_last_carved(&self, slab: &SlabHeader, range: &Range<usize>) -> bool {
        range.end - slots_start(slab) == slab.fresh.get() as usize * self.class.slot_bytes()
    }

    /// Takes back the untouched end of what has been carved.
    pub(crate) fn uncarve(&self, slab: &SlabHeader, range: &Range<usize>) {
        debug_assert!(self.is_last_carved(slab, range));
        let slots = self.class.slots_in(range.len()) as u32;
        slab.fresh.set(slab.fresh.get() - slots);
        slab.used.set(slab.used.get() - slots);
        self.debug_check(slab);
    }

    /// Ends the process if an address is no slot of `slab`: an interior pointer, or one whose upper bits are wrong. `addresses`
    /// agree in all bits above the unit. A last line of defence: what a free verifies at the call does not see these bits.
    #[inline(always)]
    fn verify(&self, slab: &SlabHeader, addresses: &[usize]) {
        let (base, slots) = (slots_start(slab), self.slot_count(slab));
        if addresses.iter().any(|address| self.class.slot_at(address.wrapping_sub(base)) >= slots) {
            self.report_no_slot(slab, addresses);
        }
    }

    #[cold]
    #[inline(never)]
    fn report_no_slot(&self, slab: &SlabHeader, addresses: &[usize]) -> ! {
        let (base, slots) = (slots_start(slab), self.slot_count(slab));
        let is_slot = |&&address: &&usize| self.class.slot_at(address.wrapping_sub(base)) < slots;
        let address = addresses.iter().find(|address| !is_slot(address)).copied().unwrap_or(0);
        self.report_under_lock(FaultKind::InvalidFree, address, Truth::NoSlot)
    }

    /// Ends the process: a fault of a slot of this class, found under its bin's lock.
    fn report_under_lock(&self, kind: FaultKind, address: usize, truth: Truth) -> ! {
        let class_bytes = Some(self.class.slot_bytes());
        report_under_lock(&Fault { kind, address, size: None, class_bytes, family: self.family, truth })
    }

    /// The equation of the module's head, in debug builds.
    fn debug_check(&self, slab: &SlabHeader) {
        debug_assert!(
            slab.used.get() + if self.has_bitmap() { slab.purged.get() } else { 0 } <= slab.fresh.get(),
            "every slot is used, recycled, purged or fresh"
        );
        debug_assert!(self.owns(slab), "the slab is this bin's");
    }

    /// In debug builds, ends the process if slots that come back to a slab are not of this class
    /// and family, or are more than went out: before that becomes a panic under a lock. Unchecked
    /// families verify nothing else, and default ones find no double free.
    pub(crate) fn debug_verify(&self, slab: &SlabHeader, lowest: usize, count: usize) {
        if cfg!(debug_assertions) {
            if !self.owns(slab) {
                self.report_under_lock(FaultKind::InvalidFree, lowest, Truth::NoSlot);
            }
            if (slab.used.get() as usize) < count {
                self.report_under_lock(FaultKind::DoubleFree, lowest, Truth::Said);
            }
        }
    }

    /// Moves recycled slots out of the slab, as many as there are and as `out` has room for, or none if the system refuses memory for
    /// them; returns how many.
    /// `Err`: where the family keeps states, this one was freed twice.
    ///
    /// # Safety
    /// `slab` is a slab of this bin, and the caller holds the bin's lock (S1).
    pub(crate) unsafe fn take(&self, slab: &SlabHeader, out: &mut [usize]) -> Result<usize, usize> {
        let count = out.len().min(self.recycled(slab));
        let out = &mut out[..count];
        if self.checks.keeps_states() {
            // SAFETY: the list holds `recycled` slots, and no more are taken.
            unsafe { self.take_noted(slab, out) }?;
            // SAFETY: the same contract; a page is purged, and these are slots of the slab.
            if slab.purged.get() > 0 && !unsafe { self.forget_purged(slab, out) } {
                // SAFETY: as above: taken just now, and nobody has them.
                unsafe { self.give_mixed(slab, out) }?;
                return Ok(0);
            }
        } else if self.is_tiny() {
            // SAFETY: the list holds `recycled` slots, and no more are popped; S1.
            unsafe { self.take_tiny(slab, out) };
        } else {
            // SAFETY: the list holds `recycled` slots, and no more are taken.
            unsafe { self.take_free(slab, out) };
        }
        slab.used.set(slab.used.get() + count as u32);
        self.debug_check(slab);
        Ok(count)
    }

    /// Puts used slots back, as many of the first as lie in `slab`, where its free list is no bitmap; returns how many. `Err`: where
    /// the family keeps states, this one was freed twice.
    ///
    /// # Safety
    /// `addresses` are used slots of this bin, each once, which nobody uses any more, and the first is one of `slab`; the caller holds
    /// the bin's lock (S1).
    pub(crate) unsafe fn give(&self, slab: &SlabHeader, addresses: &[usize]) -> Result<usize, usize> {
        let count = if self.checks.keeps_states() && !self.checks.is_hardened() {
            // SAFETY: the same contract.
            unsafe { self.give_noted(slab, addresses) }?
        } else {
            // Neighbours often lie in one slab: its header is then opened once for all of them.
            let is_here = |&&address: &&usize| (address ^ addresses[0]) >> self.unit_shift == 0;
            let count = addresses.iter().take_while(is_here).count();
            self.verify(slab, &addresses[..count]);
            if self.checks.keeps_states() {
                // SAFETY: the same contract, and all of them are slots of the slab.
                unsafe { self.give_mixed(slab, &addresses[..count]) }?;
            } else {
                debug_assert!(self.is_tiny(), "slots of other classes come back in runs");
                // SAFETY: used slots are in no list, and the caller gives them up; S1.
                unsafe { self.give_tiny(slab, &addresses[..count]) };
            }
            count
        };
        self.count_given(slab, count);
        Ok(count)
    }

    /// Puts a used slot back. Where the slab has its bits in its header, its shape need not be known.
    ///
    /// # Safety
    /// As for [`give_run`](Self::give_run).
    #[inline(always)]
    pub(crate) unsafe fn give_slot(&self, slab: &SlabHeader, slot: usize) {
        let index = self.class.slot_at(slot.wrapping_sub(slots_start(slab)));
        if index < slab.fresh.get() as usize && self.set_free_in_header(slab, index) {
            self.count_given(slab, 1);
        } else {
            // SAFETY: the same contract.
            unsafe { self.give_run(self.shape(), slab, slot, 1) };
        }
    }

    /// Puts used slots that lie one after another back. `shape` is that of this bin's slabs.
    ///
    /// # Safety
    /// - `lowest` and the `count - 1` slots behind it are used slots of `slab`, which nobody uses any more.
    /// - The slab has a bitmap; the caller holds the lock of the slab's bin (S1).
    #[inline(always)]
    pub(crate) unsafe fn give_run(&self, shape: Shape, slab: &SlabHeader, lowest: usize, count: usize) {
        let first = first_offset(slab);
        let offset = lowest.wrapping_sub(slab.memory().addr());
        let index = self.class.slot_at(offset.wrapping_sub(first));
        // The last slots are missing where the first is not at the slab's beginning.
        if index >= shape.slots || offset + count * self.class.slot_bytes() > shape.slots_end {
            let highest = lowest.wrapping_add((count - 1) * self.class.slot_bytes());
            self.report_no_slot(slab, &[lowest, highest]);
        }
        // SAFETY: slots of the slab that are carved, because they were used; the caller gives them up.
        unsafe { self.set_free(shape, slab, index, count) };
        self.count_given(slab, count);
    }

    #[inline(always)]
    fn count_given(&self, slab: &SlabHeader, count: usize) {
        slab.used.set(slab.used.get() - count as u32);
        self.debug_check(slab);
    }

    /// # Safety
    /// As for [`take`](Self::take), and the list has at least `out.len()` slots.
    #[cold]
    #[inline(never)]
    unsafe fn take_tiny(&self, slab: &SlabHeader, out: &mut [usize]) {
        let (tiny, memory) = (self.tiny(), slab_memory(slab));
        let table = self.table(slab);
        for out in out {
            // SAFETY: the caller's promise; the table was initialised by the first `give_tiny`.
            let (offset, run) = unsafe { tiny.pop(memory, table, slab.hint.get()) };
            slab.hint.set(run);
            *out = memory.addr().get() + offset as usize;
        }
    }

    /// # Safety
    /// As for [`give`](Self::give).
    #[cold]
    #[inline(never)]
    unsafe fn give_tiny(&self, slab: &SlabHeader, addresses: &[usize]) {
        let (tiny, memory) = (self.tiny(), slab_memory(slab));
        let table = self.table(slab);
        if !slab.side_ready.get() {
            slab.side_ready.set(true);
            // SAFETY: the slab's own table, committed when the slab was opened; S1 keeps others away.
            unsafe { tiny.initialise(table) };
        }
        for &address in addresses {
            let offset = (address - memory.addr().get()) as u32;
            // SAFETY: a used slot is in no list, and the caller gives it up.
            unsafe { tiny.push(memory, table, offset) };
        }
    }

    fn table(&self, slab: &SlabHeader) -> NonNull<u8> {
        let memory = slab.memory();
        let unit = (memory.addr() >> self.unit_shift) % UNIT_COUNT;
        let region = memory.addr() & !((UNIT_COUNT << self.unit_shift) - 1);
        let address = region + self.tiny().table_offset(unit);
        // The region's provenance is exposed where the region is claimed.
        NonNull::new(core::ptr::with_exposed_provenance_mut(address)).unwrap_or(NonNull::dangling())
    }
}

fn slab_memory(slab: &SlabHeader) -> NonNull<u8> {
    NonNull::new(slab.memory()).unwrap_or(NonNull::dangling())
}

/// Where in a slab its first slot is.
#[inline(always)]
fn first_offset(slab: &SlabHeader) -> usize {
    usize::from(slab.first.get()) * os::page_bytes()
}

/// The first slot of a slab.
#[inline(always)]
fn slots_start(slab: &SlabHeader) -> usize {
    slab.memory().addr() + first_offset(slab)
}

/// The same, as a pointer to all slots.
fn slots_memory(slab: &SlabHeader) -> NonNull<u8> {
    // SAFETY: less than a slab's length.
    unsafe { slab_memory(slab).add(first_offset(slab)) }
}
