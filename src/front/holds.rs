//! How long locks are held: a program of all kinds of calls in several threads, and the lines that hold locks longest.
//!
//! ```sh
//! cargo test --release --lib holds -- --ignored --nocapture
//! ```
//!
//! A machine that does other work makes single holds longer, by interrupts that count as the holder's time. How much that is
//! shows the lock in this file, which is held for the same work each time: what is held too long no more often than
//! that is not held too long by what it does. Where tables are written for the first time the system finds pages for
//! them, which takes a microsecond, and much longer where memory is short: what is too long without that is told apart.

use core::alloc::Layout;
use core::ptr::NonNull;

use super::{Family, allocate, deallocate, grow, shrink};
use crate::sync::{Lock, held};

crate::family! {
    struct Mixed;
    struct Alone;
    struct Narrow { slab_bytes: 64 * 1024 }
    struct Noted { checks: Checked }
    struct Fenced { checks: Hardened }
}

/// What is live at most in a thread, and how many calls it makes.
const LIVE: usize = 20_000;
const CALLS: usize = 300_000;

struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 as usize % bound
    }

    /// Small sizes mostly, and one in a hundred that is large.
    fn layout(&mut self) -> Layout {
        let most = [64, 512, 4096, 40 << 10][self.below(4)];
        let size = if self.below(100) == 0 { 1 + self.below(3 << 20) } else { 1 + self.below(most) };
        Layout::from_size_align(size, 1).unwrap()
    }
}

/// Holds a lock of its own for some ten microseconds.
fn hold_for_comparison(lock: &Lock<u64>) {
    let mut held = lock.lock();
    for _ in 0..10_000 {
        *held = std::hint::black_box(*held).wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
    }
}

/// Large allocations: they grow, shrink, come and go in hundreds and in thousands, and all go back.
fn make_large_calls<F: Family>(seed: u64) {
    let mut random = Random(seed);
    let mut live: Vec<(NonNull<u8>, Layout)> = Vec::new();
    let free = |(memory, layout): (NonNull<u8>, Layout)| {
        // SAFETY: allocated with this layout, freed once.
        unsafe { deallocate(F::default(), memory, layout) };
    };
    for (most_bytes, most_live, calls) in [(16 << 20, 100, 1000), (2 << 20, 4000, 12_000), (64 << 20, 30, 200)] {
        for _ in 0..calls {
            let bytes = (1 << 20) + 1 + random.below(most_bytes);
            let layout = Layout::from_size_align(bytes, 1).unwrap();
            if random.below(2) == 0 && live.len() < most_live {
                let memory = allocate(F::default(), layout).unwrap().cast::<u8>();
                // SAFETY: the first byte of a new allocation.
                unsafe { memory.write(1) };
                live.push((memory, layout));
            } else if !live.is_empty() {
                let index = random.below(live.len());
                let (memory, old) = live[index];
                if random.below(2) == 0 {
                    free(live.swap_remove(index));
                } else {
                    let bytes = (old.size() + old.size() / 2).min(1 << 28);
                    let layout = Layout::from_size_align(bytes, 1).unwrap();
                    // SAFETY: live with the old layout, and the new one is no shorter.
                    live[index] = (unsafe { grow(F::default(), memory, old, layout) }.unwrap().cast(), layout);
                }
            }
        }
        live.drain(..).for_each(free);
        F::trim();
    }
}

/// Calls of all kinds, with peaks that are freed at once; a trim now and then.
fn make_calls<F: Family>(seed: u64) {
    let mut random = Random(seed);
    let mut live: Vec<(NonNull<u8>, Layout)> = Vec::with_capacity(LIVE);
    let free = |(memory, layout): (NonNull<u8>, Layout)| {
        // SAFETY: allocated with this layout, freed once.
        unsafe { deallocate(F::default(), memory, layout) };
    };
    let lock = Lock::new(0);
    for call in 0..CALLS {
        if call % 16 == 0 {
            hold_for_comparison(&lock);
        }
        let layout = random.layout();
        match random.below(8) {
            0..5 if live.len() < LIVE => {
                let memory = allocate(F::default(), layout).unwrap().cast::<u8>();
                // SAFETY: the first byte of a new allocation.
                unsafe { memory.write(1) };
                live.push((memory, layout));
            }
            5 if !live.is_empty() => {
                let index = random.below(live.len());
                let (memory, old) = live[index];
                let memory = if layout.size() >= old.size() {
                    // SAFETY: live with the old layout, and the new one is no shorter.
                    unsafe { grow(F::default(), memory, old, layout) }
                } else {
                    // SAFETY: live with the old layout, and the new one is shorter.
                    unsafe { shrink(F::default(), memory, old, layout) }
                };
                live[index] = (memory.unwrap().cast(), layout);
            }
            _ if live.is_empty() => {}
            _ => {
                let index = random.below(live.len());
                free(live.swap_remove(index));
            }
        }
        if call % 100_000 == 99_999 {
            live.drain(..).for_each(free);
            F::trim();
        }
    }
    live.into_iter().for_each(free);
}

#[test]
#[ignore = "shows figures; a machine that does other work makes them worse"]
fn the_longest_holds() {
    println!("large allocations, one thread alone:");
    show(held::watch(|| make_large_calls::<Alone>(9)));
    println!("all at once:");
    show(held::watch(|| {
        std::thread::scope(|scope| {
            scope.spawn(|| make_large_calls::<Mixed>(7));
            scope.spawn(|| make_large_calls::<Fenced>(8));
            for seed in 1..=2 {
                scope.spawn(move || make_calls::<Mixed>(seed));
                scope.spawn(move || make_calls::<Narrow>(seed));
                scope.spawn(move || make_calls::<Noted>(seed));
                scope.spawn(move || make_calls::<Fenced>(seed));
            }
        });
    }));
}

fn show(places: Vec<((&str, u32), held::Held)>) {
    let heads = ["times", "mean, µs", "most, µs", "over 100", "no fault", "clock, µs"];
    println!("{}  place", heads.map(|head| format!("{head:>9}")).concat());
    for ((file, line), held) in &places {
        let mean = held.busy_sum as f64 / held.times as f64 / 1e3;
        let (most, whole) = (held.busy / 1000, held.whole / 1000);
        let (times, over, by_itself) = (held.times, held.over, held.over_by_itself);
        println!("{times:>9}{mean:>9.1}{most:>9}{over:>9}{by_itself:>9}{whole:>10}  {file}:{line}");
    }
    assert!(!places.is_empty(), "locks were taken");
}
