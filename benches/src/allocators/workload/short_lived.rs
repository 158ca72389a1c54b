//! Short-lived threads: each starts, allocates twenty sizes, frees them and ends. Per thread.

use std::thread;

use super::memory::{layout, out_of_memory, touch};
use crate::meter::Meter;
use crate::subject::{Door, Subject};

const SIZES: [usize; 20] =
    [8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192];

/// The program uses one family.
pub(crate) fn one_family<S: Subject>(meter: &mut Meter) {
    repeat(meter, || {
        live::<S>();
    });
}

/// The program uses twenty families, the threads one of them.
pub(crate) fn among_families<S: Subject>(meter: &mut Meter) {
    let doors = S::doors(20);
    let held = allocate(&doors);
    repeat(meter, || {
        let door = doors[7];
        let mine = allocate(&[door; 20]);
        free(&[door; 20], &mine);
    });
    free(&doors, &held);
}

/// The threads allocate each size from another family.
pub(crate) fn all_families<S: Subject>(meter: &mut Meter) {
    let doors = S::doors(20);
    repeat(meter, || {
        let mine = allocate(&doors);
        free(&doors, &mine);
    });
}

fn live<S: Subject>() {
    let mine = SIZES.map(|size| {
        // SAFETY: no size is 0.
        let ptr = unsafe { S::alloc(layout(size)) };
        touched(ptr, size)
    });
    for (ptr, size) in mine.into_iter().zip(SIZES) {
        // SAFETY: live, of that size.
        unsafe { S::dealloc(ptr, layout(size)) };
    }
}

fn allocate(doors: &[Door]) -> [*mut u8; 20] {
    std::array::from_fn(|index| {
        let size = SIZES[index];
        // SAFETY: no size is 0.
        let ptr = unsafe { (doors[index].alloc)(layout(size)) };
        touched(ptr, size)
    })
}

fn free(doors: &[Door], held: &[*mut u8; 20]) {
    for (index, &ptr) in held.iter().enumerate() {
        // SAFETY: allocated through the same door with the same layout.
        unsafe { (doors[index].dealloc)(ptr, layout(SIZES[index])) };
    }
}

fn touched(ptr: *mut u8, size: usize) -> *mut u8 {
    if ptr.is_null() {
        out_of_memory();
    }
    // SAFETY: an allocation of that size.
    unsafe { touch(ptr, size) };
    ptr
}

/// One thread after the other.
fn repeat(meter: &mut Meter, work: impl Fn() + Sync) {
    meter.ready();
    let threads = meter.pick(300, 2000);
    for _ in 0..meter.pick(3, 5) {
        meter.time("a thread", threads, || {
            for _ in 0..threads {
                thread::scope(|scope| {
                    scope.spawn(&work);
                });
            }
        });
    }
    meter.peak();
}
