//! Growth: what an operation costs as the live set, the families and the threads become more.
//!
//! A larger live set costs cache misses that are the program's own. So each round also measures the *floor*, the same walk
//! over the same memory without the allocator, and what counts is the difference.

use std::sync::Mutex;

use super::churn::{Slot, fill_fixed, free_fixed, replace_fixed};
use super::memory::{layout, out_of_memory, touch};
use super::team;
use crate::meter::Meter;
use crate::os::Table;
use crate::random::Random;
use crate::subject::{Door, Subject};

/// The size of every slot here.
const SIZE: usize = 16;

/// With `live` slots of 16 B: a batch allocated and freed on top of them, and random replacement among them.
pub(crate) fn live_set<S: Subject>(meter: &mut Meter, live: usize) {
    let mut table = Table::new(live, Slot::NONE);
    meter.ready();
    fill_fixed::<S, SIZE>(&mut table);
    let mut random = Random::new(23);
    let steps = meter.pick(200_000, 1_000_000);
    replace_fixed::<S, SIZE>(&mut table, &mut random, steps);
    for _ in 0..meter.pick(3, 5) {
        batches::<S>(meter, steps);
        meter.time("floor", steps, || revisit(&mut table, &mut random, steps));
        meter.time("replace", steps, || replace_fixed::<S, SIZE>(&mut table, &mut random, steps));
        let net = meter.newest("replace") - meter.newest("floor");
        meter.record("replace - floor", net);
    }
    meter.peak();
    free_fixed::<S, SIZE>(&table);
}

fn batches<S: Subject>(meter: &mut Meter, steps: usize) {
    let mut batch = [Slot::NONE; 1000];
    let times = steps / batch.len();
    meter.time("batch of 1000", times * batch.len(), || {
        for _ in 0..times {
            fill_fixed::<S, SIZE>(&mut batch);
            free_fixed::<S, SIZE>(&batch);
        }
    });
}

/// What replacement does to memory, without the allocator: a random entry is read, its slot and the entry written.
fn revisit(table: &mut [Slot], random: &mut Random, steps: usize) {
    let live = table.len();
    for _ in 0..steps {
        let slot = &raw mut table[random.below(live)];
        // SAFETY: `slot` is an entry of the table.
        let held = unsafe { slot.read_volatile() };
        // SAFETY: live, of that size.
        unsafe { touch(held.0, SIZE) };
        // SAFETY: `slot` is an entry of the table.
        unsafe { slot.write_volatile(held) };
    }
}

/// `count` families in use, sixteen live slots of 64 B each; every operation replaces one slot of the next family.
pub(crate) fn families<S: Subject>(meter: &mut Meter, count: usize) {
    const LIVE: usize = 16;
    const BYTES: usize = 64;
    let doors = S::doors(count);
    let mut table = Table::new(count * LIVE, std::ptr::null_mut());
    meter.ready();
    for (index, slot) in table.iter_mut().enumerate() {
        *slot = through(doors[index % count], BYTES);
    }
    let rounds = meter.pick(200_000, 2_000_000) / (count * LIVE) + 1;
    let operations = rounds * count * LIVE;
    for _ in 0..meter.pick(3, 5) {
        meter.time("floor", operations, || {
            for _ in 0..rounds {
                for &ptr in table.iter() {
                    // SAFETY: live, of that size.
                    unsafe { touch(ptr, BYTES) };
                }
            }
        });
        meter.time("replace", operations, || {
            for _ in 0..rounds {
                for (index, slot) in table.iter_mut().enumerate() {
                    let door = doors[index % count];
                    // SAFETY: live, allocated through the same door.
                    unsafe { (door.dealloc)(*slot, layout(BYTES)) };
                    *slot = through(door, BYTES);
                }
            }
        });
        let net = meter.newest("replace") - meter.newest("floor");
        meter.record("replace - floor", net);
    }
    meter.peak();
    for (index, &ptr) in table.iter().enumerate() {
        // SAFETY: live, allocated through the same door.
        unsafe { (doors[index % count].dealloc)(ptr, layout(BYTES)) };
    }
}

fn through(door: Door, size: usize) -> *mut u8 {
    // SAFETY: the size is not 0.
    let ptr = unsafe { (door.alloc)(layout(size)) };
    if ptr.is_null() {
        out_of_memory();
    }
    // SAFETY: an allocation of that size.
    unsafe { touch(ptr, size) };
    ptr
}

/// `count` threads, each replacing among a thousand live slots.
pub(crate) fn threads<S: Subject>(meter: &mut Meter, count: usize) {
    const LIVE: usize = 1000;
    let mut table = Table::new(count * LIVE, Slot::NONE);
    let shares: Vec<_> = table.chunks_mut(LIVE).map(Mutex::new).collect();
    meter.ready();
    // Long enough that every thread is interrupted many times by the others.
    let steps = (meter.pick(1_000_000, 8_000_000) / count).max(meter.pick(100_000, 400_000));
    for _ in 0..meter.pick(2, 5) {
        for cell in ["floor", "replace"] {
            team::run(meter, cell, count, count * steps, |index, team| {
                let mut random = Random::new(29 + index as u64);
                let table: &mut [Slot] = &mut shares[index].lock().expect("nobody panics");
                fill_fixed::<S, SIZE>(table);
                team.timed(|| match cell {
                    "floor" => revisit(table, &mut random, steps),
                    _ => replace_fixed::<S, SIZE>(table, &mut random, steps),
                });
                free_fixed::<S, SIZE>(table);
            });
        }
        let net = meter.newest("replace") - meter.newest("floor");
        meter.record("replace - floor", net);
    }
}
