//! The slabs of one bin: which have free slots, which is carved from, and how many slots are where. All of it belongs to the bin's lock (S1).
//!
//! **B1** A slab is in `partial` exactly while `recycled > 0`, and in `thin` exactly while it has purged slots and is not in `partial`; where
//! free lists are no bitmaps never, for purged slots are in them, or claimed. **B2**
//! `used_slots` is the sum of `used` over the slabs, and `claimed_slots` are among them. **B3** A slab with fresh slots is `current`: no other could
//! ever be carved again. **B4** `carved_slots` is the sum of `fresh` over the slabs, `purged_slots` that of their purged slots; free slots that
//! may hold memory are `carved_slots − used_slots − purged_slots`.

use core::ops::Range;

use super::list::SlabList;
use super::{Claim, Geometry};
use crate::capacity::KEPT_SLABS;
use crate::header::{Directory, SlabHeader};
use crate::huge_pages::Pages;
use crate::os;
use crate::region::forget_behind;

/// A slot that was freed twice, found when it came to its bin or left it; only where the family keeps states.
#[derive(Debug)]
pub(crate) struct Twice(pub(crate) usize);

/// A range of fresh slots.
pub(crate) struct Fresh {
    pub(crate) range: Range<usize>,
    /// Whether all of it is known to read zero.
    pub(crate) zeroed: bool,
}

/// What [`Bin::take`](crate::bin::Bin::take) found.
pub(crate) enum Taken {
    /// This many addresses were written to the buffer.
    Recycled(usize),
    /// Slots that were never used, in address order.
    Fresh(Fresh),
}

/// In which list of its bin a slab belongs (B1).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shelf {
    /// None: every slot is used or fresh.
    Full,
    /// Those with a free list.
    Partial,
    /// Those without one, but with purged slots.
    Thin,
}

/// Whether the fresh part of the current slab goes on being used.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Tail {
    /// Since the last look.
    Used,
    /// Before the last look, and not since.
    Watched,
    /// Not between the last two looks, and not since.
    Unused,
    /// Not since its memory went back.
    Given,
}

/// Numbers of one bin at one moment.
#[derive(Clone, Copy, Default)]
pub(crate) struct BinCounts {
    pub(crate) slab_count: usize,
    /// Slots in caches and with clients.
    pub(crate) out_slots: usize,
    pub(crate) depot_slots: usize,
    /// Slots in slabs that could be handed out, fresh ones included.
    pub(crate) free_slots: usize,
    /// Those of them that were handed out before and whose pages may hold memory.
    pub(crate) idle_slots: usize,
    /// Those of them whose pages went back to the system.
    pub(crate) purged_slots: usize,
}

/// A worn unit went back from here, and may be in the pool still.
pub(super) const HAS_WORN: u8 = 1;
/// A slab was opened with huge pages since there was none: how many there are now says nothing of those that are left.
const HAD_HUGE: u8 = 2;

/// All slabs of a bin.
pub(crate) struct Shelves {
    pub(super) partial: SlabList,
    pub(super) thin: SlabList,
    pub(super) current: Option<&'static SlabHeader>,
    pub(crate) slab_count: u32,
    pub(crate) used_slots: usize,
    pub(super) carved_slots: usize,
    pub(crate) purged_slots: usize,
    pub(crate) claimed_slots: usize,
    /// Those of them that nobody will settle.
    lost_slots: u32,
    /// The least number of idle slots since the last [`look`](Self::look), or 2³² − 1.
    least_idle: u32,
    pub(super) tail: Tail,
    /// What of [`HAS_WORN`] and [`HAD_HUGE`] is so: bits of one byte, because a bin is two cache lines.
    history: u8,
    /// The unit of the slab that was opened last of a worn one, by its number modulo 2¹⁶: see [`reopen`](super::reopen).
    pub(super) reopened: u16,
}

impl Shelves {
    pub(crate) const fn new() -> Self {
        Self {
            partial: SlabList::new(),
            thin: SlabList::new(),
            current: None,
            slab_count: 0,
            used_slots: 0,
            carved_slots: 0,
            purged_slots: 0,
            claimed_slots: 0,
            lost_slots: 0,
            least_idle: 0,
            tail: Tail::Used,
            history: 0,
            reopened: 0,
        }
    }

    /// How many slabs there are.
    pub(crate) fn slab_count(&self) -> usize {
        self.slab_count as usize
    }

    /// How many slots are where, with so many of the bin's in its depot.
    pub(crate) fn counts(&self, geometry: &Geometry<'_>, depot_slots: usize) -> BinCounts {
        BinCounts {
            slab_count: self.slab_count as usize,
            out_slots: self.used_slots.saturating_sub(depot_slots + self.claimed_slots),
            depot_slots,
            free_slots: (self.slab_count as usize * geometry.slot_count_from(0))
                .saturating_sub(self.used_slots.saturating_sub(self.claimed_slots)),
            idle_slots: self.idle_slots() + self.claimed_slots,
            purged_slots: self.purged_slots,
        }
    }

    /// Notes that nobody will settle what is claimed: who has claimed it stayed behind a fork.
    #[cfg(all(unix, not(any(miri, loom))))]
    pub(crate) fn lose_claimed(&mut self) {
        self.lost_slots = self.claimed_slots as u32;
    }

    /// Forgets all slabs; returns how many slots were used and not claimed. `None`: somebody will settle some, and nothing has changed.
    pub(crate) fn forget(&mut self) -> Option<usize> {
        if self.claimed_slots > self.lost_slots as usize {
            return None;
        }
        let forgotten = core::mem::replace(self, Self::new());
        Some(forgotten.used_slots.saturating_sub(forgotten.claimed_slots))
    }

    /// The slab that is taken from next, if one has a free list.
    #[inline(always)]
    pub(crate) fn first(&self) -> Option<&'static SlabHeader> {
        self.partial.first()
    }

    /// The slab with a free list that is taken from last.
    pub(crate) fn last(&self) -> Option<&'static SlabHeader> {
        self.partial.last()
    }

    /// Makes a slab with a free list the one that is taken from next.
    pub(crate) fn bring_to_front(&mut self, slab: &'static SlabHeader) {
        self.partial.remove(slab);
        self.partial.push_front(slab);
    }

    /// How many slots were idle all the time since the last look.
    pub(crate) fn look(&mut self) -> usize {
        self.tail = match self.tail {
            Tail::Used => Tail::Watched,
            Tail::Watched => Tail::Unused,
            later => later,
        };
        let idle = self.idle_or_claimed();
        let least = core::mem::replace(&mut self.least_idle, u32::try_from(idle).unwrap_or(u32::MAX));
        idle.min(least as usize)
    }

    pub(super) fn note_idle(&mut self) {
        self.least_idle = self.least_idle.min(u32::try_from(self.idle_or_claimed()).unwrap_or(u32::MAX));
    }

    /// What is claimed is nobody's need: it comes back, or goes to the system.
    fn idle_or_claimed(&self) -> usize {
        self.idle_slots() + self.claimed_slots
    }

    /// Whether slabs of this bin are huge pages, most of them, as far as their number says.
    pub(crate) fn are_huge(&self, geometry: &Geometry<'_>) -> bool {
        geometry.may_be_huge() && geometry.pages_of_slab(self.slab_count as usize) == Pages::Huge
    }

    /// Counts a slab that was opened.
    pub(super) fn count_opened(&mut self, geometry: &Geometry<'_>) {
        self.slab_count += 1;
        self.note(HAD_HUGE, self.had_huge() || self.are_huge(geometry));
    }

    /// Whether slabs that are left may be huge pages.
    pub(crate) fn had_huge(&self) -> bool {
        self.history & HAD_HUGE != 0
    }

    /// Whether a worn unit may be in the pool.
    pub(super) fn has_worn(&self) -> bool {
        self.history & HAS_WORN != 0
    }

    /// Notes whether something is so of what is in [`history`](Self::history).
    pub(super) fn note(&mut self, what: u8, is_so: bool) {
        self.history = self.history & !what | if is_so { what } else { 0 };
    }

    /// As [`Bin::take_tail`](crate::bin::Bin::take_tail).
    pub(crate) fn take_tail(&mut self, geometry: &Geometry<'_>, any: bool) -> Option<Range<usize>> {
        let slab = self.current?;
        let may_have_memory = self.had_huge() || !slab.zeroed.get();
        if geometry.has_guards() || !may_have_memory || !(any || self.tail == Tail::Unused) {
            return None;
        }
        let range = geometry.carve_untouched(slab, usize::MAX);
        let slots = geometry.class.slots_in(range.len());
        self.used_slots += slots;
        self.carved_slots += slots;
        self.claimed_slots += slots;
        (slots > 0).then_some(range)
    }

    /// Notes that so many slots of what [`take_tail`](Self::take_tail) returned have come back.
    pub(crate) fn unclaim_tail(&mut self, slots: usize) {
        self.claimed_slots -= slots;
        if slots > 0 {
            self.tail = Tail::Given;
        }
    }

    /// Takes the rest of a fresh range back as fresh, if it still is the end of what was carved; `false`: it must go to the list. With
    /// `is_gone` its memory may have gone back.
    pub(crate) fn uncarve(&mut self, geometry: &Geometry<'_>, range: &Range<usize>, is_gone: bool) -> bool {
        // SAFETY: the range was carved from a slab.
        let slab = unsafe { Directory::of(geometry.unit_shift).header(range.start) };
        let is_last = geometry.is_last_carved(slab, range);
        if is_last && self.may_be_current(geometry, slab) {
            self.current = Some(slab);
        } else if !(is_last && is_gone && os::DECOMMITS) {
            return false;
        }
        // What is not there cannot be listed: it stays fresh, and is there for others again when the slab is empty.
        if is_gone {
            forget_behind(slab, range.start - slab.memory().addr());
        }
        let slots = geometry.class.slots_in(range.len());
        self.used_slots -= slots;
        self.carved_slots -= slots;
        geometry.uncarve(slab, range);
        if slab.used.get() == 0 {
            self.retire(geometry, slab);
        }
        true
    }

    /// Counts anew what is purged of a slab that had so many purged slots (B4).
    fn count_purged(&mut self, before: u32, slab: &SlabHeader) {
        self.purged_slots = self.purged_slots + slab.purged.get() as usize - before as usize;
    }

    /// Free slots that may hold memory (B4).
    pub(crate) fn idle_slots(&self) -> usize {
        self.carved_slots.saturating_sub(self.used_slots + self.purged_slots)
    }

    fn shelf(geometry: &Geometry<'_>, slab: &SlabHeader) -> Shelf {
        match (geometry.recycled(slab), slab.purged.get()) {
            (0, 0) => Shelf::Full,
            (0, _) if geometry.has_bitmap() => Shelf::Thin,
            (0, _) => Shelf::Full,
            _ => Shelf::Partial,
        }
    }

    /// Changes a slab in a way by which it may come to belong into another list (B1).
    pub(super) fn change<T>(
        &mut self,
        geometry: &Geometry<'_>,
        slab: &'static SlabHeader,
        change: impl FnOnce() -> T,
    ) -> T {
        let before = Self::shelf(geometry, slab);
        let result = change();
        let after = Self::shelf(geometry, slab);
        if before != after {
            self.unlink(before, slab);
            match after {
                Shelf::Full => {}
                Shelf::Partial => self.partial.push_front(slab),
                Shelf::Thin => self.thin.push_front(slab),
            }
        }
        result
    }

    fn unlink(&mut self, shelf: Shelf, slab: &'static SlabHeader) {
        match shelf {
            Shelf::Full => {}
            Shelf::Partial => self.partial.remove(slab),
            Shelf::Thin => self.thin.remove(slab),
        }
    }

    /// As [`Geometry::claim`], of a slab of these.
    pub(crate) fn claim(&mut self, geometry: &Geometry<'_>, slab: &'static SlabHeader) -> Option<Claim> {
        let purged = slab.purged.get();
        // SAFETY: a slab of this bin, whose lock is held.
        let claim = self.change(geometry, slab, || unsafe { geometry.claim(slab) })?;
        self.count_purged(purged, slab);
        self.used_slots += claim.slots;
        self.claimed_slots += claim.slots;
        Some(claim)
    }

    /// As [`Geometry::settle`].
    pub(crate) fn settle(&mut self, geometry: &Geometry<'_>, claim: &Claim) {
        let (slab, purged) = (claim.slab, claim.slab.purged.get());
        // SAFETY: a slab of this bin, whose lock is held: it could not leave because what was claimed is used.
        self.change(geometry, slab, || unsafe { geometry.settle(claim) });
        self.count_purged(purged, slab);
        self.used_slots -= claim.slots;
        self.claimed_slots -= claim.slots;
        self.note_idle();
        if slab.used.get() == 0 {
            self.retire(geometry, slab);
        }
    }

    pub(crate) fn take_recycled(&mut self, geometry: &Geometry<'_>, out: &mut [usize]) -> Result<usize, Twice> {
        let mut count = 0;
        if self.has_worn() && self.partial.first().is_none() {
            self.reopen(geometry);
        }
        while let (Some(slab), true) = (self.partial.first(), count < out.len()) {
            let purged = slab.purged.get();
            // SAFETY: a slab in `partial` is this bin's, whose lock is held.
            let taken = unsafe { geometry.take(slab, &mut out[count..]) }.map_err(Twice)?;
            self.count_purged(purged, slab);
            count += taken;
            if os::DECOMMITS && taken == 0 {
                // There is no memory for them.
                break;
            }
            if geometry.recycled(slab) == 0 {
                self.partial.remove(slab);
                if Self::shelf(geometry, slab) == Shelf::Thin {
                    self.thin.push_front(slab);
                }
            }
        }
        self.used_slots += count;
        self.note_idle();
        Ok(count)
    }

    /// Slots that read zero because the system has had their pages, else slots that were never handed out.
    pub(crate) fn take_unused(&mut self, geometry: &Geometry<'_>, most: usize) -> Option<Fresh> {
        let Some(slab) = self.thin.first() else { return self.carve(geometry, most) };
        let purged = slab.purged.get();
        // SAFETY: a slab in `thin` is this bin's, whose lock is held, and has a purged page and no list.
        let range = self.change(geometry, slab, || unsafe { geometry.take_purged(slab, most) });
        if os::DECOMMITS && range.is_empty() {
            // The current slab may have memory left.
            return self.carve(geometry, most);
        }
        self.count_purged(purged, slab);
        self.used_slots += geometry.class.slots_in(range.len());
        Some(Fresh { range, zeroed: true })
    }

    fn carve(&mut self, geometry: &Geometry<'_>, most: usize) -> Option<Fresh> {
        let slab = match self.current {
            Some(slab) if geometry.fresh_room(slab) > 0 => slab,
            _ => {
                let slab = geometry.open(self.slab_count as usize + 1)?;
                self.count_opened(geometry);
                self.current.insert(slab)
            }
        };
        let range = geometry.carve(slab, most);
        if os::DECOMMITS && range.is_empty() {
            if slab.used.get() == 0 && slab.fresh.get() == 0 {
                self.close(geometry, slab);
            }
            return None;
        }
        let slots = geometry.class.slots_in(range.len());
        self.used_slots += slots;
        self.carved_slots += slots;
        self.tail = Tail::Used;
        Some(Fresh { range, zeroed: slab.zeroed.get() })
    }

    /// Whether a slab can be the one to carve from (B3).
    fn may_be_current(&self, geometry: &Geometry<'_>, slab: &SlabHeader) -> bool {
        self.current.is_none_or(|current| core::ptr::eq(current, slab) || geometry.fresh_room(current) == 0)
    }

    /// # Safety
    /// As for [`Bin::give`](crate::bin::Bin::give).
    pub(crate) unsafe fn give_to_slabs(&mut self, geometry: &Geometry<'_>, slots: &[usize]) -> Result<(), Twice> {
        if geometry.has_bitmap() {
            // What is freed wrongly in an unchecked family is told there, in debug builds, or not at all.
            self.used_slots = self.used_slots.wrapping_sub(slots.len());
            // SAFETY: the same contract.
            unsafe { self.receive(geometry, slots) };
            return Ok(());
        }
        let headers = Directory::of(geometry.unit_shift).headers();
        let mut start = 0;
        while start < slots.len() {
            // SAFETY: a slot of the bin lies in a unit, which was a slab when it was handed out.
            let slab = unsafe { headers.slab(slots[start]) };
            if !geometry.owns(slab) {
                // A racing free of the same slot has let the slab be closed: the header may be another bin's by now (S1).
                return Err(Twice(slots[start]));
            }
            let was_full = geometry.recycled(slab) == 0;
            // SAFETY: used slots of this bin, whose lock is held, the first of them in this slab.
            let given = unsafe { geometry.give(slab, &slots[start..]) }.map_err(Twice)?;
            if was_full {
                self.partial.push_front(slab);
            }
            start += given;
            self.used_slots -= given;
            if slab.used.get() == 0 {
                self.retire(geometry, slab);
            }
        }
        Ok(())
    }

    /// Gives the unit of an empty slab back, but for the last ones: whoever takes and gives one slot in turn would open and
    /// close a slab each time.
    #[cold]
    pub(super) fn retire(&mut self, geometry: &Geometry<'_>, slab: &'static SlabHeader) {
        if self.slab_count as usize > KEPT_SLABS && !self.would_reopen(geometry, slab) {
            self.close(geometry, slab);
        }
    }

    /// Gives the unit of the last slab back, if it is empty; whether it was.
    pub(crate) fn retire_last(&mut self, geometry: &Geometry<'_>) -> bool {
        let last = self.partial.first().or_else(|| self.thin.first()).or(self.current);
        let empty = last.filter(|slab| self.slab_count == 1 && self.used_slots == 0 && slab.used.get() == 0);
        if let Some(slab) = empty {
            self.close(geometry, slab);
        }
        empty.is_some()
    }

    /// Gives the unit of an empty slab back, unless its guards stay: then it is here for those who come next.
    pub(super) fn close(&mut self, geometry: &Geometry<'_>, slab: &'static SlabHeader) {
        if !geometry.unguard(slab) {
            return;
        }
        self.unlink(Self::shelf(geometry, slab), slab);
        self.purged_slots -= slab.purged.get() as usize;
        self.carved_slots -= slab.fresh.get() as usize;
        if self.current.is_some_and(|current| core::ptr::eq(current, slab)) {
            self.current = None;
        }
        self.slab_count -= 1;
        self.note(HAD_HUGE, self.had_huge() && self.slab_count > 0);
        self.note(HAS_WORN, self.has_worn() || geometry.can_reopen() && geometry.is_worn(slab));
        geometry.close(slab);
    }

    /// Closes the slabs that are empty: the last one, and those whose guards stayed.
    pub(crate) fn retire_empty(&mut self, geometry: &Geometry<'_>) {
        let mut next = self.partial.first();
        while let Some(slab) = next {
            next = slab.next.get();
            if slab.used.get() == 0 {
                self.close(geometry, slab);
            }
        }
        self.retire_last(geometry);
    }

    /// Adds a slab whose list was empty to those that have one.
    pub(super) fn link(&mut self, slab: &'static SlabHeader) {
        if slab.purged.get() > 0 {
            self.thin.remove(slab);
        }
        self.partial.push_front(slab);
    }
}
