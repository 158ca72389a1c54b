//! Every branch on size: magazine, bin or large; allocate, zeroed, deallocate, grow and shrink, generic over the family.
//!
//! With a layout known at compile time all of it folds into a load, a compare and a few moves; what does not fit on the fast
//! path is a call. `allocate` and `deallocate` are this crate's two hot functions.

mod calls;
mod checked;
mod exact;
mod family;
#[cfg(all(test, unix, not(any(miri, loom))))]
mod flips;
mod hardened;
#[cfg(all(test, unix, not(any(miri, loom))))]
mod holds;
mod noted;
mod resize;

use core::alloc::Layout;
use core::ptr::NonNull;

pub use exact::{allocate_exact, allocate_zeroed_exact, deallocate_exact, resize_exact};
pub use family::Family;
pub use resize::{grow, grow_zeroed, shrink};

use noted::{allocate_noted, allocate_noted_zeroed, deallocate_noted};

use crate::family::{FamilyCore, is_look_due};
use crate::magazine::Cache;
use crate::magazine::CacheSlot;
use crate::size_class::SizeClass;
use crate::thread::cache_for;
use crate::waiting;

#[inline(always)]
fn slot<F: Family>() -> &'static CacheSlot {
    // SAFETY: `Family` promises the calling thread's slot, which lives as long as the thread; the reference does not leave it,
    // because `CacheSlot` is not `Sync`.
    unsafe { &*F::__slot() }
}

#[inline(always)]
fn cache<F: Family>() -> &'static Cache {
    slot::<F>().get()
}

/// The class of a layout that is served from slabs; `None` above that.
#[inline(always)]
fn slab_class<F: Family>(layout: Layout) -> Option<SizeClass> {
    let class = SizeClass::of_at_least(layout, F::CHECKS.least_class());
    (class.index() <= const { FamilyCore::largest_class(F::SLAB_BYTES) }).then_some(class)
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
#[inline(always)]
#[must_use]
pub fn allocate<F: Family>(layout: Layout) -> Option<NonNull<[u8]>> {
    if layout.size() == 0 {
        return Some(dangling(layout));
    }
    let Some(class) = slab_class::<F>(layout) else { return allocate_large::<F>(layout) };
    if F::CHECKS.keeps_states() {
        return allocate_noted::<F>(class).map(|address| slice(address, class.slot_bytes()));
    }
    allocate_slot::<F>(class)
}

/// A slot of a class, where the family keeps no states. `None`: out of memory.
#[inline(always)]
fn allocate_slot<F: Family>(class: SizeClass) -> Option<NonNull<[u8]>> {
    let address = match cache::<F>().magazine(class).pop() {
        Some(address) => address,
        None => match allocate_exhausted::<F>(class) {
            (0, _) => return None,
            (address, _) => address,
        },
    };
    Some(slice(address, class.slot_bytes()))
}

/// Like [`allocate`], and all of the slot reads zero.
#[inline(always)]
#[must_use]
pub fn allocate_zeroed<F: Family>(layout: Layout) -> Option<NonNull<[u8]>> {
    if layout.size() == 0 {
        return Some(dangling(layout));
    }
    let Some(class) = slab_class::<F>(layout) else { return allocate_large_zeroed::<F>(layout) };
    if F::CHECKS.keeps_states() {
        return allocate_noted_zeroed::<F>(class).map(|address| slice(address, class.slot_bytes()));
    }
    let (address, zeroed) = match cache::<F>().magazine(class).pop() {
        Some(address) => (address, false),
        None => allocate_exhausted::<F>(class),
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
#[inline(always)]
pub unsafe fn deallocate<F: Family>(ptr: NonNull<u8>, layout: Layout) {
    if layout.size() == 0 {
        return verify_empty::<F>(ptr, layout);
    }
    let Some(class) = slab_class::<F>(layout) else {
        // SAFETY: the same contract.
        return unsafe { deallocate_large::<F>(ptr, layout) };
    };
    let address = ptr.as_ptr().expose_provenance();
    if F::CHECKS.keeps_states() {
        // SAFETY: the same contract.
        return unsafe { deallocate_noted::<F, false>(address, layout, class) };
    }
    let cache = cache::<F>();
    let magazine = cache.magazine(class);
    let right = !F::CHECKS.compares_tags() || has_right_tag::<F>(cache, class, address);
    // The empty cache has a tag that no slab has. Where none is compared, it has to be looked at.
    let pushed =
        if F::CHECKS.compares_tags() { right && magazine.push(address) } else { magazine.push_if_owned(address) };
    if !pushed {
        // SAFETY: the same contract.
        unsafe { deallocate_full::<F>(address, layout) };
    }
}

/// Ends the process if what comes back as nothing is something, where the family can tell.
#[inline(always)]
fn verify_empty<F: Family>(ptr: NonNull<u8>, layout: Layout) {
    if F::CHECKS.keeps_states() {
        F::__core().verify_empty(ptr.addr().get(), layout);
    }
}

/// Whether the slab that holds an address is of the cache's family and of this class.
#[inline(always)]
fn has_right_tag<F: Family>(cache: &Cache, class: SizeClass, address: usize) -> bool {
    let tag = cache.view().tag(address, const { F::SLAB_BYTES.trailing_zeros() });
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

/// The other half of [`allocate`]: the array is empty. Returns the address, 0 if out of memory, and whether it reads zero.
#[cold]
#[inline(never)]
fn allocate_exhausted<F: Family>(class: SizeClass) -> (usize, bool) {
    match cache::<F>().magazine(class).carve(class.slot_bytes()) {
        Some(carved) => carved,
        None => refill(F::__core(), slot::<F>(), class).unwrap_or((0, false)),
    }
}

#[cold]
#[inline(never)]
fn refill(family: &'static FamilyCore, slot: &CacheSlot, class: SizeClass) -> Option<(usize, bool)> {
    let Some(cache) = cache_for(family, slot, class) else { return family.take_one(class) };
    if !family.refill(cache, class) {
        return None;
    }
    let magazine = cache.cache.magazine(class);
    magazine.pop().map(|address| (address, false)).or_else(|| magazine.carve(class.slot_bytes()))
}

/// The other half of [`deallocate`]: the array's room is used up, the thread has no cache, or the free is wrong.
///
/// # Safety
/// As for [`deallocate`].
#[cold]
#[inline(never)]
unsafe fn deallocate_full<F: Family>(address: usize, layout: Layout) {
    let (cache, class) = (cache::<F>(), SizeClass::of(layout));
    let is_right = F::CHECKS.compares_tags() && has_right_tag::<F>(cache, class, address);
    // Most often the array isn't full at all: it was time to look whether anything waits to be given back.
    if is_right
        && cache.magazine(class).is_mostly_room(cache.tally(), class)
        && !(waiting::is_anything() && is_look_due())
    {
        cache.magazine(class).push(address);
        return;
    }
    // SAFETY: the same contract.
    unsafe { flush(F::__core(), slot::<F>(), address, layout, F::CHECKS.compares_tags() && !is_right) };
}

/// # Safety
/// As for [`deallocate`].
unsafe fn flush(family: &'static FamilyCore, slot: &CacheSlot, address: usize, layout: Layout, checked: bool) {
    let class = SizeClass::of(layout);
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
    let Some(cache) = cache_for(family, slot, class) else {
        // SAFETY: the same contract.
        return unsafe { family.give_one(class, address) };
    };
    let magazine = cache.cache.magazine(class);
    // One that is mostly room comes here less often.
    let has_room = 4 * magazine.renew_room(cache.cache.tally()) >= 3 * magazine.capacity();
    if !has_room || !magazine.push(address) {
        family.flush(cache, class);
        let pushed = magazine.push(address);
        debug_assert!(pushed, "a flush makes room");
    }
}

#[cold]
#[inline(never)]
fn allocate_large<F: Family>(layout: Layout) -> Option<NonNull<[u8]>> {
    let large = F::__core().allocate_large(layout, false)?;
    Some(NonNull::slice_from_raw_parts(large.memory, large.bytes))
}

#[cold]
#[inline(never)]
fn allocate_large_zeroed<F: Family>(layout: Layout) -> Option<NonNull<[u8]>> {
    let large = F::__core().allocate_large(layout, true)?;
    Some(NonNull::slice_from_raw_parts(large.memory, large.bytes))
}

/// # Safety
/// As for [`deallocate`].
#[cold]
#[inline(never)]
unsafe fn deallocate_large<F: Family>(ptr: NonNull<u8>, layout: Layout) {
    // SAFETY: the same contract.
    unsafe { F::__core().deallocate_large(ptr, layout) };
}
