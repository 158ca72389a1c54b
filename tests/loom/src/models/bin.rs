//! A bin and its depot: a slot has one owner at a time, whichever way it goes from one to the next.

use core::ops::Range;

use crate::Checks;
use crate::bin::{Bin, DepotMemory, Taken};
use crate::huge_pages::HugePages;
use crate::purge;
use crate::region::UnitPool;
use crate::size_class::SizeClass;
use crate::slab::Geometry;
use crate::sync::{Lock, Sleep};
use crate::world::{HALF, QUARTER, SLAB_BYTES, disown, explore, own, place, spawn};

/// A bin with what its family would lend it.
#[derive(Clone, Copy)]
struct Shared {
    bin: &'static Bin,
    geometry: Geometry<'static>,
    depot: *mut usize,
}

// SAFETY: the depot's memory is reached under the bin's lock only.
unsafe impl Send for Shared {}

impl Shared {
    fn new(class: SizeClass) -> Self {
        let unit_shift = SLAB_BYTES.trailing_zeros();
        let pool = place(Lock::new(UnitPool::new(unit_shift)));
        let tag = 1 << 5 | class.index() as u32;
        let (checks, huge_pages) = (Checks::Default, HugePages::Adaptive);
        let geometry = Geometry { class, unit_shift, tag, checks, huge_pages, pool, family: "Model" };
        let depot = core::ptr::from_ref(place([const { core::cell::Cell::new(0_usize) }; 4])).cast_mut().cast();
        Self { bin: place(Bin::new()), geometry, depot }
    }

    /// Takes one slot; `fresh` ones are those that nobody has had.
    fn take(&self) -> usize {
        let mut batch = [0];
        let taken = self.bin.take(&self.geometry, DepotMemory(self.depot), &mut batch, 1);
        let address = match taken.expect("no states are kept").expect("there is memory") {
            Taken::Recycled(count) => {
                assert_eq!(count, 1);
                batch[0]
            }
            Taken::Fresh(fresh) => {
                assert_eq!(fresh.range.len(), self.geometry.class.slot_bytes());
                fresh.range.start
            }
        };
        own(address);
        address
    }

    fn take_one(&self) -> usize {
        let taken = self.bin.take_one(&self.geometry, DepotMemory(self.depot));
        let (address, _) = taken.expect("no states are kept").expect("there is memory");
        own(address);
        address
    }

    fn give(&self, address: usize) {
        disown(address);
        // SAFETY: this thread had taken the slot.
        unsafe { self.bin.give(&self.geometry, DepotMemory(self.depot), &[address]) }.expect("no states are kept");
    }

    fn give_fresh(&self, address: usize) {
        disown(address);
        let range: Range<usize> = address..address + self.geometry.class.slot_bytes();
        // SAFETY: this thread had taken the range, and it was fresh.
        unsafe { self.bin.give_fresh(&self.geometry, range) }.expect("no states are kept");
    }

    fn trim(&self) {
        self.bin.trim(&self.geometry, DepotMemory(self.depot)).expect("no states are kept");
    }

    /// Gives back the pages of free slots, and free units.
    fn give_pages_back(&self) {
        purge::trim_bin(self.bin, &self.geometry, DepotMemory(self.depot)).expect("no states are kept");
        purge::trim_units(self.geometry.pool, self.geometry.unit_shift, self.geometry.checks, 0);
    }

    /// All slots are back, and no unit holds memory.
    fn assert_all_given_back(&self) {
        assert_eq!(self.bin.counts(&self.geometry).out_slots, 0);
        self.give_pages_back();
        let counts = self.bin.counts(&self.geometry);
        assert_eq!((counts.slab_count, counts.depot_slots, counts.free_slots, counts.purged_slots), (0, 0, 0, 0));
        assert_eq!(self.geometry.pool.lock().dirty_count, 0);
    }

    /// All slots are back, and with the depot emptied no slab is left.
    fn assert_empty(&self) {
        assert_eq!(self.bin.counts(&self.geometry).out_slots, 0);
        self.trim();
        let counts = self.bin.counts(&self.geometry);
        assert_eq!((counts.slab_count, counts.depot_slots, counts.free_slots), (0, 0, 0));
        assert_eq!(self.geometry.pool.lock().dirty_count, 1, "one slab was enough, and its unit is back");
    }
}

/// Two threads take and give through a depot of one batch; what does not fit goes to the slab.
pub fn slots_pass_through_the_depot() {
    explore(Sleep::Lightly, || {
        let shared = Shared::new(QUARTER);
        let take_and_give = move || {
            let (one, two) = (shared.take(), shared.take());
            shared.give(one);
            shared.give(two);
        };
        let other = spawn(take_and_give);
        take_and_give();
        other.join();
        shared.assert_empty();
    });
}

/// A thread without a cache and a trim empty the depot while a batch comes and goes.
pub fn the_depot_is_emptied_meanwhile() {
    explore(Sleep::UntilWoken, || {
        let shared = Shared::new(QUARTER);
        let (first, second) = (shared.take(), shared.take());
        shared.give(first);
        let alone = spawn(move || {
            let one = shared.take_one();
            shared.give(one);
        });
        let trimmer = spawn(move || shared.trim());
        shared.give(second);
        let third = shared.take();
        shared.give(third);
        alone.join();
        trimmer.join();
        shared.assert_empty();
    });
}

/// Fresh slots go back untouched, while another thread is carving from the same slab.
pub fn fresh_slots_go_back() {
    explore(Sleep::Lightly, || {
        let shared = Shared::new(HALF);
        let carve_and_give_back = move || {
            let address = shared.take();
            shared.give_fresh(address);
        };
        let other = spawn(carve_and_give_back);
        carve_and_give_back();
        other.join();
        shared.assert_empty();
    });
}

/// The pages of a free slot go back while another slot of its slab comes and goes, and the slab may become empty.
pub fn pages_go_back_meanwhile() {
    explore(Sleep::Lightly, || {
        let shared = Shared::new(HALF);
        let (kept, freed) = (shared.take(), shared.take());
        shared.give(freed);
        let purger = spawn(move || shared.give_pages_back());
        shared.give(kept);
        let next = shared.take();
        shared.give(next);
        purger.join();
        shared.assert_all_given_back();
    });
}

/// The pages of a free slot go back while others of its slab come back, and all of them are there afterwards.
pub fn slots_come_back_while_pages_go() {
    explore(Sleep::Lightly, || {
        let shared = Shared::new(QUARTER);
        let [kept, late, later, early] = [(); 4].map(|()| shared.take());
        shared.give(early);
        let purger = spawn(move || shared.give_pages_back());
        // One batch goes to the depot, the other to its slab.
        shared.give(late);
        shared.give(later);
        purger.join();
        let again = [(); 3].map(|()| shared.take());
        again.iter().chain(&[kept]).for_each(|&slot| shared.give(slot));
        shared.assert_all_given_back();
    });
}

/// Two threads give back the pages of one slab.
pub fn pages_go_back_twice() {
    explore(Sleep::Lightly, || {
        let shared = Shared::new(HALF);
        let (kept, freed) = (shared.take(), shared.take());
        shared.give(freed);
        let purger = spawn(move || shared.give_pages_back());
        shared.give_pages_back();
        purger.join();
        shared.give(kept);
        shared.assert_all_given_back();
    });
}

/// A purged slot is handed out while the pages of another go back.
pub fn purged_slots_are_handed_out_meanwhile() {
    explore(Sleep::Lightly, || {
        let shared = Shared::new(QUARTER);
        let slots = [(); 4].map(|()| shared.take());
        // One batch goes to the depot, the others to their slab.
        slots[1..].iter().for_each(|&slot| shared.give(slot));
        shared.give_pages_back();
        let purger = spawn(move || shared.give_pages_back());
        let next = shared.take();
        shared.give(slots[0]);
        shared.give(next);
        purger.join();
        shared.assert_all_given_back();
    });
}

/// Free units go back to the system while another thread takes one.
pub fn units_go_back_meanwhile() {
    explore(Sleep::Lightly, || {
        let shared = Shared::new(HALF);
        let slot = shared.take();
        shared.give(slot);
        let purger = spawn(move || shared.give_pages_back());
        let next = shared.take();
        shared.give(next);
        purger.join();
        shared.assert_all_given_back();
    });
}
