//! What the calls of this layer need of an allocator: its family's core, and the calling thread's cache of it.

use super::Family;
use crate::checks::Checks;
use crate::family::FamilyCore;
use crate::magazine::{Cache, CacheSlot};

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

    /// The logarithm of a slab's bytes.
    fn unit_shift(&self) -> u32;
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
        self.slot().get()
    }

    #[inline(always)]
    fn checks(&self) -> Checks {
        F::CHECKS
    }

    #[inline(always)]
    fn unit_shift(&self) -> u32 {
        const { F::SLAB_BYTES.trailing_zeros() }
    }
}

/// An allocator's value, which lends the handle that its calls are made with.
pub trait Lend {
    /// The handle, without what the value owns.
    type Handle: Handle;

    /// The handle of this value.
    fn lend(&self) -> Self::Handle;
}

impl<F: Family> Lend for F {
    type Handle = F;

    #[inline(always)]
    fn lend(&self) -> F {
        *self
    }
}
