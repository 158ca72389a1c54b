//! Many threads and many families, a little of each.

use std::sync::{Arc, Barrier};

use super::common::doors::layout;
use super::{Block, Door, Heap, KIB, MIB, alone, assert_near_system, free, park, spawn, touched, trickle};

#[test]
fn many_threads_with_many_families_hold_little() {
    fn program(heap: &mut Heap) {
        const THREADS: usize = 500;
        let barrier = Arc::new(Barrier::new(THREADS + 1));
        for _ in 0..THREADS {
            let (barrier, doors) = (barrier.clone(), (0..20).map(|index| heap.door(index)).collect::<Vec<_>>());
            spawn(move || {
                for door in doors {
                    [40, 40, 100, 500].into_iter().for_each(|size| _ = touched(door, layout(size, 8)));
                }
                barrier.wait();
                park();
            });
        }
        barrier.wait();
        heap.note("all there");
    }
    assert_near_system("threads::many_threads_with_many_families_hold_little", program, 200, 0);
}

/// For each size from 16 B to 4 KiB, seventy blocks at once, then none.
fn use_sizes(door: Door) {
    for shift in 4..=12 {
        let live: [Block; 70] = std::array::from_fn(|_| touched(door, layout(1 << shift, 8)));
        live.into_iter().for_each(|block| free(door, block));
    }
}

#[test]
fn caches_of_ended_threads_come_back() {
    fn program(heap: &mut Heap) {
        let barrier = Arc::new(Barrier::new(100));
        let threads = (0..100).map(|_| {
            let (barrier, doors) = (barrier.clone(), (0..5).map(|index| heap.door(index)).collect::<Vec<_>>());
            spawn(move || {
                doors.into_iter().for_each(use_sizes);
                barrier.wait();
            })
        });
        threads.collect::<Vec<_>>().into_iter().for_each(|thread| thread.join().expect("no panic"));
        heap.trim();
        heap.note("after trim");
    }
    assert_near_system("threads::caches_of_ended_threads_come_back", program, 120, MIB);
}

/// What was free of a slab when its pages were last looked through, and might have been needed then, goes as well when nobody needs it.
#[test]
fn families_of_a_pool_that_shrank_hold_little() {
    fn program(heap: &mut Heap) {
        for first in (0..20).step_by(4) {
            let doors: Vec<Door> = (first..first + 4).map(|index| heap.door(index)).collect();
            let barrier = Arc::new(Barrier::new(32));
            let threads = (0..32).map(|thread| {
                let (barrier, doors) = (barrier.clone(), doors.clone());
                spawn(move || {
                    doors.into_iter().for_each(use_sizes);
                    barrier.wait();
                    if thread == 0 {
                        park();
                    }
                })
            });
            threads.collect::<Vec<_>>().into_iter().skip(1).for_each(|thread| thread.join().expect("no panic"));
        }
        heap.note_within("trickle", 6, || trickle(heap.door(0)));
    }
    assert_near_system("threads::families_of_a_pool_that_shrank_hold_little", program, 120, 10 * MIB);
}

#[test]
fn families_of_short_threads_hold_little() {
    alone("threads::families_of_short_threads_hold_little", |heap| {
        for index in (0..20).cycle().take(200) {
            let door = heap.door(index);
            spawn(move || use_sizes(door)).join().expect("no panic");
        }
        heap.trim();
        let left = heap.more();
        assert!(left <= 2 * MIB, "{} KiB are left after trim", left / KIB);
    });
}
