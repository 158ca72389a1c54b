//! A unit becomes a slab, and an empty slab a unit again; and all slabs of a bin at once.

use super::{Geometry, Shelves, first_offset, slab_memory};
use crate::header::{Directory, SlabHeader, WORN};
use crate::huge_pages::Pages;
use crate::os;
use crate::region::{Dumped, Unit, UnitPool, dump_again, forget_behind};

impl Geometry<'_> {
    /// Takes a unit and makes it an empty slab of this class, the bin's first, second, ….
    pub(crate) fn open(&self, number: usize) -> Option<&'static SlabHeader> {
        let pages = self.pages_of_slab(number);
        let mut pool = self.pool.lock();
        let unit = pool.take(pages)?;
        self.open_unit(number, pages, &mut pool, unit)
    }

    /// Makes a unit that was taken from the pool an empty slab.
    pub(super) fn open_unit(
        &self,
        number: usize,
        pages: Pages,
        pool: &mut UnitPool,
        Unit { header, zeroed, is_new }: Unit,
    ) -> Option<&'static SlabHeader> {
        let needs_side = if self.is_tiny() {
            self.tiny().is_in_side_table()
        } else {
            self.has_bitmap() && self.shape().is_in_side_table()
        };
        let is_granted = (!needs_side || pool.open_side(header).is_some()) && self.commit_words(header);
        if !is_granted {
            pool.give(header, os::milliseconds());
            return None;
        }
        header.used.set(0);
        header.fresh.set(0);
        let first = self.first_page(header.memory().addr(), number, pages);
        let begins_later = first > header.first.replace(first);
        if !os::DECOMMITS && begins_later && header.extent.get() > Dumped::Nothing as u8 {
            // As much is to be in dumps from there on as was before.
            dump_again(header, first_offset(header), self.unit_bytes());
        }
        header.free.iter().for_each(|word| word.set(0));
        header.hint.set(0);
        // What comes back to a hardened family is cleared at once, and is looked at where it can have been written to since.
        debug_assert_eq!(header.purged.get(), 0, "P2");
        header.zeroed.set(if self.checks.is_hardened() { is_new } else { zeroed });
        header.side_ready.set(false);
        header.previous.set(None);
        header.next.set(None);
        // From here on a free of one of its slots is right.
        self.set_tag(header, self.tag);
        Some(header)
    }

    /// Gives the unit of an empty slab without guards back to the pool.
    pub(crate) fn close(&self, slab: &'static SlabHeader) {
        debug_assert_eq!(slab.used.get(), 0);
        // Nobody legitimately looks at the tag of a slab without slots; a late, wrong free finds 0.
        self.set_tag(slab, 0);
        if self.checks.keeps_states() {
            // SAFETY: an empty slab of this class, whose bin's lock is held (S1).
            unsafe { self.forget(slab) };
        }
        let is_worn = self.is_worn(slab);
        if slab.purged.get() > 0 || self.has_guards() {
            // Nobody will know which pages are there.
            forget_behind(slab, 0);
        }
        slab.fresh.set(if is_worn { WORN } else { 0 });
        if slab.purged.get() > 0 {
            // SAFETY: a slab of this bin, whose lock is held (S1), with a purged page.
            unsafe { self.clear_purged(slab) };
        }
        // SAFETY: an empty slab. Large slots that were free had no memory; the system says whether it is so.
        if self.has_guards() && unsafe { os::purge(slab_memory(slab), self.unit_bytes()) } {
            self.pool.lock().give_emptied(slab);
        } else {
            self.pool.lock().give(slab, os::milliseconds());
        }
    }
}

/// What a bin has out.
pub(crate) struct Out {
    /// Slots in caches and with clients.
    pub(crate) slots: usize,
    pub(crate) depot_slots: usize,
    /// Slots that somebody works on.
    pub(crate) claimed_slots: usize,
    pub(crate) slab_count: usize,
}

impl Shelves {
    /// What is out, with so many of the bin's slots in its depot.
    pub(crate) fn out(&self, depot_slots: usize) -> Out {
        let slots = self.used_slots.saturating_sub(depot_slots + self.claimed_slots);
        Out { slots, depot_slots, claimed_slots: self.claimed_slots, slab_count: self.slab_count() }
    }

    /// Gives the units of all slabs back, whatever is in them. `held` has a slot of each that is in no list.
    ///
    /// # Safety
    /// Nobody uses slots of these slabs any more, nor has claimed any; the caller holds the bin's lock.
    pub(crate) unsafe fn close_all(&mut self, geometry: &Geometry<'_>, held: impl Iterator<Item = usize>) {
        let slabs = core::mem::replace(self, Self::new());
        let mut left = slabs.slab_count();
        let close = |left: &mut usize, slab: &'static SlabHeader| {
            slab.used.set(0);
            geometry.close(slab);
            *left -= 1;
        };
        for list in [&slabs.partial, &slabs.thin] {
            let mut next = list.first();
            while let Some(slab) = next {
                // Closed, it may be somebody else's at once.
                next = slab.next.get();
                close(&mut left, slab);
            }
        }
        // From here on one that is closed already has another tag.
        if let Some(current) = slabs.current.filter(|slab| geometry.owns(slab)) {
            close(&mut left, current);
        }
        if left == 0 {
            return;
        }
        let (headers, mut last) = (Directory::of(geometry.unit_shift).headers(), usize::MAX);
        let units = held.filter(|slot| core::mem::replace(&mut last, slot >> geometry.unit_shift) != last);
        for slot in units {
            // SAFETY: a slot of the bin lies in a unit, which was a slab when it was handed out.
            let slab = unsafe { headers.slab(slot) };
            if geometry.owns(slab) {
                close(&mut left, slab);
                if left == 0 {
                    return;
                }
            }
        }
        if left > 0 {
            // Of a slot that was freed twice, unnoticed, another was missing.
            // SAFETY: the same contract.
            unsafe { geometry.close_all(left) };
        }
    }
}
