//! What every backend promises.

use super::*;

/// Whether this backend moves pages, and whether what it has given back reads zero.
const MOVES: bool = cfg!(not(any(miri, feature = "portable"))) && cfg!(target_os = "linux");
const PURGES: bool = MOVES || DECOMMITS;

fn bytes_at<'a>(start: NonNull<u8>, bytes: usize) -> &'a mut [u8] {
    // SAFETY: the tests look at committed memory that they hold, one slice after the other.
    unsafe { core::slice::from_raw_parts_mut(start.as_ptr(), bytes) }
}

#[test]
fn reserved_space_is_aligned_and_zero_once_committed() {
    let bytes = 64 * page_bytes();
    for align in [page_bytes(), 1 << 16, 1 << 21, 1 << 27] {
        let space = reserve(bytes, align).unwrap();
        assert_eq!(space.addr().get() % align, 0);
        // SAFETY: the first half of the space that was reserved above.
        assert!(unsafe { commit(space, bytes / 2) });
        bytes_at(space, bytes / 2).fill(7);
        // SAFETY: inside the space.
        let second = unsafe { space.add(bytes / 2) };
        // SAFETY: the other half, not yet committed.
        assert!(unsafe { commit(second, bytes / 2) });
        let memory = bytes_at(space, bytes);
        assert!(memory[..bytes / 2].iter().all(|&byte| byte == 7), "one half leaves the other alone");
        assert!(memory[bytes / 2..].iter().all(|&byte| byte == 0));
        // SAFETY: the whole committed space, with no reference left into it.
        let purged = unsafe { purge(space, bytes) };
        assert_eq!(purged, PURGES);
        // SAFETY: as above; all of it was committed.
        assert!(unsafe { recommit(space, bytes) });
        assert!(!purged || bytes_at(space, bytes).iter().all(|&byte| byte == 0));
        // SAFETY: reserved above, no longer used.
        assert!(unsafe { release(space, bytes) });
    }
}

#[test]
fn parts_of_committed_space_come_and_go_and_leave_the_others_alone() {
    let page = page_bytes();
    let space = reserve(32 * page, page).unwrap();
    // SAFETY: the whole of what was reserved above.
    assert!(unsafe { commit(space, 32 * page) });
    bytes_at(space, 32 * page).fill(7);
    // SAFETY: inside the space.
    let part = unsafe { space.add(8 * page) };
    for _ in 0..3 {
        // SAFETY: committed, and not needed.
        let purged = unsafe { purge(part, 8 * page) };
        // SAFETY: more than was purged; committed before.
        assert!(unsafe { recommit(space, 24 * page) });
        let memory = bytes_at(space, 32 * page);
        assert!(memory[..8 * page].iter().chain(&memory[16 * page..]).all(|&byte| byte == 7));
        assert!(!purged || memory[8 * page..16 * page].iter().all(|&byte| byte == 0));
        memory[8 * page..16 * page].fill(9);
    }
    // SAFETY: committed; what it holds is not needed, and stays or is zero.
    unsafe { discard(part, 8 * page) };
    assert!(bytes_at(part, 8 * page).iter().all(|&byte| byte == 9 || byte == 0));
    bytes_at(part, 8 * page).fill(5);
    assert!(bytes_at(part, 8 * page).iter().all(|&byte| byte == 5), "what is discarded stays usable");
    // SAFETY: reserved above, no longer used.
    assert!(unsafe { release(space, 32 * page) });
}

#[test]
fn guarded_memory_reads_zero_when_it_is_opened() {
    let page = page_bytes();
    let memory = map(16 * page, page).unwrap();
    bytes_at(memory, 16 * page).fill(7);
    // SAFETY: inside the mapping.
    let part = unsafe { memory.add(4 * page) };
    for _ in 0..2 {
        // SAFETY: what it holds is not needed.
        let guarded = unsafe { guard(part, 4 * page) };
        // SAFETY: as above.
        let opened = unsafe { unguard(part, 4 * page) };
        assert!(opened != Opened::Refused, "{opened:?}");
        assert!(!guarded || bytes_at(part, 4 * page).iter().all(|&byte| byte == 0));
        bytes_at(part, 4 * page).fill(8);
    }
    let all = bytes_at(memory, 16 * page);
    assert!(all[..4 * page].iter().chain(&all[8 * page..]).all(|&byte| byte == 7));
    // SAFETY: mapped above, no longer used.
    assert!(unsafe { release(memory, 16 * page) });
}

#[test]
#[cfg_attr(target_family = "wasm", ignore = "half of the address space is granted there")]
fn what_is_too_much_is_refused_and_leaves_nothing() {
    let most = (isize::MAX as usize) & !(page_bytes() - 1);
    for align in [page_bytes(), 1 << 21] {
        assert!(reserve(most, align).is_none());
        assert!(map(most, align).is_none());
    }
    assert!(reserve_readable(most).is_none());
    let space = reserve(64 * page_bytes(), page_bytes()).unwrap();
    assert!(reserve_at(space.addr().get(), 64 * page_bytes()).is_none(), "somebody has it");
    // SAFETY: reserved above, not used.
    assert!(unsafe { release(space, 64 * page_bytes()) });
}

#[test]
fn readable_space_is_zero_and_keeps_what_is_written() {
    let (page, bytes) = (page_bytes(), 64 * page_bytes());
    let space = reserve_readable(bytes).unwrap();
    for _ in 0..2 {
        // SAFETY: the first page of the space, which stays as it is.
        assert!(unsafe { make_writable(space, page) });
        bytes_at(space, page)[9] += 1;
    }
    let memory = bytes_at(space, bytes);
    assert!(memory.iter().enumerate().all(|(place, &byte)| byte == if place == 9 { 2 } else { 0 }));
    // SAFETY: reserved above, no longer used.
    assert!(unsafe { release(space, bytes) });
}

#[test]
fn mapped_memory_is_aligned_and_zero_whoever_had_it_before() {
    for align in [page_bytes(), 1 << 16, 1 << 23] {
        for bytes in [page_bytes(), 3 << 20, 3 << 20] {
            let memory = map(bytes, align).unwrap();
            assert_eq!(memory.addr().get() % align, 0);
            assert!(bytes_at(memory, bytes).iter().all(|&byte| byte == 0));
            bytes_at(memory, bytes).fill(7);
            // SAFETY: mapped above, no longer used.
            assert!(unsafe { release(memory, bytes) });
        }
    }
}

#[test]
fn remap_keeps_the_contents_or_refuses() {
    let page = page_bytes();
    let old = map(4 * page, page).unwrap();
    bytes_at(old, 4 * page).fill(9);
    // SAFETY: mapped above with this length; the old pointer is used again only if that fails.
    let remapped = unsafe { remap(old, 4 * page, 4096 * page, true) };
    // WebAssembly's memory can be made longer where it ends.
    assert!(remapped.is_some() == MOVES || cfg!(target_family = "wasm"));
    let (new, pages) = remapped.map_or((old, 4), |new| (new, 4096));
    let memory = bytes_at(new, pages * page);
    assert!(memory[..4 * page].iter().all(|&byte| byte == 9));
    assert!(memory[4 * page..].iter().all(|&byte| byte == 0));
    // SAFETY: the mapping's length now.
    assert!(unsafe { release(new, pages * page) });
}
