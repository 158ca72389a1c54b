//! What the modes cost: the same work in families that differ in nothing but `checks`, in one run.
//!
//! ```text
//! cargo run --release --example mode_costs
//! ```
//!
//! Each figure is the best of many short rounds, in which the modes take turns, in nanoseconds for one allocation and its free.
//! With the name of a work, a mode and a number it does that work in that mode so many times and prints how many allocations that
//! were: the difference of two such runs under a counter of instructions, for two numbers, is what one allocation and its free take.
//!
//! ```text
//! valgrind --tool=callgrind target/release/examples/mode_costs "pair, 64 B" checked 6
//! ```

use std::hint::black_box;
use std::time::{Duration, Instant};

use family_alloc::{Family, family};

family! {
    struct Unchecked { checks: Unchecked }
    struct Default_ { checks: Default }
    struct Checked { checks: Checked }
    struct Hardened { checks: Hardened }
}

const ROUNDS: usize = 200;

/// A work: its name and, for each mode, a function that does it and returns how many allocations it made.
struct Work {
    name: &'static str,
    modes: [fn() -> usize; MODES.len()],
}

const MODES: [&str; 4] = ["unchecked", "default", "checked", "hardened"];
const DEFAULT: usize = 1;

macro_rules! works {
    ($($name:literal => $function:ident $(::<$($size:literal),*>)?;)*) => {
        [$(Work {
            name: $name,
            modes: [
                $function::<Unchecked $($(, $size)*)?>,
                $function::<Default_ $($(, $size)*)?>,
                $function::<Checked $($(, $size)*)?>,
                $function::<Hardened $($(, $size)*)?>,
            ],
        }),*]
    };
}

fn main() {
    let works = works! {
        "pair, 16 B" => pair::<16>;
        "pair, 64 B" => pair::<64>;
        "pair, 1 KiB" => pair::<1024>;
        "pair, size at run time" => pair_any;
        "pair, 64 B, zeroed" => pair_zeroed::<64>;
        "bulk of 100 × 64 B" => bulk::<64, 100>;
        "bulk of 10 000 × 64 B" => bulk::<64, 10_000>;
        "bulk of 100 000 × 16 B" => bulk::<16, 100_000>;
        "churn among 1 000 × 64 B" => churn::<64, 1000>;
        "churn among 50 000 × 64 B" => churn::<64, 50_000>;
        "mixed, 16 B to 1 KiB" => mixed::<1000>;
        "mixed, 16 B to 1 KiB, large set" => mixed::<50_000>;
    };
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [work, mode, times] = &arguments[..] {
        let work = works.iter().find(|known| known.name == work).expect("the name of a work");
        let mode = MODES.iter().position(|known| known == mode).expect("the name of a mode");
        let times = 0..times.parse().expect("a number");
        return println!("{}", times.map(|_| work.modes[mode]()).sum::<usize>());
    }
    print!("| work |");
    MODES.iter().for_each(|mode| print!(" {mode} |"));
    print!("\n|---|");
    MODES.iter().for_each(|_| print!("---|"));
    println!();
    for work in works {
        let best = best(&work);
        print!("| {} |", work.name);
        for nanoseconds in best {
            print!(" {nanoseconds:.2} ns, {:.2}× |", nanoseconds / best[DEFAULT]);
        }
        println!();
    }
}

fn best(work: &Work) -> [f64; MODES.len()] {
    let mut best = [f64::MAX; MODES.len()];
    for _ in 0..ROUNDS {
        for (best, run) in best.iter_mut().zip(work.modes) {
            let (start, mut count) = (Instant::now(), 0);
            while start.elapsed() < Duration::from_micros(500) {
                count += run();
            }
            *best = best.min(start.elapsed().as_secs_f64() * 1e9 / count as f64);
        }
    }
    best
}

fn touch(pointer: *mut u8) -> *mut u8 {
    // SAFETY: every allocation here is at least 16 bytes.
    unsafe { pointer.cast::<u64>().write_volatile(7) };
    pointer
}

#[inline(never)]
fn pair<F: Family, const SIZE: usize>() -> usize {
    for _ in 0..10_000 {
        let pointer = touch(F::malloc(SIZE));
        // SAFETY: allocated above with this size.
        unsafe { F::free(pointer, SIZE) };
    }
    10_000
}

#[inline(never)]
fn pair_any<F: Family>() -> usize {
    for _ in 0..10_000 {
        let size = black_box(64);
        let pointer = touch(F::malloc(size));
        // SAFETY: allocated above with this size.
        unsafe { F::free(pointer, size) };
    }
    10_000
}

#[inline(never)]
fn pair_zeroed<F: Family, const SIZE: usize>() -> usize {
    for _ in 0..10_000 {
        let pointer = touch(F::calloc(SIZE));
        // SAFETY: allocated above with this size.
        unsafe { F::free(pointer, SIZE) };
    }
    10_000
}

#[inline(never)]
fn bulk<F: Family, const SIZE: usize, const COUNT: usize>() -> usize {
    let mut pointers = Vec::with_capacity(COUNT);
    for _ in 0..COUNT {
        pointers.push(touch(F::malloc(SIZE)));
    }
    for pointer in pointers {
        // SAFETY: allocated above with this size.
        unsafe { F::free(pointer, SIZE) };
    }
    COUNT
}

struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((self.0 >> 32) as usize * bound) >> 32
    }
}

/// Replaces random slots among many.
#[inline(never)]
fn churn<F: Family, const SIZE: usize, const COUNT: usize>() -> usize {
    let mut random = Random(88_172_645_463_325_252);
    let mut live: Vec<_> = (0..COUNT).map(|_| touch(F::malloc(SIZE))).collect();
    for _ in 0..COUNT * 8 {
        let place = random.below(COUNT);
        // SAFETY: allocated with this size, and replaced at once.
        unsafe { F::free(live[place], SIZE) };
        live[place] = touch(F::malloc(SIZE));
    }
    for pointer in live {
        // SAFETY: allocated with this size.
        unsafe { F::free(pointer, SIZE) };
    }
    COUNT * 9
}

#[inline(never)]
fn mixed<F: Family, const COUNT: usize>() -> usize {
    let mut random = Random(88_172_645_463_325_252);
    let mut size = move || (16 << random.below(6)) + random.below(16);
    let mut random = Random(2_463_534_242);
    let mut allocate = || {
        let size = size();
        (touch(F::malloc(size)), size)
    };
    let mut live: Vec<_> = (0..COUNT).map(|_| allocate()).collect();
    for _ in 0..COUNT * 8 {
        let place = random.below(COUNT);
        let (pointer, size) = live[place];
        // SAFETY: allocated with this size, and replaced at once.
        unsafe { F::free(pointer, size) };
        live[place] = allocate();
    }
    for (pointer, size) in live {
        // SAFETY: allocated with this size.
        unsafe { F::free(pointer, size) };
    }
    COUNT * 9
}
