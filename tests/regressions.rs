//! Defects that were found in review, one test each: every one of them failed once.

mod common;

use allocator_api2::alloc::{Allocator, Layout};
use common::child;
use family_alloc::{Family, family};
use std::alloc::GlobalAlloc;
use std::cell::Cell;
use std::collections::HashSet;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};

fn layout(size: usize, align: usize) -> Layout {
    Layout::from_size_align(size, align).unwrap()
}

family! { struct Surplus; }

/// Frees a slot when its thread ends, after the thread's caches have gone.
struct Late(Cell<usize>);

impl Drop for Late {
    fn drop(&mut self) {
        // SAFETY: set to a live slot of 64 bytes that nobody else frees.
        unsafe { Surplus::free(core::ptr::with_exposed_provenance_mut(self.0.get()), 64) };
    }
}

thread_local! {
    static LATE: Late = const { Late(Cell::new(0)) };
}

/// A free without a cache emptied a depot that it had not been told of.
#[test]
fn free_without_a_cache_may_empty_the_depot() {
    let slots: Vec<usize> = (0..20_000).map(|_| Surplus::malloc(64).expose_provenance()).collect();
    let free = |range: core::ops::Range<usize>| {
        for &slot in &slots[range] {
            // SAFETY: each slot is freed once.
            unsafe { Surplus::free(core::ptr::with_exposed_provenance_mut(slot), 64) };
        }
    };
    // 128 fill the magazine, every 64 after that are a batch.
    free(0..128 + 64 * 40);
    Surplus::trim();
    free(128 + 64 * 40..128 + 64 * 64);
    let late = slots[19_999];
    std::thread::spawn(move || {
        // Registered before the guard of the caches, so destroyed after it.
        LATE.with(|slot| slot.0.set(late));
        let other = Surplus::malloc(8);
        // SAFETY: allocated above.
        unsafe { Surplus::free(other, 8) };
    })
    .join()
    .unwrap();
    free(128 + 64 * 64..19_999);
    assert_eq!(Surplus::stats().live_allocations, 0);
}

family! { struct Zeroed; }

/// Growing fell back to a mapping that had been used before, and trusted it to be zero behind the old length.
#[test]
fn grow_zeroed_clears_a_reused_mapping() {
    const MIB: usize = 1 << 20;
    // Alignments above a page do not let a mapping move, and neighbours do not let it grow.
    let (small, large) = (layout(2 * MIB, 1 << 16), layout(8 * MIB, 1 << 16));
    let above = Zeroed.allocate(layout(16 * MIB, 1 << 16)).unwrap();
    let grown = Zeroed.allocate(small).unwrap();
    let below = Zeroed.allocate(small).unwrap();
    let dirty = Zeroed.allocate(large).unwrap();
    // SAFETY: eight live MiB.
    unsafe { dirty.cast::<u8>().write_bytes(0xFF, 8 * MIB) };
    // SAFETY: allocated above with this layout.
    unsafe { Zeroed.deallocate(dirty.cast(), large) };
    // SAFETY: live, with its layout, and the new size is larger.
    let grown = unsafe { Zeroed.grow_zeroed(grown.cast(), small, large) }.unwrap();
    // SAFETY: eight live MiB, initialised by the call.
    let bytes = unsafe { core::slice::from_raw_parts(grown.cast::<u8>().as_ptr(), 8 * MIB) };
    assert!(bytes[2 * MIB..].iter().all(|&byte| byte == 0));
    for (memory, layout) in [(above, layout(16 * MIB, 1 << 16)), (below, small), (grown, large)] {
        // SAFETY: live, with its layout.
        unsafe { Zeroed.deallocate(memory.cast(), layout) };
    }
}

family! { struct Stranded { slab_bytes: 64 * 1024 } }

/// A thread that ended gave its fresh slots back to a slab that was carved no more.
#[test]
fn fresh_slots_of_ended_threads_are_used_again() {
    let mut live = Vec::new();
    for _ in 0..200 {
        let both = Barrier::new(2);
        std::thread::scope(|scope| {
            let allocate = || {
                let slot = Stranded::malloc(1024).expose_provenance();
                both.wait();
                slot
            };
            let threads = [scope.spawn(allocate), scope.spawn(allocate)];
            live.extend(threads.map(|thread| thread.join().unwrap()));
        });
    }
    let class = Stranded::stats().classes[10];
    assert_eq!(class.live_slots, 400);
    assert!(class.slab_count <= 8, "{class:?}");
    for slot in live {
        // SAFETY: each slot is freed once.
        unsafe { Stranded::free(core::ptr::with_exposed_provenance_mut(slot), 1024) };
    }
}

family! { struct Torn { slab_bytes: 64 * 1024 } }

/// Counters read a fresh range while its owner replaced it.
#[test]
fn stats_are_plausible_while_threads_work() {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let workers = [(); 2].map(|()| {
            scope.spawn(|| {
                let mut live = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    for size in [4096usize, 1] {
                        live.extend((0..600).map(|_| (Torn::malloc(size), size)));
                        for (slot, size) in live.drain(..) {
                            // SAFETY: allocated above with this size.
                            unsafe { Torn::free(slot, size) };
                        }
                    }
                }
            })
        });
        let end = std::time::Instant::now() + std::time::Duration::from_secs(2);
        while std::time::Instant::now() < end {
            let stats = Torn::stats();
            for class in &stats.classes {
                let slots = class.slab_count * Torn::SLAB_BYTES / class.slot_bytes;
                assert!(class.cached_slots + class.live_slots <= slots, "{class:?}");
            }
        }
        stop.store(true, Ordering::Relaxed);
        // Joined one by one: a scope may end before the thread-locals of its threads are destroyed.
        workers.into_iter().for_each(|worker| worker.join().unwrap());
    });
    assert_eq!(Torn::stats().live_allocations, 0);
}

family! {
    struct Watched { checks: Checked }
    struct Guarded { checks: Hardened }
}

/// Some bytes of what a checked family notes about its slots read like the state of a live slot, and a free of an address among
/// them was taken for one. Which bytes do depends on what is free, so all that could be meant are tried.
#[test]
#[cfg_attr(miri, ignore = "no process can be started there")]
fn what_is_noted_of_slots_is_no_slot() {
    const NAME: &str = "what_is_noted_of_slots_is_no_slot";
    let Some(case) = child::case() else {
        for family in [Watched::NAME, Guarded::NAME] {
            for unit in [0, 1, 3, 7] {
                let lines = child::assert_aborted(NAME, &format!("{family} {unit}"));
                let expected = format!("16-byte class, family {family}): no family has allocated it");
                assert!(lines.iter().any(|line| line.ends_with(&expected)), "{lines:#?}");
            }
        }
        return;
    };
    let (family, unit) = case.split_once(' ').unwrap();
    let unit = unit.parse().unwrap();
    if family == Watched::NAME { free_what_is_noted::<Watched>(unit) } else { free_what_is_noted::<Guarded>(unit) }
}

fn free_what_is_noted<F: Family>(unit: usize) {
    let free = |address: usize| {
        // SAFETY: a live slot, or what the family must refuse.
        unsafe { F::free(core::ptr::with_exposed_provenance_mut(address), 16) };
    };
    let slots: Vec<usize> = (0..20_000).map(|_| F::malloc(16).expose_provenance()).collect();
    let (few, most): (Vec<usize>, Vec<usize>) = slots.iter().partition(|&&slot| slot / 16 % 8 < 2);
    few.into_iter().for_each(free);
    F::trim();
    // The next free is in the region that the thread freed in last.
    free(most[0]);
    let region = most[0] & !(64 * F::SLAB_BYTES - 1);
    // The bytes that read like states are few: the first address that is accepted would not end the process.
    let byte = (0..2048).find(|&offset| {
        // SAFETY: the notes of the 16-byte class's first slab are committed; a byte of them is only looked at.
        let noted: u8 =
            unsafe { core::ptr::with_exposed_provenance::<u8>(region + F::SLAB_BYTES / 16 + offset).read() };
        matches!(noted, 3 | 4)
    });
    let offset = byte.map_or(unit * F::SLAB_BYTES, |byte| F::SLAB_BYTES + 16 * byte);
    free(region + if unit == 1 { offset } else { unit * F::SLAB_BYTES });
}

family! { struct Bordering { slab_bytes: 64 * 1024 } }

/// A run of neighbours that went on into the next slab was taken apart slot by slot.
#[test]
fn neighbours_in_two_slabs_go_back_to_both() {
    for backwards in [false, true] {
        // Ten slabs of 64 slots, and a run over every border between them.
        let mut slots: Vec<usize> = (0..640).map(|_| Bordering::malloc(1024).expose_provenance()).collect();
        slots.sort_unstable();
        if backwards {
            slots.reverse();
        }
        for slot in slots {
            // SAFETY: each slot is freed once.
            unsafe { Bordering::free(core::ptr::with_exposed_provenance_mut(slot), 1024) };
        }
        Bordering::trim();
        let class = Bordering::stats().classes[10];
        assert_eq!((class.slab_count, class.live_slots, class.cached_slots), (0, 0, 0), "{class:?}");
    }
}

family! { struct Grown; }

/// An allocation that had grown into a mapping stayed where it was when a higher alignment was asked for.
#[test]
fn what_has_grown_is_aligned_as_its_next_layout_wants() {
    let steps = [layout(20_000, 1), layout(60_000, 1), layout(60_000, 1 << 16)];
    let larger = [layout(20_000, 1), layout(100_000, 1), layout(100_000, 1 << 17)];
    let mut all = Vec::new();
    for [old, grown, aligned] in [steps, larger].repeat(8) {
        let memory = Grown.allocate(old).unwrap().cast();
        // SAFETY: allocated above with `old`, which is shorter.
        let memory = unsafe { Grown.grow(memory, old, grown) }.unwrap().cast();
        // SAFETY: grown to this layout; the next is as long.
        let memory = unsafe { Grown.grow(memory, grown, aligned) }.unwrap().cast::<u8>();
        assert_eq!(memory.addr().get() % aligned.align(), 0, "{memory:p} for {aligned:?}");
        all.push((memory, aligned));
    }
    for (memory, layout) in all {
        // SAFETY: live, and of that layout.
        unsafe { Grown.deallocate(memory, layout) };
    }
    assert_eq!(Grown::stats().live_bytes, 0);
}

family! { struct Marked { checks: Hardened } }

/// A `realloc` that failed took away the mark that finds an overflow.
#[test]
#[cfg_attr(miri, ignore = "no process can be started there")]
fn an_overflow_is_found_after_a_resize_that_failed() {
    const NAME: &str = "an_overflow_is_found_after_a_resize_that_failed";
    if child::case().is_none() {
        let lines = child::assert_aborted(NAME, "overflow");
        assert!(lines.iter().any(|line| line.contains("overflow") && line.contains("family Marked")), "{lines:?}");
        return;
    }
    let layout = layout(100, 1);
    // SAFETY: the layout is not empty.
    let memory = unsafe { GlobalAlloc::alloc(&Marked, layout) };
    // SAFETY: live, and of that layout.
    let refused = unsafe { GlobalAlloc::realloc(&Marked, memory, layout, isize::MAX as usize - 63) };
    assert!(refused.is_null());
    // SAFETY: inside the slot of 128 bytes, though not what was asked for.
    let behind = unsafe { memory.add(100) };
    // SAFETY: as above; the mark was written there.
    let marked = unsafe { behind.read() };
    // SAFETY: as above.
    unsafe { behind.write(!marked) };
    // SAFETY: live, as the failed call left it.
    unsafe { GlobalAlloc::dealloc(&Marked, memory, layout) };
}

family! { struct Scribbled; }

/// What is written to free slots led the free list astray when it stood in them.
#[test]
#[cfg_attr(miri, ignore = "a misuse")]
fn what_is_written_to_free_slots_leads_nothing_astray() {
    let (freed, live) = free_apart::<Scribbled>();
    for &slot in &freed {
        let words = core::ptr::with_exposed_provenance_mut::<u8>(slot);
        // SAFETY: a misuse of a slot that is mapped still.
        unsafe { words.write_bytes(0xFF, 64) };
    }
    let freed: HashSet<usize> = freed.into_iter().collect();
    // Also what was never handed out may come.
    let again: Vec<usize> = (0..2 * 32_768).map(|_| Scribbled::malloc(64).expose_provenance()).collect();
    assert!(freed.is_subset(&again.iter().copied().collect()), "all that was free is handed out");
    assert_eq!(again.iter().collect::<HashSet<_>>().len(), again.len(), "and nothing twice");
    assert!(again.iter().all(|slot| !live.contains(slot)), "and nothing that is live");
}

/// Allocates three slabs of 64-byte slots and more, and frees half of them so that none comes back with a neighbour; returns
/// those and the others.
fn free_apart<F: Family>() -> (Vec<usize>, HashSet<usize>) {
    let slots: Vec<usize> = (0..3 * 32_768).map(|_| F::malloc(64).expose_provenance()).collect();
    let freed: Vec<usize> = (0..7).flat_map(|first| slots.iter().copied().skip(first).step_by(7)).step_by(2).collect();
    for &slot in &freed {
        // SAFETY: each is freed once.
        unsafe { F::free(core::ptr::with_exposed_provenance_mut(slot), 64) };
    }
    let mut live: HashSet<usize> = slots.into_iter().collect();
    freed.iter().for_each(|slot| _ = live.remove(slot));
    (freed, live)
}

family! { struct Repeated; }

/// A slot that is in a list twice was once when the list had been put in order, and counted twice: a slot of another slab's memory was
/// handed out for it.
#[test]
#[cfg_attr(miri, ignore = "no process can be started there")]
fn a_slot_that_is_listed_twice_ends_the_process() {
    const NAME: &str = "a_slot_that_is_listed_twice_ends_the_process";
    if child::case().is_none() {
        let lines = child::assert_aborted(NAME, "repeat");
        assert!(lines[0].starts_with("family_alloc: double free of 0x"), "{lines:?}");
        assert!(lines[0].ends_with(" (64-byte class, family Repeated)"), "{lines:?}");
        return;
    }
    let (freed, _) = free_apart::<Repeated>();
    // It is in its slab's list long since.
    // SAFETY: a misuse: the second free.
    unsafe { Repeated::free(core::ptr::with_exposed_provenance_mut(freed[10]), 64) };
    Repeated::trim();
    for _ in 0..50_000 {
        assert!(!Repeated::malloc(64).is_null());
    }
}

family! { struct Closed { checks: Hardened, slab_bytes: 2 << 20 } }

/// A slab that was closed has no guards, and what is written to it then was not looked for: it was in the next allocation, and that as zero.
#[test]
#[cfg_attr(
    all(windows, not(feature = "portable")),
    ignore = "what is closed and trimmed is not there: to write to it ends the process"
)]
#[cfg_attr(miri, ignore = "no process can be started there")]
fn what_is_written_to_a_closed_slab_is_found() {
    const NAME: &str = "what_is_written_to_a_closed_slab_is_found";
    let Some(case) = child::case() else {
        for case in ["trimmed", "thread", "other class"] {
            let lines = child::assert_aborted(NAME, case);
            assert!(lines[0].starts_with("family_alloc: write after free of 0x"), "{case}: {lines:?}");
            assert!(lines[0].ends_with("-byte class, family Closed): at offset 12345"), "{case}: {lines:?}");
        }
        return;
    };
    let used = || {
        let memory = Closed::malloc(64 << 10);
        // SAFETY: allocated above.
        unsafe { memory.write_bytes(7, 64 << 10) };
        // SAFETY: as above.
        unsafe { Closed::free(memory, 64 << 10) };
        memory.expose_provenance()
    };
    let address = if case == "thread" { std::thread::spawn(used).join().expect("no panic") } else { used() };
    Closed::trim();
    let stale = core::ptr::with_exposed_provenance_mut::<u8>(address + 12_345);
    // SAFETY: a misuse of memory that is mapped still.
    unsafe { stale.write(0x41) };
    _ = Closed::malloc(if case == "other class" { 128 << 10 } else { 64 << 10 });
}

family! { struct Neighbours { checks: Hardened, slab_bytes: 2 << 20 } }

/// What ran over into a slot that nobody had had yet was in the next allocation, as zero.
#[test]
#[cfg_attr(
    any(miri, feature = "portable", not(any(unix, windows))),
    ignore = "where nothing can be given back it is looked at, and told"
)]
#[cfg_attr(windows, ignore = "what nobody has had is not there: to write to it ends the process")]
fn what_runs_over_into_a_new_slot_is_not_handed_out() {
    child::isolated("what_runs_over_into_a_new_slot_is_not_handed_out", || {
        let first = Neighbours::malloc(256 << 10);
        let behind = first.wrapping_add(256 << 10);
        // SAFETY: a misuse of memory of the same slab.
        unsafe { behind.write(7) };
        let next = Neighbours::calloc(256 << 10);
        // SAFETY: allocated above.
        assert!(next != behind || unsafe { next.read() } == 0);
    });
}

/// Allocates and overflows when its thread has no cache any more.
#[cfg(unix)]
struct AtTheEnd(usize);

#[cfg(unix)]
impl Drop for AtTheEnd {
    fn drop(&mut self) {
        let size = self.0;
        let first = Neighbours::malloc(size);
        let behind = first.wrapping_add(size);
        // SAFETY: a misuse of memory of the same slab.
        unsafe { behind.cast::<u64>().write(0x4141_4141_4141_4141) };
        for _ in 0..4 {
            let next = Neighbours::calloc(size);
            // SAFETY: allocated above.
            let memory = unsafe { std::slice::from_raw_parts(next, size) };
            assert!(memory.iter().all(|&byte| byte == 0), "{size} bytes at {next:p}, behind {first:p}");
        }
        println!("got through");
    }
}

/// The same on a thread without a cache, where slots come one by one: what ran over is gone, or
/// told.
#[test]
#[cfg_attr(miri, ignore = "starts a process")]
#[cfg(unix)]
fn what_runs_over_into_a_new_slot_is_not_handed_out_late() {
    use std::os::unix::process::ExitStatusExt;

    const NAME: &str = "what_runs_over_into_a_new_slot_is_not_handed_out_late";
    std::thread_local! {
        static LATE: AtTheEnd = AtTheEnd(child::case().expect("a case").parse().expect("a size"));
    }
    if child::case().is_some() {
        child::leave_no_core();
        let thread = std::thread::spawn(|| {
            LATE.with(|_| ());
            // The crate's own guard is registered later, so it runs earlier.
            // SAFETY: allocated with this size.
            unsafe { Neighbours::free(Neighbours::malloc(16), 16) };
        });
        return thread.join().expect("no panic");
    }
    for shift in 5..20 {
        let output = child::run(NAME, &(1_usize << shift).to_string());
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let told = output.status.signal() == Some(libc::SIGABRT) && err.contains("family_alloc: write after free of");
        assert!(told || (output.status.success() && out.contains("got through")), "{}: {out}{err}", 1 << shift);
    }
}

/// Where regions come from the system's allocator, it may serve the same request from far apart once it has freed something as
/// long. A family that had its first region from the one place was refused all from the other.
#[test]
#[cfg_attr(miri, ignore = "starts a process")]
fn a_family_grows_whatever_the_system_allocator_did() {
    family! {
        struct Before { slab_bytes: 64 * 1024 }
        struct After { slab_bytes: 128 * 1024 }
    }
    fn grow<F: Family>(bytes: usize) {
        for _ in 0..bytes / 8192 {
            // What it leads to is never used, and the process ends.
            assert!(!F::malloc(8192).is_null(), "{} bytes for {}", bytes, F::NAME);
        }
    }
    // In the main thread of a process, whose memory glibc takes from its heap.
    child::isolated("a_family_grows_whatever_the_system_allocator_did", || {
        grow::<Before>(1 << 20);
        for size in [1 << 20, 8 << 20, 31 << 20] {
            let layout = layout(size, 8);
            // SAFETY: the size is not zero.
            let memory = std::hint::black_box(unsafe { std::alloc::System.alloc(layout) });
            // SAFETY: allocated with this layout just now; freed once.
            unsafe { std::alloc::System.dealloc(memory, layout) };
        }
        grow::<Before>(16 << 20);
        grow::<After>(1 << 20);
        // SAFETY: nobody uses any; a long mapping beside what the heap has.
        let apart: Vec<*mut u8> = (0..4).map(|_| unsafe { std::alloc::System.alloc(layout(40 << 20, 8)) }).collect();
        grow::<After>(64 << 20);
        drop(apart);
    });
}
