//! The crate's door to atomics, cells, locks and thread-local state, with loom behind it. The lock is the crate's own.

mod atomics;
mod cells;
/// What is called by who waits, in builds without `std`.
#[path = "../../../../src/sync/hook.rs"]
#[allow(dead_code, reason = "the models wait otherwise")]
pub(crate) mod hook;
mod locals;
#[path = "../../../../src/sync/lock.rs"]
#[allow(dead_code, reason = "the models do not fork")]
mod lock;
mod objects;
mod orders;
mod wait;

pub(crate) use core::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};

pub(crate) use atomics::{AtomicI32, AtomicPtr, AtomicU8, AtomicU32, AtomicUsize, clear};
pub(crate) use cells::{Cell, UnsafeCell, look, make_memory, touch};
pub(crate) use locals::{LocalKey, end_thread, thread_local};
pub(crate) use lock::Lock;
pub(crate) use orders::fence;
pub(crate) use wait::{Sleep, give_way, set_sleep};

pub(crate) type AtomicCount = AtomicUsize;
pub(crate) type Count = usize;

/// Lets other threads go on.
pub(crate) fn let_others_work() {
    loom::thread::yield_now();
}

/// Begins an execution: called by its first thread, before there are others.
pub(crate) fn reset() {
    objects::reset();
    locals::reset();
}
