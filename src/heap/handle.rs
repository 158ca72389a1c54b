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
use crate::thread::heaps::{cache_of_classes, last, slot_of};

/// Bytes of the shortest slabs.
const SLAB_BYTES_LEAST: usize = 1 << *UNIT_SHIFTS.start();

#[inline(always)]
fn slot(heap: &'static FamilyCore) -> &'static CacheSlot {
    // SAFETY: the calling thread's, which lives as long as the thread; it does not leave it.
    unsafe { &*slot_of(heap) }
}

/// Whether slabs of a heap have slots of a class: of those that the shortest slabs have, in any case.
#[inline(always)]
fn has_slots_of<const SPACED: bool>(heap: &FamilyCore, class: usize) -> bool {
    class <= const { classes(SPACED).largest(SLAB_BYTES_LEAST) }
        || class <= classes(SPACED).largest(1 << heap.unit_shift())
}

/// A heap with default checks of which the calling thread used its cache last, of those with its classes.
#[derive(Clone, Copy)]
struct Hot<const SPACED: bool> {
    heap: &'static FamilyCore,
    cache: &'static Cache,
}

const fn classes(spaced: bool) -> Classes {
    if spaced { Classes::Spaced } else { Classes::Natural }
}

impl<const SPACED: bool> Hot<SPACED> {
    /// The heap with the calling thread's cache, if that was used last.
    #[inline(always)]
    fn of(heap: &'static FamilyCore) -> Option<Self> {
        let cache = last(classes(SPACED));
        (cache.heap() == heap.heap_id()).then_some(Self { heap, cache })
    }
}

// SAFETY: the core of one heap, whose handle is lent for as long as the call takes, and the calling
// thread's cache of it.
unsafe impl<const SPACED: bool> Handle for Hot<SPACED> {
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
        const { classes(SPACED) }
    }

    #[inline(always)]
    fn unit_shift(&self) -> u32 {
        self.heap.unit_shift()
    }

    #[inline(always)]
    fn has_slots_of(&self, class: usize) -> bool {
        has_slots_of::<SPACED>(self.heap, class)
    }
}

/// Any heap with these classes.
#[derive(Clone, Copy)]
struct Any<const SPACED: bool>(&'static FamilyCore);

// SAFETY: the core of one heap, whose handle is lent for as long as the call takes; the slot is the one
// that the calling thread has of this heap, or one without a cache.
unsafe impl<const SPACED: bool> Handle for Any<SPACED> {
    fn core(&self) -> &'static FamilyCore {
        self.0
    }

    fn slot(&self) -> &'static CacheSlot {
        slot(self.0)
    }

    fn cache(&self) -> &'static Cache {
        cache_of_classes::<SPACED>(self.0)
    }

    fn checks(&self) -> Checks {
        self.0.checks()
    }

    fn classes(&self) -> Classes {
        const { classes(SPACED) }
    }

    fn unit_shift(&self) -> u32 {
        self.0.unit_shift()
    }

    fn has_slots_of(&self, class: usize) -> bool {
        has_slots_of::<SPACED>(self.0, class)
    }
}

/// Makes a call with a handle that knows the classes of a heap at compile time.
macro_rules! with {
    ($heap:expr, |$handle:ident| $call:expr) => {
        match $heap.classes() {
            Classes::Natural => {
                let $handle = Any::<false>($heap);
                $call
            }
            Classes::Spaced => {
                let $handle = Any::<true>($heap);
                $call
            }
        }
    };
}

impl Engine for Heap {
    #[inline(always)]
    fn allocate(&self, layout: Layout) -> Option<NonNull<[u8]>> {
        match Hot::<false>::of(self.0) {
            Some(hot) => front::allocate(hot, layout),
            None => allocate(self.0, layout),
        }
    }

    #[inline(always)]
    fn allocate_zeroed(&self, layout: Layout) -> Option<NonNull<[u8]>> {
        match Hot::<false>::of(self.0) {
            Some(hot) => front::allocate_zeroed(hot, layout),
            None => allocate_zeroed(self.0, layout),
        }
    }

    #[inline(always)]
    unsafe fn deallocate(&self, ptr: NonNull<u8>, layout: Layout) {
        match Hot::<false>::of(self.0) {
            // SAFETY: the same contract, here and below.
            Some(hot) => unsafe { front::deallocate(hot, ptr, layout) },
            // SAFETY: as above.
            None => unsafe { deallocate(self.0, ptr, layout) },
        }
    }

    #[inline(always)]
    unsafe fn grow(&self, ptr: NonNull<u8>, old: Layout, new: Layout) -> Option<NonNull<[u8]>> {
        match Hot::<false>::of(self.0) {
            // SAFETY: the same contract, here and below.
            Some(hot) => unsafe { front::grow(hot, ptr, old, new) },
            // SAFETY: as above.
            None => unsafe { grow(self.0, ptr, old, new) },
        }
    }

    #[inline(always)]
    unsafe fn grow_zeroed(&self, ptr: NonNull<u8>, old: Layout, new: Layout) -> Option<NonNull<[u8]>> {
        match Hot::<false>::of(self.0) {
            // SAFETY: the same contract, here and below.
            Some(hot) => unsafe { front::grow_zeroed(hot, ptr, old, new) },
            // SAFETY: as above.
            None => unsafe { grow_zeroed(self.0, ptr, old, new) },
        }
    }

    #[inline(always)]
    unsafe fn shrink(&self, ptr: NonNull<u8>, old: Layout, new: Layout) -> Option<NonNull<[u8]>> {
        match Hot::<false>::of(self.0) {
            // SAFETY: the same contract, here and below.
            Some(hot) => unsafe { front::shrink(hot, ptr, old, new) },
            // SAFETY: as above.
            None => unsafe { shrink(self.0, ptr, old, new) },
        }
    }
}

/// What is inlined where heaps are used looks for natural classes only; one call further the same is done for spaced ones.
#[cold]
#[inline(never)]
fn allocate(heap: &'static FamilyCore, layout: Layout) -> Option<NonNull<[u8]>> {
    match heap.classes() {
        Classes::Natural => allocate_any::<false>(heap, layout),
        Classes::Spaced => match Hot::<true>::of(heap) {
            Some(hot) => match front::allocate_if_cached(hot, layout) {
                None => allocate_hot(hot, layout),
                memory => memory,
            },
            None => allocate_any::<true>(heap, layout),
        },
    }
}

/// What the cache has no recycled slot for. What comes before this ends with a call of it, and so has nothing to keep for afterwards.
#[inline(never)]
fn allocate_hot(hot: Hot<true>, layout: Layout) -> Option<NonNull<[u8]>> {
    front::allocate(hot, layout)
}

#[inline(never)]
fn allocate_any<const SPACED: bool>(heap: &'static FamilyCore, layout: Layout) -> Option<NonNull<[u8]>> {
    front::allocate(Any::<SPACED>(heap), layout)
}

#[cold]
#[inline(never)]
fn allocate_zeroed(heap: &'static FamilyCore, layout: Layout) -> Option<NonNull<[u8]>> {
    with!(heap, |handle| front::allocate_zeroed(handle, layout))
}

/// # Safety
/// As for [`front::deallocate`].
#[cold]
#[inline(never)]
unsafe fn deallocate(heap: &'static FamilyCore, ptr: NonNull<u8>, layout: Layout) {
    match heap.classes() {
        // SAFETY: the same contract, here and below.
        Classes::Natural => unsafe { deallocate_any::<false>(heap, ptr, layout) },
        Classes::Spaced => {
            // SAFETY: as above.
            let is_taken = |hot| unsafe { front::deallocate_if_cached(hot, ptr, layout) };
            if !Hot::<true>::of(heap).is_some_and(is_taken) {
                // SAFETY: as above.
                unsafe { deallocate_any::<true>(heap, ptr, layout) };
            }
        }
    }
}

/// # Safety
/// As for [`front::deallocate`].
#[inline(never)]
unsafe fn deallocate_any<const SPACED: bool>(heap: &'static FamilyCore, ptr: NonNull<u8>, layout: Layout) {
    // SAFETY: the same contract.
    unsafe { front::deallocate(Any::<SPACED>(heap), ptr, layout) }
}

/// # Safety
/// As for [`front::grow`].
#[cold]
#[inline(never)]
unsafe fn grow(heap: &'static FamilyCore, ptr: NonNull<u8>, old: Layout, new: Layout) -> Option<NonNull<[u8]>> {
    // SAFETY: the same contract.
    with!(heap, |handle| unsafe { front::grow(handle, ptr, old, new) })
}

/// # Safety
/// As for [`front::grow_zeroed`].
#[cold]
#[inline(never)]
unsafe fn grow_zeroed(heap: &'static FamilyCore, ptr: NonNull<u8>, old: Layout, new: Layout) -> Option<NonNull<[u8]>> {
    // SAFETY: the same contract.
    with!(heap, |handle| unsafe { front::grow_zeroed(handle, ptr, old, new) })
}

/// # Safety
/// As for [`front::shrink`].
#[cold]
#[inline(never)]
unsafe fn shrink(heap: &'static FamilyCore, ptr: NonNull<u8>, old: Layout, new: Layout) -> Option<NonNull<[u8]>> {
    // SAFETY: the same contract.
    with!(heap, |handle| unsafe { front::shrink(handle, ptr, old, new) })
}
