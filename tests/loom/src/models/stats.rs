//! Statistics are read while other threads work.

use super::exit::{give, take};
use crate::Family;
use crate::sync::Sleep;
use crate::world::{HALF, One, explore_within, let_others_go_first, spawn};

fn assert_plausible(thread_caches: usize) {
    let stats = One::stats();
    let class = &stats.classes[HALF.index()];
    assert!(stats.live_allocations <= 1 && stats.thread_caches <= thread_caches, "{stats:?}");
    assert_eq!(class.live_slots, stats.live_allocations);
    assert!(class.live_slots + class.cached_slots + class.depot_slots + class.free_slots <= 2 * class.slab_count);
}

/// A thread comes, allocates, frees and ends; at no moment do the numbers say more than there can be.
pub fn numbers_are_plausible_at_any_moment() {
    // With two preemptions it does not end within minutes.
    explore_within(Sleep::Lightly, 1, || {
        let worker = spawn(|| {
            let slot = take::<One>(HALF);
            give::<One>(slot);
        });
        let_others_go_first();
        assert_plausible(1);
        worker.join();
        assert_plausible(0);
    });
}
