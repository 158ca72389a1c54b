//! What the crate asks of the operating system: one contract, an implementation per platform.
//!
//! | call | contract |
//! | --- | --- |
//! | [`page_bytes`] | size of a page, asked at run time, a power of two |
//! | [`reserve`] | address space that must not be touched yet, costs no memory and no commit charge |
//! | [`reserve_readable`] | the same, but every byte may be read and reads zero |
//! | [`commit`] | makes reserved space readable and writable; what was never written reads zero |
//! | [`purge`] | gives the memory back and keeps the space; `true` only if it reads zero from now on |
//! | [`release`] | gives space and memory back; on `false` the space is still there |
//! | [`map`] | committed zero memory of its own; given back with [`release`] |
//! | [`remap`] | changes the length of a mapping, in place or by moving its pages |
//! | [`guard`] | gives the memory back, and any access ends the process until [`unguard`], from when on it reads zero; `false`: not here |
//! | [`forbid`] | the same by protection, for good; costs a mapping |
//! | [`random`] | 64 random bits |
//! | [`advise_huge`] | asks for huge pages; a hint |
//!
//! All lengths are multiples of the page size and all addresses page-aligned; nothing here is retried or remembered.

use core::ptr::NonNull;

#[cfg(all(unix, not(miri)))]
mod unix;
#[cfg(all(unix, not(miri)))]
use unix as imp;

#[cfg(not(all(unix, not(miri))))]
compile_error!("family-alloc has no backend for this platform yet: see `src/os/mod.rs` for the contract to implement");

pub(crate) use imp::{
    address_space_limit, advise_huge, commit, forbid, guard, map, milliseconds, page_bytes, purge, random, release,
    remap, reserve, reserve_readable, unguard,
};

/// Bytes of a huge page where [`advise_huge`] has an effect.
pub(crate) const HUGE_PAGE_BYTES: usize = 2 << 20;

/// Whether an address is a multiple of `align`, a power of two.
pub(crate) fn is_aligned(memory: NonNull<u8>, align: usize) -> bool {
    memory.addr().get() & (align - 1) == 0
}

/// Rounds up to whole pages; `None` when that is more than any object may have.
pub(crate) fn round_to_pages(bytes: usize) -> Option<usize> {
    bytes.checked_next_multiple_of(page_bytes()).filter(|&rounded| rounded <= isize::MAX as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_space_is_aligned_and_zero_once_committed() {
        let bytes = 64 * page_bytes();
        for align in [page_bytes(), 1 << 16, 1 << 21, 1 << 27] {
            let space = reserve(bytes, align).unwrap();
            assert_eq!(space.addr().get() % align, 0);
            // SAFETY: the space was reserved above, with this length.
            assert!(unsafe { commit(space, bytes) });
            // SAFETY: committed memory may be read and written, and the slice ends before it is released.
            let memory = unsafe { core::slice::from_raw_parts_mut(space.as_ptr(), bytes) };
            assert!(memory.iter().all(|&byte| byte == 0));
            memory.fill(7);
            // SAFETY: the whole committed space, with no reference left into it.
            assert!(unsafe { purge(space, bytes) });
            // SAFETY: purged memory is still committed.
            let memory = unsafe { core::slice::from_raw_parts(space.as_ptr(), bytes) };
            assert!(memory.iter().all(|&byte| byte == 0));
            // SAFETY: reserved above, no longer used.
            assert!(unsafe { release(space, bytes) });
        }
    }

    #[test]
    fn remap_keeps_the_contents() {
        let page = page_bytes();
        let old = map(4 * page, page).unwrap();
        // SAFETY: four mapped pages.
        unsafe { core::ptr::write_bytes(old.as_ptr(), 9, 4 * page) };
        // SAFETY: mapped above with this length; the old pointer is not used again.
        let new = unsafe { remap(old, 4 * page, 4096 * page, true) }.unwrap();
        // SAFETY: the first four pages came along.
        let memory = unsafe { core::slice::from_raw_parts(new.as_ptr(), 5 * page) };
        assert!(memory[..4 * page].iter().all(|&byte| byte == 9));
        assert!(memory[4 * page..].iter().all(|&byte| byte == 0));
        // SAFETY: the mapping's new length.
        assert!(unsafe { release(new, 4096 * page) });
    }
}
