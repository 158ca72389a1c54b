//! The calls of [`os`](super) that a backend answers alike whose memory has no pages of the system's: it is always there, and
//! nothing of it goes back.

use core::ptr::NonNull;

/// Committing writes zeroes.
pub(crate) const COMMIT_IS_FREE: bool = false;
/// Nothing here is ever unreadable.
pub(crate) const HAS_GUARDS: bool = false;

/// # Safety
/// As for [`commit`](super::commit).
pub(crate) unsafe fn commit(start: NonNull<u8>, bytes: usize) -> bool {
    // SAFETY: the caller owns the range, and nothing is in it yet.
    unsafe { start.write_bytes(0, bytes) };
    true
}

pub(crate) fn map_between(_: usize, _: usize, _: usize) -> Option<NonNull<u8>> {
    None
}

/// # Safety
/// As for [`make_writable`](super::make_writable).
pub(crate) unsafe fn make_writable(_: NonNull<u8>, _: usize) -> bool {
    true
}

/// # Safety
/// As for [`purge`](super::purge).
pub(crate) unsafe fn purge(_: NonNull<u8>, _: usize) -> bool {
    false
}

/// # Safety
/// As for [`guard`](super::guard).
pub(crate) unsafe fn guard(_: NonNull<u8>, _: usize) -> bool {
    false
}

/// # Safety
/// As for [`unguard`](super::unguard).
pub(crate) unsafe fn unguard(_: NonNull<u8>, _: usize) -> bool {
    false
}

/// # Safety
/// As for [`unguard`](super::unguard).
pub(crate) unsafe fn renew(_: NonNull<u8>, _: usize) -> bool {
    false
}

/// # Safety
/// As for [`forbid`](super::forbid).
pub(crate) unsafe fn forbid(_: NonNull<u8>, _: usize) -> bool {
    false
}

/// # Safety
/// As for [`advise_huge`](super::advise_huge).
pub(crate) unsafe fn advise_huge(_: NonNull<u8>, _: usize) {}

/// # Safety
/// As for [`advise_small`](super::advise_small).
pub(crate) unsafe fn advise_small(_: NonNull<u8>, _: usize) {}

/// # Safety
/// As for [`keep_out_of_dumps`](super::keep_out_of_dumps).
pub(crate) unsafe fn keep_out_of_dumps(_: NonNull<u8>, _: usize) {}

/// # Safety
/// As for [`put_into_dumps`](super::put_into_dumps).
pub(crate) unsafe fn put_into_dumps(_: NonNull<u8>, _: usize) {}

/// # Safety
/// As for [`name`](super::name).
pub(crate) unsafe fn name(_: NonNull<u8>, _: usize, _: &str) {}
