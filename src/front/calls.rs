//! The five calls of the proof of concept, and `memalign`: C's null rules over the same engine.

use core::alloc::Layout;
use core::ptr::NonNull;

use super::{Handle, allocate, allocate_zeroed, deallocate, grow, grow_zeroed, shrink, verify_empty};
use crate::size_class::Classes;

#[inline(always)]
fn layout(size: usize) -> Option<Layout> {
    // Every slot is aligned as its class is, and every mapping to a page: an alignment of 1 asks for no more.
    if size == 0 { None } else { Layout::from_size_align(size, 1).ok() }
}

#[inline(always)]
fn start(memory: Option<NonNull<[u8]>>) -> *mut u8 {
    memory.map_or(core::ptr::null_mut(), |memory| memory.cast::<u8>().as_ptr())
}

#[inline(always)]
pub(super) fn malloc<H: Handle>(handle: H, size: usize) -> *mut u8 {
    start(layout(size).and_then(|layout| allocate(handle, layout)))
}

#[inline(always)]
pub(super) fn calloc<H: Handle>(handle: H, size: usize) -> *mut u8 {
    start(layout(size).and_then(|layout| allocate_zeroed(handle, layout)))
}

#[inline(always)]
pub(super) fn memalign<H: Handle>(handle: H, align: usize, size: usize) -> *mut u8 {
    if size == 0 {
        return core::ptr::null_mut();
    }
    // It is freed with a size alone, which must say the class.
    let layout = match handle.classes() {
        Classes::Natural => Layout::from_size_align(size.max(align), align),
        Classes::Spaced => Layout::from_size_align(size, align).map(|layout| layout.pad_to_align()),
    };
    start(layout.ok().and_then(|layout| allocate(handle, layout)))
}

/// # Safety
/// As for [`Family::free`](super::Family::free).
#[inline(always)]
pub(super) unsafe fn free<H: Handle>(handle: H, ptr: *mut u8, size: usize) {
    match (NonNull::new(ptr), layout(size)) {
        // SAFETY: live, and allocated with this size; the class does not depend on the alignment once the size is its own.
        (Some(ptr), Some(layout)) => unsafe { deallocate(handle, ptr, layout) },
        (Some(ptr), None) => verify_empty(handle, ptr, Layout::new::<()>()),
        (None, _) => {}
    }
}

/// # Safety
/// As for [`Family::remalloc`](super::Family::remalloc).
#[inline(always)]
pub(super) unsafe fn remalloc<H: Handle>(handle: H, ptr: *mut u8, old_size: usize, new_size: usize) -> *mut u8 {
    let Some(old_ptr) = NonNull::new(ptr) else { return malloc(handle, new_size) };
    let Some(old) = layout(old_size) else {
        verify_empty(handle, old_ptr, Layout::new::<()>());
        return malloc(handle, new_size);
    };
    if new_size == 0 {
        // SAFETY: the same contract.
        unsafe { free(handle, ptr, old_size) };
        return core::ptr::null_mut();
    }
    let Some(new) = layout(new_size) else { return core::ptr::null_mut() };
    if new_size >= old_size {
        // SAFETY: live, allocated with `old`, and `new` is at least as long.
        start(unsafe { grow(handle, old_ptr, old, new) })
    } else {
        // SAFETY: live, allocated with `old`, and `new` is shorter.
        start(unsafe { shrink(handle, old_ptr, old, new) })
    }
}

/// # Safety
/// As for [`Family::recalloc`](super::Family::recalloc).
#[inline(always)]
pub(super) unsafe fn recalloc<H: Handle>(handle: H, ptr: *mut u8, old_size: usize, new_size: usize) -> *mut u8 {
    match (NonNull::new(ptr), layout(old_size), layout(new_size)) {
        (Some(ptr), Some(old), Some(new)) if new_size >= old_size => {
            // SAFETY: live, allocated with `old`, and `new` is at least as long.
            start(unsafe { grow_zeroed(handle, ptr, old, new) })
        }
        (Some(_), Some(_), _) => {
            // SAFETY: the same contract; there is no tail to clear.
            unsafe { remalloc(handle, ptr, old_size, new_size) }
        }
        (Some(ptr), None, _) => {
            verify_empty(handle, ptr, Layout::new::<()>());
            calloc(handle, new_size)
        }
        (None, ..) => calloc(handle, new_size),
    }
}
