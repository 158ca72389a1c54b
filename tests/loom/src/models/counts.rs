//! What a thread has allocated and freed, summed up by another while it goes on (M5).

use core::ptr::NonNull;

use crate::header::{CLOSED, View};
use crate::magazine::Cache;
use crate::size_class::SizeClass;
use crate::sync::Sleep;
use crate::world::{explore, let_others_go_first, place, spawn};

const CLASS: SizeClass = SizeClass::natural(0);

/// A cache of one class, whose array has four places.
fn cache() -> &'static Cache {
    let memory = NonNull::from(place([[0_u64; 8]; 8]));
    assert!(Cache::bytes(1) <= size_of::<[[u64; 8]; 8]>());
    // SAFETY: room for a cache of one class at the beginning of a page, which nobody else has.
    unsafe { Cache::make(memory.cast(), 1) };
    // SAFETY: made just now, and never moved.
    let cache = unsafe { &*Cache::of_classes(memory.as_ptr().cast(), 1) };
    cache.equip(View::CLOSED, &CLOSED, 0, |_| 1);
    let array = core::ptr::from_ref(place([0_usize; 4])).cast_mut().cast();
    // SAFETY: an array of that length, which is used by the magazine alone.
    unsafe { cache.magazine(CLASS).move_to(cache.tally(), array, 4) };
    cache.magazine(CLASS).set_capacity(cache.tally(), 4);
    cache
}

/// Lets `work` allocate and free what the cache holds, which are the two slots 16 and 32, `calls` of each, and sums up meanwhile.
fn sum_up(calls: u64, work: fn(&Cache)) {
    explore(Sleep::Lightly, move || {
        let cache = cache();
        cache.magazine(CLASS).refill(cache.tally(), 2, |places| {
            places.copy_from_slice(&[16, 32]);
            2
        });
        let other = spawn(move || work(cache));
        let counts = || cache.counts(core::iter::once(CLASS)).map(|counts| counts.as_pair());
        // Not the first thread, which has seen the beginning of each atomic.
        let meanwhile = spawn(move || {
            let_others_go_first();
            counts()
        });
        other.join();
        if let Some((allocations, frees)) = meanwhile.join() {
            assert!(allocations <= calls && frees <= allocations, "{allocations} and {frees} of {calls}");
        }
        assert_eq!(counts(), Some((calls, calls)));
    });
}

/// What was freed is seen in the array, so that it is not live as well.
pub fn a_free_is_seen_with_its_slot() {
    sum_up(2, |cache| {
        for _ in 0..2 {
            let slot = cache.magazine(CLASS).pop().expect("it holds two");
            assert!(cache.magazine(CLASS).push(slot));
        }
    });
}

/// The same where frees are counted by themselves.
pub fn a_counted_free_is_seen_with_its_slot() {
    sum_up(2, |cache| {
        for _ in 0..2 {
            let slot = cache.magazine(CLASS).pop().expect("it holds two");
            cache.magazine(CLASS).push_at_random(cache.tally(), slot, 0);
        }
    });
}

/// A sum is of what was before an exchange with the bin or of what was after it.
pub fn an_exchange_is_seen_whole() {
    sum_up(1, |cache| {
        let magazine = cache.magazine(CLASS);
        let slot = magazine.pop().expect("it holds two");
        assert!(magazine.push(slot));
        magazine.flush(cache.tally(), 2, |slots| assert_eq!(slots.len(), 2));
    });
}
