//! The contract of [`os`](super) on Unix: `mmap`, `mprotect`, `madvise`, `munmap`, and Linux's `mremap`. `errno` stays as it was in
//! all calls that a free may make.

use core::ptr::NonNull;

use super::is_aligned;
use crate::sync::{AtomicU8, AtomicUsize, Relaxed, keeping_errno};

/// Committing touches no page.
pub(crate) const COMMIT_IS_FREE: bool = true;
/// How many aligned addresses are tried where over-reserving does not fit.
const ALIGNED_TRIES: usize = 64;

/// Parts of mappings can be given back, and several at once.
pub(crate) const TAKES_PARTS: bool = true;

/// Whether pages can be made so that any access ends the process.
pub(crate) const HAS_GUARDS: bool = true;

pub(crate) fn page_bytes() -> usize {
    static PAGE_BYTES: AtomicUsize = AtomicUsize::new(0);
    // Relaxed: the value is the same whoever stores it, and nothing else is published with it.
    match PAGE_BYTES.load(Relaxed) {
        0 => {
            // SAFETY: `sysconf` has no preconditions.
            let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
            let bytes = usize::try_from(bytes).unwrap_or(4096);
            PAGE_BYTES.store(bytes, Relaxed);
            bytes
        }
        bytes => bytes,
    }
}

/// The process's limit on address space in bytes, if it has one.
pub(crate) fn address_space_limit() -> Option<usize> {
    // OpenBSD counts what is mapped as data.
    #[cfg(target_os = "openbsd")]
    const LIMIT: libc::c_int = libc::RLIMIT_DATA;
    #[cfg(not(target_os = "openbsd"))]
    use libc::RLIMIT_AS as LIMIT;

    let mut limit = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: `getrlimit` writes one `rlimit` to a live one.
    let failed = unsafe { libc::getrlimit(LIMIT, &raw mut limit) } != 0;
    if failed || limit.rlim_cur == libc::RLIM_INFINITY {
        return None;
    }
    usize::try_from(limit.rlim_cur).ok()
}

/// Reserved space has no commit charge. FreeBSD and others charge nothing before it is touched and
/// have no such flag.
#[cfg(not(any(
    target_os = "freebsd",
    target_os = "dragonfly",
    target_os = "hurd",
    target_os = "aix",
    target_os = "nto",
    target_os = "redox"
)))]
const UNCHARGED: libc::c_int = libc::MAP_NORESERVE;
#[cfg(any(
    target_os = "freebsd",
    target_os = "dragonfly",
    target_os = "hurd",
    target_os = "aix",
    target_os = "nto",
    target_os = "redox"
))]
const UNCHARGED: libc::c_int = 0;

fn anonymous(hint: usize, bytes: usize, protection: libc::c_int, extra: libc::c_int) -> Option<NonNull<u8>> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | extra;
    let hint = core::ptr::without_provenance_mut(hint);
    // SAFETY: an anonymous private mapping; without MAP_FIXED the kernel never replaces one that exists.
    let address = keeping_errno(|| unsafe { libc::mmap(hint, bytes, protection, flags, -1, 0) });
    if address == libc::MAP_FAILED { None } else { NonNull::new(address.cast()) }
}

fn unreserved(hint: usize, bytes: usize, protection: libc::c_int) -> Option<NonNull<u8>> {
    anonymous(hint, bytes, protection, UNCHARGED)
}

pub(crate) fn reserve(bytes: usize, align: usize) -> Option<NonNull<u8>> {
    aligned(bytes, align, |hint, bytes| unreserved(hint, bytes, libc::PROT_NONE))
}

/// What is reserved behind a reservation becomes one mapping with it.
pub(crate) const EXTENDS: bool = true;

pub(crate) fn reserve_at(start: usize, bytes: usize) -> Option<NonNull<u8>> {
    let space = unreserved(start, bytes, libc::PROT_NONE)?;
    if space.addr().get() == start {
        return Some(space);
    }
    // SAFETY: mapped just now and not used.
    unsafe { release(space, bytes) };
    None
}

pub(crate) fn reserve_readable(bytes: usize) -> Option<NonNull<u8>> {
    let space = unreserved(0, bytes, libc::PROT_READ)?;
    // Where all memory of the process is to be locked (`mlockall`), little of this is ever memory, and all of it would count.
    // SAFETY: mapped just now; the contents stay.
    keeping_errno(|| unsafe { libc::munlock(space.as_ptr().cast(), bytes) });
    // SAFETY: as above.
    unsafe { keep_out_of_dumps(space, bytes) };
    Some(space)
}

pub(crate) fn map(bytes: usize, align: usize) -> Option<NonNull<u8>> {
    aligned(bytes, align, |hint, bytes| anonymous(hint, bytes, libc::PROT_READ | libc::PROT_WRITE, 0))
}

pub(crate) fn map_between(bytes: usize, align: usize, margin: usize) -> Option<NonNull<u8>> {
    let start = map(bytes.checked_add(align)?.checked_add(margin)?, align)?;
    // SAFETY: inside the mapping, as long as all of these together.
    let memory = unsafe { start.add(align) };
    if align > margin {
        // SAFETY: all before the margin; used by nobody.
        unsafe { release(start, align - margin) };
    }
    Some(memory)
}

/// Maps with an alignment: as the kernel places it, else with room to cut, else at aligned places below (where space is short).
fn aligned(bytes: usize, align: usize, place: impl Fn(usize, usize) -> Option<NonNull<u8>>) -> Option<NonNull<u8>> {
    let first = place(0, bytes)?;
    if is_aligned(first, align) {
        return Some(first);
    }
    // SAFETY: mapped just now and not used.
    unsafe { release(first, bytes) };
    if let Some(roomy) = bytes.checked_add(align).and_then(|roomy| place(0, roomy)) {
        return Some(cut(roomy, bytes, align));
    }
    (0..ALIGNED_TRIES).find_map(|step| {
        let hint = (first.addr().get() & !(align - 1)).checked_sub(step.checked_mul(align)?)?;
        let space = place(hint, bytes)?;
        if is_aligned(space, align) {
            return Some(space);
        }
        // SAFETY: mapped just now and not used.
        unsafe { release(space, bytes) };
        None
    })
}

/// Cuts an aligned piece of `bytes` out of a mapping of `bytes + align` and gives the rest back.
fn cut(roomy: NonNull<u8>, bytes: usize, align: usize) -> NonNull<u8> {
    let before = roomy.addr().get().wrapping_neg() & (align - 1);
    // SAFETY: `before < align`, so the piece and what lies before and after it are inside the mapping of `bytes + align`.
    let piece = unsafe { roomy.add(before) };
    // SAFETY: one past the piece, still inside or at the end of the mapping.
    let rest = unsafe { piece.add(bytes) };
    if before > 0 {
        // SAFETY: the part before the piece, used by nobody.
        unsafe { release(roomy, before) };
    }
    if align > before {
        // SAFETY: the part after the piece, used by nobody.
        unsafe { release(rest, align - before) };
    }
    piece
}

/// # Safety
/// As for [`commit`](super::commit).
pub(crate) unsafe fn commit(start: NonNull<u8>, bytes: usize) -> bool {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: the caller owns the range; opening its protection takes nothing away from anyone.
    keeping_errno(|| unsafe { libc::mprotect(start.as_ptr().cast(), bytes, protection) }) == 0
}

/// # Safety
/// As for [`make_writable`](super::make_writable).
pub(crate) unsafe fn make_writable(start: NonNull<u8>, bytes: usize) -> bool {
    // SAFETY: as for `commit`; what has been written stays.
    unsafe { commit(start, bytes) }
}

/// # Safety
/// As for [`purge`](super::purge).
pub(crate) unsafe fn purge(start: NonNull<u8>, bytes: usize) -> bool {
    // Linux promises zero after MADV_DONTNEED on private anonymous memory; elsewhere it is only a hint.
    const ZEROES: bool = cfg!(any(target_os = "linux", target_os = "android"));
    if ZEROES && is_hint(start) {
        // SAFETY: the same contract.
        return unsafe { purge_and_look(start, bytes) };
    }
    // SAFETY: the caller gives the contents up.
    let done = keeping_errno(|| unsafe { libc::madvise(start.as_ptr().cast(), bytes, PURGE) }) == 0;
    done && ZEROES
}

/// Where the system says that all is well, done or not: a range is given back as a whole or not at all, so its first byte tells.
///
/// # Safety
/// As for [`purge`](super::purge).
unsafe fn purge_and_look(start: NonNull<u8>, bytes: usize) -> bool {
    // Where free memory is poisoned nobody may touch it.
    let looks = !super::poisons();
    // SAFETY: the caller's memory, which may be written and which nobody else looks at.
    let first = unsafe { start.cast::<AtomicU8>().as_ref() };
    if looks {
        // Relaxed: the range is the caller's alone, here and below.
        first.store(1, Relaxed);
    }
    // SAFETY: the caller gives the contents up.
    let done = keeping_errno(|| unsafe { libc::madvise(start.as_ptr().cast(), bytes, PURGE) }) == 0;
    let is_gone = done && looks && first.load(Relaxed) == 0;
    if looks && !is_gone {
        // What was never written to has to read zero still.
        first.store(0, Relaxed);
    }
    is_gone
}

/// The advice that gives memory back. Where it is not `MADV_DONTNEED`, that is only a hint which frees nothing; after this one
/// pages have their old contents or zero, until they are written to.
#[cfg(target_vendor = "apple")]
const PURGE: libc::c_int = libc::MADV_FREE_REUSABLE;
#[cfg(any(target_os = "freebsd", target_os = "openbsd", target_os = "netbsd", target_os = "dragonfly"))]
const PURGE: libc::c_int = libc::MADV_FREE;
#[cfg(not(any(
    target_vendor = "apple",
    target_os = "freebsd",
    target_os = "openbsd",
    target_os = "netbsd",
    target_os = "dragonfly"
)))]
const PURGE: libc::c_int = libc::MADV_DONTNEED;

/// # Safety
/// As for [`guard`](super::guard).
pub(crate) unsafe fn guard(start: NonNull<u8>, bytes: usize) -> bool {
    // `MADV_GUARD_INSTALL`, from Linux 6.13 on; older kernels and other systems refuse the number.
    const INSTALL: libc::c_int = 102;
    if !cfg!(any(target_os = "linux", target_os = "android")) || super::scans() || is_hint(start) {
        return false;
    }
    // SAFETY: the caller gives the contents up.
    let installed = keeping_errno(|| unsafe { libc::madvise(start.as_ptr().cast(), bytes, INSTALL) }) == 0;
    if !installed {
        // For want of memory it may have been done in part. Taking that back needs none, and whoever refuses it refuses the other too.
        // SAFETY: the same contract.
        unsafe { unguard(start, bytes) };
    }
    installed
}

/// Whether the system takes advice that it does not know for a hint, and says that all is well (qemu's user mode does): nothing it says of
/// guards can be believed then, and what it says of pages given back has to be looked at. It is asked once, with a page of the family's and a number that is no advice.
fn is_hint(page: NonNull<u8>) -> bool {
    const NO_ADVICE: libc::c_int = libc::c_int::MAX;
    const UNASKED: usize = 0;
    const NO: usize = 1;
    const YES: usize = 2;
    static ANSWER: AtomicUsize = AtomicUsize::new(UNASKED);
    // Relaxed: the answer is the same whoever asks.
    if ANSWER.load(Relaxed) == UNASKED {
        // SAFETY: no advice, so nothing is done.
        let accepted = keeping_errno(|| unsafe { libc::madvise(page.as_ptr().cast(), page_bytes(), NO_ADVICE) }) == 0;
        ANSWER.store(if accepted { YES } else { NO }, Relaxed);
    }
    ANSWER.load(Relaxed) == YES
}

/// # Safety
/// As for [`unguard`](super::unguard).
pub(crate) unsafe fn unguard(start: NonNull<u8>, bytes: usize) -> bool {
    // `MADV_GUARD_REMOVE`
    const REMOVE: libc::c_int = 103;
    // SAFETY: only guards go, and no memory.
    cfg!(any(target_os = "linux", target_os = "android"))
        && keeping_errno(|| unsafe { libc::madvise(start.as_ptr().cast(), bytes, REMOVE) }) == 0
}

/// Replaces memory with new memory, which has no guards. Kernels that know guards do so or leave all as it was.
///
/// # Safety
/// As for [`unguard`](super::unguard).
pub(crate) unsafe fn renew(start: NonNull<u8>, bytes: usize) -> bool {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | UNCHARGED | libc::MAP_FIXED;
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: the range is the caller's, who does not need its contents.
    keeping_errno(|| unsafe { libc::mmap(start.as_ptr().cast(), bytes, protection, flags, -1, 0) }) != libc::MAP_FAILED
}

/// # Safety
/// As for [`forbid`](super::forbid).
pub(crate) unsafe fn forbid(start: NonNull<u8>, bytes: usize) -> bool {
    // SAFETY: the caller owns the range and does not use it.
    keeping_errno(|| unsafe { libc::mprotect(start.as_ptr().cast(), bytes, libc::PROT_NONE) }) == 0
}

/// # Safety
/// The range was mapped by this module and nobody uses it any more. Here it may also be a part of what was mapped.
pub(crate) unsafe fn release(start: NonNull<u8>, bytes: usize) -> bool {
    // SAFETY: the caller gives the range up.
    keeping_errno(|| unsafe { libc::munmap(start.as_ptr().cast(), bytes) }) == 0
}

/// # Safety
/// As for [`advise_huge`](super::advise_huge).
pub(crate) unsafe fn advise_huge(start: NonNull<u8>, bytes: usize) {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    // SAFETY: a hint; the contents stay.
    unsafe {
        libc::madvise(start.as_ptr().cast(), bytes, libc::MADV_HUGEPAGE)
    };
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let _ = (start, bytes);
}

/// # Safety
/// As for [`advise_small`](super::advise_small).
pub(crate) unsafe fn advise_small(start: NonNull<u8>, bytes: usize) {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    // SAFETY: a hint; the contents stay.
    unsafe {
        libc::madvise(start.as_ptr().cast(), bytes, libc::MADV_NOHUGEPAGE)
    };
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let _ = (start, bytes);
}

/// # Safety
/// As for [`keep_out_of_dumps`](super::keep_out_of_dumps).
pub(crate) unsafe fn keep_out_of_dumps(start: NonNull<u8>, bytes: usize) {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    // SAFETY: a hint; the contents stay.
    keeping_errno(|| unsafe { libc::madvise(start.as_ptr().cast(), bytes, libc::MADV_DONTDUMP) });
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let _ = (start, bytes);
}

/// # Safety
/// As for [`put_into_dumps`](super::put_into_dumps).
pub(crate) unsafe fn put_into_dumps(start: NonNull<u8>, bytes: usize) {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    // SAFETY: a hint; the contents stay.
    keeping_errno(|| unsafe { libc::madvise(start.as_ptr().cast(), bytes, libc::MADV_DODUMP) });
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let _ = (start, bytes);
}

/// # Safety
/// As for [`name`](super::name).
pub(crate) unsafe fn name(start: NonNull<u8>, bytes: usize, family: &str) {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        const SET_VMA: libc::c_int = 0x5356_4d61;
        const ANONYMOUS_NAME: libc::c_ulong = 0;
        let name = mapping_name(family);
        let (address, name) = (start.addr().get(), name.as_ptr().addr());
        // SAFETY: names a range of mappings; a kernel that does not know the call refuses it. The name is a live string of C's.
        keeping_errno(|| unsafe { libc::prctl(SET_VMA, ANONYMOUS_NAME, address, bytes, name) });
    }
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let _ = (start, bytes, family);
}

/// A name as the kernel takes it: at most 80 bytes with the zero at its end, printable, and without the signs that lists of
/// mappings are quoted with.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn mapping_name(family: &str) -> [u8; 80] {
    let mut name = [0; 80];
    let allowed = |byte| match byte {
        b'[' | b']' | b'\\' | b'$' | b'`' => b'_',
        b' '..=b'~' => byte,
        _ => b'_',
    };
    for (place, byte) in name[..79].iter_mut().zip(b"family-alloc: ".iter().chain(family.as_bytes())) {
        *place = allowed(*byte);
    }
    name
}

/// # Safety
/// As for [`remap`](super::remap).
pub(crate) unsafe fn remap(
    start: NonNull<u8>,
    old_bytes: usize,
    new_bytes: usize,
    may_move: bool,
) -> Option<NonNull<u8>> {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        if may_move && new_bytes > old_bytes && new_bytes >= super::HUGE_PAGE_BYTES {
            // SAFETY: the same contract.
            if let Some(remapped) = unsafe { moving::remap_aligned(start, old_bytes, new_bytes) } {
                return Some(remapped);
            }
        }
        let flags = if may_move { moving::MREMAP_MAYMOVE } else { 0 };
        // SAFETY: the caller owns the whole old range and gives it up for the new one.
        unsafe { moving::mremap(start, old_bytes, new_bytes, flags, core::ptr::null_mut()) }
    }
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    {
        let _ = may_move;
        if new_bytes > old_bytes {
            return None;
        }
        // SAFETY: `new_bytes <= old_bytes`, so the tail starts inside the mapping or at its end.
        let tail = unsafe { start.add(new_bytes) };
        // SAFETY: the caller gives the tail up.
        let released = old_bytes == new_bytes || unsafe { release(tail, old_bytes - new_bytes) };
        released.then_some(start)
    }
}

/// Linux moves pages from address to address.
#[cfg(any(target_os = "linux", target_os = "android"))]
mod moving {
    use core::ptr::NonNull;

    use super::super::{HUGE_PAGE_BYTES, page_bytes};
    use super::{release, reserve};

    /// The kernel's flags, which `libc` does not have for Android.
    pub(super) const MREMAP_MAYMOVE: libc::c_int = 1;
    const MREMAP_FIXED: libc::c_int = 2;
    #[cfg(target_os = "linux")]
    const _: () = assert!(MREMAP_MAYMOVE == libc::MREMAP_MAYMOVE && MREMAP_FIXED == libc::MREMAP_FIXED, "as in Linux");

    /// The system call: Android's C library has it, `libc` not.
    ///
    /// # Safety
    /// As for [`remap`](super::remap); with `MREMAP_FIXED` what lies at `target` is the caller's
    /// and given up.
    pub(super) unsafe fn mremap(
        start: NonNull<u8>,
        old_bytes: usize,
        new_bytes: usize,
        flags: libc::c_int,
        target: *mut u8,
    ) -> Option<NonNull<u8>> {
        // As wide as the system reads it.
        let flags = libc::c_long::from(flags);
        // SAFETY: the same contract.
        let address = unsafe { libc::syscall(libc::SYS_mremap, start.as_ptr(), old_bytes, new_bytes, flags, target) };
        if address == -1 { None } else { NonNull::new(core::ptr::with_exposed_provenance_mut(address as usize)) }
    }

    /// In place, or else to where huge pages can be moved as such and those to come can be huge.
    /// `None`: that cannot be, and nothing has changed.
    ///
    /// # Safety
    /// As for [`remap`](super::remap).
    pub(super) unsafe fn remap_aligned(start: NonNull<u8>, old_bytes: usize, new_bytes: usize) -> Option<NonNull<u8>> {
        // SAFETY: the same contract.
        let in_place = unsafe { mremap(start, old_bytes, new_bytes, 0, core::ptr::null_mut()) };
        if in_place.is_some() {
            return in_place;
        }
        // Only a lack of room behind it can be helped.
        if std::io::Error::last_os_error().raw_os_error() != Some(libc::ENOMEM) {
            return None;
        }
        let space = place_to_move_to(old_bytes, new_bytes)?;
        let flags = MREMAP_MAYMOVE | MREMAP_FIXED;
        // SAFETY: the caller gives the old range up, and what is replaced is the space that was
        // reserved just now. Should it fail the system may have taken that back before, and
        // somebody else may have it by now: it is left alone.
        unsafe { mremap(start, old_bytes, new_bytes, flags, space.as_ptr()) }
    }

    /// Aligned space that a mapping can grow into: that is known before, because a move that fails
    /// may have taken the space or not.
    fn place_to_move_to(old_bytes: usize, new_bytes: usize) -> Option<NonNull<u8>> {
        let page = page_bytes();
        // While the pages are moved, both ranges count, and what is new counts twice.
        let more = (new_bytes - old_bytes).max(2 * page);
        let space = reserve(new_bytes.checked_add(more)?, HUGE_PAGE_BYTES)?;
        // SAFETY: inside the space, here and below.
        let end = unsafe { space.add(new_bytes) };
        // SAFETY: as above: `more` is at least two pages.
        let behind = unsafe { end.add(page) };
        // A move needs a few mappings more. Moving a page of the space onto another needs as many,
        // and harms nobody.
        let flags = MREMAP_MAYMOVE | MREMAP_FIXED;
        // SAFETY: two pages that were reserved just now.
        let may_move = unsafe { mremap(end, page, page, flags, behind.as_ptr()) }.is_some();
        let (rest, rest_bytes) = if may_move { (behind, more - page) } else { (end, more) };
        // SAFETY: behind what will be moved to; used by nobody.
        unsafe { release(rest, rest_bytes) };
        if !may_move {
            // SAFETY: as above.
            unsafe { release(space, new_bytes) };
        }
        may_move.then_some(space)
    }
}
