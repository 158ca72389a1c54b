//! The contract of [`os`](super) where only `std` is known: whole pieces of memory from the system's allocator.
//!
//! Nothing goes back in parts and nothing changes its length, so [`purge`] and [`remap`] refuse. A piece is as large as it may
//! become, because nobody says whether the system backs it before it is touched; for the same reason reservations are small,
//! and their callers, who ask for less when they are refused, end up with what fits. How a piece was allocated stands behind it:
//!
//! ```text
//!   base        start, aligned                 start + bytes
//!    │   slack    │           bytes               │ Origin │   slack   │
//! ```

use core::alloc::{GlobalAlloc, Layout};
use core::ptr::NonNull;
use std::alloc::System;

pub(crate) use super::pageless::*;

/// A made-up page.
const PAGE_BYTES: usize = 4096;
/// The longest reservation: fifteen slabs and their side tables where slabs are largest, or eight and the states of their slots.
const RESERVED_BYTES_MAX: usize = 32 << 20;
/// What a reservation takes at least. Regions have to lie near each other (H3 in `header`), and glibc's heap lies far from what
/// it maps: what it always maps, whatever was freed before, is longer than 32 MiB.
const RESERVED_BYTES_MIN: usize =
    if cfg!(all(target_os = "linux", target_env = "gnu", target_pointer_width = "64", not(miri))) {
        33 << 20
    } else {
        0
    };
/// The longest readable reservation: a table for a million units.
const READABLE_BYTES_MAX: usize = 4 << 20;
/// What every allocator aligns to, so that zeroed memory may come zeroed from the system, not cleared.
const BASE_ALIGN: usize = align_of::<Origin>();

/// What [`release`] needs to know of a piece.
#[derive(Clone, Copy)]
struct Origin {
    base: NonNull<u8>,
    layout: Layout,
}

pub(crate) fn page_bytes() -> usize {
    PAGE_BYTES
}

pub(crate) fn address_space_limit() -> Option<usize> {
    None
}

pub(crate) fn reserve(bytes: usize, align: usize) -> Option<NonNull<u8>> {
    if bytes > RESERVED_BYTES_MAX {
        return None;
    }
    let taken = (bytes + size_of::<Origin>()).max(RESERVED_BYTES_MIN);
    let layout = Layout::from_size_align(taken, align.max(BASE_ALIGN)).ok()?;
    // SAFETY: the size is not zero.
    let base = NonNull::new(unsafe { System.alloc(layout) })?;
    Some(piece(base, bytes, Origin { base, layout }))
}

/// Nobody can be asked for an address.
pub(crate) const EXTENDS: bool = false;

pub(crate) fn reserve_at(_: usize, _: usize) -> Option<NonNull<u8>> {
    None
}

pub(crate) fn reserve_readable(bytes: usize) -> Option<NonNull<u8>> {
    if bytes > READABLE_BYTES_MAX { None } else { map(bytes, PAGE_BYTES) }
}

pub(crate) fn map(bytes: usize, align: usize) -> Option<NonNull<u8>> {
    // The slack before the start is a multiple of `BASE_ALIGN` below `align`; what is left of it holds the origin or more is added.
    let room = bytes.checked_add(align)?.checked_add(size_of::<Origin>())?;
    // Miri believes in an alignment only if it was asked for.
    let asked = if cfg!(miri) { align.max(BASE_ALIGN) } else { BASE_ALIGN };
    let layout = Layout::from_size_align(room, asked).ok()?;
    // SAFETY: the size is not zero.
    let base = NonNull::new(unsafe { System.alloc_zeroed(layout) })?;
    let slack = base.addr().get().wrapping_neg() & (align - 1);
    // SAFETY: `slack < align`, which is less than the allocation has.
    let start = unsafe { base.add(slack) };
    Some(piece(start, bytes, Origin { base, layout }))
}

/// Notes the origin of a piece behind it.
fn piece(start: NonNull<u8>, bytes: usize, origin: Origin) -> NonNull<u8> {
    // SAFETY: the allocation has room for an `Origin` behind the piece, aligned because pieces are whole pages and begin at one;
    // the space belongs to nobody yet.
    unsafe { origin_of(start, bytes).write(origin) };
    start
}

fn origin_of(start: NonNull<u8>, bytes: usize) -> *mut Origin {
    start.as_ptr().wrapping_add(bytes).cast()
}

/// # Safety
/// As for [`release`](super::release).
pub(crate) unsafe fn release(start: NonNull<u8>, bytes: usize) -> bool {
    // SAFETY: the caller gives up a whole piece of this length, and `piece` wrote the origin behind it.
    let Origin { base, layout } = unsafe { origin_of(start, bytes).read() };
    // SAFETY: allocated with this layout and given up.
    unsafe { System.dealloc(base.as_ptr(), layout) };
    true
}

/// Only whole pieces go back.
pub(crate) const TAKES_PARTS: bool = false;

/// # Safety
/// As for [`remap`](super::remap).
pub(crate) unsafe fn remap(_: NonNull<u8>, _: usize, _: usize, _: bool) -> Option<NonNull<u8>> {
    None
}
