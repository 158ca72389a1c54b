//! Every public function beside a `fork`, whether its family has been used or not: no child finds a
//! lock taken by a thread that it does not have.

use std::alloc::{GlobalAlloc, Layout};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread;

use family_alloc::{Families, Family, FamilyAlloc, FamilyRef, families, family, set_fault_handler};

use crate::common::child;

family! {
    struct Used;
    struct Unused;
    struct UnusedChecked { checks: Checked }
    struct UnusedHardened { checks: Hardened, slab_bytes: 64 * 1024 }
}

const FORKS: usize = 60;
const SECONDS: u32 = 10;

/// What a child does with a family, first of all to whoever reads it: use it for the first time.
fn use_family<F: Family>() {
    for size in [1, 64, 4096, 40_000, 1 << 20, 3 << 20] {
        let memory = F::malloc(size);
        assert!(!memory.is_null());
        // SAFETY: allocated above with this size.
        unsafe { F::free(memory, size) };
    }
    F::trim();
    let _ = F::stats();
}

fn use_all() {
    use_family::<Unused>();
    use_family::<UnusedChecked>();
    use_family::<UnusedHardened>();
    use_family::<Used>();
    // SAFETY: a child has one thread, and nobody else knows what its parent had.
    unsafe { Used::reset() };
    assert_eq!(Used::stats().live_allocations, 0);
    assert!(families().count() >= 4);
}

/// Forks while a thread does nothing but call. A child that waits for ever is ended by its alarm.
fn fork_beside(what: &str, call: impl Fn() + Send + 'static) {
    let (ended, calls) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let caller = {
        let (ended, calls) = (Arc::clone(&ended), Arc::clone(&calls));
        thread::spawn(move || {
            while !ended.load(Relaxed) {
                call();
                calls.fetch_add(1, Relaxed);
            }
        })
    };
    while calls.load(Relaxed) == 0 {
        thread::yield_now();
    }
    for number in 0..FORKS {
        // SAFETY: the child only does what is tested here: it uses the crate and exits.
        let child = unsafe { libc::fork() };
        assert!(child >= 0, "fork {number} failed");
        if child == 0 {
            // SAFETY: no handler is set.
            unsafe { libc::alarm(SECONDS) };
            use_all();
            // SAFETY: no preconditions.
            unsafe { libc::_exit(0) };
        }
        let mut status = 0;
        // SAFETY: writes one status to a live one.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        assert_eq!(status, 0, "{what}, fork {number}: the child ended with wait status {status:#x}");
    }
    ended.store(true, Relaxed);
    caller.join().expect("no panic");
}

/// Leaves holes in slabs, and lets pages of these go back.
fn trim_what_has_holes() {
    const SIZE: usize = 64;
    let slots: Vec<_> = (0..20_000).map(|_| Used::malloc(SIZE)).collect();
    let (kept, freed): (Vec<_>, Vec<_>) = slots.into_iter().enumerate().partition(|(number, _)| number % 977 == 0);
    let free = |slots: Vec<(usize, *mut u8)>| {
        // SAFETY: allocated above with this size.
        slots.into_iter().for_each(|(_, slot)| unsafe { Used::free(slot, SIZE) });
    };
    free(freed);
    (0..20).for_each(|_| _ = Used::trim());
    free(kept);
}

#[test]
fn a_child_resets_what_a_thread_was_at_work_on() {
    child::isolated("calls::a_child_resets_what_a_thread_was_at_work_on", || {
        use_family::<Used>();
        (0..5).for_each(|_| fork_beside("trim, with holes", trim_what_has_holes));
    });
}

/// Calls that leave an unused family unused.
fn look_at<F: Family>() {
    let stats = F::stats();
    assert_eq!((stats.live_bytes, stats.slab_bytes, stats.reserved_bytes, stats.thread_caches), (0, 0, 0, 0));
    assert_eq!(F::trim(), 0);
}

#[test]
fn no_child_hangs_beside_a_look_at_an_unused_family() {
    child::isolated("calls::no_child_hangs_beside_a_look_at_an_unused_family", || {
        // So that there are fork handlers.
        use_family::<Used>();
        fork_beside("stats", look_at::<Unused>);
        fork_beside("stats, checked", look_at::<UnusedChecked>);
        fork_beside("stats, hardened", look_at::<UnusedHardened>);
        assert!(families().all(|family| !family.name().starts_with("Unused")), "looking does not use it");
    });
}

#[test]
fn no_child_hangs_beside_any_function() {
    child::isolated("calls::no_child_hangs_beside_any_function", || {
        use_family::<Used>();
        fork_beside("families", || {
            let all: Families = families();
            for family in all {
                let _: FamilyRef = family;
                assert!(!family.name().is_empty());
                let _ = (family.stats().to_string(), family.trim());
            }
        });
        fork_beside("stats and trim", || {
            let _ = (Used::stats(), Used::trim());
        });
        fork_beside("malloc, calloc, memalign, free, remalloc, recalloc", || {
            for size in [16, 5000, 70_000, 3 << 20] {
                // SAFETY: each is live, of this family, and comes back with its size.
                let memory = unsafe { Used::remalloc(Used::malloc(size), size, size * 3) };
                // SAFETY: as above.
                let memory = unsafe { Used::recalloc(memory, size * 3, size * 5) };
                // SAFETY: as above.
                unsafe { Used::free(memory, size * 5) };
                // SAFETY: as above.
                unsafe { Used::free(Used::calloc(size), size) };
                // SAFETY: as above.
                unsafe { Used::free(Used::memalign(4096, size), size.max(4096)) };
            }
        });
        fork_beside("GlobalAlloc", || {
            let (small, large) = (Layout::new::<[u8; 40]>(), Layout::new::<[u8; 3_000_000]>());
            for layout in [small, large] {
                // SAFETY: the size is not zero.
                let memory = unsafe { FamilyAlloc.alloc(layout) };
                // SAFETY: allocated above with this layout.
                let memory = unsafe { FamilyAlloc.realloc(memory, layout, layout.size() * 2) };
                let layout = Layout::from_size_align(layout.size() * 2, layout.align()).expect("a layout");
                // SAFETY: as it was made.
                unsafe { FamilyAlloc.dealloc(memory, layout) };
            }
        });
        fork_beside("set_fault_handler", || set_fault_handler(|_| {}));
    });
}

/// Families that are used for the first time, one after another, while the process forks.
#[test]
fn no_child_hangs_beside_a_first_use() {
    macro_rules! families_of_their_own {
        ($($name:ident)*) => {{
            family! { $(struct $name { slab_bytes: 64 * 1024 })* }
            [$(use_family::<$name>),*]
        }};
    }
    child::isolated("calls::no_child_hangs_beside_a_first_use", || {
        use_family::<Used>();
        let first_uses = families_of_their_own! {
            A0 A1 A2 A3 A4 A5 A6 A7 A8 A9 B0 B1 B2 B3 B4 B5 B6 B7 B8 B9 C0 C1 C2 C3 C4 C5 C6 C7 C8 C9 D0 D1 D2 D3 D4 D5 D6 D7 D8 D9
        };
        let next = AtomicUsize::new(0);
        fork_beside("first uses", move || {
            // Some are left for each fork.
            thread::sleep(std::time::Duration::from_micros(500));
            first_uses[next.fetch_add(1, Relaxed) % first_uses.len()]();
        });
    });
}
