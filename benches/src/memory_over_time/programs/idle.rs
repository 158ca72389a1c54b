//! Much was live, nothing is: threads that sleep, work that is over, work in turns.

use std::sync::{Arc, Barrier, Mutex, mpsc};
use std::thread;
use std::time::Instant;

use super::Settings;
use super::threads::{park, spawn};
use crate::heap::{Block, Heap, List, layout};
use crate::moments::Moments;
use crate::os;
use crate::random::Random;
use crate::subject::Door;

pub(super) fn idle_pool(heap: &Heap, settings: &Settings, moments: &mut Moments) {
    let (sender, receiver) = mpsc::channel();
    let door = heap.main;
    for _ in 0..settings.count(200) {
        let sender = sender.clone();
        spawn(move || {
            // Four of each size from 1 KiB to 1 MiB.
            let live: [Block; 44] = std::array::from_fn(|index| door.touched(layout(1024 << (index / 4), 8)));
            live.into_iter().for_each(|block| door.free(block));
            sender.send(()).expect("somebody waits");
            park();
        });
        receiver.recv().expect("the thread answers");
    }
    moments.note("all asleep");
    thread::sleep(settings.seconds(2));
    heap.main.trickle(layout(100, 8), settings.seconds(3));
    moments.note("trickle of 3 s");
    heap.trim();
    moments.note("trim");
}

pub(super) fn parked_threads(heap: &Heap, settings: &Settings, moments: &mut Moments, trickles: bool) {
    const WORKERS: usize = 8;
    const SIZE: usize = 256;
    let door = heap.main;
    let count = settings.count((512 << 20) / SIZE);
    let mut blocks: List<usize> = List::new(count);
    moments.begin();
    (0..count).for_each(|_| blocks.push(door.touched(layout(SIZE, 8)).address));
    moments.note("peak");
    settings.random().shuffle(&mut blocks);
    let blocks = Arc::new(Mutex::new(blocks));
    let barrier = Arc::new(Barrier::new(WORKERS + 1));
    for _ in 0..WORKERS {
        let (barrier, blocks) = (barrier.clone(), blocks.clone());
        spawn(move || {
            while free_some(door, &blocks, SIZE) {}
            barrier.wait();
            park();
        });
    }
    barrier.wait();
    moments.note("freed");
    if trickles {
        door.trickle(layout(100, 8), settings.seconds(5));
        moments.note("trickle of 5 s");
    } else {
        thread::sleep(settings.seconds(3));
        moments.note("silence of 3 s");
    }
    heap.trim();
    moments.note("trim");
}

/// Takes up to a thousand blocks from the list and frees them; whether there were any.
fn free_some(door: Door, blocks: &Mutex<List<usize>>, size: usize) -> bool {
    let mut taken = [0; 1000];
    let mut count = 0;
    let mut list = blocks.lock().expect("no panic");
    while let Some(address) = (count < taken.len()).then(|| list.pop()).flatten() {
        taken[count] = address;
        count += 1;
    }
    drop(list);
    taken[..count].iter().for_each(|&address| door.free(Block::at(address, layout(size, 8))));
    count > 0
}

/// What follows a peak.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    Trickle,
    SameThread,
    OtherFamily,
    TightLoop,
}

pub(super) fn peak_then_idle(heap: &Heap, settings: &Settings, moments: &mut Moments, then: Then) {
    let families = heap.families(2);
    let (door, other) = if then == Then::OtherFamily { (families[0], families[1]) } else { (heap.main, heap.main) };
    let (threads, small) = if then == Then::SameThread { (1, 400_000) } else { (4, 100_000) };
    let (small, large) = (settings.count(small), settings.count(20) / threads);
    let lists: Vec<List<Block>> = (0..threads).map(|_| List::new(small + large)).collect();
    moments.begin();
    if then == Then::SameThread {
        let mut random = settings.random();
        for mut list in lists {
            fill(door, &mut list, &mut random, (small, large));
            moments.note("peak");
            empty(door, &mut list, &mut random);
        }
    } else {
        let barrier = Arc::new(Barrier::new(threads + 1));
        for (thread, mut list) in lists.into_iter().enumerate() {
            let (barrier, mut random) = (barrier.clone(), settings.random_of(thread));
            spawn(move || {
                fill(door, &mut list, &mut random, (small, large));
                barrier.wait();
                barrier.wait();
                empty(door, &mut list, &mut random);
                barrier.wait();
                park();
            });
        }
        barrier.wait();
        moments.note("peak");
        barrier.wait();
        barrier.wait();
    }
    moments.note("freed");
    if then == Then::Trickle {
        thread::sleep(settings.seconds(10));
        moments.note("silence of 10 s");
    }
    let time = settings.seconds(10);
    match then {
        Then::Trickle | Then::OtherFamily => other.trickle(layout(100, 8), time),
        Then::SameThread | Then::TightLoop => {
            let begin = Instant::now();
            while begin.elapsed() < time {
                (0..1000).for_each(|_| other.pair(layout(100, 8)));
            }
        }
    }
    moments.note("trickle of 10 s");
    if then == Then::Trickle {
        other.light_load(&mut settings.random(), settings.seconds(5));
        moments.note("stream of 5 s");
    }
    heap.trim();
    moments.note("trim");
}

/// Blocks of 16 to 2015 bytes, and some of 10 MiB.
fn fill(door: Door, list: &mut List<Block>, random: &mut Random, (small, large): (usize, usize)) {
    (0..small).for_each(|_| list.push(door.touched(layout(16 + random.below(2000), 8))));
    (0..large).for_each(|_| list.push(door.touched(layout(10 << 20, 8))));
}

fn empty(door: Door, list: &mut List<Block>, random: &mut Random) {
    random.shuffle(list);
    list.drain(|block| door.free(block));
}

pub(super) fn in_turn(heap: &Heap, settings: &Settings, moments: &mut Moments) {
    const SIZE: usize = 256;
    const ROUNDS: usize = 40;
    let door = heap.main;
    let mut live: List<Block> = List::new(settings.count((64 << 20) / SIZE));
    let mut random = settings.random();
    moments.begin();
    let mut faults_of_a_round = || {
        let before = os::page_faults();
        for _ in 0..settings.count((64 << 20) / SIZE) {
            live.push(door.touched(layout(SIZE, 8)));
        }
        empty(door, &mut live, &mut random);
        thread::sleep(settings.seconds(1) / 10);
        usize::try_from(os::page_faults() - before).expect("a count")
    };
    moments.count("page faults, first round", faults_of_a_round());
    let faults: usize = (0..ROUNDS).map(|_| faults_of_a_round()).sum();
    moments.count("page faults, later rounds", faults / ROUNDS);
    moments.note("freed");
}
