//! Allocations and frees since the first: exact when no thread is in a call, and frees never go back.

mod common;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Barrier, Mutex};
use std::time::Duration;

use common::random::Random;
use common::times;
use common::worker::Worker;
use family_alloc::{Family, family};

const MIB: usize = 1 << 20;

/// What a test has counted itself.
#[derive(Default)]
struct Counted {
    allocations: AtomicU64,
    frees: AtomicU64,
}

impl Counted {
    #[track_caller]
    fn assert_is_told<F: Family>(&self) {
        let stats = F::stats();
        let expected = (self.allocations.load(Ordering::SeqCst), self.frees.load(Ordering::SeqCst));
        assert_eq!((stats.total_allocations, stats.total_frees), expected, "{stats}");
        let live = stats.total_allocations - stats.total_frees;
        assert_eq!(live, stats.live_allocations as u64, "{stats}");
    }
}

/// Slots of one thread; what it does with them is counted.
struct Slots<'a> {
    live: Vec<(usize, usize)>,
    counted: &'a Counted,
    random: Random,
}

impl<'a> Slots<'a> {
    fn new(counted: &'a Counted, seed: u64) -> Self {
        Self { live: Vec::new(), counted, random: Random::new(seed) }
    }

    fn allocate<F: Family>(&mut self, size: usize) {
        let memory = F::malloc(size);
        assert!(!memory.is_null());
        self.live.push((memory.expose_provenance(), size));
        self.counted.allocations.fetch_add(1, Ordering::SeqCst);
    }

    fn free<F: Family>(&mut self) {
        let index = self.random.below(self.live.len());
        let (address, size) = self.live.swap_remove(index);
        // SAFETY: allocated with this size, and forgotten here.
        unsafe { F::free(core::ptr::with_exposed_provenance_mut(address), size) };
        self.counted.frees.fetch_add(1, Ordering::SeqCst);
    }

    fn free_all<F: Family>(&mut self) {
        while !self.live.is_empty() {
            self.free::<F>();
        }
    }

    /// Some slots come, some go, some come and go at once; one in a thousand is large.
    fn churn<F: Family>(&mut self, calls: usize) {
        for _ in 0..calls {
            let size = if self.random.below(1000) == 0 { 3 * MIB } else { self.random.size(70_000) };
            match self.random.below(4) {
                0 if !self.live.is_empty() => self.free::<F>(),
                1 => (0..20).for_each(|_| {
                    self.allocate::<F>(size.min(4096));
                    self.free::<F>();
                }),
                _ if self.live.len() > 300 => (0..100).for_each(|_| self.free::<F>()),
                _ => self.allocate::<F>(size),
            }
        }
    }
}

family! {
    struct Default;
    struct Checked { checks: Checked }
    struct Hardened { checks: Hardened }
    struct Unchecked { checks: Unchecked }
    struct Small { slab_bytes: 64 * 1024, cache_bytes: 16 * 1024 }
}

#[test]
fn every_call_of_one_thread_is_counted_at_once() {
    fn check<F: Family>() {
        let counted = Counted::default();
        let mut slots = Slots::new(&counted, 7);
        for round in 0..60 {
            for size in [1, 16, 64, 64, 1000, 20_000, 70_000, MIB / 2, 3 * MIB] {
                slots.allocate::<F>(size);
                counted.assert_is_told::<F>();
                if round % 3 != 0 {
                    slots.free::<F>();
                    counted.assert_is_told::<F>();
                }
            }
            if round % 20 == 10 {
                F::trim();
                counted.assert_is_told::<F>();
            }
        }
        // More pairs than any array has places, and no exchange between them.
        for _ in 0..times(10_000) {
            slots.allocate::<F>(64);
            let (address, size) = slots.live.pop().unwrap();
            // SAFETY: allocated just now.
            unsafe { F::free(core::ptr::with_exposed_provenance_mut(address), size) };
            counted.frees.fetch_add(1, Ordering::SeqCst);
        }
        counted.assert_is_told::<F>();
        slots.free_all::<F>();
        counted.assert_is_told::<F>();
        F::trim();
        counted.assert_is_told::<F>();
    }
    family! {
        struct A;
        struct B { checks: Checked }
        struct C { checks: Hardened }
        struct D { checks: Unchecked }
        struct E { slab_bytes: 64 * 1024, cache_bytes: 16 * 1024 }
    }
    check::<A>();
    check::<B>();
    check::<C>();
    check::<D>();
    check::<E>();
}

/// Threads that go on, threads that sleep with a cache, and threads that have ended; every other round is freed by others.
#[test]
fn the_calls_of_all_threads_are_counted() {
    fn check<F: Family>() {
        const THREADS: usize = 8;
        let counted = Counted::default();
        let (at_rest, go_on) = (Barrier::new(THREADS + 1), Barrier::new(THREADS + 1));
        let passed = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            let mut threads = Vec::new();
            for seed in 1..=THREADS {
                let (counted, at_rest, go_on, passed) = (&counted, &at_rest, &go_on, &passed);
                threads.push(scope.spawn(move || {
                    let mut slots = Slots::new(counted, seed as u64);
                    for _ in 0..3 {
                        slots.churn::<F>(times(3000));
                        passed.lock().unwrap().append(&mut slots.live);
                        at_rest.wait();
                        go_on.wait();
                        let mut passed = passed.lock().unwrap();
                        let half = passed.len() / 2;
                        slots.live.extend(passed.drain(half..));
                    }
                    slots.free_all::<F>();
                    at_rest.wait();
                    // It sleeps with what its cache holds, while the others are looked at.
                    go_on.wait();
                }));
            }
            for _ in 0..4 {
                at_rest.wait();
                counted.assert_is_told::<F>();
                let ended = scope.spawn(|| {
                    let mut slots = Slots::new(&counted, 99);
                    slots.churn::<F>(times(1000));
                    slots.free_all::<F>();
                });
                ended.join().unwrap();
                counted.assert_is_told::<F>();
                F::trim();
                counted.assert_is_told::<F>();
                go_on.wait();
            }
            // A scope does not wait for what a thread does at its very end.
            threads.into_iter().for_each(|thread| thread.join().unwrap());
        });
        counted.assert_is_told::<F>();
        let mut slots = Slots::new(&counted, 5);
        slots.live = passed.into_inner().unwrap();
        slots.free_all::<F>();
        counted.assert_is_told::<F>();
        assert_eq!(F::stats().total_allocations, F::stats().total_frees);
    }
    check::<Default>();
    check::<Checked>();
    check::<Hardened>();
    check::<Unchecked>();
    check::<Small>();
}

/// Says so at the end of a scope, also if that is a panic: else the others would go on for ever.
struct AtTheEnd<'a>(&'a AtomicBool);

impl Drop for AtTheEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Who looks while others are at work sees frees that only rise, and allocations that are at most one for each thread too many.
#[test]
fn what_is_seen_meanwhile_does_not_go_back() {
    const THREADS: u64 = 4;
    fn check<F: Family>() {
        let counted = Counted::default();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let mut threads = Vec::new();
            for seed in 1..=THREADS {
                let (counted, stop) = (&counted, &stop);
                threads.push(scope.spawn(move || {
                    let mut slots = Slots::new(counted, seed);
                    while !stop.load(Ordering::Relaxed) {
                        slots.churn::<F>(100);
                        slots.free_all::<F>();
                    }
                }));
            }
            let _stop = AtTheEnd(&stop);
            let mut last = F::stats();
            for _ in 0..times(20_000) {
                let (now, allocated) = (F::stats(), counted.allocations.load(Ordering::SeqCst));
                assert!(now.total_frees >= last.total_frees, "{last}, then {now}");
                assert!(now.total_allocations + THREADS >= last.total_allocations, "{last}, then {now}");
                // Each thread counts an allocation after it is made.
                assert!(now.total_allocations <= allocated + 2 * THREADS, "{now}, of {allocated}");
                last = now;
            }
            stop.store(true, Ordering::Relaxed);
            threads.into_iter().for_each(|thread| thread.join().unwrap());
        });
        counted.assert_is_told::<F>();
    }
    family! {
        struct A;
        struct B { checks: Checked }
        struct C { checks: Hardened }
        struct D { checks: Unchecked }
    }
    check::<A>();
    check::<B>();
    check::<C>();
    check::<D>();
}

/// Slots that one thread allocates and another frees: whoever looks meanwhile never sees more frees
/// than allocations, and what was seen leaves nothing behind. A thread that only frees has
/// allocated nothing, whatever its array holds.
#[test]
fn what_others_free_was_allocated_before() {
    fn check<F: Family>() {
        let counted = Counted::default();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let (sender, receiver) = std::sync::mpsc::sync_channel::<Vec<(usize, usize)>>(2);
            let (counted, stop) = (&counted, &stop);
            let frees = scope.spawn(move || {
                let mut slots = Slots::new(counted, 1);
                for passed in receiver {
                    slots.live = passed;
                    slots.free_all::<F>();
                }
                // With its cache, which is looked at once more.
                counted.assert_is_told::<F>();
            });
            let allocates = scope.spawn(move || {
                let mut slots = Slots::new(counted, 2);
                while !stop.load(Ordering::Relaxed) {
                    (0..40).for_each(|_| slots.allocate::<F>(64));
                    sender.send(std::mem::take(&mut slots.live)).unwrap();
                }
            });
            let _stop = AtTheEnd(stop);
            for _ in 0..times(20_000) {
                let (now, allocated) = (F::stats(), counted.allocations.load(Ordering::SeqCst));
                assert!(now.total_frees <= now.total_allocations, "{now:?}");
                // As above.
                assert!(now.total_allocations <= allocated + 4, "{now:?}, of {allocated}");
            }
            stop.store(true, Ordering::Relaxed);
            allocates.join().unwrap();
            frees.join().unwrap();
        });
        counted.assert_is_told::<F>();
    }
    family! {
        struct A;
        struct B { checks: Checked }
        struct C { checks: Hardened }
        struct D { checks: Unchecked }
    }
    check::<A>();
    check::<B>();
    check::<C>();
    check::<D>();
}

#[test]
#[cfg_attr(
    any(miri, feature = "portable"),
    ignore = "this backend moves no pages, so that each large resize is another allocation"
)]
fn a_resize_counts_where_another_allocation_takes_the_place() {
    family! { struct Resized; struct Noted { checks: Checked } struct Guarded { checks: Hardened } }
    // What a resize among the large allocations counts.
    fn check<F: Family>(large: u64) {
        let mut expected = (1, 0);
        let mut memory = F::malloc(40);
        let mut old = 40;
        // (new size, whether an allocation and a free are counted)
        let steps = [
            (64, 0),
            (33, 0),
            (65, 1),
            (4000, 1),
            (100, 1),
            (3 * MIB, 1),
            (5 * MIB, large),
            (40 * MIB, large),
            (2 * MIB, large),
            (50, 1),
        ];
        for (new, both) in steps {
            // SAFETY: live, and of the old size.
            memory = unsafe { F::remalloc(memory, old, new) };
            assert!(!memory.is_null());
            expected = (expected.0 + both, expected.1 + both);
            let stats = F::stats();
            assert_eq!((stats.total_allocations, stats.total_frees), expected, "{old} to {new}: {stats}");
            old = new;
        }
        // SAFETY: live, and of this size.
        unsafe { F::free(memory, old) };
        let earlier = F::stats();
        assert_eq!((earlier.total_allocations, earlier.total_frees), (expected.0, expected.1 + 1));
        assert!(F::malloc(0).is_null());
        // SAFETY: null is freed by nobody.
        unsafe { F::free(core::ptr::null_mut(), 0) };
        // SAFETY: allocated just now.
        unsafe { F::free(F::malloc(10), 10) };
        let change = F::stats().since(&earlier);
        assert_eq!((change.total_allocations, change.total_frees, change.live_allocations), (1, 1, 0));
    }
    check::<Resized>(0);
    check::<Noted>(0);
    check::<Guarded>(1);
}

/// A thread that calls only now and then gives up what its cache has room for: nothing is lost or counted twice by that.
#[test]
#[cfg_attr(miri, ignore = "waits for a clock")]
fn a_cache_that_has_become_calm_has_counted_right() {
    family! { struct Calm; }
    let counted: &'static Counted = Box::leak(Box::default());
    let busy = Worker::start();
    busy.call(|| Slots::new(counted, 3).churn_and_free::<Calm>(5000));
    for _ in 0..3 {
        std::thread::sleep(Duration::from_millis(600));
        busy.call(|| Slots::new(counted, 4).churn_and_free::<Calm>(5));
        counted.assert_is_told::<Calm>();
    }
    busy.end();
    counted.assert_is_told::<Calm>();
}

impl Slots<'_> {
    fn churn_and_free<F: Family>(&mut self, calls: usize) {
        self.churn::<F>(times(calls));
        self.free_all::<F>();
    }
}

/// A child of a fork goes on from what its parent had counted; threads that are not in it have counted as well.
#[test]
#[cfg(all(unix, not(miri)))]
fn a_child_goes_on_counting() {
    family! { struct Forked; }
    let counted: &'static Counted = Box::leak(Box::default());
    let other = Worker::start();
    other.call(|| Slots::new(counted, 1).churn_and_free::<Forked>(1000));
    Slots::new(counted, 2).churn_and_free::<Forked>(1000);
    counted.assert_is_told::<Forked>();
    // SAFETY: the child calls what a child may: the family, and `_exit`.
    match unsafe { libc::fork() } {
        0 => {
            let mut slots = Slots::new(counted, 3);
            (0..50).for_each(|_| slots.allocate::<Forked>(64));
            slots.free_all::<Forked>();
            let stats = Forked::stats();
            let expected = (counted.allocations.load(Ordering::SeqCst), counted.frees.load(Ordering::SeqCst));
            let is_right = (stats.total_allocations, stats.total_frees) == expected;
            // SAFETY: ends the child at once.
            unsafe { libc::_exit(i32::from(!is_right)) }
        }
        child => {
            assert!(child > 0);
            let mut status = 0;
            // SAFETY: waits for the child made above.
            assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
            assert_eq!(status, 0, "the child counted something else");
        }
    }
    other.end();
}
