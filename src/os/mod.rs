//! What the crate asks of the operating system: one contract, an implementation per platform.
//!
//! | call | contract |
//! | --- | --- |
//! | [`page_bytes`] | size of a page, asked at run time, a power of two |
//! | [`reserve`] | address space that must not be touched yet and has no commit charge; refused where it is more than the system should spend at once |
//! | [`reserve_at`] | the same at this one address, with [`EXTENDS`] also right behind another reservation, which it then makes longer |
//! | [`reserve_readable`] | address space of which every byte may be read and reads zero; it is in no dump and never locked |
//! | [`commit`] | makes reserved space readable and writable, once; it then reads zero |
//! | [`make_writable`] | makes readable space writable; what has been written there stays |
//! | [`purge`] | gives the memory back and keeps the space; `true` only if it reads zero from now on; with [`DECOMMITS`] it may not be touched before [`recommit`] |
//! | [`recommit`] | makes what may be purged usable again, where that has to be done: what is purged reads zero then, all else stays |
//! | [`discard`] | gives memory back that stays usable and reads from now on as it did before or zero; a hint |
//! | [`release`] | gives space and memory of a whole reservation or mapping back, with [`TAKES_PARTS`] also of a part of one or of several; on `false` it is as it was |
//! | [`map`] | committed zero memory of its own; given back with [`release`] |
//! | [`remap`] | changes the length of a mapping or part of one, in place or by moving its pages; the new pages read zero; refused where there are several |
//! | [`map_between`] | a mapping between two margins, given back with them |
//! | [`guard`] | gives the memory back, and any access ends the process until [`unguard`]; `false`: not possible, and it can be accessed as before |
//! | [`unguard`] | makes memory usable again, guarded or not, and says what is known of it: [`Opened`] |
//! | [`forbid`] | any access ends the process, for good; costs a mapping |
//! | [`advise_huge`], [`advise_small`] | ask for huge pages, or for none; hints |
//! | [`keep_out_of_dumps`], [`put_into_dumps`] | ask that a range is in no dump of the process, or is as any other; hints |
//! | [`poison`], [`unpoison`] | a sanitizer that is there reports accesses to a range, or none; nothing else changes |
//! | [`add_root`], [`remove_root`] | a sanitizer that is there looks for pointers in a range, or no longer does; called with no lock held |
//! | [`name`] | says whose memory it is, for whoever lists the process's mappings; a hint |
//! | [`random`](fn@random) | 64 random bits |
//! | [`milliseconds`] | a clock that never goes back |
//! | [`stay_loaded`] | keeps the library that this code is part of in memory, and the one that holds an address, as far as the system has to be asked for that |
//! | [`without_signals`] | does something while the calling thread takes no signals |
//!
//! All lengths are multiples of the page size and all addresses page-aligned; nothing here is retried or remembered. Any call
//! but the first and the last five may fail, and each is made to by tests ([`faults`]).
//!
//! | backend | used |
//! | --- | --- |
//! | `range` | without the feature `std`: a range that the program gives; and on WebAssembly, whose memory grows. No purge |
//! | `unix` | on Unix |
//! | `windows` | on Windows |
//! | `portable` | elsewhere, under Miri, and with the feature `portable`: `std`'s `System` allocator, no purge, no remap |

use core::ptr::NonNull;

mod clock;
#[cfg_attr(not(feature = "_faults"), allow(unreachable_pub))]
pub mod faults;
#[cfg(any(not(feature = "std"), all(target_arch = "wasm32", not(feature = "portable"))))]
#[path = "range.rs"]
mod imp;
#[cfg(all(
    feature = "std",
    any(not(any(unix, windows)), miri, feature = "portable"),
    not(all(target_arch = "wasm32", not(feature = "portable")))
))]
#[path = "portable.rs"]
mod imp;
#[cfg(all(feature = "std", unix, not(any(miri, feature = "portable"))))]
#[path = "unix.rs"]
mod imp;
#[cfg(all(feature = "std", windows, not(any(miri, feature = "portable"))))]
#[path = "windows.rs"]
mod imp;
mod loaded;
#[cfg(any(not(feature = "std"), not(any(unix, windows)), miri, feature = "portable"))]
mod pageless;
#[cfg(any(test, not(feature = "std"), target_arch = "wasm32"))]
#[cfg_attr(
    any(feature = "portable", all(feature = "std", not(target_arch = "wasm32"))),
    allow(dead_code, reason = "tested on every system")
)]
mod pieces;
mod random;
mod sanitizer;
#[cfg(feature = "std")]
mod signals;
#[cfg(test)]
mod tests;
#[cfg(all(feature = "valgrind", unix, not(any(miri, feature = "portable"))))]
mod valgrind;
#[cfg(all(target_arch = "wasm32", not(all(feature = "std", feature = "portable"))))]
mod wasm;

use crate::sync::{AtomicU32, Relaxed};
#[cfg(all(test, unix, not(miri)))]
pub(crate) use clock::PRETENDED;
pub(crate) use clock::milliseconds;
use faults::{Call, strikes};
pub(crate) use imp::{COMMIT_IS_FREE, EXTENDS, HAS_GUARDS, TAKES_PARTS, address_space_limit, page_bytes};
#[cfg(not(unix))]
pub(crate) use loaded::is_ending;
pub(crate) use loaded::stay_loaded;
pub(crate) use random::random;
pub(crate) use sanitizer::{add_root, clear_free, poison, poisons, remove_root, scans, unpoison};
#[cfg(feature = "std")]
pub(crate) use signals::without_signals;

/// Whether what is purged, or guarded, is not there until it is committed again: where the system counts what is committed.
pub(crate) const DECOMMITS: bool = cfg!(all(feature = "std", windows, not(any(miri, feature = "portable"))));

/// Whether parts of what is reserved can be made usable and given back, so that it pays to reserve more than is used.
pub(crate) const HAS_PAGES: bool = TAKES_PARTS || DECOMMITS;

/// Gives the crate memory to work with, in builds without the feature `std`; returns how many bytes of it are used.
///
/// Without `std` there is no system to ask: call this once, before the first allocation, with a range that the linker
/// script or the boot loader leaves free. Several calls add up, but slabs are only taken from what lies near the first
/// range. Only whole pages of 4 KiB are used. A family takes its slabs from *regions*, which begin at a multiple of 64 times
/// `slab_bytes` (4 MiB for slabs of 64 KiB, the default without `std`): its first slab needs such a place in the range, and
/// three slabs' length from there on. Large allocations and tables fit anywhere.
///
/// Nothing ever goes back to the program, and what slabs have taken stays with their family. With `std`, and on
/// WebAssembly with or without it, memory comes from the system: there this does nothing with `std`, and adds to the memory
/// without.
///
/// # Safety
///
/// The range may be read and written for as long as the program runs, and nobody else uses it from now on.
///
/// ```
/// use core::ptr::{NonNull, addr_of_mut};
///
/// #[repr(align(4194304))]
/// struct Memory([u8; 8 << 20]);
/// static mut MEMORY: Memory = Memory([0; 8 << 20]);
///
/// // SAFETY: nobody else uses it, and this runs once.
/// let memory = unsafe { &mut *addr_of_mut!(MEMORY.0) };
/// // SAFETY: as above.
/// let bytes = unsafe { family_alloc::give_memory(NonNull::from(&mut memory[..])) };
/// assert_eq!(bytes, if cfg!(feature = "std") { 0 } else { 8 << 20 });
/// ```
pub unsafe fn give_memory(memory: NonNull<[u8]>) -> usize {
    #[cfg(feature = "std")]
    {
        let _ = memory;
        0
    }
    #[cfg(not(feature = "std"))]
    // SAFETY: the same contract.
    unsafe {
        imp::give_memory(memory)
    }
}

/// Reserves space at a multiple of `align`.
pub(crate) fn reserve(bytes: usize, align: usize) -> Option<NonNull<u8>> {
    debug_assert!(are_pages(bytes) && align.is_power_of_two());
    if strikes(Call::Reserve) { None } else { imp::reserve(bytes, align) }
}

/// Reserves space at an address; `None` where somebody else has a part of it.
pub(crate) fn reserve_at(start: usize, bytes: usize) -> Option<NonNull<u8>> {
    debug_assert!(are_pages(start | bytes));
    if strikes(Call::Reserve) { None } else { imp::reserve_at(start, bytes) }
}

/// Reserves space that may be read.
pub(crate) fn reserve_readable(bytes: usize) -> Option<NonNull<u8>> {
    debug_assert!(are_pages(bytes));
    if strikes(Call::ReserveReadable) { None } else { imp::reserve_readable(bytes) }
}

/// Makes reserved space usable; `false` leaves it as it was.
///
/// # Safety
/// The range lies in space that [`reserve`] returned and that is not released, and no part of it has been committed.
pub(crate) unsafe fn commit(start: NonNull<u8>, bytes: usize) -> bool {
    debug_assert!(are_pages(start.addr().get() | bytes));
    // SAFETY: the same contract.
    !strikes(Call::Commit) && unsafe { imp::commit(start, bytes) }
}

/// Makes readable space writable; `false` leaves it as it was.
///
/// # Safety
/// The range lies in space that [`reserve_readable`] returned and that is not released.
pub(crate) unsafe fn make_writable(start: NonNull<u8>, bytes: usize) -> bool {
    debug_assert!(are_pages(start.addr().get() | bytes));
    // SAFETY: the same contract.
    !strikes(Call::MakeWritable) && unsafe { imp::make_writable(start, bytes) }
}

/// Gives memory back; `true` only if the range reads zero from now on.
///
/// # Safety
/// The range is committed, and nobody uses its contents any more.
pub(crate) unsafe fn purge(start: NonNull<u8>, bytes: usize) -> bool {
    debug_assert!(are_pages(start.addr().get() | bytes));
    // SAFETY: the same contract.
    !strikes(Call::Purge) && unsafe { imp::purge(start, bytes) }
}

/// Makes memory usable that may be purged, as far as it is; `false`: some of it may be not usable, and must not be touched.
///
/// # Safety
/// The range has been committed before, and is the caller's.
#[inline(always)]
pub(crate) unsafe fn recommit(start: NonNull<u8>, bytes: usize) -> bool {
    debug_assert!(are_pages(start.addr().get() | bytes));
    // SAFETY: the same contract: what is usable stays as it is.
    !DECOMMITS || !strikes(Call::Commit) && unsafe { imp::commit(start, bytes) }
}

/// Gives memory back that stays usable: it then reads as before, or zero.
///
/// # Safety
/// The range is committed, and nobody needs what it holds, unless that is zero.
pub(crate) unsafe fn discard(start: NonNull<u8>, bytes: usize) {
    debug_assert!(are_pages(start.addr().get() | bytes));
    if strikes(Call::Purge) {
        return;
    }
    #[cfg(all(windows, not(any(miri, feature = "portable"))))]
    // SAFETY: the same contract.
    unsafe {
        imp::discard(start, bytes)
    };
    #[cfg(not(all(windows, not(any(miri, feature = "portable")))))]
    // SAFETY: the same contract. What is purged here stays usable.
    unsafe {
        imp::purge(start, bytes)
    };
}

/// Gives space and memory back; `false` leaves it as it was.
///
/// # Safety
/// The range is the whole of what [`reserve`], [`reserve_readable`], [`map`] or [`remap`] returned, with [`TAKES_PARTS`] also parts
/// of that, and nobody uses it any more.
pub(crate) unsafe fn release(start: NonNull<u8>, bytes: usize) -> bool {
    debug_assert!(are_pages(start.addr().get() | bytes));
    if poisons() {
        // SAFETY: the caller gives the range up; whoever has the addresses next knows nothing of it.
        unsafe { unpoison(start, bytes) };
    }
    // SAFETY: the same contract.
    !strikes(Call::Release) && unsafe { imp::release(start, bytes) }
}

/// Maps zero memory at a multiple of `align`.
pub(crate) fn map(bytes: usize, align: usize) -> Option<NonNull<u8>> {
    debug_assert!(are_pages(bytes) && align.is_power_of_two());
    if strikes(Call::Map) { None } else { imp::map(bytes, align) }
}

/// Changes the length of a mapping. Where it may move, it may end anywhere that is page-aligned, and is aligned to huge pages if it
/// is as long as one and the system can. `None` leaves it as it was.
///
/// # Safety
/// The range is a whole mapping made by [`map`] or [`remap`], with [`TAKES_PARTS`] also parts of such; if the call succeeds, the old range is not used any more.
pub(crate) unsafe fn remap(
    start: NonNull<u8>,
    old_bytes: usize,
    new_bytes: usize,
    may_move: bool,
) -> Option<NonNull<u8>> {
    debug_assert!(are_pages(start.addr().get() | old_bytes | new_bytes));
    if strikes(Call::Remap) {
        return None;
    }
    if poisons() {
        // SAFETY: the caller's mapping; if it moves, somebody else may have the addresses next.
        unsafe { unpoison(start, old_bytes) };
    }
    // SAFETY: the same contract.
    unsafe { imp::remap(start, old_bytes, new_bytes, may_move) }
}

/// Asks for huge pages.
///
/// # Safety
/// The range is committed memory of the caller's.
pub(crate) unsafe fn advise_huge(start: NonNull<u8>, bytes: usize) {
    debug_assert!(are_pages(start.addr().get() | bytes));
    // SAFETY: the same contract.
    unsafe { imp::advise_huge(start, bytes) };
}

/// Asks for pages of the usual size only.
///
/// # Safety
/// The range is committed memory of the caller's, or reserved space.
pub(crate) unsafe fn advise_small(start: NonNull<u8>, bytes: usize) {
    debug_assert!(are_pages(start.addr().get() | bytes));
    // SAFETY: the same contract.
    unsafe { imp::advise_small(start, bytes) };
}

/// Asks that a range is left out of dumps.
///
/// # Safety
/// The range is reserved or mapped, and the caller's.
pub(crate) unsafe fn keep_out_of_dumps(start: NonNull<u8>, bytes: usize) {
    debug_assert!(are_pages(start.addr().get() | bytes));
    // SAFETY: the same contract.
    unsafe { imp::keep_out_of_dumps(start, bytes) };
}

/// Takes that back.
///
/// # Safety
/// As for [`keep_out_of_dumps`].
pub(crate) unsafe fn put_into_dumps(start: NonNull<u8>, bytes: usize) {
    debug_assert!(are_pages(start.addr().get() | bytes));
    // SAFETY: the same contract.
    unsafe { imp::put_into_dumps(start, bytes) };
}

/// Gives mappings a name, `family-alloc: ` and this, of which what fits is used.
///
/// # Safety
/// The range is reserved or mapped, and the caller's.
pub(crate) unsafe fn name(start: NonNull<u8>, bytes: usize, family: &str) {
    debug_assert!(are_pages(start.addr().get() | bytes));
    // SAFETY: the same contract.
    unsafe { imp::name(start, bytes, family) };
}

fn are_pages(bytes: usize) -> bool {
    bytes & (page_bytes() - 1) == 0
}

/// Maps zero memory at a multiple of `align` with `margin`, a page, before and behind it: given back with both.
pub(crate) fn map_between(bytes: usize, align: usize, margin: usize) -> Option<NonNull<u8>> {
    debug_assert!(are_pages(bytes | margin) && align.is_power_of_two() && align >= margin);
    if strikes(Call::Map) { None } else { imp::map_between(bytes, align, margin) }
}

/// Whether a guard has been granted. Until then there are none, whatever the system says.
static GRANTED: AtomicU32 = AtomicU32::new(0);
/// Whether a guard has been refused, by an older kernel or for want of memory: from then on nothing is taken for guarded.
static REFUSED: AtomicU32 = AtomicU32::new(0);

/// What is known of memory that [`unguard`] was asked to make usable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub(crate) enum Opened {
    /// It was guarded, or is new: it reads zero.
    Zero,
    /// It may have been accessible all the time, and whoever freed it may have written to it since.
    Unsure,
    /// The system refused: it may be guarded still, in part or as a whole, and must not be touched.
    Refused,
}

/// Gives memory back and makes any access end the process; `false`: not possible. It can be accessed then, and what it holds is not
/// known.
///
/// # Safety
/// The range is committed, and nobody uses its contents any more.
pub(crate) unsafe fn guard(start: NonNull<u8>, bytes: usize) -> bool {
    debug_assert!(are_pages(start.addr().get() | bytes));
    // SAFETY: the same contract.
    let guarded = !strikes(Call::Guard) && unsafe { imp::guard(start, bytes) };
    let answer = if guarded { &GRANTED } else { &REFUSED };
    // Relaxed: what is handed from thread to thread is handed on by something that synchronises, and this comes with it.
    answer.store(1, Relaxed);
    guarded
}

/// Makes memory usable again that may be guarded. Where the system does not take its guards back any more, as in a process that has
/// forbidden itself the call, the memory is replaced.
///
/// # Safety
/// The range is committed, and nobody uses its contents.
pub(crate) unsafe fn unguard(start: NonNull<u8>, bytes: usize) -> Opened {
    debug_assert!(are_pages(start.addr().get() | bytes));
    // SAFETY: the same contract.
    let opened = !strikes(Call::Unguard) && unsafe { imp::unguard(start, bytes) };
    // Relaxed, here and below: as in `guard`.
    if !opened && (DECOMMITS || GRANTED.load(Relaxed) != 0) {
        // SAFETY: the same contract.
        if !strikes(Call::Renew) && unsafe { imp::renew(start, bytes) } {
            return Opened::Zero;
        }
        // A part may have been opened: next time it must be looked at.
        REFUSED.store(1, Relaxed);
        return Opened::Refused;
    }
    if opened && REFUSED.load(Relaxed) == 0 { Opened::Zero } else { Opened::Unsure }
}

/// Makes any access end the process, for good; `false`: not possible.
///
/// # Safety
/// The range is committed, and nobody uses it.
pub(crate) unsafe fn forbid(start: NonNull<u8>, bytes: usize) -> bool {
    debug_assert!(are_pages(start.addr().get() | bytes));
    // SAFETY: the same contract.
    !strikes(Call::Forbid) && unsafe { imp::forbid(start, bytes) }
}

/// Bytes of a huge page where [`advise_huge`] has an effect.
#[cfg(all(feature = "std", not(target_arch = "wasm32")))]
pub(crate) const HUGE_PAGE_BYTES: usize = 2 << 20;
/// There are none: nothing is aligned for their sake.
#[cfg(not(all(feature = "std", not(target_arch = "wasm32"))))]
pub(crate) const HUGE_PAGE_BYTES: usize = 4096;

/// Whether an address is a multiple of `align`, a power of two.
pub(crate) fn is_aligned(memory: NonNull<u8>, align: usize) -> bool {
    memory.addr().get() & (align - 1) == 0
}

/// Rounds up to whole pages; `None` when that is more than any object may have.
pub(crate) fn round_to_pages(bytes: usize) -> Option<usize> {
    bytes.checked_next_multiple_of(page_bytes()).filter(|&rounded| rounded <= isize::MAX as usize)
}
