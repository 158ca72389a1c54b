//! The contract of [`os`](super) over memory that no system hands out: a range that the program gives, or WebAssembly's
//! memory, which grows.
//!
//! All of it may be touched at any time, so what is reserved is as good as used: reservations are as short as can be, and
//! become longer where nothing else lies behind them. Regions begin at the lowest place that is aligned; mappings take the end
//! of the shortest piece that has room, and leave regions theirs. Nothing is ever known to read zero: [`commit`] and
//! [`map`] clear what they hand out, and [`purge`] refuses, so slabs stay with their family. What is released serves everybody.

use core::ptr::NonNull;

/// Nothing but what the program has given.
#[cfg(not(target_arch = "wasm32"))]
mod source {
    use core::ptr::NonNull;

    pub(super) fn end() -> Option<usize> {
        None
    }

    pub(super) fn grow(_: usize) -> Option<(NonNull<u8>, usize)> {
        None
    }
}

pub(crate) use super::pageless::*;
use super::pieces::Pieces;
#[cfg(target_arch = "wasm32")]
use super::wasm as source;
use crate::sync::{AtomicUsize, Lock, Relaxed};

/// What is free behind a reservation may be had, and is one reservation with it.
pub(crate) const EXTENDS: bool = true;
/// Of reservations only: large allocations are mapped singly, so that each takes no more than it needs.
pub(crate) const TAKES_PARTS: bool = false;
/// A made-up page.
const PAGE_BYTES: usize = 4096;

/// What is free. Where there is more to be had it is asked for under this lock, so that it is asked for once.
static PIECES: Lock<Pieces> = Lock::new(Pieces::new());
/// Bytes that the program has given.
static GIVEN_BYTES: AtomicUsize = AtomicUsize::new(0);

pub(crate) fn page_bytes() -> usize {
    PAGE_BYTES
}

/// What the program has given: reservations are to be small beside it. Memory that grows has no end that is known.
pub(crate) fn address_space_limit() -> Option<usize> {
    // Relaxed: a number that publishes nothing.
    (source::end().is_none()).then(|| GIVEN_BYTES.load(Relaxed))
}

/// Adds the whole pages of a range; returns their bytes.
///
/// # Safety
/// The range may be read and written for good, and nobody else uses it from now on.
#[cfg(not(feature = "std"))]
pub(crate) unsafe fn give_memory(memory: NonNull<[u8]>) -> usize {
    let start = memory.cast::<u8>().as_ptr().expose_provenance();
    let Some(first) = start.checked_next_multiple_of(PAGE_BYTES) else { return 0 };
    let end = start.saturating_add(memory.len()) & !(PAGE_BYTES - 1);
    let bytes = end.saturating_sub(first);
    if bytes > 0 {
        // SAFETY: the same contract; whole pages of the range.
        unsafe { PIECES.lock().give(first, bytes) };
        GIVEN_BYTES.fetch_add(bytes, Relaxed);
    }
    bytes
}

/// Takes what is free, or grows the memory so that it ends where `end_for` says, from where its free end begins.
fn take(
    from: impl Fn(&mut Pieces) -> Option<NonNull<u8>>,
    end_for: impl FnOnce(usize) -> Option<usize>,
) -> Option<NonNull<u8>> {
    let mut pieces = PIECES.lock();
    from(&mut pieces).or_else(|| {
        let end = source::end()?;
        let more = end_for(pieces.tail(end))?.checked_sub(end)?;
        let (memory, bytes) = source::grow(more)?;
        // SAFETY: new memory, which nobody else has.
        unsafe { pieces.give(memory.as_ptr().expose_provenance(), bytes) };
        from(&mut pieces)
    })
}

pub(crate) fn reserve(bytes: usize, align: usize) -> Option<NonNull<u8>> {
    let align = align.max(PAGE_BYTES);
    take(|pieces| pieces.take_lowest(bytes, align), |tail| tail.checked_next_multiple_of(align)?.checked_add(bytes))
}

pub(crate) fn reserve_at(start: usize, bytes: usize) -> Option<NonNull<u8>> {
    take(|pieces| pieces.take_at(start, bytes), |tail| if tail <= start { start.checked_add(bytes) } else { None })
}

pub(crate) fn reserve_readable(bytes: usize) -> Option<NonNull<u8>> {
    map(bytes, PAGE_BYTES)
}

pub(crate) fn map(bytes: usize, align: usize) -> Option<NonNull<u8>> {
    let align = align.max(PAGE_BYTES);
    let memory = take(
        |pieces| pieces.take_from_end(bytes, align),
        |tail| tail.checked_next_multiple_of(align)?.checked_add(bytes),
    )?;
    // SAFETY: taken just now, so many bytes.
    unsafe { memory.write_bytes(0, bytes) };
    Some(memory)
}

/// # Safety
/// As for [`release`](super::release), and it may be the end of a reservation.
pub(crate) unsafe fn release(start: NonNull<u8>, bytes: usize) -> bool {
    // SAFETY: the caller gives the range up.
    unsafe { PIECES.lock().give(start.as_ptr().expose_provenance(), bytes) };
    true
}

/// In place, where what is behind it is free.
///
/// # Safety
/// As for [`remap`](super::remap).
pub(crate) unsafe fn remap(start: NonNull<u8>, old_bytes: usize, new_bytes: usize, _: bool) -> Option<NonNull<u8>> {
    if new_bytes > old_bytes {
        let more = reserve_at(start.addr().get() + old_bytes, new_bytes - old_bytes)?;
        // SAFETY: taken just now, so many bytes.
        unsafe { more.write_bytes(0, new_bytes - old_bytes) };
    } else if new_bytes < old_bytes {
        // SAFETY: inside the mapping.
        let rest = unsafe { start.add(new_bytes) };
        // SAFETY: the caller gives the end up.
        unsafe { release(rest, old_bytes - new_bytes) };
    }
    Some(start)
}
