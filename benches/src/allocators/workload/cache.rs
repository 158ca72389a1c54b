//! Cache lines: small allocations of different threads should not share one.

use std::sync::Mutex;

use super::churn::Held;
use super::memory::{layout, obtain};
use super::team;
use crate::meter::Meter;
use crate::subject::Subject;

/// Writes to the same small allocation this often.
const WRITES: usize = 100;

/// Each thread allocates 8 bytes, writes to them many times, frees them: neighbours in a cache line would slow each other
/// down (cache-thrash of the mimalloc bench suite). Per write.
pub(crate) fn cache_thrash<S: Subject>(meter: &mut Meter) {
    meter.ready();
    let pairs = meter.pick(20_000, 200_000);
    for _ in 0..meter.pick(3, 8) {
        team::run(meter, "8 B", 2, 2 * pairs * WRITES, |_, team| team.timed(|| scratch::<S>(pairs)));
    }
}

/// The same, but each thread first frees an allocation that the main thread made next to that of the other
/// (cache-scratch): an allocator that gives it out again shares the line. Per write.
pub(crate) fn cache_scratch<S: Subject>(meter: &mut Meter) {
    meter.ready();
    let pairs = meter.pick(20_000, 200_000);
    for _ in 0..meter.pick(3, 8) {
        let neighbours = Mutex::new([Held::new::<S>(8), Held::new::<S>(8)]);
        team::run(meter, "8 B", 2, 2 * pairs * WRITES, |index, team| {
            let mine = neighbours.lock().expect("nobody panics")[index];
            // SAFETY: live, made by `Held::new`, freed by one thread.
            unsafe { mine.free::<S>() };
            team.timed(|| scratch::<S>(pairs));
        });
    }
}

fn scratch<S: Subject>(pairs: usize) {
    for _ in 0..pairs {
        // SAFETY: the size is not 0.
        let ptr = unsafe { obtain::<S>(const { layout(8) }) };
        for value in 0..WRITES {
            // SAFETY: eight bytes, aligned to eight.
            unsafe { ptr.cast::<usize>().write_volatile(value) };
        }
        // SAFETY: live, of that layout.
        unsafe { S::dealloc(ptr, const { layout(8) }) };
    }
}
