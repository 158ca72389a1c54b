//! Worn units, whose pages a slab has used to the end, before fresh memory of the current slab.
//!
//! When all but a few objects of a large structure are freed, the slabs that it filled go back to the pool, and the
//! current slab stays with a rest that nobody has touched. If that rest went first, a program that drops the structure
//! and builds it again would touch a slab's length of memory more each time that the last slab is another.

use super::shelves::HAS_WORN;
use super::{Geometry, Shelves, slots_start};
use crate::header::SlabHeader;
use crate::os;

impl Geometry<'_> {
    /// Whether all pages of a slab's unit may hold memory.
    pub(super) fn is_worn(&self, slab: &SlabHeader) -> bool {
        slab.purged.get() == 0 && !self.has_guards() && self.fresh_room(slab) == 0
    }

    /// Whether a bin can make a worn unit its slab: not where slots have states, or memory is committed in steps.
    pub(super) fn can_reopen(&self) -> bool {
        self.has_bitmap() && !os::DECOMMITS
    }

    /// Makes a worn unit a slab, the bin's first, second, …, of which each slot is recycled. `None`: the pool has none.
    fn reopen(&self, number: usize) -> Option<&'static SlabHeader> {
        let pages = self.pages_of_slab(number);
        let mut pool = self.pool.lock();
        let unit = pool.take_worn(pages)?;
        let slab = self.open_unit(number, pages, &mut pool, unit)?;
        drop(pool);
        let slots = self.carve_untouched(slab, usize::MAX);
        let count = self.class.slots_in(slots.len());
        // SAFETY: slots of the slab that were carved just now, and that nobody has. The caller holds the bin's lock.
        unsafe { self.give_run(self.shape(), slab, slots_start(slab), count) };
        Some(slab)
    }
}

impl Shelves {
    /// Takes a worn unit, if there is memory that nobody has touched that would go before it.
    #[cold]
    #[inline(never)]
    pub(super) fn reopen(&mut self, geometry: &Geometry<'_>) {
        if !self.has_unused(geometry) {
            return;
        }
        match geometry.reopen(self.slab_count() + 1) {
            Some(slab) => {
                self.count_opened(geometry);
                self.carved_slots += slab.fresh.get() as usize;
                self.reopened = number(geometry, slab);
                self.link(slab);
            }
            None => self.note(HAS_WORN, false),
        }
    }

    /// Whether there is memory that nobody has touched since the system has had it.
    fn has_unused(&self, geometry: &Geometry<'_>) -> bool {
        self.thin.first().is_some() || self.current.is_some_and(|current| geometry.fresh_room(current) > 0)
    }

    /// Whether the next slot that is taken may open the same unit again: who takes and gives one in turn would open and close it,
    /// with all its bits, each time. Not once pages of it have gone back.
    pub(super) fn would_reopen(&self, geometry: &Geometry<'_>, slab: &SlabHeader) -> bool {
        self.reopened == number(geometry, slab) && slab.purged.get() == 0 && self.has_unused(geometry)
    }
}

/// Two slabs with one number are rare, and then one may stay that need not.
fn number(geometry: &Geometry<'_>, slab: &SlabHeader) -> u16 {
    (slab.memory().addr() >> geometry.unit_shift) as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::region::UnitPool;
    use crate::size_class::{Classes, SizeClass};
    use crate::sync::Lock;

    /// Takes so many slots, recycled ones first.
    fn take(shelves: &mut Shelves, geometry: &Geometry<'_>, count: usize) -> Vec<usize> {
        let mut slots = Vec::new();
        while slots.len() < count {
            let mut some = [0; 50];
            let most = some.len().min(count - slots.len());
            match shelves.take_recycled(geometry, &mut some[..most]).unwrap() {
                0 => slots
                    .extend(shelves.take_unused(geometry, most).unwrap().range.step_by(geometry.class.slot_bytes())),
                taken => slots.extend(&some[..taken]),
            }
        }
        slots
    }

    #[test]
    #[cfg_attr(
        all(windows, not(any(miri, feature = "portable"))),
        ignore = "memory is committed in steps there, so no worn unit is looked for"
    )]
    fn what_is_built_again_touches_no_more_memory() {
        for (class, part) in [(4, 3), (4, 70), (5, 40), (6, 10), (9, 50), (12, 30)] {
            let pool = Lock::new(UnitPool::new(16));
            let class = SizeClass::natural(class);
            let geometry = Geometry::plain(class, 16, &pool);
            let mut shelves = Shelves::new();
            let a_slab = geometry.slot_count_from(0);
            let count = 3 * a_slab + (a_slab * part / 100).max(2);
            let slots = take(&mut shelves, &geometry, count);
            let (current, fresh) = shelves.current.map(|slab| (slab, slab.fresh.get())).unwrap();
            let (kept, dropped) = slots.split_last().unwrap();
            // SAFETY: slots that were taken and that nobody uses, here and below.
            unsafe { shelves.give_to_slabs(&geometry, dropped) }.unwrap();
            assert_eq!(shelves.slab_count(), 1, "three are in the pool");
            let mut again = take(&mut shelves, &geometry, count - 1);
            assert_eq!(shelves.slab_count(), 4);
            assert_eq!(current.fresh.get(), fresh, "nothing fresh where what was used is free");
            assert_eq!(shelves.carved_slots, 3 * a_slab + fresh as usize);
            again.push(*kept);
            again.sort_unstable();
            again.dedup();
            assert_eq!(again.len(), count, "each slot once");
            // Now only the rest of the current slab is left.
            let more = take(&mut shelves, &geometry, 1);
            assert!(current.fresh.get() > fresh && more[0] & !0xffff == current.memory().addr());
            // SAFETY: as above.
            unsafe { shelves.give_to_slabs(&geometry, &again) }.unwrap();
            // SAFETY: as above.
            unsafe { shelves.give_to_slabs(&geometry, &more) }.unwrap();
            assert_eq!(shelves.used_slots, 0);
            shelves.retire_empty(&geometry);
            assert_eq!((shelves.slab_count(), shelves.carved_slots), (0, 0));
        }
    }

    /// Also where the first dirty unit is one that was hardly used, a slab of another class.
    #[test]
    #[cfg_attr(
        all(windows, not(any(miri, feature = "portable"))),
        ignore = "memory is committed in steps there, so no worn unit is looked for"
    )]
    fn a_worn_unit_is_opened_once_for_who_takes_and_gives_in_turn() {
        for unit_shift in [16, 21] {
            let pool = Lock::new(UnitPool::new(unit_shift));
            let of = |class, tag| Geometry { tag, ..Geometry::plain(SizeClass::natural(class), unit_shift, &pool) };
            let (geometry, other) = (of(6, 77), of(7, 78));
            let (mut shelves, mut others) = (Shelves::new(), Shelves::new());
            let hardly_used = take(&mut others, &other, 1);
            let slots = take(&mut shelves, &geometry, 2 * geometry.slot_count_from(0) + 10);
            let current = shelves.current.unwrap();
            // Those of the first two slabs, and those of the current one.
            let is_before = |&&slot: &&usize| slot & !(geometry.unit_bytes() - 1) != current.memory().addr();
            let (before, last) = slots.split_at(slots.iter().take_while(is_before).count());
            // SAFETY: slots that were taken and that nobody uses, here and below.
            unsafe { others.give_to_slabs(&other, &hardly_used) }.unwrap();
            others.retire_empty(&other);
            // SAFETY: as above.
            unsafe { shelves.give_to_slabs(&geometry, before) }.unwrap();
            assert_eq!(shelves.slab_count(), 1);
            let first = take(&mut shelves, &geometry, 1)[0];
            let fresh = current.fresh.get();
            for _ in 0..100 {
                // SAFETY: as above.
                unsafe { shelves.give_to_slabs(&geometry, &[first]) }.unwrap();
                assert_eq!(shelves.slab_count(), 2, "the worn unit is kept");
                assert_eq!(take(&mut shelves, &geometry, 1)[0], first);
            }
            assert_eq!(current.fresh.get(), fresh, "fresh memory comes last");
            // SAFETY: as above.
            unsafe { shelves.give_to_slabs(&geometry, &[first]) }.unwrap();
            // SAFETY: as above.
            unsafe { shelves.give_to_slabs(&geometry, last) }.unwrap();
            shelves.retire_empty(&geometry);
            assert_eq!((shelves.slab_count(), shelves.used_slots), (0, 0));
        }
    }

    #[test]
    fn slabs_of_all_lengths_hand_out_each_slot_once() {
        for unit_shift in [16, 17, 18, 19, 20, 21] {
            let spaced = Classes::Spaced.all(1 << unit_shift).filter(|class| class.slot_bytes() <= 1 << 14);
            // The space of each pool stays, and where addresses are short there are 32 places for the longest.
            let step = if cfg!(miri) || usize::BITS < 64 { 40 } else { 1 };
            for class in (2..10).map(SizeClass::natural).chain(spaced).skip(step / 8).step_by(step) {
                let pool = Lock::new(UnitPool::new(unit_shift));
                let geometry = Geometry::plain(class, unit_shift, &pool);
                let (mut shelves, a_slab) = (Shelves::new(), geometry.slot_count_from(0));
                if a_slab < 4 {
                    continue;
                }
                let count = 2 * a_slab + a_slab / 2;
                let slots = take(&mut shelves, &geometry, count);
                let (kept, dropped) = slots.split_last().unwrap();
                // SAFETY: slots that were taken and that nobody uses, here and below.
                unsafe { shelves.give_to_slabs(&geometry, dropped) }.unwrap();
                let mut again = take(&mut shelves, &geometry, count - 1);
                again.push(*kept);
                again.sort_unstable();
                let are_apart = again.windows(2).all(|two| two[1] - two[0] >= class.slot_bytes());
                assert!(are_apart, "{class:?} {unit_shift}");
                // SAFETY: as above.
                unsafe { shelves.give_to_slabs(&geometry, &again) }.unwrap();
                shelves.retire_empty(&geometry);
                assert_eq!((shelves.slab_count(), shelves.used_slots, shelves.carved_slots), (0, 0, 0));
            }
        }
    }
}
