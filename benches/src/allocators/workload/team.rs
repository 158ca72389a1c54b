//! Threads that start together, are timed together, and stop while they still hold what they hold.

use std::sync::{Barrier, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::meter::Meter;

/// How many processors there are.
pub(crate) fn processors() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// What the members of a team share.
pub(crate) struct Team {
    /// All are ready; all have done their work; the main thread has looked at the memory.
    gate: Barrier,
    /// When each began and ended.
    times: Mutex<Vec<(Instant, Instant)>>,
}

impl Team {
    /// Does the timed part; returns when the main thread has looked at the memory.
    pub(crate) fn timed<T>(&self, work: impl FnOnce() -> T) -> T {
        self.gate.wait();
        let start = Instant::now();
        let result = work();
        let end = Instant::now();
        self.times.lock().expect("nobody panics").push((start, end));
        self.gate.wait();
        self.gate.wait();
        result
    }

    /// From when the first began to when the last ended.
    fn elapsed(&self) -> Duration {
        let times = self.times.lock().expect("nobody panics");
        let first = times.iter().map(|&(start, _)| start).min();
        let last = times.iter().map(|&(_, end)| end).max();
        first.zip(last).map_or(Duration::ZERO, |(first, last)| last - first)
    }
}

/// Runs `member` in `threads` threads, each of which calls [`Team::timed`] exactly once, and records the time from when the
/// first began to when the last ended, per operation of one processor.
pub(crate) fn run(
    meter: &mut Meter,
    cell: &str,
    threads: usize,
    operations: usize,
    member: impl Fn(usize, &Team) + Sync,
) {
    let team = Team { gate: Barrier::new(threads + 1), times: Mutex::new(Vec::with_capacity(threads)) };
    thread::scope(|scope| {
        for index in 0..threads {
            let (team, member) = (&team, &member);
            scope.spawn(move || member(index, team));
        }
        team.gate.wait();
        team.gate.wait();
        let busy = team.elapsed().as_nanos() as f64 * threads.min(processors()) as f64;
        meter.record(cell, busy / operations as f64);
        meter.peak();
        team.gate.wait();
    });
}
