//! The one interface through which every allocator is measured.
//!
//! All calls are dispatched statically and inlined as far as the allocator's own crate permits: what is measured is what a
//! program gets that names the allocator. Collections take the allocator's own `Allocator` where its crate has one for the
//! purpose, and [`In`] otherwise, which adds nothing to the calls but what the trait itself asks for.

use std::alloc::Layout;
use std::ptr::NonNull;

use allocator_api2::alloc::{AllocError, Allocator};

/// An allocator under measurement.
///
/// The four calls have the contract of [`std::alloc::GlobalAlloc`]: no layout of size 0, null for "out of memory".
pub(crate) trait Subject: Copy + Send + Sync + 'static {
    /// What collections are built over.
    type Collections: Allocator + Copy + Send + Sync + 'static;

    /// The value of [`Self::Collections`].
    fn collections() -> Self::Collections;

    /// # Safety
    /// - `layout.size()` is not 0.
    unsafe fn alloc(layout: Layout) -> *mut u8;

    /// # Safety
    /// - `layout.size()` is not 0.
    unsafe fn alloc_zeroed(layout: Layout) -> *mut u8;

    /// # Safety
    /// - `ptr` was allocated by this subject with `layout` and is freed once.
    unsafe fn dealloc(ptr: *mut u8, layout: Layout);

    /// # Safety
    /// - `ptr` was allocated by this subject with `layout`, and `new_size` is not 0.
    unsafe fn realloc(ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8;

    /// Called once, before anything is allocated.
    fn start() {}

    /// Called between rounds, when nothing is allocated. Only an arena needs it.
    fn reset() {}

    /// Doors to `count` families. An allocator without families gives the same door `count` times.
    fn doors(count: usize) -> Vec<Door> {
        vec![Door { alloc: Self::alloc, dealloc: Self::dealloc }; count]
    }
}

/// Allocate and free of one family, through pointers so that a program can pick the family at run time.
#[derive(Clone, Copy)]
pub(crate) struct Door {
    pub(crate) alloc: unsafe fn(Layout) -> *mut u8,
    pub(crate) dealloc: unsafe fn(*mut u8, Layout),
}

/// Any subject as an `Allocator`.
#[derive(Clone, Copy)]
pub(crate) struct In<S>(pub(crate) S);

/// What the `Allocator` trait returns, from what `GlobalAlloc` does.
#[inline(always)]
fn slice(ptr: *mut u8, size: usize) -> Result<NonNull<[u8]>, AllocError> {
    match NonNull::new(ptr) {
        Some(ptr) => Ok(NonNull::slice_from_raw_parts(ptr, size)),
        None => Err(AllocError),
    }
}

/// A dangling pointer for a layout of size 0.
#[inline(always)]
fn dangling(layout: Layout) -> NonNull<[u8]> {
    let ptr = std::ptr::without_provenance_mut(layout.align());
    // SAFETY: an alignment is never 0.
    NonNull::slice_from_raw_parts(unsafe { NonNull::new_unchecked(ptr) }, 0)
}

// SAFETY: memory comes from one allocator per `S`, whatever the value, so every copy frees what any other allocated, and it
// stays where it is until it is freed.
unsafe impl<S: Subject> Allocator for In<S> {
    #[inline(always)]
    fn allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        if layout.size() == 0 {
            return Ok(dangling(layout));
        }
        // SAFETY: the size is not 0.
        slice(unsafe { S::alloc(layout) }, layout.size())
    }

    #[inline(always)]
    fn allocate_zeroed(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        if layout.size() == 0 {
            return Ok(dangling(layout));
        }
        // SAFETY: the size is not 0.
        slice(unsafe { S::alloc_zeroed(layout) }, layout.size())
    }

    #[inline(always)]
    unsafe fn deallocate(&self, ptr: NonNull<u8>, layout: Layout) {
        if layout.size() != 0 {
            // SAFETY: the caller's pointer and layout; sizes other than 0 came from `S::alloc`.
            unsafe { S::dealloc(ptr.as_ptr(), layout) }
        }
    }

    #[inline(always)]
    unsafe fn grow(&self, ptr: NonNull<u8>, old: Layout, new: Layout) -> Result<NonNull<[u8]>, AllocError> {
        if old.size() == 0 {
            return self.allocate(new);
        }
        assert_eq!(old.align(), new.align(), "no workload changes an alignment");
        // SAFETY: the caller's pointer and layout, and the new size is at least the old one, which is not 0.
        slice(unsafe { S::realloc(ptr.as_ptr(), old, new.size()) }, new.size())
    }

    #[inline(always)]
    unsafe fn shrink(&self, ptr: NonNull<u8>, old: Layout, new: Layout) -> Result<NonNull<[u8]>, AllocError> {
        if new.size() == 0 {
            // SAFETY: the caller's pointer and layout.
            unsafe { self.deallocate(ptr, old) };
            return Ok(dangling(new));
        }
        assert_eq!(old.align(), new.align(), "no workload changes an alignment");
        // SAFETY: the caller's pointer and layout, and neither size is 0.
        slice(unsafe { S::realloc(ptr.as_ptr(), old, new.size()) }, new.size())
    }
}
