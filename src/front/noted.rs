//! Which of the two modes that keep states a family has.

use core::alloc::Layout;

use super::{Handle, checked, hardened};
use crate::size_class::SizeClass;

/// [`allocate`](super::allocate) where the family keeps states. `None`: out of memory.
#[inline(always)]
pub(super) fn allocate_noted<H: Handle>(handle: H, class: SizeClass) -> Option<usize> {
    if handle.checks().is_hardened() { hardened::allocate(handle, class) } else { checked::allocate(handle, class) }
}

/// [`allocate_zeroed`](super::allocate_zeroed) where the family keeps states. `None`: out of memory.
#[inline(always)]
pub(super) fn allocate_noted_zeroed<H: Handle>(handle: H, class: SizeClass) -> Option<usize> {
    // What a hardened family has free reads zero.
    if handle.checks().is_hardened() {
        hardened::allocate(handle, class)
    } else {
        checked::allocate_zeroed(handle, class)
    }
}

/// [`deallocate`](super::deallocate) where the family keeps states. `EXACT`: the layout is the one it was allocated with.
///
/// # Safety
/// As for [`deallocate`](super::deallocate).
#[inline(always)]
pub(super) unsafe fn deallocate_noted<H: Handle, const EXACT: bool>(
    handle: H,
    address: usize,
    layout: Layout,
    class: SizeClass,
) {
    if handle.checks().is_hardened() {
        // SAFETY: the same contract.
        unsafe { hardened::deallocate::<H, EXACT>(handle, address, layout, class) };
    } else {
        // SAFETY: the same contract.
        unsafe { checked::deallocate(handle, address, layout, class) };
    }
}
