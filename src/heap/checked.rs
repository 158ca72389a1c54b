//! Allocate and deallocate where a family keeps states: the same magazines, and one byte moved with each slot.

use core::alloc::Layout;

use super::{CacheSlot, Family, allocate_exhausted, cache, put_back, slot};
use crate::family::FamilyCore;
use crate::size_class::SizeClass;
use crate::states::{Place, State, States};

/// The state of a slot.
///
/// # Safety
/// A slab of this family and class holds the address.
#[inline(always)]
unsafe fn place<F: Family>(address: usize, class: SizeClass) -> Place {
    // SAFETY: the same contract.
    unsafe { States::new(const { F::SLAB_BYTES.trailing_zeros() }, class).place(address) }
}

/// A slot's address, 0 if out of memory, and whether it is known to read zero.
#[inline(always)]
pub(super) fn allocate<F: Family>(class: SizeClass) -> (usize, bool) {
    let Some(address) = cache::<F>().magazine(class).pop() else { return allocate_slowly::<F>(class) };
    // SAFETY: what is in a magazine is a slot of its family and class.
    if unsafe { place::<F>(address, class) }.go(State::CACHED, State::LIVE) {
        (address, false)
    } else {
        freed_twice::<F>(address, class)
    }
}

/// Frees a slot, if it is one and live; otherwise the process ends.
///
/// # Safety
/// If `address` is a live slot of this family that `layout` fits, nobody uses it any more.
#[inline(always)]
pub(super) unsafe fn deallocate<F: Family>(address: usize, layout: Layout, class: SizeClass) {
    let cache = cache::<F>();
    let magazine = cache.magazine(class);
    if cache.view().tag(address, const { F::SLAB_BYTES.trailing_zeros() }) == magazine.tag()
        && address & (class.slot_bytes() - 1) == 0
    {
        // SAFETY: the tag is that of a slab of this family and class.
        let place = unsafe { place::<F>(address, class) };
        if place.get() == State::LIVE && magazine.push(address) {
            place.set(State::CACHED);
            return;
        }
    }
    // SAFETY: the same contract.
    unsafe { deallocate_slowly::<F>(address, layout) };
}

/// The other half of [`allocate`]: the array is empty.
#[cold]
#[inline(never)]
fn allocate_slowly<F: Family>(class: SizeClass) -> (usize, bool) {
    let (address, zeroed) = allocate_exhausted::<F>(class);
    if address != 0 {
        // SAFETY: a slot of this family and class, from its magazine or its bin.
        unsafe { F::__core().make_live(address, class) };
    }
    (address, zeroed)
}

#[cold]
#[inline(never)]
fn freed_twice<F: Family>(address: usize, class: SizeClass) -> ! {
    F::__core().report_freed_twice(address, class)
}

/// The other half of [`deallocate`]: the array is full, the thread has no cache, or the free is wrong.
///
/// # Safety
/// As for [`deallocate`].
#[cold]
#[inline(never)]
unsafe fn deallocate_slowly<F: Family>(address: usize, layout: Layout) {
    // SAFETY: the same contract.
    unsafe { release(F::__core(), slot::<F>(), address, layout) };
}

/// # Safety
/// As for [`deallocate`].
unsafe fn release(family: &'static FamilyCore, slot: &CacheSlot, address: usize, layout: Layout) {
    family.verify_live(address, layout).set(State::CACHED);
    // SAFETY: it was live, and the client gives it up.
    unsafe { put_back(family, slot, address, family.class_of(layout)) };
}
