//! Allocate and deallocate where a family keeps states: the same magazines, and one byte moved with each slot.

use core::alloc::Layout;

use super::{Cache, CacheSlot, Family, allocate_exhausted, cache, put_back, slot};
use crate::family::FamilyCore;
use crate::magazine::Magazine;
use crate::size_class::SizeClass;
use crate::states::{Place, State, States, slabs_of};

/// Where the family has the states of a class's slots.
#[inline(always)]
pub(super) const fn states<F: Family>(class: SizeClass) -> States {
    States::new(const { F::SLAB_BYTES.trailing_zeros() }, class)
}

/// The state of a slot.
///
/// # Safety
/// The address lies in a region of this family in which it has opened a slab.
#[inline(always)]
pub(super) unsafe fn place<F: Family>(address: usize, class: SizeClass) -> Place {
    // SAFETY: the same contract.
    unsafe { states::<F>(class).place(address) }
}

/// What becomes of the state of the slot of this class that begins at an address, if that lies in the region that was last freed
/// in, else `false`. A live byte in the class's table says as much as the slab's tag.
#[inline(always)]
pub(super) fn in_last_region<F: Family>(
    cache: &Cache,
    address: usize,
    class: SizeClass,
    free: impl FnOnce(&Magazine, Place) -> bool,
) -> bool {
    let (states, slabs, magazine) = (states::<F>(class), cache.slabs(), cache.magazine(class));
    let index = states.index(slabs, address);
    if index >= magazine.region_slots() {
        return false;
    }
    // SAFETY: `slabs` was noted for a region of this family, which has a slab; before that it has no slots.
    free(magazine, unsafe { states.place_at(slabs, index) })
}

/// A slot of the thread's cache, if there is one.
#[inline(always)]
fn pop<F: Family>(class: SizeClass) -> Option<usize> {
    let address = cache::<F>().magazine(class).pop()?;
    // SAFETY: what is in a magazine is a slot of its family and class.
    if !unsafe { place::<F>(address, class) }.go(State::CACHED, State::LIVE) {
        freed_twice::<F>(address, class);
    }
    Some(address)
}

/// A slot; `None`: out of memory.
#[inline(always)]
pub(super) fn allocate<F: Family>(class: SizeClass) -> Option<usize> {
    match pop::<F>(class) {
        Some(address) => Some(address),
        None => match allocate_slowly::<F>(class) {
            (0, _) => None,
            (address, _) => Some(address),
        },
    }
}

/// A slot that reads zero; `None`: out of memory.
#[inline(always)]
pub(super) fn allocate_zeroed<F: Family>(class: SizeClass) -> Option<usize> {
    let Some(address) = pop::<F>(class) else { return allocate_zeroed_slowly::<F>(class) };
    clear(address, class);
    Some(address)
}

#[inline(always)]
fn clear(address: usize, class: SizeClass) {
    let memory = core::ptr::with_exposed_provenance_mut::<u8>(address);
    // SAFETY: a slot of that length that was just allocated.
    unsafe { memory.write_bytes(0, class.slot_bytes()) };
}

/// Frees a slot, if it is one and live; otherwise the process ends.
///
/// # Safety
/// If `address` is a live slot of this family that `layout` fits, nobody uses it any more.
#[inline(always)]
pub(super) unsafe fn deallocate<F: Family>(address: usize, layout: Layout, class: SizeClass) {
    let cache = cache::<F>();
    // SAFETY: the same contract.
    if !unsafe { push::<F>(cache, address, class) } {
        // SAFETY: the same contract.
        unsafe { deallocate_slowly::<F>(address, layout) };
    }
}

/// Frees a live slot of the region that was last freed in, if the array has room; otherwise `false`.
///
/// # Safety
/// As for [`deallocate`].
#[inline(always)]
unsafe fn push<F: Family>(cache: &Cache, address: usize, class: SizeClass) -> bool {
    in_last_region::<F>(cache, address, class, |magazine, place| {
        let freed = place.get() == State::LIVE && magazine.push(address);
        if freed {
            place.set(State::CACHED);
        }
        freed
    })
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

/// The other half of [`allocate_zeroed`].
#[cold]
#[inline(never)]
fn allocate_zeroed_slowly<F: Family>(class: SizeClass) -> Option<usize> {
    let (address, zeroed) = allocate_slowly::<F>(class);
    if address == 0 {
        return None;
    }
    if !zeroed {
        clear(address, class);
    }
    Some(address)
}

/// Whether a slab of this family and class holds an address outside of the region that was last freed in; if so that changes.
pub(super) fn is_other_region<F: Family>(cache: &Cache, address: usize, class: SizeClass) -> bool {
    let unit_shift = const { F::SLAB_BYTES.trailing_zeros() };
    let slabs = slabs_of(address, unit_shift);
    // The empty cache has a tag that no slab has, so nothing is stored to it (M3 in `magazine`).
    // Bits above those that a lookup uses count here: the address is about to be used.
    let other = cache.slabs() != slabs
        && cache.view().tag(address, unit_shift) == cache.magazine(class).tag()
        && F::__core().holds(address);
    if other {
        cache.set_slabs(slabs, |class| states::<F>(class).slots());
    }
    other
}

#[cold]
#[inline(never)]
pub(super) fn freed_twice<F: Family>(address: usize, class: SizeClass) -> ! {
    F::__core().report_freed_twice(address, class)
}

/// The other half of [`deallocate`]: the slot is in another region, the array is full, the thread has no cache, or the free is wrong.
///
/// # Safety
/// As for [`deallocate`].
#[inline(never)]
unsafe fn deallocate_slowly<F: Family>(address: usize, layout: Layout) {
    let (cache, class) = (cache::<F>(), F::__core().class_of(layout));
    // SAFETY: the same contract, here and below.
    if !(is_other_region::<F>(cache, address, class) && unsafe { push::<F>(cache, address, class) }) {
        // SAFETY: as above.
        unsafe { release(F::__core(), slot::<F>(), address, layout) };
    }
}

/// # Safety
/// As for [`deallocate`].
#[cold]
#[inline(never)]
unsafe fn release(family: &'static FamilyCore, slot: &CacheSlot, address: usize, layout: Layout) {
    family.verify_live(address, layout).set(State::CACHED);
    // SAFETY: it was live, and the client gives it up.
    unsafe { put_back(family, slot, address, family.class_of(layout)) };
}
