//! Threads: each for itself, or one after the other over the same array.

use std::sync::Mutex;
use std::thread;

use super::churn::{Held, Slot, fill_fixed, fill_mixed, free_fixed, free_mixed, replace_fixed, replace_mixed};
use super::team;
use crate::meter::Meter;
use crate::os::Table;
use crate::random::Random;
use crate::subject::Subject;

/// Two threads, each with ten thousand live allocations of 64 B.
pub(crate) fn churn<S: Subject>(meter: &mut Meter) {
    let mut table = Table::new(2 * LIVE, Slot::NONE);
    let shares: Vec<_> = table.chunks_mut(LIVE).map(Mutex::new).collect();
    let steps = meter.pick(300_000, 2_000_000);
    meter.ready();
    for round in 0..meter.pick(4, 8) {
        team::run(meter, "64 B", 2, 2 * steps, |index, team| {
            let mut random = Random::new(7 + index as u64 + round);
            let table: &mut [Slot] = &mut shares[index].lock().expect("nobody panics");
            fill_fixed::<S, 64>(table);
            team.timed(|| replace_fixed::<S, 64>(table, &mut random, steps));
            free_fixed::<S, 64>(table);
        });
    }
}

/// Two threads, each with ten thousand live allocations of many sizes.
pub(crate) fn churn_mixed<S: Subject>(meter: &mut Meter) {
    let mut table = Table::new(2 * LIVE, Held::NONE);
    let shares: Vec<_> = table.chunks_mut(LIVE).map(Mutex::new).collect();
    let steps = meter.pick(300_000, 2_000_000);
    meter.ready();
    for round in 0..meter.pick(4, 8) {
        team::run(meter, "8 to 1024 B", 2, 2 * steps, |index, team| {
            let mut random = Random::new(9 + index as u64 + round);
            let table: &mut [Held] = &mut shares[index].lock().expect("nobody panics");
            fill_mixed::<S>(table, &mut random);
            team.timed(|| replace_mixed::<S>(table, &mut random, steps));
            free_mixed::<S>(table);
        });
    }
}

const LIVE: usize = 10_000;

/// A thread replaces random entries of an array, then gives the array to a new thread and ends: larson.
pub(crate) fn larson<S: Subject>(meter: &mut Meter) {
    const SLOTS: usize = 5000;
    let mut table = Table::new(2 * SLOTS, Held::NONE);
    let shares: Vec<_> = table.chunks_mut(SLOTS).map(Mutex::new).collect();
    meter.ready();
    let links = meter.pick(10, 50);
    let steps = meter.pick(20_000, 50_000);
    for round in 0..meter.pick(2, 5) {
        team::run(meter, "8 to 1024 B", 2, 2 * links * steps, |index, team| {
            let mut random = Random::new(17 + round * 2 + index as u64);
            let table: &mut [Held] = &mut shares[index].lock().expect("nobody panics");
            fill_mixed::<S>(table, &mut random);
            team.timed(|| {
                for _ in 0..links {
                    thread::scope(|scope| {
                        scope.spawn(|| replace_mixed::<S>(table, &mut random, steps));
                    });
                }
            });
            free_mixed::<S>(table);
        });
    }
}
