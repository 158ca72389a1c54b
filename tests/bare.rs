//! The crate without `std`, as a program over the memory that it gives: the backend that systems without an operating
//! system have. Empty where the crate is built with `std`:
//! `cargo test --no-default-features --features allocator-api2-02 --test bare`.

#![cfg(not(feature = "std"))]

use core::alloc::{GlobalAlloc, Layout};
use core::ptr::NonNull;
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

use family_alloc::{Family, families, family, give_memory, set_fault_handler, set_wait_hook};

family! {
    struct Nodes;
    struct Wide { slab_bytes: 256 << 10 }
    struct Spaced { classes: Spaced }
    struct Checked { checks: Checked }
    struct Hardened { checks: Hardened }
    struct Threads;
    struct Room;
    struct Large;
    struct Misused;
}

const GIVEN_BYTES: usize = 96 << 20;

/// Gives memory, once, that holds anything but zero. One test at a time has it.
fn begin() -> MutexGuard<'static, ()> {
    static ONCE: Once = Once::new();
    static TURN: Mutex<()> = Mutex::new(());
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    ONCE.call_once(|| {
        let memory: &'static mut [u8] = vec![0xA5; GIVEN_BYTES + 100].leak();
        // Neither end is a page's.
        // SAFETY: leaked just now, for this.
        let used = unsafe { give_memory(NonNull::from(&mut memory[7..])) };
        assert!((GIVEN_BYTES - 8192..=GIVEN_BYTES).contains(&used), "{used}");
        set_wait_hook(std::thread::yield_now);
    });
    turn
}

fn layout(bytes: usize) -> Layout {
    Layout::from_size_align(bytes, 8).unwrap()
}

/// Allocates and frees at random, beside a model of what each allocation holds.
fn churn<F: Family + GlobalAlloc>(family: F, rounds: usize, seed: u64) {
    let mut live: Vec<(*mut u8, usize, u8)> = Vec::new();
    let mut random = seed;
    let holds = |start: *mut u8, bytes: usize, value: u8| {
        // SAFETY: live, with this length, written by this thread.
        unsafe { core::slice::from_raw_parts(start, bytes) }.iter().all(|&byte| byte == value)
    };
    for round in 0..rounds {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let [kind, size, place] = [61, 40, 20].map(|shift| (random >> shift) as usize);
        let bytes = 1 + size % [16, 200, 3000, 70_000][place % 4];
        if kind < 3 && !live.is_empty() {
            let (start, bytes, value) = live.swap_remove(place % live.len());
            assert!(holds(start, bytes, value));
            // SAFETY: allocated below with this layout.
            unsafe { family.dealloc(start, layout(bytes)) };
        } else if kind == 3 && !live.is_empty() {
            let count = live.len();
            let (start, old_bytes, value) = &mut live[place % count];
            // SAFETY: live with this layout, and used no more at the old place.
            let moved = unsafe { family.realloc(*start, layout(*old_bytes), bytes) };
            assert!(!moved.is_null());
            assert!(holds(moved, bytes.min(*old_bytes), *value), "what was there has moved along");
            // SAFETY: live, so many bytes.
            unsafe { moved.write_bytes(*value, bytes) };
            (*start, *old_bytes) = (moved, bytes);
        } else {
            let allocate = if kind == 4 { F::alloc_zeroed } else { F::alloc };
            // SAFETY: the size is not zero.
            let start = unsafe { allocate(&family, layout(bytes)) };
            assert!(!start.is_null() && start.addr() % 8 == 0);
            assert!(kind != 4 || holds(start, bytes, 0), "it reads zero");
            let value = round as u8 | 1;
            // SAFETY: allocated just now, so many bytes.
            unsafe { start.write_bytes(value, bytes) };
            live.push((start, bytes, value));
        }
        if live.len() > 200 {
            let (start, bytes, value) = live.swap_remove(0);
            assert!(holds(start, bytes, value));
            // SAFETY: as above.
            unsafe { family.dealloc(start, layout(bytes)) };
        }
    }
    for (start, bytes, value) in live {
        assert!(holds(start, bytes, value));
        // SAFETY: as above.
        unsafe { family.dealloc(start, layout(bytes)) };
    }
}

#[test]
fn all_kinds_of_families_serve_and_take_back() {
    let _turn = begin();
    churn(Nodes, 20_000, 1);
    churn(Wide, 20_000, 2);
    churn(Spaced, 20_000, 3);
    churn(Checked, 20_000, 4);
    churn(Hardened, 5000, 5);
    assert_eq!(Nodes::SLAB_BYTES, 64 << 10);
    for stats in [Nodes::stats(), Wide::stats(), Spaced::stats(), Checked::stats(), Hardened::stats()] {
        assert_eq!((stats.live_allocations, stats.live_bytes, stats.cached_bytes), (0, 0, 0), "{stats}");
        assert_eq!(stats.thread_caches, 0, "no thread has a cache");
    }
    assert!(families().count() >= 5);
}

#[test]
fn threads_share_a_family_through_its_bins() {
    let _turn = begin();
    std::thread::scope(|scope| {
        for seed in 10..14 {
            scope.spawn(move || churn(Threads, 10_000, seed));
        }
    });
    assert_eq!(Threads::stats().live_allocations, 0);
    // What one thread has allocated another frees.
    let slots: Vec<usize> = (0..1000)
        .map(|_| {
            // SAFETY: the size is not zero.
            unsafe { Threads.alloc(layout(100)) }.expose_provenance()
        })
        .collect();
    std::thread::spawn(move || {
        for slot in slots {
            // SAFETY: allocated above with this layout.
            unsafe { Threads.dealloc(core::ptr::with_exposed_provenance_mut(slot), layout(100)) };
        }
    })
    .join()
    .unwrap();
    assert_eq!(Threads::stats().live_allocations, 0);
}

#[test]
fn large_allocations_grow_in_place_and_come_back() {
    let _turn = begin();
    // SAFETY: the size is not zero.
    let start = unsafe { Large.alloc_zeroed(layout(300_000)) };
    assert!(!start.is_null());
    // SAFETY: live, so many bytes.
    unsafe { start.write_bytes(3, 300_000) };
    // SAFETY: live with this layout.
    let shorter = unsafe { Large.realloc(start, layout(300_000), 100_000) };
    assert_eq!(shorter, start, "what is behind goes back, what is before stays");
    // SAFETY: as above.
    let longer = unsafe { Large.realloc(shorter, layout(100_000), 5_000_000) };
    assert!(!longer.is_null());
    // SAFETY: the first part was written above.
    assert!(unsafe { core::slice::from_raw_parts(longer, 100_000) }.iter().all(|&byte| byte == 3));
    assert_eq!(Large::stats().live_allocations, 1);
    // SAFETY: live with this layout.
    unsafe { Large.dealloc(longer, layout(5_000_000)) };
    // Again and again: what is freed serves whoever comes.
    for _ in 0..100 {
        // SAFETY: the size is not zero.
        let start = unsafe { Large.alloc(layout(20 << 20)) };
        assert!(!start.is_null(), "it was all given back");
        // SAFETY: allocated just now.
        unsafe { Large.dealloc(start, layout(20 << 20)) };
    }
    assert_eq!(Large::stats().kept_bytes, 0);
}

#[test]
fn out_of_memory_is_null_and_nothing_is_lost() {
    let _turn = begin();
    let mut live = Vec::new();
    for round in 0.. {
        // SAFETY: the size is not zero.
        let start = unsafe { Room.alloc(layout(64 << 20)) };
        if start.is_null() {
            break;
        }
        live.push(start);
        assert!(round < 2, "there is no more than was given");
    }
    // SAFETY: the size is not zero.
    assert!(unsafe { Room.alloc(layout(1 << 40)) }.is_null());
    // SAFETY: as above.
    let small = unsafe { Room.alloc(layout(10)) };
    assert!(!small.is_null(), "the family is usable");
    // SAFETY: allocated above with this layout.
    unsafe { Room.dealloc(small, layout(10)) };
    for start in live {
        // SAFETY: as above.
        unsafe { Room.dealloc(start, layout(64 << 20)) };
    }
    assert_eq!(Room::live_bytes(), 0);
}

#[test]
#[cfg(feature = "allocator-api2-02")]
fn heaps_begin_and_end() {
    use family_alloc::{Checks, Heap, LocalHeap, Vec};

    let _turn = begin();
    let mut families_left = None;
    for round in 0..200 {
        // The first has made the family of local heaps, which stays.
        if round == 1 {
            families_left = Some(families().count());
        }
        let heap = Heap::builder("tenant").checks(if round % 2 == 0 { Checks::Default } else { Checks::Checked });
        let heap = heap.limit(1 << 20).build().unwrap();
        let mut bytes = Vec::with_capacity_in(1000, heap.clone());
        bytes.resize(1000, 7_u8);
        assert!(bytes.try_reserve(2 << 20).is_err(), "the limit holds");
        assert_eq!(heap.live_bytes(), 1024);
        let local = LocalHeap::builder("query").limit(1 << 20).build().unwrap();
        let mut words = Vec::new_in(&local);
        words.extend(0..1000_u64);
        assert!(bytes.iter().all(|&byte| byte == 7) && words.iter().sum::<u64>() == 499_500);
    }
    // A heap that has ended has no name, and one that lived on as an orphan would be listed.
    assert_eq!(families_left, Some(families().count()), "each has ended");
}

/// In a process of its own: the handler is told, and then the process ends.
#[test]
fn misuse_is_told_and_ends_the_program() {
    const CHILD: &str = "FAMILY_ALLOC_TEST_CHILD";
    if std::env::var_os(CHILD).is_some() {
        let _turn = begin();
        set_fault_handler(|fault| eprintln!("handler: {:?} in {}", fault.kind, fault.family));
        // SAFETY: the size is not zero.
        let slot = unsafe { Misused.alloc(layout(100)) };
        // SAFETY: none: it ends the process.
        unsafe { Misused.dealloc(slot, layout(10)) };
        return;
    }
    let program = std::env::current_exe().unwrap();
    let arguments = ["--exact", "misuse_is_told_and_ends_the_program", "--nocapture"];
    let output = std::process::Command::new(program).args(arguments).env(CHILD, "1").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(said.contains("family_alloc: ") && said.contains("family Misused"), "{said}");
    assert!(said.contains("handler: ") && said.contains("in Misused"), "{said}");
}
