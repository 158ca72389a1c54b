//! Where a thread finds its cache of a family, and what it knows before it has one.

use core::ptr::NonNull;

use super::{Cache, EMPTY};
use crate::sync::Cell;

/// The thread-local of one family: the calling thread's cache of it, or the empty one.
pub struct CacheSlot {
    cache: Cell<*const Cache>,
    /// Slow calls since `since`, and the milliseconds, modulo 2³², of the first of them.
    calls: Cell<u32>,
    since: Cell<u32>,
}

impl CacheSlot {
    /// No cache yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { cache: Cell::new(&raw const EMPTY), calls: Cell::new(0), since: Cell::new(0) }
    }

    /// The thread's cache of the family, or the empty one.
    #[inline(always)]
    #[must_use]
    pub fn get(&self) -> &'static Cache {
        // SAFETY: the slot holds the static empty cache or one that stays until it is taken out here again (F2 in `family`).
        unsafe { &*self.cache.get() }
    }

    /// The thread's cache of the family, as it was [set](Self::set); `None` for the empty one.
    pub(crate) fn own(&self) -> Option<NonNull<Cache>> {
        let cache = self.cache.get();
        if core::ptr::eq(cache, &raw const EMPTY) { None } else { NonNull::new(cache.cast_mut()) }
    }

    /// Makes this the thread's cache, until [`clear`](Self::clear).
    pub(crate) fn set(&self, cache: NonNull<Cache>) {
        self.cache.set(cache.as_ptr());
    }

    /// Leaves the thread without a cache, which has to be earned again.
    pub(crate) fn clear(&self) {
        self.cache.set(&raw const EMPTY);
        self.calls.set(0);
    }

    /// Counts a call of a thread without a cache; whether it has made `earning` of them within so many milliseconds.
    pub(crate) fn earns(&self, earning: u32, milliseconds: u32, now: u64) -> bool {
        let now = now as u32;
        if now.wrapping_sub(self.since.get()) >= milliseconds {
            self.since.set(now);
            self.calls.set(0);
        }
        self.calls.set(self.calls.get().saturating_add(1));
        self.calls.get() > earning
    }
}

impl Default for CacheSlot {
    fn default() -> Self {
        Self::new()
    }
}
