//! Grow and shrink: in place within a class, where it is or by moving pages above the largest slot, else by copying.

use core::alloc::Layout;
use core::ptr::NonNull;

use super::{Handle, allocate, allocate_large_zeroed, allocate_slot, allocate_zeroed, deallocate};
use super::{has_right_tag, put_back, slab_class, slice, verify_empty, verify_slowly};
use crate::large::{GROWN_FROM_BYTES, mapped_bytes};
use crate::os;
use crate::size_class::SizeClass;
use crate::states::{Place, State};

/// Ends the process if the slab that holds an address is not of this family and class, before anything is done to the slot. The
/// slot's state, where the family keeps states.
#[inline(always)]
fn verify<H: Handle>(handle: H, ptr: NonNull<u8>, class: SizeClass, layout: Layout) -> Option<Place> {
    let address = ptr.addr().get();
    if handle.checks().keeps_states() {
        return Some(handle.core().verify_live(address, layout));
    }
    if handle.checks().compares_tags() && !has_right_tag(handle, handle.cache(), class, address) {
        verify_slowly(handle.core(), class, address, layout);
    }
    None
}

/// Notes that a mark behind the old size is no longer one, because the allocation gets another size.
#[inline(always)]
fn unmark(state: Option<Place>) {
    if let Some(place) = state {
        place.set(State::LIVE);
    }
}

/// Whether an allocation of this class is aligned as another layout of the class wants it: any slot is, but what has grown out
/// of its slot is aligned to a page only.
#[inline(always)]
fn stays_aligned<H: Handle>(handle: H, ptr: NonNull<u8>, class: SizeClass, new: Layout) -> bool {
    let may_be_mapped =
        handle.checks().compares_tags() && !handle.checks().keeps_states() && class.slot_bytes() >= GROWN_FROM_BYTES;
    !may_be_mapped || os::is_aligned(ptr, new.align())
}

/// Makes an allocation fit a layout of at least its size; the contents up to the old size stay. `None`: out of memory, the old
/// allocation is as it was.
///
/// # Safety
/// `ptr` is live, of this family, `old` fits it, and `new.size() >= old.size()`.
#[cfg_attr(not(debug_assertions), inline(always))]
#[cfg_attr(debug_assertions, inline)]
#[must_use]
pub(crate) unsafe fn grow<H: Handle>(handle: H, ptr: NonNull<u8>, old: Layout, new: Layout) -> Option<NonNull<[u8]>> {
    debug_assert!(new.size() >= old.size(), "grow is given a layout of at least the old size");
    // SAFETY: the same contract; `old.size()` is the lesser size.
    unsafe { resize(handle, ptr, old, new, old.size()) }
}

/// Like [`grow`], and everything from the old size to the end of the slot reads zero.
///
/// # Safety
/// As for [`grow`].
#[cfg_attr(not(debug_assertions), inline(always))]
#[cfg_attr(debug_assertions, inline)]
#[must_use]
pub(crate) unsafe fn grow_zeroed<H: Handle>(
    handle: H,
    ptr: NonNull<u8>,
    old: Layout,
    new: Layout,
) -> Option<NonNull<[u8]>> {
    if old.size() == 0 {
        verify_empty(handle, ptr, old);
        return allocate_zeroed(handle, new);
    }
    if slab_class(handle, old).is_none() && slab_class(handle, new).is_none() {
        // SAFETY: the same contract, and neither is served from slabs.
        return unsafe { grow_large_zeroed(handle, ptr, old, new) };
    }
    // SAFETY: the same contract.
    let memory = unsafe { grow(handle, ptr, old, new) }?;
    // SAFETY: all of it has just been allocated, the end of the old size included.
    unsafe { clear(memory, old.size()..memory.len()) };
    Some(memory)
}

/// # Safety
/// As for [`grow`], both layouts above the largest slot.
#[cold]
#[inline(never)]
unsafe fn grow_large_zeroed<H: Handle>(handle: H, ptr: NonNull<u8>, old: Layout, new: Layout) -> Option<NonNull<[u8]>> {
    let old_bytes = mapped_bytes(old)?;
    // SAFETY: the same contract.
    if let Some(resized) = unsafe { resize_large(handle, ptr, old, new, true) } {
        // What was added reads zero. With a lower alignment it may have become shorter.
        let dirty_end = old_bytes.min(resized.len());
        // SAFETY: it holds at least `new.size()` bytes, and that is at least the old size.
        unsafe { clear(resized, old.size()..dirty_end) };
        return Some(resized);
    }
    let memory = allocate_large_zeroed(handle, new)?;
    // SAFETY: both are live and at least `old.size()` bytes long; a new allocation overlaps no live one.
    unsafe { core::ptr::copy_nonoverlapping(ptr.as_ptr(), memory.cast::<u8>().as_ptr(), old.size()) };
    // SAFETY: the contents have been copied, and the caller gives the old allocation up.
    unsafe { deallocate(handle, ptr, old) };
    Some(memory)
}

/// # Safety
/// The range lies in `memory`, which was just allocated.
#[inline(always)]
unsafe fn clear(memory: NonNull<[u8]>, range: core::ops::Range<usize>) {
    // SAFETY: the range starts in the memory or at its end.
    let start = unsafe { memory.cast::<u8>().add(range.start) };
    // SAFETY: the range lies in the memory.
    unsafe { start.write_bytes(0, range.len()) };
}

/// Makes an allocation fit a layout of at most its size; the contents up to the new size stay. `None`: out of memory, the old
/// allocation is as it was.
///
/// # Safety
/// `ptr` is live, of this family, `old` fits it, and `new.size() <= old.size()`.
#[cfg_attr(not(debug_assertions), inline(always))]
#[cfg_attr(debug_assertions, inline)]
#[must_use]
pub(crate) unsafe fn shrink<H: Handle>(handle: H, ptr: NonNull<u8>, old: Layout, new: Layout) -> Option<NonNull<[u8]>> {
    debug_assert!(new.size() <= old.size(), "shrink is given a layout of at most the old size");
    // SAFETY: the same contract; `new.size()` is the lesser size.
    unsafe { resize(handle, ptr, old, new, new.size()) }
}

/// # Safety
/// `ptr` is live, of this family, `old` fits it, and `kept` is at most the size of both layouts.
#[inline(always)]
unsafe fn resize<H: Handle>(
    handle: H,
    ptr: NonNull<u8>,
    old: Layout,
    new: Layout,
    kept: usize,
) -> Option<NonNull<[u8]>> {
    match (slab_class(handle, old), slab_class(handle, new)) {
        (Some(old_class), Some(new_class))
            if old_class == new_class
                && old.size() != 0
                && new.size() != 0
                && stays_aligned(handle, ptr, new_class, new) =>
        {
            unmark(verify(handle, ptr, old_class, old));
            Some(slice(ptr.as_ptr().expose_provenance(), new_class.slot_bytes()))
        }
        // SAFETY: the same contract.
        _ => unsafe { resize_across(handle, ptr, old, new, kept) },
    }
}

/// The other half of [`resize`]: the classes differ, or there is none. A call: copying is most of it, and inlined it would keep
/// the half that stays in place from being.
///
/// # Safety
/// As for [`resize`].
#[inline(never)]
unsafe fn resize_across<H: Handle>(
    handle: H,
    ptr: NonNull<u8>,
    old: Layout,
    new: Layout,
    kept: usize,
) -> Option<NonNull<[u8]>> {
    match (slab_class(handle, old), slab_class(handle, new)) {
        (Some(old_class), Some(new_class))
            if old.size() != 0 && new.size() != 0 && is_from_slot_to_slot(handle, ptr, old_class, new_class) =>
        {
            // SAFETY: the same contract, and the old slot was verified.
            unsafe { resize_slot(handle, ptr, old_class, new_class, kept) }
        }
        // SAFETY: the same contract.
        _ => unsafe { resize_elsewhere(handle, ptr, old, new, kept) },
    }
}

/// Whether an allocation is a slot of its class, and the new one can be nothing but a slot.
#[inline(always)]
fn is_from_slot_to_slot<H: Handle>(handle: H, ptr: NonNull<u8>, old: SizeClass, new: SizeClass) -> bool {
    if !handle.checks().compares_tags() {
        return true;
    }
    !handle.checks().keeps_states()
        && new.slot_bytes() < GROWN_FROM_BYTES
        && has_right_tag(handle, handle.cache(), old, ptr.addr().get())
}

/// # Safety
/// `ptr` is a live slot of this family and the class `old`, and `kept` is at most the size of both classes' slots. The family keeps
/// no states.
#[inline(always)]
unsafe fn resize_slot<H: Handle>(
    handle: H,
    ptr: NonNull<u8>,
    old: SizeClass,
    new: SizeClass,
    kept: usize,
) -> Option<NonNull<[u8]>> {
    let memory = allocate_slot(handle, new)?;
    // SAFETY: both are live and at least `kept` bytes long; a new allocation overlaps no live one.
    unsafe { core::ptr::copy_nonoverlapping(ptr.as_ptr(), memory.cast::<u8>().as_ptr(), kept) };
    let address = ptr.as_ptr().expose_provenance();
    if !handle.cache().magazine(old).push_if_owned(address) {
        // SAFETY: a slot of this class whose contents have been copied and that the caller gives up.
        unsafe { put_back_slot(handle, address, old) };
    }
    Some(memory)
}

/// # Safety
/// As for [`put_back`].
#[cold]
#[inline(never)]
unsafe fn put_back_slot<H: Handle>(handle: H, address: usize, class: SizeClass) {
    // SAFETY: the same contract.
    unsafe { put_back(handle.core(), handle.slot(), address, class) };
}

/// What is no slot, or will not be one, or has a state.
///
/// # Safety
/// As for [`resize`].
#[cold]
#[inline(never)]
unsafe fn resize_elsewhere<H: Handle>(
    handle: H,
    ptr: NonNull<u8>,
    old: Layout,
    new: Layout,
    kept: usize,
) -> Option<NonNull<[u8]>> {
    if old.size() != 0 && new.size() != 0 {
        match (slab_class(handle, old), slab_class(handle, new)) {
            (None, None) => {
                // Verifies the old allocation.
                // SAFETY: the same contract.
                if let Some(resized) = unsafe { resize_large(handle, ptr, old, new, false) } {
                    return Some(resized);
                }
            }
            (Some(old_class), new_class) => {
                if handle.checks().compares_tags() && !handle.checks().keeps_states() {
                    if !has_right_tag(handle, handle.cache(), old_class, ptr.addr().get()) {
                        verify_slowly(handle.core(), old_class, ptr.addr().get(), old);
                    }
                    // SAFETY: the same contract, and the old allocation was verified.
                    if let Some(memory) = unsafe { resize_grown(handle, ptr, old, old_class, new, new_class, kept) } {
                        return Some(memory);
                    }
                } else {
                    verify(handle, ptr, old_class, old);
                }
            }
            (None, Some(_)) => handle.core().verify_large(ptr, old),
        }
    }
    let memory = allocate(handle, new)?;
    // SAFETY: both are live and at least `kept` bytes long; a new allocation overlaps no live one.
    unsafe { core::ptr::copy_nonoverlapping(ptr.as_ptr(), memory.cast::<u8>().as_ptr(), kept) };
    // Verifies it again: what has been freed meanwhile, by mistake, is not taken for live. A mark of it is not looked at any more.
    // SAFETY: the contents have been copied, and the caller gives the old allocation up.
    unsafe { deallocate(handle, ptr, old) };
    Some(memory)
}

/// Lets an allocation that grows to [`GROWN_FROM_BYTES`] or more grow among the large ones, where there is more room behind it
/// than in a slot. `None`: nothing has changed.
///
/// # Safety
/// As for [`resize`], with `old` of a class, and verified.
unsafe fn resize_grown<H: Handle>(
    handle: H,
    ptr: NonNull<u8>,
    old: Layout,
    old_class: SizeClass,
    new: Layout,
    new_class: Option<SizeClass>,
    kept: usize,
) -> Option<NonNull<[u8]>> {
    let family = handle.core();
    // Among the large ones are whole pages only.
    let fits = |class: SizeClass| class.slot_bytes() >= GROWN_FROM_BYTES && class.slot_bytes() % os::page_bytes() == 0;
    if new_class.is_some_and(|class| !fits(class)) || new.align() > os::page_bytes() {
        return None;
    }
    if fits(old_class) && !family.owns(ptr.addr().get(), old_class) {
        // SAFETY: the same contract; it is in no slab, so it is a large one.
        return unsafe { resize_large(handle, ptr, old, new, false) };
    }
    let class = new_class.filter(|_| new.size() > old.size())?;
    let large = family.allocate_grown(class)?;
    // SAFETY: both are live and at least `kept` bytes long; a new allocation overlaps no live one.
    unsafe { core::ptr::copy_nonoverlapping(ptr.as_ptr(), large.memory.as_ptr(), kept) };
    // SAFETY: the contents have been copied, and the caller gives the old allocation up.
    unsafe { deallocate(handle, ptr, old) };
    Some(NonNull::slice_from_raw_parts(large.memory, large.bytes))
}

/// # Safety
/// As for [`resize`], both layouts above the largest slot.
#[cold]
#[inline(never)]
unsafe fn resize_large<H: Handle>(
    handle: H,
    ptr: NonNull<u8>,
    old: Layout,
    new: Layout,
    want_zero: bool,
) -> Option<NonNull<[u8]>> {
    // SAFETY: the same contract.
    let large = unsafe { handle.core().resize_large(ptr, old, new, want_zero) }?;
    Some(NonNull::slice_from_raw_parts(large.memory, large.bytes))
}
