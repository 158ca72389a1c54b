//! Which of the two modes that keep states a family has.

use core::alloc::Layout;

use super::{Family, checked, hardened};
use crate::size_class::SizeClass;

/// [`allocate`](super::allocate) where the family keeps states. `None`: out of memory.
#[inline(always)]
pub(super) fn allocate_noted<F: Family>(class: SizeClass) -> Option<usize> {
    if F::CHECKS.is_hardened() { hardened::allocate::<F>(class) } else { checked::allocate::<F>(class) }
}

/// [`allocate_zeroed`](super::allocate_zeroed) where the family keeps states. `None`: out of memory.
#[inline(always)]
pub(super) fn allocate_noted_zeroed<F: Family>(class: SizeClass) -> Option<usize> {
    // What a hardened family has free reads zero.
    if F::CHECKS.is_hardened() { hardened::allocate::<F>(class) } else { checked::allocate_zeroed::<F>(class) }
}

/// [`deallocate`](super::deallocate) where the family keeps states. `EXACT`: the layout is the one it was allocated with.
///
/// # Safety
/// As for [`deallocate`](super::deallocate).
#[inline(always)]
pub(super) unsafe fn deallocate_noted<F: Family, const EXACT: bool>(address: usize, layout: Layout, class: SizeClass) {
    if F::CHECKS.is_hardened() {
        // SAFETY: the same contract.
        unsafe { hardened::deallocate::<F, EXACT>(address, layout, class) };
    } else {
        // SAFETY: the same contract.
        unsafe { checked::deallocate::<F>(address, layout, class) };
    }
}
