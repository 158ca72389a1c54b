//! The doors of `GlobalAlloc`, whose layouts come back exactly as they were: hardened families mark what follows `size`.

use core::alloc::Layout;
use core::ptr::NonNull;

use super::{
    Handle, allocate, allocate_zeroed, deallocate, grow, hardened, has_right_tag, noted::deallocate_noted, shrink,
    slab_class, slice,
};

#[inline(always)]
fn marked<H: Handle>(handle: H, memory: Option<NonNull<[u8]>>, layout: Layout) -> Option<NonNull<[u8]>> {
    if handle.checks().is_hardened() {
        memory.inspect(|&memory| hardened::mark(handle, memory, layout))
    } else {
        memory
    }
}

/// `allocate` for a layout that will come back as it is.
#[cfg_attr(not(debug_assertions), inline(always))]
#[cfg_attr(debug_assertions, inline)]
#[must_use]
pub fn allocate_exact<H: Handle>(handle: H, layout: Layout) -> Option<NonNull<[u8]>> {
    marked(handle, allocate(handle, layout), layout)
}

/// `allocate_zeroed` for a layout that will come back as it is; only the first `size` bytes are sure to read zero.
#[cfg_attr(not(debug_assertions), inline(always))]
#[cfg_attr(debug_assertions, inline)]
#[must_use]
pub fn allocate_zeroed_exact<H: Handle>(handle: H, layout: Layout) -> Option<NonNull<[u8]>> {
    marked(handle, allocate_zeroed(handle, layout), layout)
}

/// `deallocate` for a layout that is the one it was allocated with.
///
/// # Safety
/// As for `deallocate`, and the size is the requested one if the memory came from one of these doors.
#[cfg_attr(not(debug_assertions), inline(always))]
#[cfg_attr(debug_assertions, inline)]
pub unsafe fn deallocate_exact<H: Handle>(handle: H, ptr: NonNull<u8>, layout: Layout) {
    match slab_class(handle, layout) {
        Some(class) if handle.checks().is_hardened() && layout.size() != 0 => {
            // SAFETY: the same contract.
            unsafe { deallocate_noted::<H, true>(handle, ptr.as_ptr().expose_provenance(), layout, class) };
        }
        class => {
            if handle.checks().is_hardened() && class.is_none() {
                hardened::verify_large(handle, ptr, layout);
            }
            // SAFETY: the same contract.
            unsafe { deallocate(handle, ptr, layout) }
        }
    }
}

/// What `allocate` returns if the calling thread's cache has a slot, where the family keeps no states; otherwise `None`, and nothing
/// has happened.
#[cfg_attr(not(debug_assertions), inline(always))]
#[cfg_attr(debug_assertions, inline)]
#[must_use]
pub(crate) fn allocate_if_cached<H: Handle>(handle: H, layout: Layout) -> Option<NonNull<[u8]>> {
    if handle.checks().keeps_states() || layout.size() == 0 {
        return None;
    }
    let class = slab_class(handle, layout)?;
    handle.cache().magazine(class).pop().map(|address| slice(address, class.slot_bytes()))
}

/// `deallocate_exact` if the calling thread's cache tells that the slot is the family's, and takes it; otherwise `false`, and nothing
/// has happened.
///
/// # Safety
/// As for `deallocate_exact`, if the allocation is this family's. Tags tell apart whose a slot is.
#[cfg_attr(not(debug_assertions), inline(always))]
#[cfg_attr(debug_assertions, inline)]
pub(crate) unsafe fn deallocate_if_cached<H: Handle>(handle: H, ptr: NonNull<u8>, layout: Layout) -> bool {
    let Some(class) = slab_class(handle, layout) else { return false };
    let (cache, address) = (handle.cache(), ptr.as_ptr().expose_provenance());
    if layout.size() == 0 || !has_right_tag(handle, cache, class, address) {
        return false;
    }
    if handle.checks().keeps_states() {
        // SAFETY: the same contract; the tag says that it is this family's.
        unsafe { deallocate_noted::<H, true>(handle, address, layout, class) };
        return true;
    }
    cache.magazine(class).push(address)
}

/// Whether the calling thread's cache tells that an allocation is a slot of the family's.
#[inline(always)]
pub(crate) fn is_cached_slot<H: Handle>(handle: H, ptr: NonNull<u8>, layout: Layout) -> bool {
    slab_class(handle, layout)
        .is_some_and(|class| layout.size() != 0 && has_right_tag(handle, handle.cache(), class, ptr.addr().get()))
}

/// `grow` or `shrink`, as the sizes have it, for layouts that come back as they are.
///
/// # Safety
/// As for these, and as for `deallocate_exact`.
#[cfg_attr(not(debug_assertions), inline(always))]
#[cfg_attr(debug_assertions, inline)]
#[must_use]
pub unsafe fn resize_exact<H: Handle>(handle: H, ptr: NonNull<u8>, old: Layout, new: Layout) -> Option<NonNull<[u8]>> {
    if handle.checks().is_hardened() {
        hardened::verify_exact(handle, ptr, old);
    }
    if new.size() >= old.size() {
        // SAFETY: the same contract, the order of the sizes was just tested.
        marked(handle, unsafe { grow(handle, ptr, old, new) }, new)
    } else {
        // SAFETY: as above, with the other order.
        marked(handle, unsafe { shrink(handle, ptr, old, new) }, new)
    }
}
