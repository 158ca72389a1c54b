//! Bytes: zeroed memory, allocations that grow step by step, and large ones.

use std::alloc::Layout;

use super::memory::{layout, obtain, out_of_memory, touch};
use crate::meter::Meter;
use crate::os::Table;
use crate::subject::Subject;

const PAGE_BYTES: usize = 4096;

/// Zeroed allocations, a batch at a time: per allocation.
pub(crate) fn zeroed<S: Subject>(meter: &mut Meter) {
    let mut table = Table::new(256, std::ptr::null_mut());
    meter.ready();
    for (size, batch) in [(64, 256), (1024, 256), (16 << 10, 64), (256 << 10, 16), (1 << 20, 8)] {
        let layout = layout(size);
        let batches = meter.pick(2, 8) * (256 << 10) / size.max(4096);
        let batches = batches.max(2);
        for _ in 0..meter.pick(3, 6) {
            meter.time(&size_name(size), batches * batch, || {
                for _ in 0..batches {
                    zeroed_batch::<S>(&mut table[..batch], layout);
                }
            });
        }
        S::reset();
    }
    zeroed_fill::<S>(&mut table, layout(256 << 10));
    meter.peak();
    free_all::<S>(&table, layout(256 << 10));
}

fn zeroed_batch<S: Subject>(table: &mut [*mut u8], layout: Layout) {
    zeroed_fill::<S>(table, layout);
    free_all::<S>(table, layout);
}

fn zeroed_fill<S: Subject>(table: &mut [*mut u8], layout: Layout) {
    for slot in table {
        // SAFETY: no size is 0.
        *slot = unsafe { S::alloc_zeroed(layout) };
        if slot.is_null() {
            out_of_memory();
        }
        // SAFETY: an allocation of that layout.
        unsafe { touch(*slot, layout.size()) };
    }
}

fn free_all<S: Subject>(table: &[*mut u8], layout: Layout) {
    for &ptr in table {
        // SAFETY: live, of that layout, visited once.
        unsafe { S::dealloc(ptr, layout) };
    }
}

/// A buffer that grows: by a little up to a page, and by half of itself up to a MiB. Per step.
pub(crate) fn grow<S: Subject>(meter: &mut Meter) {
    meter.ready();
    let steps = small_steps();
    let buffers = meter.pick(50, 500);
    for _ in 0..meter.pick(3, 10) {
        meter.time("by 16 B to 4 KiB", buffers * steps.len(), || climb::<S>(buffers, &steps, false));
        S::reset();
    }
    let steps = wide_steps();
    let buffers = meter.pick(10, 100);
    for _ in 0..meter.pick(3, 10) {
        meter.time("by half to 1 MiB", buffers * steps.len(), || climb::<S>(buffers, &steps, true));
        S::reset();
    }
    meter.peak();
}

fn small_steps() -> Vec<usize> {
    (1..=256).map(|step| step * 16).collect()
}

fn wide_steps() -> Vec<usize> {
    std::iter::successors(Some(64_usize), |&size| Some((size * 3 / 2).next_multiple_of(8)))
        .take_while(|&size| size <= 1 << 20)
        .collect()
}

/// Grows buffers through the sizes one after the other, each step touching what is new.
fn climb<S: Subject>(buffers: usize, sizes: &[usize], pages: bool) {
    for _ in 0..buffers {
        let mut size = sizes[0];
        // SAFETY: no size is 0.
        let mut ptr = unsafe { obtain::<S>(layout(size)) };
        for &next in &sizes[1..] {
            ptr = regrow::<S>(ptr, size, next);
            if pages {
                touch_new(ptr, size, next);
            } else {
                touch_last(ptr, next);
            }
            size = next;
        }
        // SAFETY: live, of that size.
        unsafe { S::dealloc(ptr, layout(size)) };
    }
}

fn regrow<S: Subject>(ptr: *mut u8, size: usize, next: usize) -> *mut u8 {
    // SAFETY: `ptr` is live and of that size, and `next` is not 0.
    let ptr = unsafe { S::realloc(ptr, layout(size), next) };
    if ptr.is_null() {
        out_of_memory();
    }
    ptr
}

fn touch_last(ptr: *mut u8, size: usize) {
    // SAFETY: inside the allocation.
    let last = unsafe { ptr.add(size - 1) };
    // SAFETY: inside the allocation.
    unsafe { last.write_volatile(1) };
}

/// Writes to every page from `old` to `new`.
fn touch_new(ptr: *mut u8, old: usize, new: usize) {
    let mut offset = old;
    while offset < new {
        touch_last(ptr, offset + 1);
        offset += PAGE_BYTES;
    }
    touch_last(ptr, new);
}

/// Large allocations: allocate, write to every page, free. Per page.
pub(crate) fn large<S: Subject>(meter: &mut Meter) {
    meter.ready();
    for size in [256 << 10, 1 << 20, 2 << 20, 4 << 20, 16 << 20, 64 << 20] {
        let times = (meter.pick(64 << 20, 256 << 20) / size).clamp(1, 64);
        let pages = times * size / PAGE_BYTES;
        for _ in 0..meter.pick(2, 5) {
            meter.time(&size_name(size), pages, || {
                for _ in 0..times {
                    let ptr = touched::<S>(size);
                    // SAFETY: live, of that layout.
                    unsafe { S::dealloc(ptr, layout(size)) };
                }
            });
            S::reset();
        }
    }
    let held: Vec<_> =
        [2 << 20, 3 << 20, 5 << 20, 17 << 20].into_iter().map(|size| (touched::<S>(size), size)).collect();
    meter.peak();
    for (ptr, size) in held {
        // SAFETY: live, of that layout.
        unsafe { S::dealloc(ptr, layout(size)) };
    }
}

fn touched<S: Subject>(size: usize) -> *mut u8 {
    // SAFETY: no size is 0.
    let ptr = unsafe { obtain::<S>(layout(size)) };
    // SAFETY: an allocation of that layout.
    unsafe { touch(ptr, size) };
    ptr
}

/// A large buffer that grows from 2 to 64 MiB in steps of 2 MiB, each touching what is new. Per page of the last.
pub(crate) fn grow_large<S: Subject>(meter: &mut Meter) {
    const STEP_BYTES: usize = 2 << 20;
    const LAST_BYTES: usize = 64 << 20;
    meter.ready();
    for _ in 0..meter.pick(2, 5) {
        let ptr = meter.time("2 to 64 MiB", LAST_BYTES / PAGE_BYTES, || {
            let mut ptr = touched::<S>(STEP_BYTES);
            for size in (STEP_BYTES..LAST_BYTES).step_by(STEP_BYTES) {
                ptr = regrow::<S>(ptr, size, size + STEP_BYTES);
                touch_new(ptr, size, size + STEP_BYTES);
            }
            ptr
        });
        meter.peak();
        // SAFETY: live, of that layout.
        unsafe { S::dealloc(ptr, layout(LAST_BYTES)) };
        S::reset();
    }
}

/// `4096` as `4 KiB`.
pub(crate) fn size_name(size: usize) -> String {
    match size {
        size if size >= 1 << 20 => format!("{} MiB", size >> 20),
        size if size >= 1 << 10 => format!("{} KiB", size >> 10),
        size => format!("{size} B"),
    }
}
