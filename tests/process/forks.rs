//! `fork` while other threads are in the middle of everything: what the child does it can finish.

use std::alloc::Layout;
use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;
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
/// Threads that fork at once, and how often each.
const STORM: (usize, usize) = if cfg!(feature = "portable") { (4, 5) } else { (4, 60) };
/// Forks of forks: a child, its child and that one's.
const GENERATIONS: u32 = 3;

/// A live allocation whose beginning has its size's contents.
struct Slot {
    doors: Doors,
    memory: NonNull<u8>,
    layout: Layout,
}

impl Slot {
    fn allocate(doors: Doors, size: usize) -> Self {
        let layout = layout(size, 1);
        let memory = (doors.allocate)(layout).expect("memory").cast();
        pattern::fill(NonNull::slice_from_raw_parts(memory, size.min(256)), size);
        Self { doors, memory, layout }
    }

    fn free(self) {
        let size = self.layout.size();
        assert!(pattern::holds(self.memory, size.min(256), size), "{:?} has changed", self.layout);
        // SAFETY: allocated with this layout, and given up.
        unsafe { (self.doors.deallocate)(self.memory, self.layout) };
    }
}

/// Allocates, trims and frees without pause; each kind of call has its own locks.
fn work(families: &[Doors], random: &mut Random, steps: usize) {
    let mut held = Vec::new();
    for _ in 0..steps {
        let doors = families[random.below(families.len())];
        let size = if random.below(50) == 0 { random.between(1 << 20, 4 << 20) } else { random.size(16 << 10) };
        held.push(Slot::allocate(doors, size));
        if random.below(500) == 0 {
            (doors.trim)();
        }
        if held.len() > 60 {
            held.swap_remove(random.below(held.len())).free();
        }
    }
    held.into_iter().for_each(Slot::free);
}

/// Works on a thread of its own. Not `std`'s: each of those takes a lock of `std` when it begins, which no handler frees in a child.
fn on_a_thread() {
    extern "C" fn run(_: *mut c_void) -> *mut c_void {
        work(&host_families(), &mut Random::new(1), 200);
        std::ptr::null_mut()
    }
    let mut thread = 0;
    // SAFETY: writes one thread's name; the function needs no argument.
    let started = unsafe { libc::pthread_create(&raw mut thread, std::ptr::null(), run, std::ptr::null_mut()) };
    assert_eq!(started, 0, "no thread");
    // SAFETY: started above and joined once.
    assert_eq!(unsafe { libc::pthread_join(thread, std::ptr::null_mut()) }, 0);
}

/// What a child does, on its own thread and on one that it starts; `inherited` was allocated before the fork.
fn live(number: usize, inherited: Vec<Slot>) {
    let families = host_families();
    work(&families, &mut Random::new(number as u64), 200);
    on_a_thread();
    inherited.into_iter().for_each(Slot::free);
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

/// Forks, lets the child do its work and be the next generation's parent, and fails if that does not end well and in time.
fn fork(number: usize, generations: u32) {
    let held: Vec<_> = host_families()
        .into_iter()
        .flat_map(|doors| [16, 1000, 3 << 20].map(|size| Slot::allocate(doors, size)))
        .collect();
    // SAFETY: the child only does what is tested here: it uses the crate, starts a thread and exits.
    let process = unsafe { libc::fork() };
    assert!(process >= 0, "fork {number} failed");
    if process == 0 {
        let life = || {
            live(number, held);
            if generations > 1 {
                fork(number, generations - 1);
            }
        };
        let passed = catch_unwind(AssertUnwindSafe(life)).is_ok();
        // SAFETY: no preconditions; what the parent registered to be done at its exit is not done here.
        unsafe { libc::_exit(if passed { 0 } else { 1 }) };
    }
    let start = Instant::now();
    let status = loop {
        if let Some(status) = ended(process) {
            break status;
        }
        if start.elapsed() > PATIENCE * generations {
            // SAFETY: a child of this process that has not been waited for.
            unsafe { libc::kill(process, libc::SIGKILL) };
            panic!("the child of fork {number} hangs");
        }
        thread::sleep(Duration::from_micros(200));
    };
    assert_eq!(status, 0, "the child of fork {number} ended with wait status {status:#x}");
    held.into_iter().for_each(Slot::free);
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
        (0..FORKS).for_each(|number| fork(number, 1));
        let meanwhile = rounds.load(Relaxed) - rounds_before;
        ended.store(true, Relaxed);
        workers.into_iter().for_each(|worker| worker.join().expect("no panic"));
        println!("{FORKS} forks in {:.1} s, {meanwhile} rounds of work meanwhile", start.elapsed().as_secs_f64());
        assert!(meanwhile >= FORKS, "the forks met threads at work");
        for doors in host_families() {
            let stats = (doors.stats)();
            assert_eq!(stats.live_allocations, 0, "{stats}");
            // This one has a cache only if it forked often enough within a second.
            assert!(stats.thread_caches <= 1, "no thread but this one is left: {stats}");
        }
    });
}

#[test]
fn no_child_hangs_where_many_threads_fork_at_once() {
    child::isolated("forks::no_child_hangs_where_many_threads_fork_at_once", || {
        let ended = Arc::new(AtomicBool::new(false));
        let worker = {
            let ended = Arc::clone(&ended);
            thread::spawn(move || {
                let mut random = Random::new(7);
                while !ended.load(Relaxed) {
                    work(&host_families(), &mut random, 200);
                }
            })
        };
        let (threads, forks) = STORM;
        let start = Instant::now();
        let storm = |thread: usize| {
            thread::spawn(move || (0..forks).for_each(|number| fork(thread * forks + number, GENERATIONS)))
        };
        let storm: Vec<_> = (0..threads).map(storm).collect();
        storm.into_iter().for_each(|thread| thread.join().expect("no panic"));
        ended.store(true, Relaxed);
        worker.join().expect("no panic");
        let count = threads * forks * GENERATIONS as usize;
        println!("{count} forks by {threads} threads in {:.1} s", start.elapsed().as_secs_f64());
        for doors in host_families() {
            assert_eq!((doors.stats)().live_allocations, 0, "{doors:?}");
        }
    });
}
