//! The loops whose instructions are counted.

use std::alloc::{GlobalAlloc, Layout};
use std::hint::black_box;
use std::ptr::null_mut;

use family_alloc::{Classes, Enter, Heap, Scoped, family};

use crate::counted::{repeat, words};
use crate::peers::Name;

family! {
    /// The home of the loops.
    struct Home;
    /// Another family.
    struct Other;
}

const SCOPED: Scoped<Home> = Scoped::new();

/// How many loops there are.
pub(crate) const COUNT: usize = 11;

/// What they are called. The first does nothing: what it costs is taken off the others.
pub(crate) const NAMES: [&str; COUNT] = [
    "nothing",
    "pair_constant_64",
    "pair_run_time_64",
    "pair_zeroed_64",
    "resize_64_128",
    "own_batch_of_100",
    "batch_of_the_home",
    "batch_of_a_heap",
    "batch_of_a_family",
    "batch_of_a_spaced_heap",
    "scope",
];

/// Blocks of a batch. One that takes turns with frees stays in the thread's cache.
const BATCH: usize = 100;

/// Writes to an allocation, as every loop does and `nothing` too.
#[inline(always)]
fn write(ptr: *mut u8, value: usize) {
    // SAFETY: every allocation here is at least eight bytes, aligned to eight.
    unsafe { ptr.cast::<usize>().write_volatile(value) };
}

#[inline(always)]
fn layout_at_run_time(size: usize) -> Layout {
    // SAFETY: eight is a power of two, and the size is small.
    unsafe { Layout::from_size_align_unchecked(black_box(size), 8) }
}

#[inline(never)]
fn nothing(times: usize) {
    let mut word = 0_usize;
    let ptr = (&raw mut word).cast::<u8>();
    repeat(times, |value| write(ptr, value));
}

#[inline(always)]
fn pair(allocator: &impl GlobalAlloc, times: usize, layout: impl Fn() -> Layout) {
    repeat(times, |value| {
        let layout = layout();
        // SAFETY: the size is not 0.
        let ptr = unsafe { allocator.alloc(layout) };
        write(ptr, value);
        // SAFETY: allocated above.
        unsafe { allocator.dealloc(ptr, layout) };
    });
}

#[inline(always)]
fn pair_zeroed(allocator: &impl GlobalAlloc, times: usize) {
    repeat(times, |value| {
        let layout = const { words(64) };
        // SAFETY: the size is not 0.
        let ptr = unsafe { allocator.alloc_zeroed(layout) };
        write(ptr, value);
        // SAFETY: allocated above.
        unsafe { allocator.dealloc(ptr, layout) };
    });
}

#[inline(always)]
fn resize(allocator: &impl GlobalAlloc, times: usize) {
    // SAFETY: the size is not 0.
    let mut ptr = unsafe { allocator.alloc(const { words(64) }) };
    repeat(times, |value| {
        // SAFETY: `ptr` is live and of that size.
        ptr = unsafe { allocator.realloc(ptr, const { words(64) }, 128) };
        write(ptr, value);
        // SAFETY: `ptr` is live and of that size.
        ptr = unsafe { allocator.realloc(ptr, const { words(128) }, 64) };
    });
    // SAFETY: `ptr` is live and of that size.
    unsafe { allocator.dealloc(ptr, const { words(64) }) };
}

/// Allocates batches by `allocate`, and frees them by `free`: per pair.
#[inline(always)]
fn batch(times: usize, allocate: impl Fn(&mut [*mut u8; BATCH]), free: impl Fn(&[*mut u8; BATCH])) {
    let mut blocks = [null_mut(); BATCH];
    for _ in 0..times / BATCH {
        allocate(&mut blocks);
        free(black_box(&blocks));
    }
}

#[inline(always)]
fn allocate_all(allocator: &impl GlobalAlloc, blocks: &mut [*mut u8; BATCH]) {
    for block in blocks {
        // SAFETY: the size is not 0.
        *block = unsafe { allocator.alloc(layout_at_run_time(64)) };
        write(*block, 1);
    }
}

#[inline(always)]
fn free_all(allocator: &impl GlobalAlloc, blocks: &[*mut u8; BATCH]) {
    for &block in blocks {
        // SAFETY: allocated by `allocate_all`.
        unsafe { allocator.dealloc(block, layout_at_run_time(64)) };
    }
}

/// The loops over one allocator, in whatever scope the thread is in.
#[inline(always)]
fn each(allocator: &impl GlobalAlloc, [heap, spaced]: [&Heap; 2], which: usize, times: usize) {
    let free = |blocks: &[*mut u8; BATCH]| free_all(allocator, blocks);
    match which {
        0 => nothing(times),
        1 => pair(allocator, times, || const { words(64) }),
        2 => pair(allocator, times, || layout_at_run_time(64)),
        3 => pair_zeroed(allocator, times),
        4 => resize(allocator, times),
        5 => batch(times, |blocks| allocate_all(allocator, blocks), free),
        // Of a plain family there is nothing else to free.
        6 => batch(times, |blocks| Heap::outside(|| allocate_all(allocator, blocks)), free),
        7 => batch(times, |blocks| heap.scope(|| allocate_all(allocator, blocks)), free),
        8 => batch(times, |blocks| Other.scope(|| allocate_all(allocator, blocks)), free),
        9 => batch(times, |blocks| spaced.scope(|| allocate_all(allocator, blocks)), free),
        _ => repeat(times, |value| heap.scope(|| _ = black_box(value))),
    }
}

/// Runs a loop in one of the ways.
pub(crate) fn run(name: Name, which: usize, times: usize) {
    std::thread_local! {
        static HEAPS: [[Heap; 2]; 2] = ["own", "another"].map(|name| {
            let heap = |classes| Heap::builder(name).classes(classes).build().expect("there is memory for a heap");
            [Classes::Natural, Classes::Spaced].map(heap)
        });
    }
    HEAPS.with(|[[own, own_spaced], [heap, spaced]]| match name {
        Name::Plain => each(&Home, [heap, spaced], which, times),
        Name::Outside => each(&SCOPED, [heap, spaced], which, times),
        // The same code for both.
        Name::Inside | Name::InsideSpaced => {
            let own = if name == Name::Inside { own } else { own_spaced };
            own.scope(|| each(&SCOPED, [heap, spaced], which, times));
        }
    });
}
