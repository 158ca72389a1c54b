//! The engine never asks the global allocator for memory: this program's counts, per thread, how often it is asked, and ends the
//! process where it must not be asked at all.

#![cfg(any(target_os = "linux", windows))]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use common::child;
use common::doors::{Doors, layout};
use family_alloc::{Family, families, family, set_fault_handler};

/// The system's allocator, counting the calls of each thread.
struct Counting;

thread_local! {
    static CALLS: Cell<usize> = const { Cell::new(0) };
    /// Whether a call ends the process.
    static FORBIDDEN: Cell<bool> = const { Cell::new(false) };
}

fn count() {
    CALLS.set(CALLS.get() + 1);
    if FORBIDDEN.get() {
        // Another end than that of a report, where the system has one that calls nobody.
        #[cfg(unix)]
        // SAFETY: no preconditions.
        unsafe {
            libc::_exit(1)
        };
        #[cfg(not(unix))]
        std::process::abort();
    }
}

// SAFETY: the system's allocator does the work.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the same contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        count();
        // SAFETY: the same contract.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static GLOBAL: Counting = Counting;

/// Every size from a byte to a large mapping.
const SIZES: [usize; 7] = [1, 2, 100, 4096, 1 << 16, 1 << 20, 3 << 20];

/// So many at once, more than a magazine holds; under Miri few.
const SLOTS: usize = if cfg!(miri) { 8 } else { 400 };

fn use_family(doors: Doors) {
    let mut slots: [Option<(NonNull<[u8]>, Layout)>; SLOTS] = [None; SLOTS];
    for round in 0..3 {
        for size in SIZES {
            // What comes through `GlobalAlloc` keeps its alignment.
            let (old, new) = (layout(size, 8), layout(2 * size, if doors.is_exact { 8 } else { 16 }));
            for slot in &mut slots[..if size > 1 << 16 { 4 } else { SLOTS }] {
                let memory = if round == 1 { (doors.allocate_zeroed)(old) } else { (doors.allocate)(old) };
                *slot = memory.map(|memory| (memory, old));
            }
            for slot in slots.iter_mut().step_by(2).flatten() {
                // SAFETY: allocated above with `old`.
                let grown = unsafe { (doors.grow)(slot.0.cast(), old, new) };
                *slot = (grown.unwrap_or_else(|| std::process::abort()), new);
            }
            for (memory, layout) in slots.iter_mut().filter_map(Option::take) {
                // SAFETY: what the last call for this slot returned, with its layout.
                unsafe { (doors.deallocate)(memory.cast(), layout) };
            }
        }
    }
    (doors.stats)();
    families().for_each(|family| drop(family.stats()));
    (doors.trim)();
}

#[test]
fn no_call_reaches_the_global_allocator() {
    family! {
        struct Quiet;
        struct QuietSmall { slab_bytes: 64 * 1024 }
        struct QuietRaw { checks: Unchecked }
        struct QuietNoted { checks: Checked }
        struct QuietMixed { checks: Hardened }
        struct QuietFenced { checks: Hardened, slab_bytes: 64 * 1024 }
    }
    let doors = [
        [Doors::of::<Quiet>(), Doors::exact::<Quiet>()],
        [Doors::of::<QuietSmall>(), Doors::exact::<QuietSmall>()],
        [Doors::of::<QuietRaw>(), Doors::exact::<QuietRaw>()],
        [Doors::of::<QuietNoted>(), Doors::exact::<QuietNoted>()],
        [Doors::exact::<QuietMixed>(), Doors::of::<QuietMixed>()],
        [Doors::of::<QuietFenced>(), Doors::exact::<QuietFenced>()],
    ];
    for doors in doors.into_iter().flatten() {
        let before = CALLS.get();
        use_family(doors);
        assert_eq!(CALLS.get() - before, 0, "calls of the global allocator, family {doors:?}");
        let thread = std::thread::spawn(move || {
            let before = CALLS.get();
            use_family(doors);
            CALLS.get() - before
        });
        assert_eq!(thread.join().expect("no panic"), 0, "calls on a new thread, family {doors:?}");
    }
}

/// Notes how often the global allocator had been asked when it was dropped.
struct Note(Cell<Option<&'static AtomicUsize>>);

impl Drop for Note {
    fn drop(&mut self) {
        if let Some(place) = self.0.get() {
            place.store(CALLS.get(), Relaxed);
        }
    }
}

#[test]
fn the_end_of_a_thread_does_not_reach_it_either() {
    family! { struct Ending; }
    thread_local! {
        static DROPPED_LAST: Note = const { Note(Cell::new(None)) };
        static DROPPED_FIRST: Note = const { Note(Cell::new(None)) };
    }
    static AT_FIRST: AtomicUsize = AtomicUsize::new(usize::MAX);
    static AT_LAST: AtomicUsize = AtomicUsize::new(0);
    let thread = std::thread::spawn(|| {
        // Thread-locals are destroyed in the reverse order of their first use: the family's caches between these two.
        DROPPED_LAST.with(|note| note.0.set(Some(&AT_LAST)));
        use_family(Doors::of::<Ending>());
        DROPPED_FIRST.with(|note| note.0.set(Some(&AT_FIRST)));
        CALLS.set(CALLS.get() + 1000);
    });
    thread.join().expect("no panic");
    assert_eq!((Doors::of::<Ending>().stats)().thread_caches, 0, "the thread's cache went back");
    let (first, last) = (AT_FIRST.load(Relaxed), AT_LAST.load(Relaxed));
    assert!(first >= 1000 && first == last, "calls of the global allocator before {first} and after {last}");
}

#[cfg(unix)]
family! {
    struct Forked;
    struct ForkedNoted { checks: Checked }
    struct ForkedMixed { checks: Hardened }
}

/// What is done at a fork, and what the child then does with what it inherits.
#[test]
#[cfg(unix)]
#[cfg_attr(miri, ignore = "no process can be started there")]
fn a_fork_does_not_reach_it_either() {
    let doors = [Doors::of::<Forked>(), Doors::of::<ForkedNoted>(), Doors::exact::<ForkedMixed>()];
    let inherited = doors.map(|doors| [64, 3 << 20].map(|size| (doors.allocate)(layout(size, 8)).expect("memory")));
    let free_inherited = || {
        for (doors, memory) in doors.iter().zip(&inherited) {
            // SAFETY: allocated above with these layouts; each process frees its own.
            memory.iter().zip([64, 3 << 20]).for_each(|(memory, size)| unsafe {
                (doors.deallocate)(memory.cast(), layout(size, 8));
            });
        }
    };
    FORBIDDEN.set(true);
    // SAFETY: the child only uses families and exits.
    let process = unsafe { libc::fork() };
    if process == 0 {
        free_inherited();
        doors.into_iter().for_each(use_family);
        // SAFETY: no preconditions.
        unsafe { libc::_exit(0) };
    }
    free_inherited();
    FORBIDDEN.set(false);
    assert!(process > 0, "no child");
    let mut status = 0;
    // SAFETY: writes one status; the child has not been waited for.
    assert_eq!(unsafe { libc::waitpid(process, &raw mut status, 0) }, process);
    assert_eq!(status, 0, "the child's wait status: 256 for a call of the global allocator");
}

family! {
    struct Told;
    struct ToldNoted { checks: Checked }
    struct ToldMixed { checks: Hardened }
}

/// Allocates, and frees with another size and so many bytes from where it begins.
fn free_moved<F: Family>(size: usize, offset: usize, freed_size: usize) {
    let memory = F::malloc(size).wrapping_add(offset);
    // SAFETY: the contract, or broken on purpose, as below.
    unsafe { F::free(memory, freed_size) };
}

fn free_twice() {
    let memory = ToldNoted::malloc(64);
    // SAFETY: right the first time only, on purpose.
    (0..2).for_each(|_| unsafe { ToldNoted::free(memory, 64) });
}

fn write_after_free() {
    let memory = ToldMixed::malloc(64);
    // SAFETY: allocated with this size.
    unsafe { ToldMixed::free(memory, 64) };
    // SAFETY: a free slot, whose memory is there.
    unsafe { memory.write(1) };
    // It waits until chance has it: each free exchanges a slot that waits with one that comes out.
    (0..100_000).for_each(|_| free_moved::<ToldMixed>(64, 0, 64));
}

fn write_behind() {
    let exact = Doors::exact::<ToldMixed>();
    let memory = (exact.allocate)(layout(60, 1)).expect("memory").cast::<u8>();
    // SAFETY: in the slot.
    unsafe { memory.as_ptr().wrapping_add(60).write(0) };
    // SAFETY: allocated with this layout.
    unsafe { (exact.deallocate)(memory, layout(60, 1)) };
}

/// A pointer into a slot is found under the lock of its bin, where no handler is called.
fn free_what_its_bin_refuses() {
    free_moved::<Told>(64, 8, 64);
    Told::trim();
}

/// What is done wrongly, and how its line begins.
const MISUSES: [(fn(), &str); 8] = [
    (free_twice, "double free of"),
    (|| free_moved::<Told>(64, 0, 1000), "invalid free of"),
    // Default families see upper bits only when the slot goes back. Where addresses have 32 of them it is another region.
    (|| free_moved::<ToldNoted>(64, 1 << if usize::BITS == 64 { 40 } else { 27 }, 64), "invalid free of"),
    (|| free_moved::<Told>(3 << 20, 0, 5 << 20), "wrong size at the free of"),
    (|| free_moved::<ToldNoted>(64, 8, 64), "free of interior pointer"),
    (write_after_free, "write after free of"),
    (write_behind, "overflow past the end of"),
    (free_what_its_bin_refuses, "invalid free of"),
];

/// From the wrong call to the end of the process, with a handler or without.
#[test]
#[cfg_attr(miri, ignore = "no process can be started there")]
fn a_report_does_not_reach_it_either() {
    const NAME: &str = "a_report_does_not_reach_it_either";
    if let Some(case) = child::case() {
        let case: usize = case.parse().expect("a number");
        if case >= MISUSES.len() {
            set_fault_handler(|fault| assert_ne!(fault.address, 0));
        }
        child::leave_no_core();
        FORBIDDEN.set(true);
        MISUSES[case % MISUSES.len()].0();
        FORBIDDEN.set(false);
        panic!("nothing was reported");
    }
    for (case, (_, what)) in MISUSES.iter().chain(&MISUSES).enumerate() {
        let mut lines = child::assert_aborted(NAME, &case.to_string());
        // An emulator adds its own.
        lines.retain(|line| !line.starts_with("qemu: "));
        assert!(lines.len() == 1 && lines[0].starts_with(&format!("family_alloc: {what} 0x")), "{what}: {lines:?}");
    }
}
