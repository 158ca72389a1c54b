//! Families that keep states, used rightly: nothing is reported, whatever threads do, after a fork and where space is short.

mod common;

use std::sync::mpsc;

#[cfg(unix)]
use common::child;
use common::random::Random;
use family_alloc::{Family, family};

family! {
    struct Watched { checks: Checked }
    struct Guarded { checks: Hardened }
    struct WatchedSmall { checks: Checked, slab_bytes: 64 * 1024 }
    struct GuardedSmall { checks: Hardened, slab_bytes: 64 * 1024 }
    struct WatchedSpaced { checks: Checked, classes: Spaced }
    struct GuardedSpaced { checks: Hardened, classes: Spaced, slab_bytes: 512 * 1024 }
    struct Short { checks: Checked }
    struct ShortGuarded { checks: Hardened }
    struct Forked { checks: Hardened }
    struct Refilled { checks: Checked, slab_bytes: 64 * 1024 }
    struct RefilledSpaced { checks: Checked, slab_bytes: 128 * 1024, classes: Spaced }
    struct RefilledGuardedSpaced { checks: Hardened, slab_bytes: 1 << 20, classes: Spaced }
    struct RefilledGuarded { checks: Hardened, slab_bytes: 64 * 1024 }
}

/// A live allocation on its way from thread to thread.
type Slot = (usize, usize);

fn allocate<F: Family>(size: usize) -> Slot {
    let memory = F::malloc(size);
    assert!(!memory.is_null());
    // SAFETY: allocated just now with this size.
    unsafe { memory.write_bytes(0xEE, size.min(4096)) };
    (memory.expose_provenance(), size)
}

fn free<F: Family>((address, size): Slot) {
    // SAFETY: allocated with this size, and given up by whoever passes it on.
    unsafe { F::free(std::ptr::with_exposed_provenance_mut(address), size) };
}

/// Threads in a ring: each allocates, frees some itself and passes the others on.
fn pass_around<F: Family>(rounds: usize) {
    let (senders, receivers): (Vec<_>, Vec<_>) = (0..3).map(|_| mpsc::sync_channel::<Slot>(4096)).unzip();
    std::thread::scope(|scope| {
        let mut threads = Vec::new();
        for (thread, receiver) in receivers.into_iter().enumerate() {
            let next = senders[(thread + 1) % 3].clone();
            threads.push(scope.spawn(move || {
                let mut random = Random::new(thread as u64 + 77);
                for _ in 0..rounds {
                    let most = 1 << (4 + random.below(16));
                    let slot = allocate::<F>(random.size(most));
                    if random.below(3) == 0 {
                        free::<F>(slot);
                    } else if let Err(mpsc::TrySendError::Full(slot) | mpsc::TrySendError::Disconnected(slot)) =
                        next.try_send(slot)
                    {
                        free::<F>(slot);
                    }
                    receiver.try_iter().take(2).for_each(free::<F>);
                }
                drop(next);
                receiver.iter().for_each(free::<F>);
            }));
        }
        drop(senders);
        // A join waits for the destructors of the thread too, the end of the scope does not.
        threads.into_iter().for_each(|thread| thread.join().expect("the thread ends"));
    });
    let stats = F::stats();
    assert_eq!(stats.live_allocations, 0, "{stats}");
}

#[test]
fn slots_pass_between_threads_without_a_false_report() {
    pass_around::<Watched>(60_000);
    pass_around::<WatchedSmall>(60_000);
    pass_around::<Guarded>(30_000);
    pass_around::<GuardedSmall>(30_000);
    pass_around::<WatchedSpaced>(30_000);
    pass_around::<GuardedSpaced>(15_000);
}

/// A slab that was emptied serves any class again, with all its states forgotten and no guard left.
#[test]
fn slabs_are_used_again_by_other_classes() {
    fn refill<F: Family>() {
        for size in [16, 1 << 15, 64, 4096, 1 << 14, 100, 72_000, 24, 5000] {
            let count = (4 << 20) / size;
            let slots: Vec<Slot> = (0..count).map(|_| allocate::<F>(size)).collect();
            slots.into_iter().for_each(free::<F>);
            F::trim();
        }
    }
    std::thread::scope(|scope| {
        scope.spawn(refill::<Refilled>);
        scope.spawn(refill::<RefilledGuarded>);
        scope.spawn(refill::<RefilledSpaced>);
        scope.spawn(refill::<RefilledGuardedSpaced>);
    });
}

#[test]
#[cfg_attr(
    any(miri, feature = "portable", target_family = "wasm"),
    ignore = "`System` finds no aligned region in so little address space"
)]
#[cfg(unix)]
fn little_address_space_is_enough() {
    fn fill<F: Family>() {
        let slots: Vec<Slot> = (0..100_000).map(|_| allocate::<F>(64)).collect();
        slots.into_iter().for_each(free::<F>);
        free::<F>(allocate::<F>(3 << 20));
    }
    child::isolated("little_address_space_is_enough", || {
        child::set_limit(libc::RLIMIT_AS, 256 << 20);
        fill::<Short>();
        fill::<ShortGuarded>();
    });
}

/// The addresses of the next allocations.
#[cfg(unix)]
fn sequence() -> Vec<usize> {
    (0..200).map(|_| allocate::<Forked>(64).0).collect()
}

#[test]
#[cfg_attr(miri, ignore = "no process can be started there")]
#[cfg(unix)]
fn a_fork_goes_its_own_way() {
    child::isolated("a_fork_goes_its_own_way", || {
        sequence();
        let mut pipe = [0; 2];
        // SAFETY: `pipe` writes two numbers to a live array.
        assert_eq!(unsafe { libc::pipe(pipe.as_mut_ptr()) }, 0);
        // SAFETY: the child only allocates, writes and exits.
        let process = unsafe { libc::fork() };
        let own = sequence();
        let bytes = size_of_val(&own[..]);
        if process == 0 {
            // SAFETY: `write` reads that many bytes of a live slice.
            unsafe { libc::write(pipe[1], own.as_ptr().cast(), bytes) };
            // SAFETY: no preconditions.
            unsafe { libc::_exit(0) };
        }
        let mut other = vec![0_usize; own.len()];
        // SAFETY: `read` writes at most that many bytes to a live slice.
        let length = unsafe { libc::read(pipe[0], other.as_mut_ptr().cast(), bytes) };
        assert_eq!(usize::try_from(length).ok(), Some(bytes));
        // What was mixed before the fork is the same in both; from the next refill on it is not.
        assert!(own != other, "the child foresees its parent");
    });
}
