//! Allocate and deallocate where a family keeps states: the same magazines, and one byte moved with each slot.

use core::alloc::Layout;

use super::{Cache, CacheSlot, Family, allocate_exhausted, cache, put_back, slot};
use crate::family::FamilyCore;
use crate::size_class::SizeClass;
use crate::states::{Place, State, States, is_behind_states, region_of};

/// The state of a slot.
///
/// # Safety
/// The address lies in a region of this family in which it has opened a slab.
#[inline(always)]
pub(super) unsafe fn place<F: Family>(address: usize, class: SizeClass) -> Place {
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
    let region = region_of(address, const { F::SLAB_BYTES.trailing_zeros() });
    // A live byte in the class's table says as much as the slab's tag, if only the region is the family's.
    if (cache.region() == region || is_other_region::<F>(cache, address, class))
        && is_behind_states(address, const { F::SLAB_BYTES.trailing_zeros() })
        && address & (class.slot_bytes() - 1) == 0
    {
        // SAFETY: a region of this family, which has a slab.
        let place = unsafe { place::<F>(address, class) };
        if place.get() == State::LIVE && cache.magazine(class).push(address) {
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

/// Whether a slab of this family and class holds an address outside of the region that was last freed in; if so that changes.
#[inline(never)]
pub(super) fn is_other_region<F: Family>(cache: &Cache, address: usize, class: SizeClass) -> bool {
    let unit_shift = const { F::SLAB_BYTES.trailing_zeros() };
    // The empty cache has a tag that no slab has, so nothing is stored to it (M3 in `magazine`).
    // Bits above those that a lookup uses count here: the address is about to be used.
    let right = cache.view().tag(address, unit_shift) == cache.magazine(class).tag() && F::__core().holds(address);
    if right {
        cache.set_region(region_of(address, unit_shift));
    }
    right
}

#[cold]
#[inline(never)]
pub(super) fn freed_twice<F: Family>(address: usize, class: SizeClass) -> ! {
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
