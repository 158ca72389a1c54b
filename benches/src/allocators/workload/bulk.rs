//! Bulk: a million allocations, walked, then freed in order, in reverse and at random.
//!
//! The first round is on memory that is fresh from the system, the later ones on what the allocator has kept.

use std::hint::black_box;

use super::memory::{layout, look, obtain, touch};
use crate::meter::Meter;
use crate::os::Table;
use crate::random::Random;
use crate::subject::Subject;

/// A million, or what is a quarter of a GiB.
pub(crate) const fn count(size: usize) -> usize {
    let fit = (256 << 20) / size;
    if fit < 1 << 20 { fit } else { 1 << 20 }
}

pub(crate) fn run<S: Subject, const SIZE: usize>(meter: &mut Meter) {
    let mut table = Table::new(count(SIZE), std::ptr::null_mut());
    let mut random = Random::new(1);
    let count = table.len();
    meter.ready();

    meter.time("allocate, fresh memory", count, || allocate::<S, SIZE>(&mut table));
    meter.peak();
    meter.time("walk", count, || walk(&table));
    meter.time("free in order", count, || free::<S, SIZE>(table.iter()));
    S::reset();

    for _ in 0..meter.pick(1, 3) {
        meter.time("allocate again", count, || allocate::<S, SIZE>(&mut table));
        meter.time("free in reverse", count, || free::<S, SIZE>(table.iter().rev()));
        S::reset();

        meter.time("allocate again", count, || allocate::<S, SIZE>(&mut table));
        random.shuffle(&mut table);
        meter.time("free at random", count, || free::<S, SIZE>(table.iter()));
        S::reset();

        meter.time("allocate after that", count, || allocate::<S, SIZE>(&mut table));
        meter.peak();
        meter.time("walk after that", count, || walk(&table));
        meter.time("free after that", count, || free::<S, SIZE>(table.iter()));
        S::reset();
    }
}

fn allocate<S: Subject, const SIZE: usize>(table: &mut [*mut u8]) {
    for slot in table {
        // SAFETY: no size is 0.
        let ptr = unsafe { obtain::<S>(const { layout(SIZE) }) };
        // SAFETY: an allocation of that layout.
        unsafe { touch(ptr, SIZE) };
        *slot = ptr;
    }
}

fn walk(table: &[*mut u8]) {
    let mut sum = 0_usize;
    for &ptr in table {
        // SAFETY: every entry is live and was touched.
        sum = sum.wrapping_add(unsafe { look(ptr) });
    }
    black_box(sum);
}

fn free<'a, S: Subject, const SIZE: usize>(table: impl Iterator<Item = &'a *mut u8>) {
    for &ptr in table {
        // SAFETY: every entry is live, has that layout, and is visited once.
        unsafe { S::dealloc(ptr, const { layout(SIZE) }) };
    }
}
