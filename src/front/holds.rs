//! How long locks are held: a program of all kinds of calls in several threads, and the lines that hold locks longest.
//!
//! ```sh
//! cargo test --release --lib holds -- --ignored --nocapture
//! ```

use core::alloc::Layout;
use core::ptr::NonNull;

use super::{Family, allocate, deallocate, grow, shrink};
use crate::sync::held;

crate::family! {
    struct Mixed;
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

/// Calls of all kinds, with peaks that are freed at once; a trim now and then.
fn make_calls<F: Family>(seed: u64) {
    let mut random = Random(seed);
    let mut live: Vec<(NonNull<u8>, Layout)> = Vec::with_capacity(LIVE);
    let free = |(memory, layout): (NonNull<u8>, Layout)| {
        // SAFETY: allocated with this layout, freed once.
        unsafe { deallocate(F::default(), memory, layout) };
    };
    for call in 0..CALLS {
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
    let places = held::watch(|| {
        std::thread::scope(|scope| {
            for seed in 1..=2 {
                scope.spawn(move || make_calls::<Mixed>(seed));
                scope.spawn(move || make_calls::<Narrow>(seed));
                scope.spawn(move || make_calls::<Noted>(seed));
                scope.spawn(move || make_calls::<Fenced>(seed));
            }
        });
    });
    println!("{:>10} {:>12} {:>12}  place", "times", "busy, µs", "whole, µs");
    for ((file, line), held) in &places {
        println!("{:>10} {:>12} {:>12}  {file}:{line}", held.times, held.busy / 1000, held.whole / 1000);
    }
    assert!(!places.is_empty(), "locks were taken");
}
