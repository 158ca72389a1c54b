//! What the calls of this layer need of an allocator: its family's core, and the calling thread's cache of it.

use core::alloc::Layout;
use core::ptr::NonNull;

use super::Family;
use crate::checks::Checks;
use crate::family::FamilyCore;
use crate::magazine::{Cache, CacheSlot};
use crate::size_class::Classes;

/// A family by value. That of a static family is the type's own value: no bytes, and all that is
/// asked of it is a constant, or one load.
///
/// # Safety
///
/// The core and the slot are the same at every call of a thread, and no other family's; options
/// never change.
pub unsafe trait Handle: Copy {
    /// What all threads share of the family.
    fn core(&self) -> &'static FamilyCore;

    /// The calling thread's slot, which does not leave the call.
    fn slot(&self) -> &'static CacheSlot;

    /// The calling thread's cache, or the empty one.
    fn cache(&self) -> &'static Cache;

    /// What is verified when memory comes back.
    fn checks(&self) -> Checks;

    /// Which sizes slots have.
    fn classes(&self) -> Classes;

    /// The logarithm of a slab's bytes.
    fn unit_shift(&self) -> u32;

    /// Whether slots of the class with this index come from slabs; what is longer is mapped.
    fn has_slots_of(&self, class: usize) -> bool;
}

// SAFETY: `Family` promises the same static, and the same slot of the calling thread, at every call;
// the options are constants.
unsafe impl<F: Family> Handle for F {
    #[inline(always)]
    fn core(&self) -> &'static FamilyCore {
        F::__core()
    }

    #[inline(always)]
    fn slot(&self) -> &'static CacheSlot {
        // SAFETY: `Family` promises the calling thread's slot, which lives as long as the thread; the
        // reference does not leave it, because `CacheSlot` is not `Sync`.
        unsafe { &*F::__slot() }
    }

    #[inline(always)]
    fn cache(&self) -> &'static Cache {
        self.slot().get(const { F::CLASSES.count(F::SLAB_BYTES) })
    }

    #[inline(always)]
    fn checks(&self) -> Checks {
        F::CHECKS
    }

    #[inline(always)]
    fn classes(&self) -> Classes {
        F::CLASSES
    }

    #[inline(always)]
    fn unit_shift(&self) -> u32 {
        const { F::SLAB_BYTES.trailing_zeros() }
    }

    #[inline(always)]
    fn has_slots_of(&self, class: usize) -> bool {
        class <= const { F::CLASSES.largest(F::SLAB_BYTES) }
    }
}

/// An allocator's value: what the traits' calls go to.
pub trait Engine {
    /// As `allocate`.
    fn allocate(&self, layout: Layout) -> Option<NonNull<[u8]>>;

    /// As `allocate_zeroed`.
    fn allocate_zeroed(&self, layout: Layout) -> Option<NonNull<[u8]>>;

    /// As `deallocate`.
    ///
    /// # Safety
    /// The same.
    unsafe fn deallocate(&self, ptr: NonNull<u8>, layout: Layout);

    /// As `grow`.
    ///
    /// # Safety
    /// The same.
    unsafe fn grow(&self, ptr: NonNull<u8>, old: Layout, new: Layout) -> Option<NonNull<[u8]>>;

    /// As `grow_zeroed`.
    ///
    /// # Safety
    /// The same.
    unsafe fn grow_zeroed(&self, ptr: NonNull<u8>, old: Layout, new: Layout) -> Option<NonNull<[u8]>>;

    /// As `shrink`.
    ///
    /// # Safety
    /// The same.
    unsafe fn shrink(&self, ptr: NonNull<u8>, old: Layout, new: Layout) -> Option<NonNull<[u8]>>;
}

impl<F: Family> Engine for F {
    #[inline(always)]
    fn allocate(&self, layout: Layout) -> Option<NonNull<[u8]>> {
        super::allocate(*self, layout)
    }

    #[inline(always)]
    fn allocate_zeroed(&self, layout: Layout) -> Option<NonNull<[u8]>> {
        super::allocate_zeroed(*self, layout)
    }

    #[inline(always)]
    unsafe fn deallocate(&self, ptr: NonNull<u8>, layout: Layout) {
        // SAFETY: the same contract, here and below.
        unsafe { super::deallocate(*self, ptr, layout) }
    }

    #[inline(always)]
    unsafe fn grow(&self, ptr: NonNull<u8>, old: Layout, new: Layout) -> Option<NonNull<[u8]>> {
        // SAFETY: as above.
        unsafe { super::grow(*self, ptr, old, new) }
    }

    #[inline(always)]
    unsafe fn grow_zeroed(&self, ptr: NonNull<u8>, old: Layout, new: Layout) -> Option<NonNull<[u8]>> {
        // SAFETY: as above.
        unsafe { super::grow_zeroed(*self, ptr, old, new) }
    }

    #[inline(always)]
    unsafe fn shrink(&self, ptr: NonNull<u8>, old: Layout, new: Layout) -> Option<NonNull<[u8]>> {
        // SAFETY: as above.
        unsafe { super::shrink(*self, ptr, old, new) }
    }
}
