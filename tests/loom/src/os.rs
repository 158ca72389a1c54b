//! The system, as the models have it: one arena, cut off piece by piece and cleared after each execution, so that an execution
//! begins as the last one did, at the same addresses. The contract is that of the crate's `os`; nothing here fails but
//! [`remap`] and what is about guards. What does nothing without pages is the crate's own.

use core::ptr::NonNull;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::{Cell, RefCell};

#[allow(dead_code, reason = "some of its calls do more here")]
#[path = "../../../src/os/pageless.rs"]
mod pageless;

pub(crate) use pageless::{
    COMMIT_IS_FREE, HAS_GUARDS, advise_huge, advise_small, forbid, guard, keep_out_of_dumps, map_between, name,
    put_into_dumps,
};

const PAGE_BYTES: usize = 4096;
/// Bytes of a slot of the smallest class that a model says it owns.
const SLOT_BYTES_MIN: usize = 16 << 10;
const ARENA_BYTES: usize = 64 << 20;
/// A region of the smallest slabs.
const ARENA_ALIGN: usize = 4 << 20;

pub(crate) const EXTENDS: bool = false;
pub(crate) const TAKES_PARTS: bool = false;
pub(crate) const HAS_PAGES: bool = false;
pub(crate) const DECOMMITS: bool = false;

pub(crate) fn stay_loaded(_: usize) {}
pub(crate) fn is_ending() -> bool {
    false
}

// There is no sanitizer.
pub(crate) fn poisons() -> bool {
    false
}
pub(crate) fn scans() -> bool {
    false
}
pub(crate) unsafe fn poison(_: NonNull<u8>, _: usize) {}
pub(crate) unsafe fn unpoison(_: NonNull<u8>, _: usize) {}
pub(crate) unsafe fn add_root(_: NonNull<u8>, _: usize) {}
pub(crate) unsafe fn remove_root(_: NonNull<u8>, _: usize) {}
pub(crate) const HUGE_PAGE_BYTES: usize = 2 << 20;

thread_local! {
    static ARENA: NonNull<u8> = {
        let layout = Layout::from_size_align(ARENA_BYTES, ARENA_ALIGN).expect("a layout");
        // SAFETY: the size is not zero.
        NonNull::new(unsafe { System.alloc_zeroed(layout) }).expect("memory for the arena")
    };
    static USED: Cell<usize> = const { Cell::new(0) };
    static WRITABLE: RefCell<Vec<(NonNull<u8>, usize)>> = const { RefCell::new(Vec::new()) };
}

/// Takes everything back that the last execution had.
pub(crate) fn reset() {
    USED.set(0);
    for (start, bytes) in WRITABLE.take() {
        // SAFETY: a part of the arena that was given out, and whoever had it is gone.
        unsafe { start.write_bytes(0, bytes) };
    }
}

fn cut(bytes: usize, align: usize) -> Option<NonNull<u8>> {
    let start = USED.get().next_multiple_of(align);
    assert!(start + bytes <= ARENA_BYTES && align <= ARENA_ALIGN, "the arena is too small");
    USED.set(start + bytes);
    // SAFETY: inside the arena.
    Some(unsafe { ARENA.with(|arena| *arena).add(start) })
}

/// As [`cut`], for memory that the system makes: that is a write, which everybody must come after who has a pointer to its start
/// (`AtomicPtr::load`). Not what a model itself places.
fn make(bytes: usize, align: usize) -> Option<NonNull<u8>> {
    let start = cut(bytes, align)?;
    crate::sync::make_memory(start.addr().get());
    Some(start)
}

fn note_writable(start: NonNull<u8>, bytes: usize) {
    WRITABLE.with_borrow_mut(|all| all.push((start, bytes)));
}

pub(crate) fn page_bytes() -> usize {
    PAGE_BYTES
}

/// Little, so that the table of headers is the smallest.
pub(crate) fn address_space_limit() -> Option<usize> {
    Some(1 << 20)
}

pub(crate) fn random() -> u64 {
    0x9E37_79B9_7F4A_7C15
}

pub(crate) fn milliseconds() -> u64 {
    0
}

pub(crate) fn reserve(bytes: usize, align: usize) -> Option<NonNull<u8>> {
    make(bytes, align)
}

pub(crate) fn reserve_at(_: usize, _: usize) -> Option<NonNull<u8>> {
    None
}

pub(crate) fn reserve_readable(bytes: usize) -> Option<NonNull<u8>> {
    make(bytes, PAGE_BYTES)
}

/// # Safety
/// As the crate's, here and below.
pub(crate) unsafe fn commit(start: NonNull<u8>, bytes: usize) -> bool {
    note_writable(start, bytes);
    true
}

pub(crate) unsafe fn make_writable(start: NonNull<u8>, bytes: usize) -> bool {
    note_writable(start, bytes);
    true
}

/// Counts as a write to every slot of the models' classes.
pub(crate) unsafe fn purge(start: NonNull<u8>, bytes: usize) -> bool {
    (start.addr().get()..start.addr().get() + bytes).step_by(SLOT_BYTES_MIN).for_each(crate::sync::touch);
    // SAFETY: committed, and nobody uses it.
    unsafe { start.write_bytes(0, bytes) };
    true
}

pub(crate) unsafe fn recommit(_: NonNull<u8>, _: usize) -> bool {
    true
}

pub(crate) unsafe fn discard(start: NonNull<u8>, bytes: usize) {
    // SAFETY: the same contract.
    unsafe { purge(start, bytes) };
}

pub(crate) unsafe fn clear_free(start: NonNull<u8>, bytes: usize) {
    // SAFETY: the same contract.
    unsafe { start.write_bytes(0, bytes) };
}

/// What is given back is not given out again in the same execution.
pub(crate) unsafe fn release(_: NonNull<u8>, _: usize) -> bool {
    true
}

pub(crate) fn map(bytes: usize, align: usize) -> Option<NonNull<u8>> {
    let start = make(bytes, align)?;
    note_writable(start, bytes);
    Some(start)
}

/// Memory that was there before the execution began.
pub(crate) fn place(bytes: usize, align: usize) -> NonNull<u8> {
    let start = cut(bytes, align).expect("the arena has room");
    note_writable(start, bytes);
    start
}

pub(crate) unsafe fn remap(_: NonNull<u8>, _: usize, _: usize, _: bool) -> Option<NonNull<u8>> {
    None
}

/// As the crate's own.
#[allow(dead_code, reason = "here nothing is ever guarded")]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Opened {
    Zero,
    Unsure,
    Refused,
}

pub(crate) unsafe fn unguard(_: NonNull<u8>, _: usize) -> Opened {
    Opened::Unsure
}

pub(crate) fn is_aligned(memory: NonNull<u8>, align: usize) -> bool {
    memory.addr().get() & (align - 1) == 0
}

pub(crate) fn round_to_pages(bytes: usize) -> Option<usize> {
    bytes.checked_next_multiple_of(PAGE_BYTES)
}
