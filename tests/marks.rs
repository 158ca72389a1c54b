//! The marks behind allocations of hardened families: nobody can make one who has seen others, and
//! forks neither break nor share them.

#![cfg(all(unix, not(miri)))]

mod common;

use std::alloc::{GlobalAlloc, Layout};
use std::collections::HashSet;

use common::child;
use family_alloc::{Family, family};

family! {
    struct First { checks: Hardened }
    struct Second { checks: Hardened, slab_bytes: 64 * 1024 }
}

/// With slack behind them: in a slot, in a guarded slot, in a mapping.
const SIZES: [usize; 4] = [40, 1000, 100_000, 3_000_000];

/// An allocation and the mark behind it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Marked<F> {
    memory: *mut u8,
    layout: Layout,
    mark: u64,
    family: F,
}

impl<F: Family + GlobalAlloc> Marked<F> {
    fn allocate(size: usize) -> Self {
        let layout = Layout::from_size_align(size, 8).expect("a layout");
        // SAFETY: the size is not zero.
        let memory = unsafe { F::default().alloc(layout) };
        assert!(!memory.is_null());
        Self { memory, layout, mark: Self::read(memory, size), family: F::default() }
    }

    fn read(memory: *mut u8, size: usize) -> u64 {
        // SAFETY: inside of the slot or mapping, behind what was asked for: what an overread would
        // see.
        unsafe { memory.wrapping_add(size).cast::<u64>().read_unaligned() }
    }

    /// Writes one byte past the end.
    fn overflow(self) {
        let end = self.memory.wrapping_add(self.layout.size());
        // SAFETY: inside of the slot or mapping, here and below, where it is a misuse.
        let byte = unsafe { end.read() };
        // SAFETY: as above.
        unsafe { end.write(byte ^ 0x80) };
    }

    fn free(self) {
        assert_eq!(Self::read(self.memory, self.layout.size()), self.mark, "a mark stays");
        // SAFETY: allocated with this layout, and given up.
        unsafe { self.family.dealloc(self.memory, self.layout) };
    }
}

/// Runs `body` in a fork; how it ended.
fn fork(body: impl FnOnce()) -> libc::c_int {
    // SAFETY: the child only uses the crate and exits.
    let process = unsafe { libc::fork() };
    assert!(process >= 0, "the process can be forked");
    if process == 0 {
        let passed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)).is_ok();
        // SAFETY: no preconditions.
        unsafe { libc::_exit(i32::from(!passed)) };
    }
    let mut status = 0;
    // SAFETY: writes one status to a live one.
    assert_eq!(unsafe { libc::waitpid(process, &raw mut status, 0) }, process);
    status
}

/// The mark that this process puts behind an allocation at an address. What is freed goes to a
/// random place: the slot comes back.
fn mark_at(address: *mut u8, size: usize) -> u64 {
    for _ in 0..1_000_000 {
        let next = Marked::<First>::allocate(size);
        next.free();
        if next.memory == address {
            return next.mark;
        }
    }
    panic!("the slot does not come back");
}

#[test]
fn marks_tell_nothing_of_each_other() {
    child::isolated("marks_tell_nothing_of_each_other", || {
        let first: Vec<_> = (0..1000).map(|_| Marked::<First>::allocate(40)).collect();
        let marks: HashSet<u64> = first.iter().map(|slot| slot.mark).collect();
        assert_eq!(marks.len(), first.len(), "all differ");
        // What two marks have in common does not depend on what their addresses have in common:
        // neither by difference nor by bits.
        let relation = |of: fn(u64, u64) -> u64| {
            let pairs = first.windows(2).map(|pair| {
                (of(pair[0].memory.addr() as u64, pair[1].memory.addr() as u64), of(pair[0].mark | 1, pair[1].mark | 1))
            });
            let seen: HashSet<(u64, u64)> = pairs.collect();
            seen.iter().map(|pair| pair.1).collect::<HashSet<_>>().len()
        };
        assert_eq!(relation(u64::wrapping_sub), 999);
        assert_eq!(relation(|one, other| one ^ other), 999);
        // Each bit but the lowest of the first byte is set in about half of them.
        let first_byte = if cfg!(target_endian = "big") { usize::BITS - 8 } else { 0 };
        for bit in (0..usize::BITS).filter(|&bit| bit != 0 && bit != first_byte) {
            let set = first.iter().filter(|slot| slot.mark >> bit & 1 == 1).count();
            assert!((350..650).contains(&set), "bit {bit} is set in {set} of 1000");
        }
        first.into_iter().for_each(Marked::free);
    });
}

#[test]
fn a_child_has_marks_of_its_own_and_knows_those_from_before() {
    child::isolated("a_child_has_marks_of_its_own_and_knows_those_from_before", || {
        let before = SIZES.map(Marked::<First>::allocate);
        let small = SIZES.map(Marked::<Second>::allocate);
        let probe = Marked::<First>::allocate(40);
        probe.free();
        let status = fork(|| {
            // The parent would have marked it so.
            assert_ne!(mark_at(probe.memory, 40), probe.mark, "the parent knows the child's marks");
            before.into_iter().for_each(Marked::free);
            small.into_iter().for_each(Marked::free);
            SIZES.map(Marked::<First>::allocate).into_iter().for_each(Marked::free);
        });
        assert_eq!(status, 0);
        assert_eq!(mark_at(probe.memory, 40), probe.mark, "the parent goes on with its own");
        // A mark from before is verified in the child, not waved through.
        for damaged in before {
            let status = fork(|| {
                child::leave_no_core();
                damaged.overflow();
                // SAFETY: a misuse that is told.
                unsafe { First.dealloc(damaged.memory, damaged.layout) };
            });
            assert!(libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGABRT, "{damaged:?}: {status:#x}");
        }
        before.into_iter().for_each(Marked::free);
        small.into_iter().for_each(Marked::free);
    });
}

/// More forks of forks than there are generations of keys; the last frees what all of them have
/// allocated.
#[test]
fn every_generation_knows_the_marks_of_all_before() {
    fn next(depth: usize, mut held: Vec<Marked<First>>) {
        held.extend([40, 3_000_000].map(Marked::<First>::allocate));
        if depth == 0 {
            return held.into_iter().for_each(Marked::free);
        }
        assert_eq!(fork(|| next(depth - 1, held.clone())), 0, "{depth} forks from the end");
        held.into_iter().for_each(Marked::free);
    }
    child::isolated("every_generation_knows_the_marks_of_all_before", || next(70, Vec::new()));
}
