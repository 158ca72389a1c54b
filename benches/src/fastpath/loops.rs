//! The loops whose instructions are counted.

use std::alloc::Layout;
use std::hint::black_box;

use allocator_api2::boxed::Box;

use crate::counted::{Loop, repeat, words};
use crate::subject::Subject;

/// How many loops there are.
pub(crate) const COUNT: usize = 10;

/// All loops over one allocator. The first does nothing: what it costs is taken off the others.
pub(crate) fn all<S: Subject>() -> [Loop; COUNT] {
    [
        Loop { name: "nothing", run: nothing },
        Loop { name: "pair_constant_8", run: pair_constant::<S, 8> },
        Loop { name: "pair_constant_64", run: pair_constant::<S, 64> },
        Loop { name: "pair_constant_1024", run: pair_constant::<S, 1024> },
        Loop { name: "pair_run_time_64", run: pair_run_time::<S> },
        Loop { name: "pair_zeroed_64", run: pair_zeroed::<S> },
        Loop { name: "box_new_drop_64", run: box_new_drop::<S> },
        Loop { name: "batch_of_1000_64", run: batch::<S> },
        Loop { name: "realloc_same_class", run: realloc_same_class::<S> },
        Loop { name: "realloc_next_class", run: realloc_next_class::<S> },
    ]
}

/// Writes to an allocation, as every loop does and `nothing` too.
#[inline(always)]
fn write(ptr: *mut u8, value: usize) {
    // SAFETY: every allocation here is at least eight bytes, aligned to eight.
    unsafe { ptr.cast::<usize>().write_volatile(value) };
}

#[inline(never)]
fn nothing(times: usize) {
    let mut word = 0_usize;
    let ptr = (&raw mut word).cast::<u8>();
    repeat(times, |value| write(ptr, value));
}

#[inline(never)]
fn pair_constant<S: Subject, const SIZE: usize>(times: usize) {
    repeat(times, |value| {
        let layout = const { words(SIZE) };
        // SAFETY: the size is not 0.
        let ptr = unsafe { S::alloc(layout) };
        write(ptr, value);
        // SAFETY: allocated above.
        unsafe { S::dealloc(ptr, layout) };
    });
}

/// With what it takes to store the size and load it, as if it came from a vector.
#[inline(never)]
fn pair_run_time<S: Subject>(times: usize) {
    repeat(times, |value| {
        // SAFETY: eight is a power of two, and the size is small.
        let layout = unsafe { Layout::from_size_align_unchecked(black_box(64), 8) };
        // SAFETY: the size is not 0.
        let ptr = unsafe { S::alloc(layout) };
        write(ptr, value);
        // SAFETY: allocated above.
        unsafe { S::dealloc(ptr, layout) };
    });
}

#[inline(never)]
fn pair_zeroed<S: Subject>(times: usize) {
    repeat(times, |value| {
        let layout = const { words(64) };
        // SAFETY: the size is not 0.
        let ptr = unsafe { S::alloc_zeroed(layout) };
        write(ptr, value);
        // SAFETY: allocated above.
        unsafe { S::dealloc(ptr, layout) };
    });
}

/// Through the `Allocator` trait, with its check for "out of memory".
#[inline(never)]
fn box_new_drop<S: Subject>(times: usize) {
    repeat(times, |value| {
        let mut boxed = Box::<[usize; 8], _>::new_uninit_in(S::collections());
        write(boxed.as_mut_ptr().cast(), value);
        drop(boxed);
    });
}

/// A thousand allocations, then a thousand frees: with what the thread's cache exchanges with the rest. Per pair.
#[inline(never)]
fn batch<S: Subject>(times: usize) {
    let mut batch = [std::ptr::null_mut(); 1000];
    for _ in 0..times / batch.len() {
        let mut slots = batch.iter_mut();
        repeat(1000, |value| {
            let Some(slot) = slots.next() else { return };
            // SAFETY: the size is not 0.
            *slot = unsafe { S::alloc(const { words(64) }) };
            write(*slot, value);
        });
        for &ptr in black_box(&batch) {
            // SAFETY: allocated above.
            unsafe { S::dealloc(ptr, const { words(64) }) };
        }
    }
}

/// From 40 to 56 bytes and back, which stays in place wherever classes are powers of two.
#[inline(never)]
fn realloc_same_class<S: Subject>(times: usize) {
    resize::<S, 40, 56>(times);
}

/// From 64 to 128 bytes and back.
#[inline(never)]
fn realloc_next_class<S: Subject>(times: usize) {
    resize::<S, 64, 128>(times);
}

#[inline(always)]
fn resize<S: Subject, const SMALL: usize, const LARGE: usize>(times: usize) {
    // SAFETY: the size is not 0.
    let mut ptr = unsafe { S::alloc(const { words(SMALL) }) };
    repeat(times, |value| {
        // SAFETY: `ptr` is live and of that size.
        ptr = unsafe { S::realloc(ptr, const { words(SMALL) }, LARGE) };
        write(ptr, value);
        // SAFETY: `ptr` is live and of that size.
        ptr = unsafe { S::realloc(ptr, const { words(LARGE) }, SMALL) };
    });
    // SAFETY: `ptr` is live and of that size.
    unsafe { S::dealloc(ptr, const { words(SMALL) }) };
}
