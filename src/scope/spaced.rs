//! What calls of a thread that is in the scope of a family with spaced classes get from its cache of that, and the frees of such
//! families' blocks from elsewhere.
//!
//! What is inlined where memory is allocated asks for natural classes only, and there the empty cache stands. One call further the
//! class is computed anew.

use core::alloc::Layout;
use core::ptr::NonNull;

use super::global::slot;
use super::owner::deallocate_elsewhere;
use crate::family::number_of;
use crate::front::Family;
use crate::large::GROWN_FROM_BYTES;
use crate::magazine::{Cache, Magazine};
use crate::size_class::{Classes, SizeClass};
use crate::thread::scopes;

/// The magazine of a layout's spaced class, if the cache has one: short slabs have no long slots.
#[inline(always)]
fn magazine(cache: &'static Cache, layout: Layout) -> Option<(SizeClass, &'static Magazine)> {
    let class = Classes::Spaced.of(layout, 1);
    cache.has(class).then(|| (class, cache.magazine(class)))
}

/// A slot of the scope's family that its cache has ready, and with `ZEROED` clears; or null.
#[inline(always)]
pub(super) fn pop<const ZEROED: bool>(layout: Layout) -> *mut u8 {
    let magazine = scopes::spaced().and_then(|cache| magazine(cache, layout));
    let Some(address) = magazine.and_then(|(_, magazine)| magazine.pop()) else { return core::ptr::null_mut() };
    if ZEROED {
        // SAFETY: a slot of at least that length that was just allocated.
        unsafe { slot(address).write_bytes(0, layout.size()) };
    }
    slot(address)
}

/// A slot that the cache has never handed out; or null.
pub(super) fn carve<const ZEROED: bool>(layout: Layout) -> *mut u8 {
    let Some(cache) = scopes::spaced() else { return core::ptr::null_mut() };
    let Some((class, magazine)) = magazine(cache, layout) else { return core::ptr::null_mut() };
    if !ZEROED {
        magazine.stock(cache.tally(), class);
        if let Some(address) = magazine.pop() {
            return slot(address);
        }
    }
    let Some((address, is_zeroed)) = magazine.carve(class.slot_bytes()) else { return core::ptr::null_mut() };
    if ZEROED && !is_zeroed {
        // SAFETY: as in `pop`.
        unsafe { slot(address).write_bytes(0, layout.size()) };
    }
    slot(address)
}

/// Frees a slot of the family whose scope the thread is in; `false`: it is none of its cache's, or there is no room.
#[inline(always)]
pub(super) fn push(layout: Layout, address: usize) -> bool {
    let Some(cache) = scopes::spaced() else { return false };
    // The empty cache has a tag that no slab has.
    magazine(cache, layout)
        .is_some_and(|(_, magazine)| cache.telling_tag(address) == magazine.tag() && magazine.push(address))
}

/// Frees a slot of any family with spaced classes of which the thread has a cache, by the slot's tag; `false`: it is none, or
/// there is no room.
#[inline(always)]
pub(super) fn take_back(tag: u32, layout: Layout, address: usize) -> bool {
    let (cache, class) = (scopes::spaced_owner(number_of(tag)), Classes::Spaced.of(layout, 1));
    cache.has(class) && cache.take_back(tag, class, address)
}

/// Resizes a slot of the family whose scope the thread is in, where it is or to another that the cache has ready; or null, and
/// nothing has changed.
///
/// # Safety
/// As for `GlobalAlloc::realloc`, with a pointer of any family and both layouts.
pub(super) unsafe fn reallocate<Home: Family>(ptr: NonNull<u8>, old: Layout, new: Layout) -> *mut u8 {
    let (Some(cache), address) = (scopes::spaced(), ptr.as_ptr().expose_provenance()) else {
        return core::ptr::null_mut();
    };
    let is_own = |&(_, magazine): &(SizeClass, &Magazine)| cache.telling_tag(address) == magazine.tag();
    let Some((old_class, before)) = magazine(cache, old).filter(is_own) else { return core::ptr::null_mut() };
    // What is longer may grow on where no slots are.
    let popped = match magazine(cache, new) {
        Some((class, _)) if class == old_class => return ptr.as_ptr(),
        Some((_, magazine)) if new.size() < GROWN_FROM_BYTES => magazine.pop(),
        _ => None,
    };
    let Some(moved) = popped else { return core::ptr::null_mut() };
    // SAFETY: both are live and at least that long; a new slot overlaps no live one.
    unsafe { core::ptr::copy_nonoverlapping(ptr.as_ptr(), slot(moved), old.size().min(new.size())) };
    if !before.push(address) {
        // SAFETY: the contents have been copied, and the caller gives the old slot up.
        unsafe { deallocate_elsewhere::<Home>(ptr, old) };
    }
    slot(moved)
}
