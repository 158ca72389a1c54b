//! Stress: threads that allocate many sizes, keep some, and swap others through a shared array, round after round
//! (mstress of the mimalloc bench suite).

use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use super::memory::{layout, obtain, touch};
use super::team;
use crate::meter::Meter;
use crate::random::Random;
use crate::subject::Subject;

const THREADS: usize = 4;
const SHARED: usize = 1000;

pub(crate) fn run<S: Subject>(meter: &mut Meter) {
    meter.ready();
    let operations = meter.pick(50_000, 300_000);
    let shared: Vec<AtomicPtr<u8>> = (0..SHARED).map(|_| AtomicPtr::default()).collect();
    for round in 0..meter.pick(3, 8) {
        team::run(meter, "4 threads, 8 B to 128 KiB", THREADS, THREADS * operations, |index, team| {
            let kept = team.timed(|| {
                let mut random = Random::new(19 + index as u64 + 4 * round);
                member::<S>(&shared, &mut random, operations)
            });
            drop_all::<S>(kept);
        });
        drop_all::<S>(shared.iter().map(|slot| slot.swap(ptr::null_mut(), Ordering::Relaxed)));
    }
}

/// Of ten steps, two swap a fresh allocation into the shared array, four keep one, four free one that was kept.
fn member<S: Subject>(shared: &[AtomicPtr<u8>], random: &mut Random, operations: usize) -> Vec<*mut u8> {
    let mut kept: Vec<*mut u8> = Vec::with_capacity(operations);
    for _ in 0..operations {
        match random.below(10) {
            0..2 => {
                let fresh = sized::<S>(size(random));
                // Acquires what another thread wrote into the allocation, releases what this one did.
                let other = shared[random.below(SHARED)].swap(fresh, Ordering::AcqRel);
                drop_all::<S>([other]);
            }
            2..6 => kept.push(sized::<S>(size(random))),
            _ if !kept.is_empty() => {
                let index = random.below(kept.len());
                drop_all::<S>([kept.swap_remove(index)]);
            }
            _ => {}
        }
    }
    kept
}

fn drop_all<S: Subject>(pointers: impl IntoIterator<Item = *mut u8>) {
    for ptr in pointers {
        if !ptr.is_null() {
            // SAFETY: live, made by `sized`, and taken out of wherever it was kept.
            unsafe { free_sized::<S>(ptr) };
        }
    }
}

/// Mostly small, some up to 8 KiB, a few up to 128 KiB; a multiple of a word.
fn size(random: &mut Random) -> usize {
    let shift = match random.below(100) {
        0..90 => random.below(6),
        90..99 => 4 + random.below(6),
        _ => 8 + random.below(6),
    };
    (8 << shift) + 8 * random.below(1 << shift)
}

/// Allocates with the size in the first word.
fn sized<S: Subject>(size: usize) -> *mut u8 {
    // SAFETY: the size is not 0.
    let ptr = unsafe { obtain::<S>(layout(size)) };
    // SAFETY: an allocation of that size, a multiple of eight, whose first word `touch` sets to the size.
    unsafe { touch(ptr, size) };
    ptr
}

/// Frees what [`sized`] made.
///
/// # Safety
/// - `ptr` is live and was made by `sized` over the same subject.
unsafe fn free_sized<S: Subject>(ptr: *mut u8) {
    // SAFETY: `sized` has written the size there.
    let size = unsafe { ptr.cast::<usize>().read() };
    // SAFETY: live, of that size.
    unsafe { S::dealloc(ptr, layout(size)) };
}
