//! Pair: allocate, write, free; with a layout that is a constant, with one known at run time only, and as a `Box`.

use std::alloc::Layout;
use std::hint::black_box;

use allocator_api2::boxed::Box;

use super::memory::{layout, obtain};
use crate::meter::Meter;
use crate::subject::Subject;

/// Calls a function with a constant size once per size.
macro_rules! each_size {
    ($function:ident::<$subject:ident>($meter:expr): $($size:literal)*) => {
        $($function::<$subject, $size>($meter);)*
    };
}

/// The layout is a constant at the call.
pub(crate) fn constant<S: Subject>(meter: &mut Meter) {
    meter.ready();
    each_size!(constant_size::<S>(meter): 8 16 32 64 128 256 512 1024 2048 4096 8192);
    meter.peak();
}

fn constant_size<S: Subject, const SIZE: usize>(meter: &mut Meter) {
    let operations = meter.pick(100_000, 1_000_000);
    let work = || {
        for value in 0..operations {
            // SAFETY: `SIZE` is at least 8.
            let ptr = unsafe { obtain::<S>(const { layout(SIZE) }) };
            // SAFETY: at least eight bytes, aligned to eight.
            unsafe { ptr.cast::<usize>().write_volatile(value) };
            // SAFETY: allocated above with the same layout.
            unsafe { S::dealloc(ptr, const { layout(SIZE) }) };
        }
    };
    repeat(meter, &format!("{SIZE} B"), operations, work);
}

/// The size goes through `black_box` before every pair, as that of a vector would come from memory.
pub(crate) fn run_time<S: Subject>(meter: &mut Meter) {
    meter.ready();
    each_size!(run_time_size::<S>(meter): 8 16 32 64 128 256 512 1024 2048 4096 8192);
    meter.peak();
}

fn run_time_size<S: Subject, const SIZE: usize>(meter: &mut Meter) {
    let operations = meter.pick(100_000, 1_000_000);
    let work = || {
        for value in 0..operations {
            // SAFETY: eight is a power of two, and the sizes are small.
            let layout = unsafe { Layout::from_size_align_unchecked(black_box(SIZE), 8) };
            // SAFETY: `SIZE` is at least 8.
            let ptr = unsafe { obtain::<S>(layout) };
            // SAFETY: at least eight bytes, aligned to eight.
            unsafe { ptr.cast::<usize>().write_volatile(value) };
            // SAFETY: allocated above with the same layout.
            unsafe { S::dealloc(ptr, layout) };
        }
    };
    repeat(meter, &format!("{SIZE} B"), operations, work);
}

/// A `Box` of words, made and dropped.
pub(crate) fn boxed<S: Subject>(meter: &mut Meter) {
    meter.ready();
    each_size!(boxed_words::<S>(meter): 1 4 16 64);
    meter.peak();
}

fn boxed_words<S: Subject, const WORDS: usize>(meter: &mut Meter) {
    let operations = meter.pick(100_000, 1_000_000);
    let work = || {
        for value in 0..operations {
            drop(black_box(Box::new_in([value; WORDS], S::collections())));
        }
    };
    repeat(meter, &format!("{} B", WORDS * 8), operations, work);
}

/// One round to warm up, then the ones that count.
fn repeat(meter: &mut Meter, cell: &str, operations: usize, work: impl Fn()) {
    work();
    for _ in 0..meter.pick(4, 10) {
        meter.time(cell, operations, &work);
    }
}
