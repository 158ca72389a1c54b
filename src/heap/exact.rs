//! The doors of `GlobalAlloc`, whose layouts come back exactly as they were: hardened families mark what follows `size`.

use core::alloc::Layout;
use core::ptr::NonNull;

use super::{
    Family, allocate, allocate_zeroed, deallocate, grow, hardened, noted::deallocate_noted, shrink, slab_class,
};

#[inline(always)]
fn marked<F: Family>(memory: Option<NonNull<[u8]>>, layout: Layout) -> Option<NonNull<[u8]>> {
    if F::CHECKS.is_hardened() { memory.inspect(|&memory| hardened::mark::<F>(memory, layout)) } else { memory }
}

/// [`allocate`] for a layout that will come back as it is.
#[cfg_attr(not(debug_assertions), inline(always))]
#[cfg_attr(debug_assertions, inline)]
#[must_use]
pub fn allocate_exact<F: Family>(layout: Layout) -> Option<NonNull<[u8]>> {
    marked::<F>(allocate::<F>(layout), layout)
}

/// [`allocate_zeroed`] for a layout that will come back as it is; only the first `size` bytes are sure to read zero.
#[cfg_attr(not(debug_assertions), inline(always))]
#[cfg_attr(debug_assertions, inline)]
#[must_use]
pub fn allocate_zeroed_exact<F: Family>(layout: Layout) -> Option<NonNull<[u8]>> {
    marked::<F>(allocate_zeroed::<F>(layout), layout)
}

/// [`deallocate`] for a layout that is the one it was allocated with.
///
/// # Safety
/// As for [`deallocate`], and the size is the requested one if the memory came from one of these doors.
#[cfg_attr(not(debug_assertions), inline(always))]
#[cfg_attr(debug_assertions, inline)]
pub unsafe fn deallocate_exact<F: Family>(ptr: NonNull<u8>, layout: Layout) {
    match slab_class::<F>(layout) {
        Some(class) if F::CHECKS.is_hardened() && layout.size() != 0 => {
            // SAFETY: the same contract.
            unsafe { deallocate_noted::<F, true>(ptr.as_ptr().expose_provenance(), layout, class) };
        }
        class => {
            if F::CHECKS.is_hardened() && class.is_none() {
                hardened::verify_large::<F>(ptr, layout);
            }
            // SAFETY: the same contract.
            unsafe { deallocate::<F>(ptr, layout) }
        }
    }
}

/// [`grow`] or [`shrink`], as the sizes have it, for layouts that come back as they are.
///
/// # Safety
/// As for these, and as for [`deallocate_exact`].
#[cfg_attr(not(debug_assertions), inline(always))]
#[cfg_attr(debug_assertions, inline)]
#[must_use]
pub unsafe fn resize_exact<F: Family>(ptr: NonNull<u8>, old: Layout, new: Layout) -> Option<NonNull<[u8]>> {
    if F::CHECKS.is_hardened() {
        hardened::verify_exact::<F>(ptr, old);
    }
    if new.size() >= old.size() {
        // SAFETY: the same contract, the order of the sizes was just tested.
        marked::<F>(unsafe { grow::<F>(ptr, old, new) }, new)
    } else {
        // SAFETY: as above, with the other order.
        marked::<F>(unsafe { shrink::<F>(ptr, old, new) }, new)
    }
}
