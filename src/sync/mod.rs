//! The only door to atomics, cells, locks and thread-local state. The models in `tests/loom` have another behind the same names.
//!
//! Order in which locks are taken: registry, family (caches, growth of large allocations, large allocations), bin, pool, pools that
//! heaps share, directory, what is noted of memory, pages that wait for threads, kept names, cores that no heap uses.
//! Nothing is called out to under a lock.

#[cfg(all(any(unix, windows), not(miri)))]
#[allow(dead_code, reason = "not every combination of system and backend calls the system")]
mod errno;
#[cfg(not(feature = "std"))]
mod forgetful;
mod hook;
mod lock;
mod wait;

pub(crate) use core::cell::{Cell, UnsafeCell};
pub(crate) use core::sync::atomic::{
    AtomicI32, AtomicPtr, AtomicU8, AtomicU32, AtomicUsize,
    Ordering::{AcqRel, Acquire, Relaxed, Release},
    fence,
};
#[cfg(feature = "std")]
pub(crate) use std::thread_local;

/// A count that never comes to its end, where the processor has such atomics.
#[cfg(target_has_atomic = "64")]
pub(crate) use core::sync::atomic::AtomicU64 as AtomicCount;
#[cfg(not(target_has_atomic = "64"))]
pub(crate) use core::sync::atomic::AtomicUsize as AtomicCount;
/// What it holds.
#[cfg(target_has_atomic = "64")]
pub(crate) type Count = u64;
#[cfg(not(target_has_atomic = "64"))]
pub(crate) type Count = usize;

#[cfg(all(any(unix, windows), not(miri)))]
#[allow(unused_imports, reason = "as above")]
pub(crate) use errno::keeping_errno;
#[cfg(not(feature = "std"))]
pub(crate) use forgetful::{LocalKey, forgetful_local as thread_local};
pub(crate) use hook::let_others_work;
pub use hook::set_wait_hook;
pub(crate) use lock::Lock;
#[cfg(test)]
pub(crate) use lock::TAKEN;
#[cfg(all(test, unix, not(any(miri, loom))))]
pub(crate) use lock::held;
pub(crate) use wait::give_way;

/// Makes bytes 0 that nobody else legitimately reads or writes meanwhile.
///
/// # Safety
/// `first` is valid for `count` bytes.
#[inline(always)]
pub(crate) unsafe fn clear(first: *mut AtomicU8, count: usize) {
    // SAFETY: the same contract; an atomic byte is a byte.
    unsafe { first.write_bytes(0, count) };
}
