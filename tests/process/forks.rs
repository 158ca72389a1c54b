//! `fork` while other threads are in the middle of everything: what the child does it can finish.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::child;
use crate::common::doors::{Doors, layout};
use crate::common::pattern;
use crate::common::random::Random;
use crate::host_families;

/// The portable backend keeps its memory, so that each fork has some hundred MiB of pages to copy the tables of.
const FORKS: usize = if cfg!(feature = "portable") { 40 } else { 400 };
/// How long a child may take for some milliseconds of work, on a machine that has other things to do.
const PATIENCE: Duration = Duration::from_secs(20);
const WORKERS: usize = 4;

/// Allocates, changes, trims and frees without pause; each kind of call has its own locks.
fn work(families: &[Doors], random: &mut Random, steps: usize) {
    let mut held = Vec::new();
    for _ in 0..steps {
        let doors = families[random.below(families.len())];
        let size = if random.below(50) == 0 { random.between(1 << 20, 4 << 20) } else { random.size(16 << 10) };
        let layout = layout(size, 1);
        let memory = (doors.allocate)(layout).expect("memory");
        pattern::fill(std::ptr::NonNull::slice_from_raw_parts(memory.cast(), size.min(256)), size);
        held.push((doors, memory, layout));
        if random.below(500) == 0 {
            (doors.trim)();
        }
        if held.len() > 60 {
            let (doors, memory, layout) = held.swap_remove(random.below(held.len()));
            assert!(pattern::holds(memory.cast(), layout.size().min(256), layout.size()), "{layout:?} has changed");
            // SAFETY: allocated with this layout, and given up.
            unsafe { (doors.deallocate)(memory.cast(), layout) };
        }
    }
    for (doors, memory, layout) in held {
        // SAFETY: as above.
        unsafe { (doors.deallocate)(memory.cast(), layout) };
    }
}

/// What a child does, on its own thread and on one that it starts.
fn live(number: usize) {
    let families = host_families();
    work(&families, &mut Random::new(number as u64), 500);
    let thread = thread::spawn(move || work(&families, &mut Random::new(!number as u64), 500));
    thread.join().expect("no panic");
    let _ = families.map(|doors| (doors.stats)());
}

/// How a child ended; `None`: it didn't, until now.
fn ended(process: libc::pid_t) -> Option<libc::c_int> {
    let mut status = 0;
    // SAFETY: writes one status; the process is a child that has not been waited for.
    let done = unsafe { libc::waitpid(process, &raw mut status, libc::WNOHANG) };
    assert!(done >= 0, "process {process} cannot be waited for");
    (done != 0).then_some(status)
}

/// Forks, lets the child do its work, and fails if that does not end well and in time.
fn fork(number: usize) {
    // SAFETY: the child only does what is tested here: it uses the crate, starts a thread and exits.
    let process = unsafe { libc::fork() };
    assert!(process >= 0, "fork {number} failed");
    if process == 0 {
        let passed = std::panic::catch_unwind(|| live(number)).is_ok();
        // SAFETY: no preconditions; what the parent registered to be done at its exit is not done here.
        unsafe { libc::_exit(if passed { 0 } else { 1 }) };
    }
    let start = Instant::now();
    let status = loop {
        if let Some(status) = ended(process) {
            break status;
        }
        if start.elapsed() > PATIENCE {
            // SAFETY: a child of this process that has not been waited for.
            unsafe { libc::kill(process, libc::SIGKILL) };
            panic!("the child of fork {number} hangs");
        }
        thread::sleep(Duration::from_micros(200));
    };
    assert_eq!(status, 0, "the child of fork {number} ended with wait status {status:#x}");
}

#[test]
fn no_child_of_a_fork_under_load_hangs() {
    child::isolated("forks::no_child_of_a_fork_under_load_hangs", || {
        let (ended, rounds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let worker = |number: usize| {
            let (ended, rounds) = (Arc::clone(&ended), Arc::clone(&rounds));
            thread::spawn(move || {
                let mut random = Random::new(number as u64);
                while !ended.load(Relaxed) {
                    if number == 0 {
                        // Threads that come and go take the locks of caches, and those of the system's own.
                        let mut random = Random::new(random.next());
                        let thread = thread::spawn(move || work(&host_families(), &mut random, 50));
                        thread.join().expect("no panic");
                    } else {
                        work(&host_families(), &mut random, 200);
                    }
                    rounds.fetch_add(1, Relaxed);
                }
            })
        };
        let workers: Vec<_> = (0..WORKERS).map(worker).collect();
        let start = Instant::now();
        let rounds_before = rounds.load(Relaxed);
        (0..FORKS).for_each(fork);
        let meanwhile = rounds.load(Relaxed) - rounds_before;
        ended.store(true, Relaxed);
        workers.into_iter().for_each(|worker| worker.join().expect("no panic"));
        println!("{FORKS} forks in {:.1} s, {meanwhile} rounds of work meanwhile", start.elapsed().as_secs_f64());
        assert!(meanwhile >= FORKS, "the forks met threads at work");
        for doors in host_families() {
            let stats = (doors.stats)();
            assert_eq!((stats.live_allocations, stats.thread_caches), (0, 0), "{stats}");
        }
    });
}
