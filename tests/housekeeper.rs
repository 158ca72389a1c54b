//! The thread that gives memory back while the program is silent.

#![cfg(target_os = "linux")]

mod common;

use std::thread::sleep;
use std::time::{Duration, Instant};

use common::child;
use common::memory::{page_bytes, resident_bytes};
use family_alloc::allocator_api2::alloc::Allocator;
use family_alloc::{Box, Family, Heap, Housekeeper, Vec, families, family};

const MIB: usize = 1 << 20;
/// Longer than it takes, on a machine that is busy with other work as well.
const PATIENCE: Duration = Duration::from_secs(60);

family! {
    struct Nodes;
    struct Texts { classes: Spaced }
    struct Small { slab_bytes: 64 << 10 }
    struct Guarded { checks: Hardened }
}

/// Buffers of many sizes, so many bytes of each of four, all written, of which one in so many is returned.
fn peak<A: Allocator + Clone>(allocator: &A, bytes: usize, one_in: usize) -> std::vec::Vec<Vec<u8, A>> {
    let sizes = [24, 700, 9000, 3 * MIB];
    let mut buffers: std::vec::Vec<_> = sizes
        .iter()
        .flat_map(|&size| (0..bytes / size).map(move |_| size))
        .map(|size| {
            let mut buffer = Vec::with_capacity_in(size, allocator.clone());
            buffer.resize(size, 1);
            buffer
        })
        .collect();
    let mut number = 0;
    buffers.retain(|buffer| {
        number += 1;
        buffer.len() < MIB && number % one_in == 0
    });
    buffers.shrink_to_fit();
    buffers
}

/// Waits until so little is resident, and calls no family meanwhile.
fn wait_for(most: usize, what: &str) {
    let begin = Instant::now();
    while resident_bytes() > most {
        assert!(begin.elapsed() < PATIENCE, "{what}: {} KiB are resident still", resident_bytes() >> 10);
        sleep(Duration::from_millis(50));
    }
}

/// Waits until nothing of a peak of 4 × 24 MiB is resident any more.
fn after_silence<A: Allocator + Clone>(what: &str, allocator: &A) {
    let before = resident_bytes();
    assert_eq!(peak(allocator, 24 * MIB, usize::MAX).len(), 0);
    assert!(resident_bytes() > before + 20 * MIB, "{what}: nothing was there to give back");
    wait_for(before + 4 * MIB, what);
}

#[test]
#[cfg_attr(any(miri, feature = "portable"), ignore = "this backend gives no pages back")]
fn a_silent_program_gives_its_peak_back() {
    child::isolated("a_silent_program_gives_its_peak_back", || {
        Housekeeper::start().unwrap().detach();
        after_silence("natural", &Nodes);
        after_silence("spaced", &Texts);
        after_silence("short slabs", &Small);
        after_silence("hardened", &Guarded);
        let heap = Heap::new("tenant").unwrap();
        after_silence("heap", &heap);
    });
}

#[test]
#[cfg_attr(any(miri, feature = "portable"), ignore = "this backend gives no pages back")]
fn around_what_stays_pages_go_back_in_silence() {
    child::isolated("around_what_stays_pages_go_back_in_silence", || {
        let _housekeeper = Housekeeper::start().unwrap();
        let before = resident_bytes();
        let kept = peak(&Texts, 24 * MIB, 4000);
        assert!(resident_bytes() > before + 20 * MIB && kept.len() > 200);
        // A page for each that stays, and as much again for what stands beside it.
        wait_for(before + 8 * MIB + 2 * page_bytes() * kept.len(), "one in 4000");
        assert!(kept.iter().all(|buffer| buffer.iter().all(|&byte| byte == 1)), "what is live stays as it is");
    });
}

/// What is freed by other calls than a free, when the families have done nothing for long.
#[test]
#[cfg_attr(any(miri, feature = "portable"), ignore = "this backend gives no pages back")]
fn whatever_frees_is_seen() {
    family! { struct Shrunk; struct Reset; struct Cached { cache_bytes: 8 << 20 } }
    fn forget_all<A: Allocator + Clone>(allocator: &A, size: usize) {
        (0..16 * MIB / size).for_each(|_| {
            let mut buffer = Vec::with_capacity_in(size, allocator.clone());
            buffer.resize(size, 1_u8);
            std::mem::forget(buffer);
        });
    }
    child::isolated("whatever_frees_is_seen", || {
        let before = resident_bytes();
        let _housekeeper = Housekeeper::start().unwrap();
        let mut shrunk: Vec<u8, Shrunk> = Vec::with_capacity_in(16 * MIB, Shrunk);
        shrunk.resize(16 * MIB, 1);
        let heap = Heap::new("reset").unwrap();
        forget_all(&heap, 2 * MIB + 5000);
        forget_all(&Reset, 1000);
        let (end, ends) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            // Of many sizes, so that the cache is full.
            for size in (0..60).flat_map(|_| (6..16).map(|shift| 1_usize << shift)) {
                let some: [_; 256] = std::array::from_fn(|_| {
                    let mut buffer = Vec::with_capacity_in(size, Cached);
                    buffer.resize(size, 1_u8);
                    buffer
                });
                drop(some);
            }
            let _ = ends.recv();
        });
        sleep(Duration::from_secs(8));
        let (cached, full) = (Cached::stats().cached_bytes, resident_bytes() - before);
        assert!(cached > 2 * MIB && full > 48 * MIB, "{cached} bytes are cached of {full}");
        shrunk.truncate(MIB);
        shrunk.shrink_to_fit();
        // SAFETY: what was allocated is forgotten, and no other thread has called the heap.
        unsafe { heap.reset() };
        // SAFETY: as above, of this family.
        unsafe { Reset::reset() };
        drop(end);
        thread.join().unwrap();
        wait_for(before + 4 * MIB, "after other calls than a free");
        drop((shrunk, heap));
    });
}

/// A thread that `fork` leaves behind can't be waited for, nor let go: another may stand where it stood.
#[test]
#[cfg_attr(miri, ignore = "no process can be started there")]
fn a_child_of_a_fork_leaves_the_thread_alone_and_starts_another() {
    let in_child = |use_it: fn(Housekeeper)| {
        let housekeeper = Housekeeper::start().unwrap();
        // SAFETY: the child starts and ends threads, which the system's allocator is ready for, and ends without a destructor.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // SAFETY: a number.
            unsafe { libc::alarm(30) };
            let is_well = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                use_it(housekeeper);
                drop(Housekeeper::start().unwrap());
            }));
            // SAFETY: ends the child.
            unsafe { libc::_exit(if is_well.is_ok() { 7 } else { 1 }) };
        }
        let mut status = 0;
        // SAFETY: waits for the child.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 7, "status {status}");
        drop(housekeeper);
    };
    for _ in 0..20 {
        in_child(drop);
        in_child(Housekeeper::detach);
    }
}

/// A child has the handle of whoever looked after a heap when it was forked, but not that thread:
/// the heap ends with its other handles all the same.
#[test]
#[cfg_attr(miri, ignore = "no process can be started there")]
fn a_heap_that_is_looked_after_ends_in_the_child_of_a_fork() {
    child::isolated("a_heap_that_is_looked_after_ends_in_the_child_of_a_fork", || {
        let _housekeeper = Housekeeper::start().unwrap();
        let (mut children, mut left) = (0, 0);
        for _ in 0..3 {
            let heap = Heap::new("forked").unwrap();
            // Each slab keeps some slots, so that its pages go back one by one while the heap is
            // held.
            let mut live: std::vec::Vec<_> =
                (0..150_000).map(|_| Some(Box::new_in([1_u8; 1024], heap.clone()))).collect();
            live.iter_mut().enumerate().filter(|(index, _)| index % 64 != 0).for_each(|(_, block)| *block = None);
            sleep(Duration::from_millis(900));
            let (mut heap, since) = (Some(heap), Instant::now());
            let mut forked = std::vec::Vec::new();
            while since.elapsed() < Duration::from_millis(1500) {
                sleep(Duration::from_millis(2));
                // SAFETY: the child frees, and ends without a destructor.
                let child = unsafe { libc::fork() };
                if child == 0 {
                    live.clear();
                    drop(heap.take());
                    let is_left = families().any(|family| family.name() == "forked");
                    // SAFETY: ends the child.
                    unsafe { libc::_exit(if is_left { 1 } else { 0 }) };
                }
                forked.push(child);
            }
            children += forked.len();
            for child in forked {
                let mut status = 0;
                // SAFETY: waits for the child.
                assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
                assert!(libc::WIFEXITED(status), "status {status}");
                left += libc::WEXITSTATUS(status);
            }
        }
        assert_eq!(left, 0, "heaps that did not end, of {children}");
    });
}

/// A program that blocks a signal in all its threads, to wait for it in one, is not ended by it in this thread.
#[test]
#[cfg_attr(miri, ignore = "signals")]
fn signals_go_to_other_threads() {
    child::isolated("signals_go_to_other_threads", || {
        let _housekeeper = Housekeeper::start().unwrap();
        // A thread has its name once it runs.
        while housekeepers().next().is_none() {
            sleep(Duration::from_millis(10));
        }
        let task = housekeepers().next().unwrap();
        let status = std::fs::read_to_string(task.join("status")).unwrap();
        let blocked = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).unwrap().trim();
        let blocked = u64::from_str_radix(blocked, 16).unwrap();
        for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGUSR1, libc::SIGALRM] {
            assert!(blocked & 1 << (signal - 1) != 0, "signal {signal} of {blocked:x}");
        }
        let own = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        assert!(own.lines().any(|line| line.starts_with("SigBlk:") && line.ends_with("0000000000000000")));
    });
}

/// The folders of the threads that are housekeepers'.
fn housekeepers() -> impl Iterator<Item = std::path::PathBuf> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten().map(|task| task.path());
    tasks.filter(|task| std::fs::read_to_string(task.join("comm")).is_ok_and(|name| name.trim() == "family-alloc"))
}

#[test]
fn the_thread_ends_with_its_guard() {
    let count = || housekeepers().count();
    child::isolated("the_thread_ends_with_its_guard", || {
        assert_eq!(count(), 0);
        // A thread names itself, and the system may need a moment to forget one that has ended.
        let wait_for = |wanted| {
            let begin = Instant::now();
            while count() != wanted {
                assert!(begin.elapsed() < PATIENCE, "{} run, not {wanted}", count());
                sleep(Duration::from_millis(10));
            }
        };
        let both = [(); 2].map(|()| Housekeeper::start().unwrap());
        wait_for(2);
        drop(both);
        wait_for(0);
    });
}
