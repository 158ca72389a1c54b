//! The thread that gives memory back while the program is silent.

#![cfg(target_os = "linux")]

mod common;

use std::thread::sleep;
use std::time::{Duration, Instant};

use common::child;
use common::memory::resident_bytes;
use family_alloc::allocator_api2::alloc::Allocator;
use family_alloc::{Heap, Housekeeper, Vec, family};

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
        wait_for(before + 8 * MIB + 2 * 4096 * kept.len(), "one in 4000");
        assert!(kept.iter().all(|buffer| buffer.iter().all(|&byte| byte == 1)), "what is live stays as it is");
    });
}

/// A thread that is left out of its process by `fork` can't be waited for.
#[test]
#[cfg_attr(miri, ignore = "no process can be started there")]
fn a_child_of_a_fork_does_not_wait_for_the_thread() {
    let housekeeper = Housekeeper::start().unwrap();
    // SAFETY: the child ends the guard, and then itself, without a destructor.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: a number.
        unsafe { libc::alarm(30) };
        drop(housekeeper);
        // SAFETY: ends the child.
        unsafe { libc::_exit(7) };
    }
    let mut status = 0;
    // SAFETY: waits for the child.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 7, "status {status}");
    drop(housekeeper);
}

#[test]
fn the_thread_ends_with_its_guard() {
    let tasks = || std::fs::read_dir("/proc/self/task").unwrap().flatten();
    let count = || {
        tasks()
            .filter(|task| {
                std::fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name.trim() == "family-alloc")
            })
            .count()
    };
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
