//! The calls that go to a heap: with the cache that the thread used last, or with all that a heap may be.

use core::alloc::Layout;
use core::ptr::NonNull;

use super::Heap;
use crate::checks::Checks;
use crate::family::FamilyCore;
use crate::front::{self, Engine, Handle};
use crate::header::UNIT_SHIFTS;
use crate::magazine::{Cache, CacheSlot};
use crate::size_class::Classes;
use crate::thread::heaps::{cache_of, last, slot_of};

/// Slabs have two slots of this class, whatever their length; of longer ones they may have some.
const SURE_CLASS: usize = *UNIT_SHIFTS.start() as usize - 1;

#[inline(always)]
fn has_slots_of(heap: &FamilyCore, class: usize) -> bool {
    class <= SURE_CLASS || class < heap.unit_shift() as usize
}

#[inline(always)]
fn slot(heap: &'static FamilyCore) -> &'static CacheSlot {
    // SAFETY: the calling thread's, which lives as long as the thread; it does not leave it.
    unsafe { &*slot_of(heap) }
}

/// A heap with default checks of which the calling thread used its cache last.
#[derive(Clone, Copy)]
struct Hot {
    heap: &'static FamilyCore,
    cache: &'static Cache,
}

// SAFETY: the core of one heap, whose handle is lent for as long as the call takes, and the calling
// thread's cache of it.
unsafe impl Handle for Hot {
    #[inline(always)]
    fn core(&self) -> &'static FamilyCore {
        self.heap
    }

    fn slot(&self) -> &'static CacheSlot {
        slot(self.heap)
    }

    #[inline(always)]
    fn cache(&self) -> &'static Cache {
        self.cache
    }

    #[inline(always)]
    fn checks(&self) -> Checks {
        Checks::Default
    }

    #[inline(always)]
    fn classes(&self) -> Classes {
        Classes::Natural
    }

    #[inline(always)]
    fn unit_shift(&self) -> u32 {
        self.heap.unit_shift()
    }

    #[inline(always)]
    fn has_slots_of(&self, class: usize) -> bool {
        has_slots_of(self.heap, class)
    }
}

/// Any heap.
#[derive(Clone, Copy)]
struct Any(&'static FamilyCore);

// SAFETY: the core of one heap, whose handle is lent for as long as the call takes; the slot is the one
// that the calling thread has of this heap, or one without a cache.
unsafe impl Handle for Any {
    fn core(&self) -> &'static FamilyCore {
        self.0
    }

    fn slot(&self) -> &'static CacheSlot {
        slot(self.0)
    }

    fn cache(&self) -> &'static Cache {
        cache_of(self.0)
    }

    fn checks(&self) -> Checks {
        self.0.checks()
    }

    fn classes(&self) -> Classes {
        Classes::Natural
    }

    fn unit_shift(&self) -> u32 {
        self.0.unit_shift()
    }

    fn has_slots_of(&self, class: usize) -> bool {
        has_slots_of(self.0, class)
    }
}

impl Heap {
    /// The heap with the calling thread's cache, if that was used last.
    #[inline(always)]
    fn hot(&self) -> Option<Hot> {
        let cache = last();
        (cache.heap() == self.0.heap_id()).then_some(Hot { heap: self.0, cache })
    }
}

impl Engine for Heap {
    #[inline(always)]
    fn allocate(&self, layout: Layout) -> Option<NonNull<[u8]>> {
        match self.hot() {
            Some(hot) => front::allocate(hot, layout),
            None => allocate(Any(self.0), layout),
        }
    }

    #[inline(always)]
    fn allocate_zeroed(&self, layout: Layout) -> Option<NonNull<[u8]>> {
        match self.hot() {
            Some(hot) => front::allocate_zeroed(hot, layout),
            None => allocate_zeroed(Any(self.0), layout),
        }
    }

    #[inline(always)]
    unsafe fn deallocate(&self, ptr: NonNull<u8>, layout: Layout) {
        match self.hot() {
            // SAFETY: the same contract, here and below.
            Some(hot) => unsafe { front::deallocate(hot, ptr, layout) },
            // SAFETY: as above.
            None => unsafe { deallocate(Any(self.0), ptr, layout) },
        }
    }

    #[inline(always)]
    unsafe fn grow(&self, ptr: NonNull<u8>, old: Layout, new: Layout) -> Option<NonNull<[u8]>> {
        match self.hot() {
            // SAFETY: the same contract, here and below.
            Some(hot) => unsafe { front::grow(hot, ptr, old, new) },
            // SAFETY: as above.
            None => unsafe { grow(Any(self.0), ptr, old, new) },
        }
    }

    #[inline(always)]
    unsafe fn grow_zeroed(&self, ptr: NonNull<u8>, old: Layout, new: Layout) -> Option<NonNull<[u8]>> {
        match self.hot() {
            // SAFETY: the same contract, here and below.
            Some(hot) => unsafe { front::grow_zeroed(hot, ptr, old, new) },
            // SAFETY: as above.
            None => unsafe { grow_zeroed(Any(self.0), ptr, old, new) },
        }
    }

    #[inline(always)]
    unsafe fn shrink(&self, ptr: NonNull<u8>, old: Layout, new: Layout) -> Option<NonNull<[u8]>> {
        match self.hot() {
            // SAFETY: the same contract, here and below.
            Some(hot) => unsafe { front::shrink(hot, ptr, old, new) },
            // SAFETY: as above.
            None => unsafe { shrink(Any(self.0), ptr, old, new) },
        }
    }
}

#[cold]
#[inline(never)]
fn allocate(heap: Any, layout: Layout) -> Option<NonNull<[u8]>> {
    front::allocate(heap, layout)
}

#[cold]
#[inline(never)]
fn allocate_zeroed(heap: Any, layout: Layout) -> Option<NonNull<[u8]>> {
    front::allocate_zeroed(heap, layout)
}

/// # Safety
/// As for [`front::deallocate`].
#[cold]
#[inline(never)]
unsafe fn deallocate(heap: Any, ptr: NonNull<u8>, layout: Layout) {
    // SAFETY: the same contract.
    unsafe { front::deallocate(heap, ptr, layout) }
}

/// # Safety
/// As for [`front::grow`].
#[cold]
#[inline(never)]
unsafe fn grow(heap: Any, ptr: NonNull<u8>, old: Layout, new: Layout) -> Option<NonNull<[u8]>> {
    // SAFETY: the same contract.
    unsafe { front::grow(heap, ptr, old, new) }
}

/// # Safety
/// As for [`front::grow_zeroed`].
#[cold]
#[inline(never)]
unsafe fn grow_zeroed(heap: Any, ptr: NonNull<u8>, old: Layout, new: Layout) -> Option<NonNull<[u8]>> {
    // SAFETY: the same contract.
    unsafe { front::grow_zeroed(heap, ptr, old, new) }
}

/// # Safety
/// As for [`front::shrink`].
#[cold]
#[inline(never)]
unsafe fn shrink(heap: Any, ptr: NonNull<u8>, old: Layout, new: Layout) -> Option<NonNull<[u8]>> {
    // SAFETY: the same contract.
    unsafe { front::shrink(heap, ptr, old, new) }
}
