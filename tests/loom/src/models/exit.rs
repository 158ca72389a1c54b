//! A thread ends while another works with the same family: what its cache held goes back, and the cache to the next thread.

use core::ptr::NonNull;

use crate::Family;
use crate::front::{allocate, deallocate};
use crate::size_class::SizeClass;
use crate::sync::Sleep;
use crate::world::{HALF, One, QUARTER, disown, explore, own, spawn};

fn layout(class: SizeClass) -> core::alloc::Layout {
    core::alloc::Layout::from_size_align(class.slot_bytes(), 1).expect("a layout")
}

/// An allocation as a client makes it.
pub(super) fn take<F: Family>(class: SizeClass) -> usize {
    let memory = allocate(F::default(), layout(class)).expect("there is memory");
    let address = memory.cast::<u8>().as_ptr().expose_provenance();
    own(address);
    address
}

/// A free of what [`take`] returned.
pub(super) fn give<F: Family>(address: usize) {
    disown(address);
    free::<F>(address);
}

/// A free of whatever it is, as a slot of the largest class but one if the address says no more.
pub(super) fn free<F: Family>(address: usize) {
    free_as::<F>(address, HALF);
}

pub(super) fn free_as<F: Family>(address: usize, class: SizeClass) {
    let memory = NonNull::new(core::ptr::with_exposed_provenance_mut(address)).expect("no address of a slot is 0");
    // SAFETY: a live slot of this class, or a misuse that the family is asked to find.
    unsafe { deallocate(F::default(), memory, layout(class)) };
}

fn assert_all_is_back(thread_caches: usize) {
    let stats = One::stats();
    assert_eq!((stats.live_allocations, stats.live_bytes, stats.thread_caches), (0, 0, thread_caches));
    assert!(stats.peak_live_allocations <= 2, "{} at once", stats.peak_live_allocations);
}

/// Two threads come, allocate, free and end; who comes late gets the cache of who has ended.
pub fn caches_change_hands() {
    explore(Sleep::Lightly, || {
        let whole_life = || {
            let slot = take::<One>(HALF);
            give::<One>(slot);
        };
        let (one, two) = (spawn(whole_life), spawn(whole_life));
        one.join();
        two.join();
        assert_all_is_back(0);
        assert_eq!(One::stats().cached_slots, 0, "a cache without a thread is empty");
    });
}

/// A thread frees what another has allocated, and ends, while that one goes on.
pub fn the_last_free_is_elsewhere() {
    explore(Sleep::Lightly, || {
        let slot = take::<One>(QUARTER);
        let freer = spawn(move || {
            disown(slot);
            free_as::<One>(slot, QUARTER);
        });
        let own_slot = take::<One>(QUARTER);
        disown(own_slot);
        free_as::<One>(own_slot, QUARTER);
        freer.join();
        assert_all_is_back(1);
        One::trim();
        assert_eq!(One::stats().slab_bytes, 0);
    });
}

/// Threads without a cache note every slot at once, so that none is lost from the family's count.
pub fn the_peak_counts_everyone() {
    explore(Sleep::Lightly, || {
        let take_one = || {
            let (slot, _) = One::__core().take_one(HALF).expect("there is memory");
            own(slot);
            slot
        };
        let other = spawn(take_one);
        let slots = [take_one(), other.join()];
        for slot in slots {
            disown(slot);
            // SAFETY: taken above.
            unsafe { One::__core().give_one(HALF, slot) };
        }
        let stats = One::stats();
        assert_eq!((stats.live_allocations, stats.peak_live_allocations), (0, 2));
    });
}
