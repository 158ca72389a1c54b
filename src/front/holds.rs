//! How long locks are held: programs of all kinds of calls, each run several times, and the calls that hold a lock longest.
//!
//! ```sh
//! cargo test --release --lib holds -- --ignored --nocapture
//! ```
//!
//! Interrupts, a busy host and memory that the host backs late count as the holder's time, so a single long hold says little.
//! But a program without chance makes the same calls in each run: random numbers with a seed, a clock that counts calls, and
//! where there are two threads, one at a time. What takes long by what it does takes long in each run: of every call the
//! shortest time counts. A last program with threads at once shows single holds, beside a lock that is held for the same work
//! each time.

use core::alloc::Layout;
use core::ptr::NonNull;
use core::sync::atomic::Ordering::Relaxed;
use std::collections::BTreeMap;
use std::sync::mpsc;

use super::{Family, allocate, deallocate, grow, shrink};
use crate::os::PRETENDED;
use crate::sync::{Lock, held};

crate::family! {
    struct Mixed;
    struct Narrow { slab_bytes: 64 * 1024 }
    struct Noted { checks: Checked }
    struct Fenced { checks: Hardened }
}

/// Families that are alike, one for each run.
macro_rules! alike {
    ($module:ident { $($options:tt)* }) => {
        mod $module {
            crate::family! {
                pub(super) struct First { $($options)* }
                pub(super) struct Second { $($options)* }
                pub(super) struct Third { $($options)* }
                pub(super) struct Fourth { $($options)* }
                pub(super) struct Fifth { $($options)* }
            }

            /// Each run of the program.
            pub(super) fn runs(program: super::Program, thread_count: usize) -> Vec<Vec<super::Longest>> {
                vec![
                    program.run::<First>(thread_count),
                    program.run::<Second>(thread_count),
                    program.run::<Third>(thread_count),
                    program.run::<Fourth>(thread_count),
                    program.run::<Fifth>(thread_count),
                ]
            }
        }
    };
}

alike!(plain {});
alike!(narrow { slab_bytes: 64 * 1024 });
alike!(spaced { classes: Spaced });
alike!(noted { checks: Checked });
alike!(fenced { checks: Hardened });

/// The longest that a lock was held in one call, in nanoseconds of processor time, and the line that took it.
type Longest = (u64, Option<&'static core::panic::Location<'static>>);

/// Runs a program five times with so many threads.
type Runs = fn(Program, usize) -> Vec<Vec<Longest>>;

/// Calls in a row of one of two threads.
const TURN: usize = 500;
/// So many calls are a millisecond.
const CALLS_A_MILLISECOND: usize = 64;

/// What a program asks for.
#[derive(Clone, Copy)]
enum Program {
    /// Sizes of all kinds, small ones mostly, up to so many live; peaks are freed at once and trimmed.
    Small { live: usize, calls: usize },
    /// Large allocations: they grow, shrink, come and go in hundreds and in thousands, and all go back.
    Large,
}

impl Program {
    /// Rounds of so many bytes at most, so many live at most, and so many calls.
    fn rounds(self) -> Vec<(usize, usize, usize)> {
        match self {
            Self::Small { live, calls } => vec![(0, live, calls); 3],
            Self::Large => vec![(16 << 20, 100, 1000), (2 << 20, 4000, 12_000), (64 << 20, 30, 200)],
        }
    }

    /// Runs it with one thread, or with two that take turns; returns what each call took.
    fn run<F: Family>(self, thread_count: usize) -> Vec<Longest> {
        let mut state = State { random: Random(9), live: Vec::new(), calls: Vec::new() };
        for round in self.rounds() {
            let (_, _, calls) = round;
            let turns = calls.div_ceil(TURN);
            state = take_turns(thread_count, turns, state, move |state| {
                (0..TURN).for_each(|_| state.call::<F>(self, round));
            });
            // The other thread frees all.
            state = take_turns(1, 1, state, |state| {
                while let Some(last) = state.live.pop() {
                    state.noted(|_| free::<F>(last));
                }
                state.noted(|_| {
                    F::trim();
                });
            });
        }
        state.calls
    }
}

/// Lets threads work on the state one after the other, each in its turn.
fn take_turns(thread_count: usize, turns: usize, state: State, work: impl Fn(&mut State) + Copy + Send) -> State {
    std::thread::scope(|scope| {
        let (ended, result) = mpsc::channel();
        let (doors, mut rooms): (Vec<_>, Vec<_>) = (0..thread_count).map(|_| mpsc::channel::<(usize, State)>()).unzip();
        doors[0].send((0, state)).unwrap();
        for (own, room) in rooms.drain(..).enumerate() {
            let (next, ended) = (doors[(own + 1) % thread_count].clone(), ended.clone());
            scope.spawn(move || {
                while let Ok((turn, mut state)) = room.recv() {
                    if turn >= turns {
                        // Who waits is told by being passed the end as well.
                        let _ = next.send((turn, State::default()));
                        if !state.calls.is_empty() {
                            ended.send(state).unwrap();
                        }
                        return;
                    }
                    work(&mut state);
                    next.send((turn + 1, state)).unwrap();
                }
            });
        }
        result.recv().unwrap()
    })
}

/// What is live, and what each call took.
#[derive(Default)]
struct State {
    random: Random,
    live: Vec<(NonNull<u8>, Layout)>,
    calls: Vec<Longest>,
}

// SAFETY: the memory that is live belongs to the state; any thread may free it.
unsafe impl Send for State {}

impl State {
    /// Makes a call and notes the longest hold in it.
    fn noted(&mut self, call: impl FnOnce(&mut Self)) {
        held::take_own_longest();
        call(self);
        self.calls.push(held::take_own_longest());
        let milliseconds = PRETENDED.load(Relaxed) + u64::from(self.calls.len() % CALLS_A_MILLISECOND == 0);
        PRETENDED.store(milliseconds, Relaxed);
    }

    fn call<F: Family>(&mut self, program: Program, (most_bytes, most_live, _): (usize, usize, usize)) {
        let layout = match program {
            Program::Small { .. } => self.random.layout(),
            Program::Large => bytes((1 << 20) + 1 + self.random.below(most_bytes)),
        };
        let what = self.random.below(8);
        let index = self.random.below(self.live.len().max(1));
        self.noted(|state| match what {
            0..4 if state.live.len() < most_live => state.live.push((allocated::<F>(layout), layout)),
            4..6 if !state.live.is_empty() => {
                let (memory, old) = state.live[index];
                let new = match program {
                    Program::Small { .. } => layout,
                    Program::Large => bytes((old.size() + old.size() / 2).min(1 << 28)),
                };
                state.live[index] = (resized::<F>(memory, old, new), new);
            }
            _ if !state.live.is_empty() => free::<F>(state.live.swap_remove(index)),
            _ => {}
        });
    }
}

struct Random(u64);

impl Default for Random {
    fn default() -> Self {
        Self(1)
    }
}

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
        bytes(if self.below(100) == 0 { 1 + self.below(3 << 20) } else { 1 + self.below(most) })
    }
}

fn bytes(bytes: usize) -> Layout {
    Layout::from_size_align(bytes, 1).unwrap()
}

fn allocated<F: Family>(layout: Layout) -> NonNull<u8> {
    let memory = allocate(F::default(), layout).unwrap().cast::<u8>();
    // SAFETY: the first byte of a new allocation.
    unsafe { memory.write(1) };
    memory
}

fn resized<F: Family>(memory: NonNull<u8>, old: Layout, new: Layout) -> NonNull<u8> {
    let resized = if new.size() >= old.size() {
        // SAFETY: live with the old layout, and the new one is no shorter.
        unsafe { grow(F::default(), memory, old, new) }
    } else {
        // SAFETY: live with the old layout, and the new one is shorter.
        unsafe { shrink(F::default(), memory, old, new) }
    };
    resized.unwrap().cast()
}

fn free<F: Family>((memory, layout): (NonNull<u8>, Layout)) {
    // SAFETY: allocated with this layout, freed once.
    unsafe { deallocate(F::default(), memory, layout) };
}

/// Holds a lock of its own for some ten microseconds.
fn hold_for_comparison(lock: &Lock<u64>) {
    let mut held = lock.lock();
    for _ in 0..10_000 {
        *held = std::hint::black_box(*held).wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
    }
}

/// Calls of all kinds, and a lock to compare with.
fn make_calls<F: Family>(seed: u64) {
    let mut state = State { random: Random(seed), ..State::default() };
    let lock = Lock::new(0);
    let program = Program::Small { live: 20_000, calls: 300_000 };
    for call in 0..300_000 {
        if call % 16 == 0 {
            hold_for_comparison(&lock);
        }
        state.call::<F>(program, (0, 20_000, 0));
        if call % 100_000 == 99_999 {
            state.live.drain(..).for_each(free::<F>);
            F::trim();
        }
    }
}

#[test]
#[ignore = "shows figures; takes a minute"]
fn the_longest_holds() {
    let small = Program::Small { live: 20_000, calls: 60_000 };
    let programs: [(&str, Runs, Program); 8] = [
        ("all sizes", plain::runs, small),
        ("many small", plain::runs, Program::Small { live: 100_000, calls: 200_000 }),
        ("all sizes, slabs of 64 KiB", narrow::runs, small),
        ("all sizes, spaced classes", spaced::runs, small),
        ("all sizes, checked", noted::runs, small),
        ("all sizes, hardened", fenced::runs, small),
        ("large", plain::runs, Program::Large),
        ("large, hardened", fenced::runs, Program::Large),
    ];
    println!("The shortest of five runs, call by call:\n");
    println!("    calls  most, µs  over 100  place of the longest");
    for (name, runs, program) in programs {
        for thread_count in [1, 2] {
            PRETENDED.store(1_000_000_000, Relaxed);
            let mut runs_by_call = Vec::new();
            held::watch(|| runs_by_call = runs(program, thread_count));
            show_shortest(&format!("{name}, {thread_count} at a time"), &runs_by_call);
        }
    }
    PRETENDED.store(0, Relaxed);
    println!("\nSingle holds, six threads at once:\n");
    show(held::watch(|| {
        std::thread::scope(|scope| {
            for seed in 1..=2 {
                scope.spawn(move || make_calls::<Mixed>(seed));
                scope.spawn(move || make_calls::<Narrow>(seed));
                scope.spawn(move || make_calls::<Noted>(seed));
                scope.spawn(move || make_calls::<Fenced>(seed));
            }
        });
    }));
}

fn show_shortest(name: &str, runs: &[Vec<Longest>]) {
    assert!(runs.iter().all(|run| run.len() == runs[0].len() && !run.is_empty()), "the runs make the same calls");
    let shortest = |call: usize| runs.iter().map(|run| run[call]).min_by_key(|&(time, _)| time).unwrap();
    let all: Vec<Longest> = (0..runs[0].len()).map(shortest).collect();
    let &(most, place) = all.iter().max_by_key(|&&(time, _)| time).unwrap();
    let mut over = BTreeMap::<_, usize>::new();
    for (_, place) in all.iter().filter(|&&(time, _)| time > held::LIMIT) {
        *over.entry(place.map(|place| (place.file(), place.line()))).or_default() += 1;
    }
    let (calls, sum) = (all.len(), over.values().sum::<usize>());
    let place = place.map_or_else(String::new, |place| format!("{}:{}", place.file(), place.line()));
    println!("{calls:>9}{:>10.1}{sum:>10}  {place:<28} {name}", most as f64 / 1e3);
    for (place, count) in over {
        println!("{:>29}  {place:?}", count);
    }
}

fn show(places: Vec<((&str, u32), held::Held)>) {
    let heads = ["times", "mean, µs", "most, µs", "over 100", "no fault", "clock, µs"];
    println!("{}  place", heads.map(|head| format!("{head:>10}")).concat());
    for ((file, line), held) in &places {
        let mean = held.busy_sum as f64 / held.times as f64 / 1e3;
        let (most, whole) = (held.busy / 1000, held.whole / 1000);
        let (times, over, by_itself) = (held.times, held.over, held.over_by_itself);
        println!("{times:>10}{mean:>10.1}{most:>10}{over:>10}{by_itself:>10}{whole:>10}  {file}:{line}");
    }
    assert!(!places.is_empty(), "locks were taken");
}
