//! Much was live and nothing is: threads that sleep, work that is over, work in turns.

use std::sync::{Arc, Barrier, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use super::common::doors::layout;
use super::common::memory::{minor_faults, page_bytes};
use super::common::random::Random;
use super::{
    Blobs, Block, Door, Heap, KIB, MIB, alone, assert_near_system, free, park, shuffle, spawn, touched, trickle,
};

#[test]
fn a_sleeping_thread_holds_little() {
    fn program(heap: &mut Heap) {
        let door = heap.door(0);
        let (sender, receiver) = mpsc::channel();
        for _ in 0..100 {
            let sender = sender.clone();
            spawn(move || {
                let live: [Block; 44] = std::array::from_fn(|index| touched(door, layout(KIB << (index / 4), 8)));
                live.into_iter().for_each(|block| free(door, block));
                sender.send(()).expect("somebody waits");
                park();
            });
            receiver.recv().expect("the thread answers");
        }
        heap.note("all asleep");
        heap.trim();
        heap.note("after trim");
    }
    // Where slabs are shorter there is more beside them.
    let room = if cfg!(target_pointer_width = "64") { 10 } else { 11 };
    assert_near_system("idle::a_sleeping_thread_holds_little", program, 120, room * MIB);
}

/// 256 MiB of small blocks, freed at random by workers that then wait.
fn park_workers(door: Door) {
    let mut blocks: Vec<Block> = (0..256 * MIB / 256).map(|_| touched(door, layout(256, 8))).collect();
    shuffle(&mut blocks, &mut Random::new(1));
    let blocks = Arc::new(Mutex::new(blocks));
    let barrier = Arc::new(Barrier::new(9));
    for _ in 0..8 {
        let (blocks, barrier) = (blocks.clone(), barrier.clone());
        spawn(move || {
            loop {
                let some: Vec<Block> = {
                    let mut blocks = blocks.lock().expect("no panic");
                    let left = blocks.len().saturating_sub(1000);
                    blocks.split_off(left)
                };
                if some.is_empty() {
                    break;
                }
                some.into_iter().for_each(|block| free(door, block));
            }
            barrier.wait();
            park();
        });
    }
    barrier.wait();
    *blocks.lock().expect("no panic") = Vec::new();
}

#[test]
fn slots_cached_by_waiting_threads_pin_little_after_trim() {
    fn program(heap: &mut Heap) {
        park_workers(heap.door(0));
        heap.trim();
        heap.note("after trim");
    }
    assert_near_system("idle::slots_cached_by_waiting_threads_pin_little_after_trim", program, 120, 10 * MIB);
}

#[test]
fn memory_that_waiting_threads_freed_comes_back_within_five_seconds() {
    alone("idle::memory_that_waiting_threads_freed_comes_back_within_five_seconds", |heap| {
        assert_workers_leave_little(heap, heap.door(0));
    });
}

#[test]
fn a_thread_that_hardly_calls_after_its_peak_gives_it_back() {
    alone("idle::a_thread_that_hardly_calls_after_its_peak_gives_it_back", |heap| {
        let door = heap.door(0);
        let blocks: Vec<Block> = (0..48 * MIB / 32).map(|_| touched(door, layout(24, 8))).collect();
        let buffers: Vec<Block> = (0..12).map(|_| touched(door, layout(4 * MIB, 8))).collect();
        blocks.into_iter().chain(buffers).for_each(|block| free(door, block));
        // Its cache serves every call: without looking it would come further after a thousand of them, in ten seconds.
        heap.note_within("a pair now and then", 8, || {
            free(door, touched(door, layout(24, 8)));
            thread::sleep(Duration::from_millis(10));
        });
        let left = heap.more();
        assert!(left <= 11 * MIB, "{} KiB of 96 MiB are left after a few hundred calls", left / KIB);
    });
}

/// However short slabs are, as much goes back at once.
#[test]
fn memory_that_waiting_threads_freed_in_short_slabs_comes_back_within_five_seconds() {
    alone("idle::memory_that_waiting_threads_freed_in_short_slabs_comes_back_within_five_seconds", |heap| {
        assert_workers_leave_little(heap, &Blobs);
    });
}

#[track_caller]
fn assert_workers_leave_little(heap: &Heap, door: Door) {
    park_workers(door);
    heap.note_within("trickle", 5, || trickle(door));
    let left = heap.more();
    assert!(left <= 11 * MIB, "{} KiB of 256 MiB are left after 5 s of use", left / KIB);
}

/// A peak of mixed sizes in threads that stay, freed at random.
fn peak(heap: &Heap, threads: usize) {
    let door = heap.door(0);
    let barrier = Arc::new(Barrier::new(threads + 1));
    let body = move |seed: u64| {
        let mut random = Random::new(seed);
        let mut live: Vec<Block> =
            (0..200_000 / threads).map(|_| touched(door, layout(random.between(16, 2015), 8))).collect();
        live.extend((0..12 / threads).map(|_| touched(door, layout(10 * MIB, 8))));
        shuffle(&mut live, &mut random);
        live.into_iter().for_each(|block| free(door, block));
    };
    for thread in 1..threads {
        let barrier = barrier.clone();
        spawn(move || {
            body(thread as u64);
            barrier.wait();
            park();
        });
    }
    if threads == 1 {
        body(0);
        return;
    }
    let last = barrier.clone();
    spawn(move || {
        body(0);
        last.wait();
        park();
    });
    barrier.wait();
}

/// The most that may be left of such a peak within ten seconds of use, whoever makes the calls: the best of the peers leaves
/// 8 MiB of one of 600 MiB; its figure × 1.2 + 10 MiB.
const AFTER_PEAK: usize = 20 * MIB;

#[track_caller]
fn assert_comes_back(heap: &Heap) {
    let left = heap.more();
    assert!(left <= AFTER_PEAK, "{} KiB are left of the peak after 10 s of use", left / KIB);
}

#[test]
fn a_peak_comes_back_while_another_thread_trickles() {
    alone("idle::a_peak_comes_back_while_another_thread_trickles", |heap| {
        peak(heap, 4);
        heap.note_within("trickle", 10, || trickle(heap.door(0)));
        assert_comes_back(heap);
    });
}

#[test]
fn a_peak_comes_back_while_another_family_trickles() {
    alone("idle::a_peak_comes_back_while_another_family_trickles", |heap| {
        peak(heap, 4);
        heap.note_within("trickle", 10, || trickle(heap.door(1)));
        assert_comes_back(heap);
    });
}

#[test]
fn a_peak_comes_back_while_another_thread_makes_tight_pairs() {
    alone("idle::a_peak_comes_back_while_another_thread_makes_tight_pairs", |heap| {
        peak(heap, 4);
        let door = heap.door(0);
        heap.note_within("pairs", 10, || free(door, touched(door, layout(100, 8))));
        assert_comes_back(heap);
    });
}

#[test]
fn a_peak_comes_back_while_the_same_thread_makes_tight_pairs() {
    alone("idle::a_peak_comes_back_while_the_same_thread_makes_tight_pairs", |heap| {
        peak(heap, 1);
        let door = heap.door(0);
        heap.note_within("pairs", 10, || free(door, touched(door, layout(100, 8))));
        assert_comes_back(heap);
    });
}

/// What does work in turns must not fault its memory in again each time.
#[test]
fn work_in_turns_does_not_pay() {
    alone("idle::work_in_turns_does_not_pay", |heap| {
        let door = heap.door(0);
        let count = 32 * MIB / 256;
        let mut live = Vec::with_capacity(count);
        let mut faults = [0; 20];
        for faults in &mut faults {
            let before = minor_faults();
            live.extend((0..count).map(|_| touched(door, layout(256, 8))));
            live.drain(..).for_each(|block| free(door, block));
            thread::sleep(Duration::from_millis(100));
            *faults = minor_faults() - before;
        }
        let later = faults[1..].iter().sum::<usize>() / (faults.len() - 1);
        let pages = 32 * MIB / page_bytes();
        assert!(later <= pages / 10, "{later} page faults a round of {pages} pages: {faults:?}");
    });
}
