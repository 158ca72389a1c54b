//! Threads that start together, are timed together, and stop while they still hold what they hold.

use std::sync::Barrier;
use std::thread;
use std::time::Instant;

use crate::meter::Meter;

/// How many processors there are.
pub(crate) fn processors() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// What the members of a team wait at.
pub(crate) struct Team {
    /// All are ready; and then all have done their work.
    gate: Barrier,
}

impl Team {
    /// Does the timed part, between two gates; returns when the main thread has looked at the memory.
    pub(crate) fn timed<T>(&self, work: impl FnOnce() -> T) -> T {
        self.gate.wait();
        let result = work();
        self.gate.wait();
        self.gate.wait();
        result
    }
}

/// Runs `member` in `threads` threads, each of which calls [`Team::timed`] exactly once, and records the time from when all
/// were ready to when the last was done, per operation of one processor.
pub(crate) fn run(
    meter: &mut Meter,
    cell: &str,
    threads: usize,
    operations: usize,
    member: impl Fn(usize, &Team) + Sync,
) {
    let team = Team { gate: Barrier::new(threads + 1) };
    thread::scope(|scope| {
        for index in 0..threads {
            let (team, member) = (&team, &member);
            scope.spawn(move || member(index, team));
        }
        team.gate.wait();
        let start = Instant::now();
        team.gate.wait();
        let busy = start.elapsed().as_nanos() as f64 * threads.min(processors()) as f64;
        meter.record(cell, busy / operations as f64);
        meter.peak();
        team.gate.wait();
    });
}
