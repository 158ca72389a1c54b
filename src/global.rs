//! Layer 10: `GlobalAlloc` for every family, so that any of them can be a program's `#[global_allocator]`.
//!
//! [`__impl_global_alloc!`](crate::__impl_global_alloc) forwards to the engine and turns its `Option` into the null
//! pointer that `GlobalAlloc` knows. It holds no state and no rule of its own.

use core::alloc::Layout;
use core::ptr::{self, NonNull};

use crate::__private::Handle;

/// The start of a slot, or null.
#[doc(hidden)]
#[inline(always)]
pub fn slot_start(slot: Option<NonNull<[u8]>>) -> *mut u8 {
    slot.map_or(ptr::null_mut(), |slot| slot.as_ptr().cast())
}

/// `GlobalAlloc::realloc` for a handle's family.
///
/// # Safety
///
/// - `ptr` is allocated by that family, and `layout` fits it;
/// - `new_size` is not zero and, rounded up to `layout.align()`, does not exceed `isize::MAX`.
#[doc(hidden)]
#[inline(always)]
pub unsafe fn reallocate<H: Handle>(handle: H, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
    // SAFETY: the alignment is that of a layout, and the caller promises that the rounded size does not overflow.
    let new_layout = unsafe { Layout::from_size_align_unchecked(new_size, layout.align()) };
    // SAFETY: an allocated pointer is not null.
    let ptr = unsafe { NonNull::new_unchecked(ptr) };
    // SAFETY: the caller's promise; an exact layout is what `GlobalAlloc` has.
    slot_start(unsafe { crate::__private::resize_exact(handle, ptr, layout, new_layout) })
}

/// Implements `GlobalAlloc` for the family `$family`.
#[doc(hidden)]
#[macro_export]
macro_rules! __impl_global_alloc {
    ($family:ident) => {
        // SAFETY: the engine neither unwinds nor asks the global allocator for memory, honours the layout it is given,
        // and keeps what it hands out allocated until it comes back.
        unsafe impl ::core::alloc::GlobalAlloc for $family {
            #[inline(always)]
            unsafe fn alloc(&self, layout: ::core::alloc::Layout) -> *mut u8 {
                $crate::__private::slot_start($crate::__private::allocate_exact(*self, layout))
            }

            #[inline(always)]
            unsafe fn alloc_zeroed(&self, layout: ::core::alloc::Layout) -> *mut u8 {
                $crate::__private::slot_start($crate::__private::allocate_zeroed_exact(*self, layout))
            }

            #[inline(always)]
            unsafe fn dealloc(&self, ptr: *mut u8, layout: ::core::alloc::Layout) {
                // SAFETY: an allocated pointer is not null.
                let ptr = unsafe { ::core::ptr::NonNull::new_unchecked(ptr) };
                // SAFETY: the caller promises that `ptr` is allocated by this family with this layout.
                unsafe { $crate::__private::deallocate_exact(*self, ptr, layout) }
            }

            #[inline(always)]
            unsafe fn realloc(&self, ptr: *mut u8, layout: ::core::alloc::Layout, new_size: usize) -> *mut u8 {
                // SAFETY: the caller's promise is the one asked for here.
                unsafe { $crate::__private::reallocate(*self, ptr, layout, new_size) }
            }
        }
    };
}
