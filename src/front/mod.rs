//! Every branch on size: magazine, bin or large; allocate, zeroed, deallocate, grow and shrink, generic over the
//! family's [`Handle`].
//!
//! With a layout known at compile time all of it folds into a load, a compare and a few moves; what does not fit on the fast
//! path is a call. `allocate` and `deallocate` are this crate's two hot functions.

mod calls;
mod checked;
mod exact;
mod family;
#[cfg(all(test, unix, not(any(miri, loom))))]
mod flips;
mod handle;
mod hardened;
#[cfg(all(test, unix, not(any(miri, loom))))]
mod holds;
mod noted;
mod resize;

use core::alloc::Layout;
use core::ptr::NonNull;

pub use exact::{allocate_exact, allocate_zeroed_exact, deallocate_exact, resize_exact};
pub(crate) use exact::{allocate_if_cached, deallocate_if_cached, is_cached_slot};
pub use family::Family;
pub use handle::{Engine, Handle};
pub(crate) use resize::{grow, grow_zeroed, shrink};

use noted::{allocate_noted, allocate_noted_zeroed, deallocate_noted};

use crate::capacity::LINE_BYTES;
use crate::family::{FamilyCore, ThreadCache, is_look_due};
use crate::magazine::Cache;
use crate::magazine::CacheSlot;
use crate::size_class::SizeClass;
use crate::thread::{cache_for, make_room};
use crate::waiting;

/// The class of a layout that is served from slabs; `None` above that.
#[inline(always)]
fn slab_class<H: Handle>(handle: H, layout: Layout) -> Option<SizeClass> {
    let class = handle.classes().of(layout, handle.checks().least_slot_bytes());
    handle.has_slots_of(class.index()).then_some(class)
}

#[inline(always)]
fn slice(address: usize, bytes: usize) -> NonNull<[u8]> {
    // The provenance of every region is exposed where it is claimed; a client's pointer is only trusted for its address.
    let pointer = core::ptr::with_exposed_provenance_mut::<u8>(address);
    // SAFETY: slots lie inside regions, which do not begin at 0.
    NonNull::slice_from_raw_parts(unsafe { NonNull::new_unchecked(pointer) }, bytes)
}

#[inline(always)]
fn dangling(layout: Layout) -> NonNull<[u8]> {
    let pointer = core::ptr::without_provenance_mut::<u8>(layout.align());
    // SAFETY: an alignment is not 0.
    NonNull::slice_from_raw_parts(unsafe { NonNull::new_unchecked(pointer) }, 0)
}

/// Allocates the whole slot that a layout needs. `None`: out of memory. A size of 0 costs nothing.
#[cfg_attr(not(debug_assertions), inline(always))]
#[cfg_attr(debug_assertions, inline)]
#[must_use]
pub(crate) fn allocate<H: Handle>(handle: H, layout: Layout) -> Option<NonNull<[u8]>> {
    if layout.size() == 0 {
        return Some(dangling(layout));
    }
    let Some(class) = slab_class(handle, layout) else { return allocate_large(handle, layout) };
    if handle.checks().keeps_states() {
        return allocate_noted(handle, class).map(|address| slice(address, class.slot_bytes()));
    }
    allocate_slot(handle, class)
}

/// A slot of a class, where the family keeps no states. `None`: out of memory.
#[inline(always)]
fn allocate_slot<H: Handle>(handle: H, class: SizeClass) -> Option<NonNull<[u8]>> {
    let address = match handle.cache().magazine(class).pop() {
        Some(address) => address,
        None => match allocate_exhausted(handle, class) {
            0 => return None,
            address => address,
        },
    };
    Some(slice(address, class.slot_bytes()))
}

/// Like [`allocate`], and all of the slot reads zero.
#[cfg_attr(not(debug_assertions), inline(always))]
#[cfg_attr(debug_assertions, inline)]
#[must_use]
pub(crate) fn allocate_zeroed<H: Handle>(handle: H, layout: Layout) -> Option<NonNull<[u8]>> {
    if layout.size() == 0 {
        return Some(dangling(layout));
    }
    let Some(class) = slab_class(handle, layout) else { return allocate_large_zeroed(handle, layout) };
    if handle.checks().keeps_states() {
        return allocate_noted_zeroed(handle, class).map(|address| slice(address, class.slot_bytes()));
    }
    let (address, zeroed) = match handle.cache().magazine(class).pop() {
        Some(address) => (address, false),
        None => allocate_exhausted_zeroed(handle, class),
    };
    if address == 0 {
        return None;
    }
    let memory = slice(address, class.slot_bytes());
    if !zeroed {
        // SAFETY: a slot of `slot_bytes` that was just allocated.
        unsafe { memory.cast::<u8>().write_bytes(0, class.slot_bytes()) };
    }
    Some(memory)
}

/// Frees an allocation. Ends the process if the layout's class or the family is wrong, unless the family is unchecked.
///
/// # Safety
/// `ptr` is live, of this family, and `layout` fits it.
#[cfg_attr(not(debug_assertions), inline(always))]
#[cfg_attr(debug_assertions, inline)]
pub(crate) unsafe fn deallocate<H: Handle>(handle: H, ptr: NonNull<u8>, layout: Layout) {
    if layout.size() == 0 {
        return verify_empty(handle, ptr, layout);
    }
    let Some(class) = slab_class(handle, layout) else {
        // SAFETY: the same contract.
        return unsafe { deallocate_large(handle, ptr, layout) };
    };
    let address = ptr.as_ptr().expose_provenance();
    if handle.checks().keeps_states() {
        // SAFETY: the same contract.
        return unsafe { deallocate_noted::<H, false>(handle, address, layout, class) };
    }
    let cache = handle.cache();
    let magazine = cache.magazine(class);
    let right = !handle.checks().compares_tags() || has_right_tag(handle, cache, class, address);
    // The empty cache has a tag that no slab has. Where none is compared, it has to be looked at.
    let pushed =
        if handle.checks().compares_tags() { right && magazine.push(address) } else { magazine.push_if_owned(address) };
    if !pushed {
        // SAFETY: the same contract.
        unsafe { deallocate_full(handle, address, layout) };
    }
}

/// Ends the process if what comes back as nothing is something, where the family can tell.
#[inline(always)]
fn verify_empty<H: Handle>(handle: H, ptr: NonNull<u8>, layout: Layout) {
    if handle.checks().keeps_states() {
        handle.core().verify_empty(ptr.addr().get(), layout);
    }
}

/// Whether the slab that holds an address is of the cache's family and of this class.
#[inline(always)]
fn has_right_tag<H: Handle>(handle: H, cache: &Cache, class: SizeClass, address: usize) -> bool {
    let tag = cache.view().tag(address, handle.unit_shift());
    tag == cache.magazine(class).tag()
}

/// The thread may have no cache to compare with.
#[cold]
#[inline(never)]
fn verify_slowly(family: &'static FamilyCore, class: SizeClass, address: usize, layout: Layout) {
    if !family.owns(address, class) {
        match NonNull::new(core::ptr::with_exposed_provenance_mut(address)) {
            Some(memory) => family.verify_large(memory, layout),
            None => family.report_invalid_free(address, layout),
        }
    }
}

/// The other half of [`allocate`]: the array is empty. Returns the address, 0 if out of memory.
#[cold]
#[inline(never)]
fn allocate_exhausted<H: Handle>(handle: H, class: SizeClass) -> usize {
    let (cache, magazine) = (handle.cache(), handle.cache().magazine(class));
    if magazine.has_fresh() {
        magazine.stock(cache.tally(), class);
        if let Some(address) = magazine.pop().or_else(|| magazine.carve(class.slot_bytes()).map(|(address, _)| address))
        {
            return address;
        }
    }
    refill(handle.core(), handle.slot(), class).map_or(0, |(address, _)| address)
}

/// The other half of [`allocate_zeroed`]: the same, and whether the slot is known to read zero.
#[cold]
#[inline(never)]
fn allocate_exhausted_zeroed<H: Handle>(handle: H, class: SizeClass) -> (usize, bool) {
    match handle.cache().magazine(class).carve(class.slot_bytes()) {
        Some(carved) => carved,
        None => refill(handle.core(), handle.slot(), class).unwrap_or((0, false)),
    }
}

#[cold]
#[inline(never)]
fn refill(family: &'static FamilyCore, slot: &CacheSlot, class: SizeClass) -> Option<(usize, bool)> {
    let Some(cache) = cache_for(family, slot, class) else { return take_one(family, class) };
    if !family.refill(cache, class) {
        return None;
    }
    let magazine = cache.cache.magazine(class);
    magazine.pop().map(|address| (address, false)).or_else(|| magazine.carve(class.slot_bytes()))
}

/// A slot for a thread without a cache, and whether it reads zero.
fn take_one(family: &'static FamilyCore, class: SizeClass) -> Option<(usize, bool)> {
    family.take_one(class).or_else(|| if make_room(family) { family.take_one(class) } else { None })
}

/// The other half of [`deallocate`]: the array's room is used up, the thread has no cache, or the free is wrong.
///
/// # Safety
/// As for [`deallocate`].
#[cold]
#[inline(never)]
unsafe fn deallocate_full<H: Handle>(handle: H, address: usize, layout: Layout) {
    let (cache, class) = (handle.cache(), handle.classes().of(layout, 1));
    let is_right = handle.checks().compares_tags() && has_right_tag(handle, cache, class, address);
    let magazine = cache.magazine(class);
    // Most often the array isn't full at all: it was time to look whether anything waits to be given back.
    if is_right
        && !(waiting::is_anything() && is_look_due())
        && magazine.renew(cache.tally(), class)
        && magazine.push(address)
    {
        return;
    }
    // SAFETY: the same contract.
    unsafe { flush(handle.core(), handle.slot(), address, layout, handle.checks().compares_tags() && !is_right) };
}

/// # Safety
/// As for [`deallocate`].
unsafe fn flush(family: &'static FamilyCore, slot: &CacheSlot, address: usize, layout: Layout, checked: bool) {
    let class = family.class_of(layout);
    if checked && !family.owns(address, class) {
        let pointer = core::ptr::with_exposed_provenance_mut(address);
        // A slot's address is not 0; nor is a pointer that was checked not to be one.
        let Some(memory) = NonNull::new(pointer) else { family.report_invalid_free(address, layout) };
        // SAFETY: the same contract: if it grew out of its slot, it is live; else this ends the process.
        return unsafe { family.deallocate_large(memory, layout) };
    }
    // SAFETY: live, and given up by the client; its class was verified, or is right by contract.
    unsafe { put_back(family, slot, address, class) };
}

/// Puts a slot into the thread's cache, or into its bin if the thread has none. Not in hardened families.
///
/// # Safety
/// `address` is a slot of this family and class that nobody uses any more and that is in no cache and no bin.
unsafe fn put_back(family: &'static FamilyCore, slot: &CacheSlot, address: usize, class: SizeClass) {
    let was_due =
        slot.get(family.class_count()).magazine(class).has_put_off() && waiting::is_anything() && is_look_due();
    // The short slot by which a thread earns its cache may be in a line with other threads': it does not stay with this one.
    let is_of_before = class.slot_bytes() < LINE_BYTES && ThreadCache::in_slot(slot).is_none();
    let Some(cache) = cache_for(family, slot, class).filter(|_| !is_of_before) else {
        // SAFETY: the same contract.
        return unsafe { family.give_one(class, address) };
    };
    let (magazine, tally) = (cache.cache.magazine(class), cache.cache.tally());
    // One that is mostly room comes here less often.
    let has_room = magazine.resume_room(tally, was_due) || 4 * magazine.renew_room(tally) >= 3 * magazine.capacity();
    if !has_room || !magazine.push(address) {
        family.flush(cache, class);
        let pushed = magazine.push(address);
        debug_assert!(pushed, "a flush makes room");
    }
}

#[cold]
#[inline(never)]
fn allocate_large<H: Handle>(handle: H, layout: Layout) -> Option<NonNull<[u8]>> {
    obtain_large(handle.core(), layout, false)
}

#[cold]
#[inline(never)]
fn allocate_large_zeroed<H: Handle>(handle: H, layout: Layout) -> Option<NonNull<[u8]>> {
    obtain_large(handle.core(), layout, true)
}

fn obtain_large(family: &'static FamilyCore, layout: Layout, want_zero: bool) -> Option<NonNull<[u8]>> {
    let allocate = || family.allocate_large(layout, want_zero);
    let large = allocate().or_else(|| if make_room(family) { allocate() } else { None })?;
    Some(NonNull::slice_from_raw_parts(large.memory, large.bytes))
}

/// # Safety
/// As for [`deallocate`].
#[cold]
#[inline(never)]
unsafe fn deallocate_large<H: Handle>(handle: H, ptr: NonNull<u8>, layout: Layout) {
    // SAFETY: the same contract.
    unsafe { handle.core().deallocate_large(ptr, layout) };
}
