//! The loops whose instructions are counted, and the work of which the memory is measured.

use std::alloc::Layout;
use std::hint::black_box;
use std::ptr::NonNull;

use allocator_api2::boxed::Box;
use allocator_api2::vec::Vec;

use crate::counted::{Loop, repeat, words};
use crate::peers::Subject;

/// How many loops there are.
pub(crate) const COUNT: usize = 10;

/// All loops over one arena. The first does nothing: what it costs is taken off the others.
pub(crate) fn all<S: Subject>() -> [Loop; COUNT] {
    [
        Loop { name: "nothing", run: nothing },
        Loop { name: "pair_constant_8", run: pair::<S, 8> },
        Loop { name: "pair_constant_24", run: pair::<S, 24> },
        Loop { name: "pair_constant_64", run: pair::<S, 64> },
        Loop { name: "pair_from_list_64", run: pair_from_list::<S> },
        Loop { name: "allocate_only_24", run: allocate_only::<S, 24> },
        Loop { name: "allocate_only_64", run: allocate_only::<S, 64> },
        Loop { name: "allocate_only_mixed", run: allocate_only_mixed::<S> },
        Loop { name: "vec_of_1000_pushes", run: pushes::<S> },
        Loop { name: "request_100_objects", run: requests::<S> },
    ]
}

/// Writes to an allocation, as every loop does and `nothing` too.
#[inline(always)]
fn write(ptr: NonNull<u8>, value: usize) {
    // SAFETY: every allocation here is at least eight bytes, aligned to eight.
    unsafe { ptr.cast::<usize>().write_volatile(value) };
}

#[inline(never)]
fn nothing(times: usize) {
    let mut word = 0_usize;
    let ptr = NonNull::from(&mut word).cast();
    repeat(times, |value| write(ptr, value));
}

/// What is freed was the last: arenas that only carve take it back as well.
#[inline(never)]
fn pair<S: Subject, const SIZE: usize>(times: usize) {
    let arena = &S::new();
    write(arena.alloc(words(64)), 1);
    repeat(times, |value| {
        let ptr = arena.alloc(const { words(SIZE) });
        write(ptr, value);
        // SAFETY: allocated above.
        unsafe { arena.dealloc(ptr, const { words(SIZE) }) };
    });
}

/// What is freed was not the last: arenas that only carve lose it.
#[inline(never)]
fn pair_from_list<S: Subject>(times: usize) {
    let arena = &S::new();
    let mut before = arena.alloc(words(64));
    repeat(times, |value| {
        let ptr = arena.alloc(const { words(64) });
        write(ptr, value);
        // SAFETY: allocated in the round before.
        unsafe { arena.dealloc(before, const { words(64) }) };
        before = ptr;
    });
}

#[inline(never)]
fn allocate_only<S: Subject, const SIZE: usize>(times: usize) {
    let mut arena = S::new();
    let mut left = times;
    while left > 0 {
        let part = left.min(10_000);
        let lent = &arena;
        repeat(part, |value| write(lent.alloc(const { words(SIZE) }), value));
        arena.reset();
        left -= part;
    }
}

/// Sizes that the compiler does not know, from 8 to 512 bytes.
#[inline(never)]
fn allocate_only_mixed<S: Subject>(times: usize) {
    let sizes = black_box([24, 8, 40, 16, 120, 64, 32, 512, 8, 16, 24, 200, 48, 56, 16, 72]);
    let mut arena = S::new();
    let mut left = times;
    while left > 0 {
        let part = left.min(10_000);
        let lent = &arena;
        repeat(part, |value| {
            // SAFETY: eight is a power of two, and the size is small.
            let layout = unsafe { Layout::from_size_align_unchecked(sizes[value % 16], 8) };
            write(lent.alloc(layout), value);
        });
        arena.reset();
        left -= part;
    }
}

/// A vector that grows by pushes, alone in its arena. Per push.
#[inline(never)]
fn pushes<S: Subject>(times: usize) {
    let mut arena = S::new();
    for _ in 0..times / 1000 {
        let mut v = Vec::new_in(arena.collections());
        repeat(1000, |value| v.push(value));
        black_box(&v);
        drop(v);
        arena.reset();
    }
}

/// An arena for each request: made, a hundred objects of three lengths, dropped. Per object.
#[inline(never)]
fn requests<S: Subject>(times: usize) {
    repeat(times / 100, |value| {
        let arena = S::new();
        for _ in 0..33 {
            let short = Box::leak(Box::new_in([value; 3], arena.collections()));
            let middle = Box::leak(Box::new_in([value; 8], arena.collections()));
            let long = Box::leak(Box::new_in([value; 20], arena.collections()));
            black_box((short, middle, long));
        }
        black_box(Box::leak(Box::new_in([value; 3], arena.collections())));
    });
}

/// A thousand live strings of 16 to 512 bytes, replaced again and again; returns the bytes that are live.
pub(crate) fn replace<S: Subject>(arena: &S, times: usize) -> usize {
    let mut random = 0x1234_5678_9abc_def1_u64;
    let mut next = move || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random >> 11) as usize
    };
    let mut live: std::vec::Vec<Vec<u8, S::Collections<'_>>> = std::vec::Vec::with_capacity(1000);
    for round in 0..times {
        let mut text = Vec::with_capacity_in(16 + next() % 497, arena.collections());
        text.resize(text.capacity(), round as u8);
        if live.len() < 1000 {
            live.push(text);
        } else {
            live[next() % 1000] = text;
        }
    }
    let bytes = live.iter().map(Vec::capacity).sum();
    std::mem::forget(live);
    bytes
}
