//! Many threads and many families, a little of each.

use std::sync::{Arc, Barrier};
use std::thread;

use super::Settings;
use crate::heap::{Block, Heap, layout};
use crate::moments::Moments;
use crate::subject::Door;

/// Starts a thread with a small stack.
pub(super) fn spawn(body: impl FnOnce() + Send + 'static) -> thread::JoinHandle<()> {
    thread::Builder::new().stack_size(128 << 10).spawn(body).expect("a thread")
}

/// Sleeps for ever.
pub(super) fn park() -> ! {
    loop {
        thread::park();
    }
}

pub(super) fn many_threads(heap: &Heap, settings: &Settings, moments: &mut Moments) {
    let count = settings.count(1000);
    let doors: Arc<[Door]> = heap.families(20).into();
    let barrier = Arc::new(Barrier::new(count + 1));
    moments.begin();
    for _ in 0..count {
        let (doors, barrier) = (doors.clone(), barrier.clone());
        spawn(move || {
            for door in doors.iter() {
                for size in [40, 40, 100, 500] {
                    door.touched(layout(size, 8));
                }
            }
            barrier.wait();
            park();
        });
    }
    barrier.wait();
    moments.note("all there");
}

pub(super) fn short_threads(heap: &Heap, settings: &Settings, moments: &mut Moments) {
    let doors = heap.families(settings.count(1000));
    moments.begin();
    for door in doors {
        spawn(move || use_sizes::<20>(door)).join().expect("no panic");
    }
    moments.note("all ended");
    heap.trim();
    moments.note("trim");
}

/// For each size from 16 B to 4 KiB, so many blocks at once, then none.
fn use_sizes<const COUNT: usize>(door: Door) {
    for shift in 4..=12 {
        let live: [Block; COUNT] = std::array::from_fn(|_| door.touched(layout(1 << shift, 8)));
        live.into_iter().for_each(|block| door.free(block));
    }
}

pub(super) fn pool_of_families(heap: &Heap, settings: &Settings, moments: &mut Moments) {
    const AT_ONCE: usize = 4;
    let doors = heap.families(20);
    moments.begin();
    for some in doors.chunks(AT_ONCE) {
        let count = settings.count(64);
        let barrier = Arc::new(Barrier::new(count));
        let threads: Vec<_> = (0..count)
            .map(|thread| {
                let (barrier, some) = (barrier.clone(), some.to_vec());
                spawn(move || {
                    some.iter().for_each(|&door| use_sizes::<50>(door));
                    barrier.wait();
                    if thread == 0 {
                        park();
                    }
                })
            })
            .collect();
        threads.into_iter().skip(1).for_each(|thread| thread.join().expect("no panic"));
    }
    moments.note("shrunk");
    thread::sleep(settings.seconds(2));
    doors[0].trickle(layout(100, 8), settings.seconds(3));
    moments.note("at rest");
    heap.trim();
    moments.note("trim");
}

pub(super) fn caches_stay(heap: &Heap, settings: &Settings, moments: &mut Moments) {
    let count = settings.count(200);
    let doors: Arc<[Door]> = heap.families(5).into();
    let barrier = Arc::new(Barrier::new(count));
    moments.begin();
    let threads: Vec<_> = (0..count)
        .map(|_| {
            let (doors, barrier) = (doors.clone(), barrier.clone());
            spawn(move || {
                doors.iter().for_each(|&door| use_sizes::<70>(door));
                barrier.wait();
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
    moments.note("all ended");
    heap.trim();
    moments.note("trim");
}
