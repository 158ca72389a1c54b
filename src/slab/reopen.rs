//! Worn units, whose pages a slab has used to the end, before fresh memory of the current slab.
//!
//! When all but a few objects of a large structure are freed, the slabs that it filled go back to the pool, and the
//! current slab stays with a rest that nobody has touched. If that rest went first, a program that drops the structure
//! and builds it again would touch a slab's length of memory more each time that the last slab is another.

use super::{Geometry, Shelves, slots_start};
use crate::header::SlabHeader;
use crate::os;

impl Geometry<'_> {
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
        // Where all is fresh or has a state, or is committed in steps, there is nothing to gain.
        let can_gain = geometry.has_bitmap() && !geometry.checks.keeps_states() && !os::DECOMMITS;
        let has_unused =
            self.thin.first().is_some() || self.current.is_some_and(|current| geometry.fresh_room(current) > 0);
        if !(can_gain && has_unused) {
            return;
        }
        match geometry.reopen(self.slab_count() + 1) {
            Some(slab) => {
                self.slab_count += 1;
                self.carved_slots += slab.fresh.get() as usize;
                self.link(slab);
            }
            None => self.has_worn = false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::Checks;
    use crate::huge_pages::HugePages;
    use crate::region::UnitPool;
    use crate::size_class::SizeClass;
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
    fn what_is_built_again_touches_no_more_memory() {
        for (class, part) in [(4, 3), (4, 70), (5, 40), (6, 10), (9, 50), (12, 30)] {
            let pool = Lock::new(UnitPool::new(16));
            let (checks, huge_pages) = (Checks::Default, HugePages::Never);
            let class = SizeClass::natural(class);
            let geometry = Geometry { class, unit_shift: 16, tag: 77, checks, huge_pages, pool: &pool, family: "Worn" };
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
            assert_eq!((shelves.slab_count(), shelves.used_slots), (1, 0));
        }
    }
}
