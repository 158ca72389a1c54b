//! The engine never asks the global allocator for memory: this program's counts, per thread, how often it is asked.

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use common::doors::{Doors, layout};
use family_alloc::{families, family};

/// The system's allocator, counting the calls of each thread.
struct Counting;

thread_local! {
    static CALLS: Cell<usize> = const { Cell::new(0) };
}

fn count() {
    CALLS.set(CALLS.get() + 1);
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

fn use_family(doors: Doors) {
    let mut slots: [Option<(NonNull<[u8]>, Layout)>; 400] = [None; 400];
    for round in 0..3 {
        for size in SIZES {
            let (old, new) = (layout(size, 8), layout(2 * size, 16));
            for slot in &mut slots[..if size > 1 << 16 { 4 } else { 400 }] {
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
    family! { struct Quiet; struct QuietSmall { slab_bytes: 64 * 1024 } struct QuietRaw { checks: Unchecked } }
    for doors in [Doors::of::<Quiet>(), Doors::of::<QuietSmall>(), Doors::of::<QuietRaw>()] {
        let before = CALLS.get();
        use_family(doors);
        assert_eq!(CALLS.get() - before, 0, "calls of the global allocator, family {}", doors.name);
        let thread = std::thread::spawn(move || {
            let before = CALLS.get();
            use_family(doors);
            CALLS.get() - before
        });
        assert_eq!(thread.join().expect("no panic"), 0, "calls on a new thread, family {}", doors.name);
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
