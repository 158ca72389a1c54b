//! The contract of [`os`](super) on Windows: `VirtualAlloc`, `VirtualFree` and `VirtualProtect`. The thread's last error stays as it was in
//! all calls that a free may make.
//!
//! Windows counts what is committed, touched or not, and refuses what is more than memory and its page files have: so
//! space is reserved as a whole, committed in steps as it comes to be used, and decommitted when it is purged. What is not committed may
//! not be touched, which also makes it a guard.
//!
//! ```text
//!   reserved ──commit──► readable and writable, zero ──purge, guard──► reserved ──recommit, unguard──► …
//! ```

use core::ffi::c_void;
use core::mem::MaybeUninit;
use core::ptr::NonNull;

use windows_sys::Win32::Foundation::HANDLE;
use windows_sys::Win32::System::LibraryLoader::{GetModuleHandleA, GetProcAddress};
use windows_sys::Win32::System::Memory::{
    MEM_ADDRESS_REQUIREMENTS, MEM_COMMIT, MEM_DECOMMIT, MEM_EXTENDED_PARAMETER, MEM_EXTENDED_PARAMETER_0,
    MEM_EXTENDED_PARAMETER_1, MEM_RELEASE, MEM_RESERVE, MEM_RESET, MEMORY_BASIC_INFORMATION,
    MemExtendedParameterAddressRequirements, PAGE_NOACCESS, PAGE_PROTECTION_FLAGS, PAGE_READONLY, PAGE_READWRITE,
    VIRTUAL_ALLOCATION_TYPE, VirtualAlloc, VirtualFree, VirtualProtect, VirtualQuery,
};
use windows_sys::Win32::System::SystemInformation::{GetSystemInfo, SYSTEM_INFO};

use super::is_aligned;
use crate::sync::{AtomicPtr, AtomicUsize, Relaxed, keeping_errno};

/// What is committed is charged, whether it is touched or not.
pub(crate) const COMMIT_IS_FREE: bool = false;

/// What is reserved is one piece for good: it becomes no longer, and goes back as a whole.
pub(crate) const EXTENDS: bool = false;
pub(crate) const TAKES_PARTS: bool = false;

/// Pages that are not committed.
pub(crate) const HAS_GUARDS: bool = true;

/// Reservations begin at multiples of this, on all processors.
const GRANULE_BYTES: usize = 64 << 10;
/// How often an aligned place is looked for where the system cannot be asked for one: another thread may take it.
const ALIGNED_TRIES: usize = 16;
/// The longest reservation. Where addresses have 32 bits families share two or three gigabytes: fifteen slabs and their side tables
/// where slabs are largest, or eight and the states of their slots.
const RESERVED_BYTES_MAX: usize = if usize::BITS == 64 { usize::MAX } else { 32 << 20 };
/// The longest readable reservation: all of it is charged. A table of tags covers 4 TiB then, where slabs have 2 MiB.
const READABLE_BYTES_MAX: usize = 8 << 20;
/// A mapping of this length and more has as much space again behind it, to become longer in place.
const ROOMY_FROM_BYTES: usize = if usize::BITS == 64 { 1 << 20 } else { usize::MAX };

pub(crate) fn page_bytes() -> usize {
    static PAGE_BYTES: AtomicUsize = AtomicUsize::new(0);
    // Relaxed: the value is the same whoever stores it, and nothing else is published with it.
    match PAGE_BYTES.load(Relaxed) {
        0 => {
            let mut info = MaybeUninit::<SYSTEM_INFO>::zeroed();
            // SAFETY: writes one `SYSTEM_INFO` to a live one.
            unsafe { GetSystemInfo(info.as_mut_ptr()) };
            // SAFETY: numbers and addresses, all initialised above.
            let bytes = unsafe { info.assume_init() }.dwPageSize as usize;
            PAGE_BYTES.store(bytes, Relaxed);
            bytes
        }
        bytes => bytes,
    }
}

/// There is none but what addresses there are.
pub(crate) fn address_space_limit() -> Option<usize> {
    None
}

/// Reserves, commits or both, at an address or anywhere.
fn allocate(
    at: usize,
    bytes: usize,
    kind: VIRTUAL_ALLOCATION_TYPE,
    protection: PAGE_PROTECTION_FLAGS,
) -> Option<NonNull<u8>> {
    let at = core::ptr::without_provenance(at);
    // SAFETY: takes what nobody has, or changes what the caller has: pages that are committed already stay as they are.
    NonNull::new(keeping_errno(|| unsafe { VirtualAlloc(at, bytes, kind, protection) }).cast())
}

pub(crate) fn reserve(bytes: usize, align: usize) -> Option<NonNull<u8>> {
    if bytes > RESERVED_BYTES_MAX { None } else { aligned(bytes, align, MEM_RESERVE) }
}

pub(crate) fn reserve_at(start: usize, bytes: usize) -> Option<NonNull<u8>> {
    // The system would round it down.
    if start % GRANULE_BYTES != 0 || start == 0 || bytes > RESERVED_BYTES_MAX {
        return None;
    }
    allocate(start, bytes, MEM_RESERVE, PAGE_READWRITE)
}

pub(crate) fn reserve_readable(bytes: usize) -> Option<NonNull<u8>> {
    if bytes > READABLE_BYTES_MAX {
        return None;
    }
    allocate(0, bytes, MEM_RESERVE | MEM_COMMIT, PAGE_READONLY)
}

pub(crate) fn map(bytes: usize, align: usize) -> Option<NonNull<u8>> {
    if bytes >= ROOMY_FROM_BYTES {
        if let Some(space) = bytes.checked_mul(2).and_then(|roomy| aligned(roomy, align, MEM_RESERVE)) {
            // SAFETY: reserved just now, longer than this.
            return committed(space, space, bytes);
        }
    }
    aligned(bytes, align, MEM_RESERVE | MEM_COMMIT)
}

pub(crate) fn map_between(bytes: usize, align: usize, margin: usize) -> Option<NonNull<u8>> {
    let align = align.max(GRANULE_BYTES);
    let space = aligned(bytes.checked_add(align)?.checked_add(margin)?, align, MEM_RESERVE)?;
    // SAFETY: inside the reservation, as long as all of these together; the margin is not longer than `align`.
    let before = unsafe { space.add(align - margin) };
    committed(space, before, bytes + 2 * margin)?;
    // SAFETY: as above.
    Some(unsafe { before.add(margin) })
}

/// Commits a part of space that was reserved just now. `None`: the system refuses, and the space has gone back.
fn committed(space: NonNull<u8>, part: NonNull<u8>, bytes: usize) -> Option<NonNull<u8>> {
    // SAFETY: reserved by the caller just now, here and below.
    if unsafe { commit(part, bytes) } {
        return Some(part);
    }
    // SAFETY: as above; used by nobody.
    unsafe { release(space, bytes) };
    None
}

/// Reserves with an alignment: by the call that takes one, else where there was room for it a moment ago.
fn aligned(bytes: usize, align: usize, kind: VIRTUAL_ALLOCATION_TYPE) -> Option<NonNull<u8>> {
    if align <= GRANULE_BYTES {
        return allocate(0, bytes, kind, PAGE_READWRITE);
    }
    if let Some(space) = aligned_by_system(bytes, align, kind) {
        return Some(space);
    }
    let roomy_bytes = bytes.checked_add(align)?;
    (0..ALIGNED_TRIES).find_map(|_| {
        let roomy = allocate(0, roomy_bytes, MEM_RESERVE, PAGE_READWRITE)?;
        let start = roomy.addr().get().next_multiple_of(align);
        // SAFETY: reserved just now, and used by nobody.
        unsafe { release(roomy, roomy_bytes) };
        // `None`: another thread was faster, or there is no memory.
        allocate(start, bytes, kind, PAGE_READWRITE)
    })
}

type VirtualAlloc2 = unsafe extern "system" fn(
    HANDLE,
    *const c_void,
    usize,
    VIRTUAL_ALLOCATION_TYPE,
    u32,
    *mut MEM_EXTENDED_PARAMETER,
    u32,
) -> *mut c_void;

/// `VirtualAlloc2`, null while it has not been found.
static VIRTUAL_ALLOC_2: AtomicPtr<c_void> = AtomicPtr::new(core::ptr::null_mut());

/// Looks for the calls that older systems do not have. Called with no lock held: the loader has one of its own.
pub(super) fn find_calls() {
    if !VIRTUAL_ALLOC_2.load(Relaxed).is_null() {
        return;
    }
    // SAFETY: a name that ends with a zero byte, of a library that every process has.
    let library = keeping_errno(|| unsafe { GetModuleHandleA(c"kernelbase.dll".as_ptr().cast()) });
    if library.is_null() {
        return;
    }
    // SAFETY: a library that is loaded and stays so, and a name that ends with a zero byte.
    if let Some(call) = keeping_errno(|| unsafe { GetProcAddress(library, c"VirtualAlloc2".as_ptr().cast()) }) {
        // Relaxed: code, which was there before.
        VIRTUAL_ALLOC_2.store(call as *mut c_void, Relaxed);
    }
}

/// `None`: the system has no such call, or refuses.
fn aligned_by_system(bytes: usize, align: usize, kind: VIRTUAL_ALLOCATION_TYPE) -> Option<NonNull<u8>> {
    // Relaxed: as in `find_calls`.
    let call = NonNull::new(VIRTUAL_ALLOC_2.load(Relaxed))?;
    // SAFETY: only `find_calls` stores here, and only the function of this name, which has this signature.
    let call = unsafe { core::mem::transmute::<*mut c_void, VirtualAlloc2>(call.as_ptr()) };
    let mut requirements = MEM_ADDRESS_REQUIREMENTS { Alignment: align, ..Default::default() };
    let mut parameter = MEM_EXTENDED_PARAMETER {
        Anonymous1: MEM_EXTENDED_PARAMETER_0 { _bitfield: MemExtendedParameterAddressRequirements as u64 },
        Anonymous2: MEM_EXTENDED_PARAMETER_1 { Pointer: (&raw mut requirements).cast() },
    };
    let (this_process, anywhere) = (core::ptr::null_mut(), core::ptr::null());
    // SAFETY: takes what nobody has; the one parameter and what it points to are live.
    let start =
        keeping_errno(|| unsafe { call(this_process, anywhere, bytes, kind, PAGE_READWRITE, &raw mut parameter, 1) });
    NonNull::new(start.cast()).filter(|&start| is_aligned(start, align))
}

/// Makes pages readable and writable; those that are so already stay as they are.
///
/// # Safety
/// As for [`commit`](super::commit), or for [`recommit`](super::recommit).
pub(crate) unsafe fn commit(start: NonNull<u8>, bytes: usize) -> bool {
    allocate(start.addr().get(), bytes, MEM_COMMIT, PAGE_READWRITE).is_some()
}

/// # Safety
/// As for [`make_writable`](super::make_writable).
pub(crate) unsafe fn make_writable(start: NonNull<u8>, bytes: usize) -> bool {
    protect(start, bytes, PAGE_READWRITE)
}

/// # Safety
/// As for [`forbid`](super::forbid).
pub(crate) unsafe fn forbid(start: NonNull<u8>, bytes: usize) -> bool {
    protect(start, bytes, PAGE_NOACCESS)
}

/// The range is committed memory of the caller's.
fn protect(start: NonNull<u8>, bytes: usize, protection: PAGE_PROTECTION_FLAGS) -> bool {
    let mut before = 0;
    // SAFETY: changes no contents, and writes one number to a live one.
    keeping_errno(|| unsafe { VirtualProtect(start.as_ptr().cast(), bytes, protection, &raw mut before) }) != 0
}

/// # Safety
/// As for [`purge`](super::purge).
pub(crate) unsafe fn purge(start: NonNull<u8>, bytes: usize) -> bool {
    // SAFETY: the caller gives the contents up. A part that is not committed stays so.
    keeping_errno(|| unsafe { VirtualFree(start.as_ptr().cast(), bytes, MEM_DECOMMIT) }) != 0
}

/// # Safety
/// As for [`discard`](super::discard).
pub(crate) unsafe fn discard(start: NonNull<u8>, bytes: usize) {
    // The memory may go to whoever needs it, without being written to a page file.
    allocate(start.addr().get(), bytes, MEM_RESET, PAGE_READWRITE);
}

/// # Safety
/// As for [`guard`](super::guard).
pub(crate) unsafe fn guard(start: NonNull<u8>, bytes: usize) -> bool {
    // SAFETY: the same contract.
    unsafe { purge(start, bytes) }
}

/// # Safety
/// As for [`unguard`](super::unguard).
pub(crate) unsafe fn unguard(start: NonNull<u8>, bytes: usize) -> bool {
    // SAFETY: the same contract.
    unsafe { commit(start, bytes) }
}

/// # Safety
/// As for [`unguard`](super::unguard).
pub(crate) unsafe fn renew(start: NonNull<u8>, bytes: usize) -> bool {
    // SAFETY: the same contract: the contents are not needed, here and below.
    let is_gone = unsafe { purge(start, bytes) };
    // SAFETY: as above.
    is_gone && unsafe { commit(start, bytes) }
}

/// What the system knows of the pages that begin here and are alike.
fn pages_at(address: usize) -> Option<MEMORY_BASIC_INFORMATION> {
    let mut info = MaybeUninit::<MEMORY_BASIC_INFORMATION>::zeroed();
    let length = size_of::<MEMORY_BASIC_INFORMATION>();
    let place = core::ptr::without_provenance(address);
    // SAFETY: writes one record to a live one; the address is only looked up.
    let written = keeping_errno(|| unsafe { VirtualQuery(place, info.as_mut_ptr(), length) });
    // SAFETY: numbers and addresses, all initialised above.
    (written == length).then(|| unsafe { info.assume_init() })
}

/// The whole reservation that the range lies in goes back: it is all of it that its owner knows of.
///
/// # Safety
/// As for [`release`](super::release).
pub(crate) unsafe fn release(start: NonNull<u8>, _: usize) -> bool {
    // SAFETY: the caller gives the range up. An address inside of a reservation is refused.
    if keeping_errno(|| unsafe { VirtualFree(start.as_ptr().cast(), 0, MEM_RELEASE) }) != 0 {
        return true;
    }
    let Some(pages) = pages_at(start.addr().get()) else { return false };
    // SAFETY: the same contract: what is given up is all that is used of this reservation.
    keeping_errno(|| unsafe { VirtualFree(pages.AllocationBase, 0, MEM_RELEASE) }) != 0
}

/// # Safety
/// As for [`remap`](super::remap).
pub(crate) unsafe fn remap(
    start: NonNull<u8>,
    old_bytes: usize,
    new_bytes: usize,
    _may_move: bool,
) -> Option<NonNull<u8>> {
    let (shorter, longer) = (old_bytes.min(new_bytes), old_bytes.max(new_bytes));
    // SAFETY: inside the mapping or at its end.
    let tail = unsafe { start.add(shorter) };
    if shorter == longer {
        return Some(start);
    }
    let is_done = if new_bytes < old_bytes {
        // SAFETY: the end of the mapping, which the caller gives up. The space stays with it.
        unsafe { purge(tail, longer - shorter) }
    } else {
        // SAFETY: space that belongs to the mapping, and to nobody else.
        has_room(start, longer) && unsafe { commit(tail, longer - shorter) }
    };
    is_done.then_some(start)
}

/// Whether the reservation that begins at an address has so many bytes.
fn has_room(start: NonNull<u8>, bytes: usize) -> bool {
    let (start, mut end) = (start.addr().get(), start.addr().get());
    while end - start < bytes {
        match pages_at(end) {
            Some(pages) if pages.AllocationBase.addr() == start => end += pages.RegionSize,
            _ => return false,
        }
    }
    true
}

/// Large pages are for those who hold a privilege.
///
/// # Safety
/// As for [`advise_huge`](super::advise_huge).
pub(crate) unsafe fn advise_huge(_start: NonNull<u8>, _bytes: usize) {}

/// # Safety
/// As for [`advise_small`](super::advise_small).
pub(crate) unsafe fn advise_small(_start: NonNull<u8>, _bytes: usize) {}

/// What is not committed is in no dump anyway.
///
/// # Safety
/// As for [`keep_out_of_dumps`](super::keep_out_of_dumps).
pub(crate) unsafe fn keep_out_of_dumps(_start: NonNull<u8>, _bytes: usize) {}

/// # Safety
/// As for [`put_into_dumps`](super::put_into_dumps).
pub(crate) unsafe fn put_into_dumps(_start: NonNull<u8>, _bytes: usize) {}

/// Nobody lists mappings by name.
///
/// # Safety
/// As for [`name`](super::name).
pub(crate) unsafe fn name(_start: NonNull<u8>, _bytes: usize, _family: &str) {}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    /// Bytes of a reservation that are committed, as the system counts them.
    fn committed_in(start: NonNull<u8>, bytes: usize) -> usize {
        let (mut at, end, mut sum) = (start.addr().get(), start.addr().get() + bytes, 0);
        while at < end {
            let pages = pages_at(at).expect("pages that the test has");
            if pages.State == MEM_COMMIT {
                sum += pages.RegionSize.min(end - at);
            }
            at += pages.RegionSize;
        }
        sum
    }

    #[test]
    fn what_is_charged_is_what_is_committed_and_not_purged() {
        let space = reserve(64 * MIB, 2 * MIB).unwrap();
        assert_eq!(committed_in(space, 64 * MIB), 0, "a reservation is not charged");
        // SAFETY: inside the space, here and below.
        assert!(unsafe { commit(space, MIB) });
        assert_eq!(committed_in(space, 64 * MIB), MIB);
        // SAFETY: as above.
        assert!(unsafe { commit(space, 2 * MIB) }, "also where a part is committed");
        // SAFETY: as above: a part of what is committed, and more.
        assert!(unsafe { purge(space, 3 * MIB / 2) });
        assert_eq!(committed_in(space, 64 * MIB), MIB / 2);
        // SAFETY: as above; nobody uses it.
        assert!(unsafe { release(space, 64 * MIB) });
    }

    #[test]
    fn alignment_is_kept_with_and_without_the_call_for_it() {
        find_calls();
        let call = VIRTUAL_ALLOC_2.load(Relaxed);
        for call in [call, core::ptr::null_mut()] {
            // Other tests are served by either.
            VIRTUAL_ALLOC_2.store(call, Relaxed);
            for align in [1 << 12, 1 << 16, 1 << 17, 2 * MIB, 128 * MIB] {
                let spaces = [(); 3].map(|()| reserve(MIB, align).unwrap());
                for space in spaces {
                    assert!(is_aligned(space, align), "{space:?} for {align:#x}");
                    assert!(is_aligned(space, GRANULE_BYTES));
                    // SAFETY: reserved above, and used by nobody.
                    assert!(unsafe { release(space, MIB) });
                }
            }
        }
        VIRTUAL_ALLOC_2.store(call, Relaxed);
    }

    #[test]
    fn a_long_mapping_becomes_twice_as_long_in_place_and_shorter_again() {
        let memory = map(4 * MIB, 2 * MIB).unwrap();
        assert_eq!(committed_in(memory, 4 * MIB), 4 * MIB);
        // SAFETY: the whole mapping, here and below.
        unsafe { memory.write_bytes(7, 4 * MIB) };
        // SAFETY: as above.
        assert_eq!(unsafe { remap(memory, 4 * MIB, 8 * MIB, false) }, Some(memory));
        // SAFETY: as above: there is no room.
        assert_eq!(unsafe { remap(memory, 8 * MIB, 9 * MIB, true) }, None);
        // SAFETY: as above.
        assert_eq!(unsafe { remap(memory, 8 * MIB, 6 * MIB, false) }, Some(memory));
        assert_eq!(committed_in(memory, 8 * MIB), 6 * MIB);
        // SAFETY: committed memory that the test has.
        let bytes = unsafe { core::slice::from_raw_parts(memory.as_ptr(), 6 * MIB) };
        assert!(bytes[..4 * MIB].iter().all(|&byte| byte == 7) && bytes[4 * MIB..].iter().all(|&byte| byte == 0));
        // SAFETY: no longer used.
        assert!(unsafe { release(memory, 6 * MIB) });
    }

    #[test]
    fn a_mapping_between_margins_goes_back_with_them() {
        let page = page_bytes();
        for align in [page, 2 * MIB] {
            let memory = map_between(MIB, align, page).unwrap();
            assert!(is_aligned(memory, align));
            // SAFETY: the margin before the memory.
            let before = unsafe { memory.sub(page) };
            // SAFETY: memory of the test's with its margins.
            unsafe { before.write_bytes(7, MIB + 2 * page) };
            // SAFETY: a margin, which nobody uses.
            assert!(unsafe { guard(before, page) });
            let state = |at: NonNull<u8>| pages_at(at.addr().get()).map(|pages| pages.State);
            assert_eq!((state(before), state(memory)), (Some(MEM_RESERVE), Some(MEM_COMMIT)));
            // SAFETY: the whole of it, no longer used. It does not begin where the reservation does.
            assert!(unsafe { release(before, MIB + 2 * page) });
        }
    }

    #[test]
    fn an_error_of_the_program_is_still_there_after_a_call_that_fails() {
        use windows_sys::Win32::Foundation::{GetLastError, SetLastError};

        // SAFETY: no preconditions, here and below.
        unsafe { SetLastError(1234) };
        assert!(reserve(isize::MAX as usize & !0xFFFF, GRANULE_BYTES).is_none());
        // SAFETY: as above.
        assert_eq!(unsafe { GetLastError() }, 1234);
    }
}
