//! Where a thread finds its cache of a family, and what it knows before it has one.

use core::ptr::NonNull;

use super::{Cache, EMPTY, Magazine};
use crate::size_class::{COUNT_MAX, NATURAL_COUNT};
use crate::sync::Cell;

/// The thread-local of one family: the calling thread's cache of it, or the empty one.
pub struct CacheSlot {
    cache: Cell<*const Cache<[Magazine; 0]>>,
    /// The cache that global allocations go to whose home the family is: see `thread::scopes`.
    current: Cell<*const Cache<[Magazine; 0]>>,
    /// The cache that global allocations that were another family's went back to: see there.
    other: Cell<*const Cache<[Magazine; 0]>>,
    /// Slow calls since `since`, and the milliseconds, modulo 2³², of the first of them.
    calls: Cell<u32>,
    since: Cell<u32>,
}

impl CacheSlot {
    /// No cache yet.
    #[must_use]
    pub const fn new() -> Self {
        let empty = (&raw const EMPTY).cast();
        Self {
            cache: Cell::new(empty),
            current: Cell::new(empty),
            other: Cell::new(empty),
            calls: Cell::new(0),
            since: Cell::new(0),
        }
    }

    /// The thread's cache of the family, which has so many classes, or the empty one.
    #[inline(always)]
    pub(crate) fn get(&self, class_count: usize) -> &'static Cache {
        debug_assert!(class_count <= COUNT_MAX);
        // SAFETY: the slot holds the static empty cache, which has as many classes as any, or one of the family's that stays until it
        // is taken out here again (F2 in `family`).
        unsafe { &*Cache::of_classes(self.cache.get(), class_count) }
    }

    /// The cache that global allocations go to, which has the natural classes; or the empty one.
    #[inline(always)]
    pub(crate) fn current(&self) -> &'static Cache {
        // SAFETY: as in `get`: what is set below is a cache that stays until it is taken out here again (V2 in `thread::scopes`).
        unsafe { &*Cache::of_classes(self.current.get(), NATURAL_COUNT) }
    }

    /// Lets global allocations go to a cache with the natural classes, or for now to none.
    pub(crate) fn set_current(&self, cache: &'static Cache) {
        self.current.set(core::ptr::from_ref(cache).cast());
    }

    /// What was last given to [`set_other`](Self::set_other), if the thread still has it; or the
    /// empty cache.
    #[inline(always)]
    pub(crate) fn other(&self) -> &'static Cache {
        // SAFETY: as in `current`.
        unsafe { &*Cache::of_classes(self.other.get(), NATURAL_COUNT) }
    }

    /// Notes a cache with the natural classes that took back a global allocation, though these go
    /// to another.
    pub(crate) fn set_other(&self, cache: &'static Cache) {
        self.other.set(core::ptr::from_ref(cache).cast());
    }

    /// What the thread's cache of the family is a part of; `None` for the empty one.
    pub(crate) fn whole(&self) -> Option<NonNull<()>> {
        NonNull::new(self.get(0).whole().cast_mut())
    }

    /// Makes this the thread's cache, until [`clear`](Self::clear).
    pub(crate) fn set(&self, cache: &'static Cache) {
        self.cache.set(core::ptr::from_ref(cache).cast());
    }

    /// Leaves the thread without a cache, which has to be earned again.
    pub(crate) fn clear(&self) {
        self.cache.set((&raw const EMPTY).cast());
        self.current.set((&raw const EMPTY).cast());
        self.other.set((&raw const EMPTY).cast());
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
