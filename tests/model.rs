//! Random sequences of calls beside a shadow model: a map of live ranges over all families.
//!
//! The first test is deterministic, so that proptest can shrink a failing sequence: calls are made on several threads, but one
//! after another, and slots wander from thread to thread. The second lets threads run at once, with the map under a lock.

mod common;

use std::sync::{Mutex, PoisonError};

use common::doors::{Doors, layout};
use common::random::Random;
use common::shadow::{Model, Slot, check_counters};
use common::steps::{Holdings, Step};
use common::worker::Worker;
use family_alloc::{Checks, Classes, family};
use proptest::prelude::*;
use std::alloc::Layout;

family! {
    struct Plain;
    struct Small { slab_bytes: 64 * 1024 }
    struct Middle { slab_bytes: 512 * 1024 }
    struct Raw { checks: Unchecked, slab_bytes: 1 << 20 }
    struct Watched { checks: Checked }
    struct WatchedSmall { checks: Checked, slab_bytes: 64 * 1024 }
    struct Guarded { checks: Hardened }
    struct GuardedSmall { checks: Hardened, slab_bytes: 128 * 1024 }
    struct Spaced { classes: Spaced }
    struct SpacedSmall { classes: Spaced, slab_bytes: 64 * 1024 }
    struct RawSpaced { classes: Spaced, checks: Unchecked, slab_bytes: 256 * 1024 }
    struct WatchedSpaced { classes: Spaced, checks: Checked, slab_bytes: 128 * 1024 }
    struct GuardedSpaced { classes: Spaced, checks: Hardened }
}

static FAMILIES: [Doors; 13] = [
    Doors::of::<Plain>(),
    Doors::of::<Small>(),
    Doors::of::<Middle>(),
    Doors::of::<Raw>(),
    Doors::of::<Watched>(),
    Doors::of::<WatchedSmall>(),
    Doors::of::<Guarded>(),
    Doors::of::<GuardedSmall>(),
    Doors::of::<Spaced>(),
    Doors::of::<SpacedSmall>(),
    Doors::of::<RawSpaced>(),
    Doors::of::<WatchedSpaced>(),
    Doors::of::<GuardedSpaced>(),
];
const THREADS: usize = 3;
/// Contents are written and looked at to the last byte.
const ALL: usize = usize::MAX;

/// What one of the threads does.
#[derive(Clone, Debug)]
enum Turn {
    Step(Step),
    EndThread,
}

fn size() -> impl Strategy<Value = usize> {
    prop_oneof![
        1 => Just(0),
        8 => 1..200_usize,
        // Around every power of two there is an edge.
        8 => (0..21_u32, 0..3_usize).prop_map(|(shift, above)| ((1 << shift) + above).saturating_sub(1)),
        // And around every eighth of one.
        6 => (6..19_u32, 1..8_usize, 0..3_usize).prop_map(|(shift, step, above)| (8 + step) * (1 << shift) / 8 + above - 1),
        4 => 1..70_000_usize,
        1 => 1..6_000_000_usize,
    ]
}

fn any_layout() -> impl Strategy<Value = Layout> {
    let align = prop_oneof![12 => 0..5_u32, 2 => 0..13_u32, 1 => 13..23_u32];
    (size(), align).prop_map(|(size, shift)| layout(size, 1 << shift))
}

fn turn() -> impl Strategy<Value = Turn> {
    let family = (0..FAMILIES.len()).prop_map(|family| &FAMILIES[family]);
    let many = prop_oneof![6 => Just(1_usize), 1 => 2..300_usize];
    let allocate = (family.clone(), any_layout(), any::<bool>(), many.clone());
    let step = prop_oneof![
        8 => allocate.prop_map(|(doors, layout, zeroed, count)| {
            let most = (4 << 20) / layout.size().max(layout.align());
            Step::Allocate { doors, layout, zeroed, count: count.min(most.max(1)) }
        }),
        8 => (any::<usize>(), any::<u8>(), many).prop_map(|(place, fraction, count)| Step::Free { place, fraction, count }),
        6 => (any::<usize>(), any::<u8>(), any_layout(), any::<bool>())
            .prop_map(|(place, fraction, layout, zeroed)| Step::Resize { place, fraction, layout, zeroed }),
        1 => family.prop_map(|doors| Step::Trim { doors }),
    ];
    prop_oneof![23 => step.prop_map(Turn::Step), 1 => Just(Turn::EndThread)]
}

/// The state of one run: workers, and what they hold together.
struct Run {
    workers: Vec<Worker>,
    holdings: Box<Holdings>,
}

impl Run {
    fn new() -> Self {
        Self { workers: (0..THREADS).map(|_| Worker::start()).collect(), holdings: Box::new(Holdings::new(ALL)) }
    }

    /// Lets one of the workers do something with the holdings.
    fn on(&mut self, thread: usize, work: impl FnOnce(&mut Holdings) + Send + 'static) {
        let mut holdings = std::mem::replace(&mut self.holdings, Box::new(Holdings::new(ALL)));
        self.holdings = self.workers[thread].call(move || {
            work(&mut holdings);
            holdings
        });
    }

    fn turn(&mut self, thread: usize, turn: Turn) {
        match turn {
            Turn::Step(step) => self.on(thread, move |holdings| holdings.step(&step)),
            Turn::EndThread => std::mem::replace(&mut self.workers[thread], Worker::start()).end(),
        }
    }

    fn check_counters(&self) {
        FAMILIES.iter().for_each(|doors| check_counters(doors, &self.holdings.live));
    }

    fn finish(mut self) {
        self.check_counters();
        for index in 0..self.holdings.live.len() {
            self.on(index % THREADS, move |holdings| holdings.take(0).deallocate(index as u8));
        }
        self.check_counters();
        for worker in self.workers.drain(..) {
            worker.end();
        }
        for doors in &FAMILIES {
            let stats = (doors.stats)();
            assert_eq!((stats.thread_caches, stats.cached_slots), (0, 0), "{stats}");
        }
    }
}

/// The families are shared by the tests of this file, and their counters are compared: one test at a time.
static TURN: Mutex<()> = Mutex::new(());

#[test]
fn random_calls_on_threads_in_turn_keep_every_promise() {
    run_in_turn(60);
}

fn run_in_turn(cases: u32) {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let sequence = proptest::collection::vec((0..THREADS, turn()), 1..300);
    let cases = common::times(cases as usize) as u32;
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(sequence in sequence)| {
        let mut run = Run::new();
        for (thread, turn) in sequence {
            run.turn(thread, turn);
        }
        run.finish();
    });
}

#[test]
fn random_calls_on_threads_at_once_keep_every_promise() {
    run_all_at_once(8000);
}

/// As on Linux before 6.13: hardened families give their large slots back instead, and compare them.
#[test]
#[cfg(target_os = "linux")]
#[cfg_attr(any(miri, feature = "portable", target_family = "wasm"), ignore = "this backend has no guards anyway")]
fn random_calls_keep_every_promise_without_guards() {
    common::child::isolated("random_calls_keep_every_promise_without_guards", || {
        common::forbid::guards();
        run_in_turn(20);
        run_all_at_once(4000);
    });
}

fn run_all_at_once(steps: usize) {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let model = Mutex::new(Model::default());
    let exchange = Mutex::new(Vec::<Slot>::new());
    std::thread::scope(|scope| {
        let (model, exchange) = (&model, &exchange);
        let threads =
            [0, 1, 2, 3].map(|thread| scope.spawn(move || run_at_once(thread, common::times(steps), model, exchange)));
        // Joined one by one: a scope may be left before the thread-locals of its threads are destroyed.
        for thread in threads {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
    });
    for slot in exchange.into_inner().expect("no thread panicked") {
        slot.deallocate(0);
    }
    for doors in &FAMILIES {
        let stats = (doors.stats)();
        assert_eq!((stats.live_allocations, stats.live_bytes), (0, 0), "{stats}");
    }
}

fn run_at_once(thread: usize, steps: usize, model: &Mutex<Model>, exchange: &Mutex<Vec<Slot>>) {
    let mut random = Random::new(thread as u64 + 10);
    let mut own: Vec<Slot> = Vec::new();
    for step in 0..steps {
        let class_bits = random.below(18);
        let wanted = layout(random.between(1 << class_bits, 2 << class_bits), 1 << random.below(8));
        match random.below(8) {
            0..4 => {
                let doors = &FAMILIES[random.below(FAMILIES.len())];
                let slot = Slot::allocate(doors, wanted, random.below(3) == 0, (step * 4 + thread, ALL));
                model.lock().expect("no panic").insert(&slot);
                own.push(slot);
            }
            4 if !own.is_empty() => {
                let place = random.below(own.len());
                let old = own[place];
                // Both ends may exist at once while the contents move, so the old one leaves the model first.
                model.lock().expect("no panic").remove(&old);
                let new = old.resize(random.below(256) as u8, wanted, random.below(2) == 0);
                model.lock().expect("no panic").insert(&new);
                own[place] = new;
            }
            5 if !own.is_empty() => exchange.lock().expect("no panic").push(own.swap_remove(random.below(own.len()))),
            _ => {
                let taken = if random.below(2) == 0 { exchange.lock().expect("no panic").pop() } else { own.pop() };
                if let Some(slot) = taken {
                    model.lock().expect("no panic").remove(&slot);
                    slot.deallocate(random.below(256) as u8);
                }
            }
        }
    }
    exchange.lock().expect("no panic").append(&mut own);
}

#[test]
fn the_families_of_this_file_are_what_they_claim() {
    let declared = FAMILIES.each_ref().map(|doors| (doors.name, doors.slab_bytes, doors.checks));
    let is_spaced = |doors: &Doors| doors.classes == Classes::Spaced;
    assert!(FAMILIES.iter().all(|doors| is_spaced(doors) == doors.name.contains("Spaced")));
    const DEFAULT: usize = match () {
        () if cfg!(target_family = "wasm") => 64 << 10,
        () if usize::BITS < 64 => 128 << 10,
        () => 2 << 20,
    };
    let expected = [
        ("Plain", DEFAULT, Checks::Default),
        ("Small", 64 << 10, Checks::Default),
        ("Middle", 512 << 10, Checks::Default),
        ("Raw", 1 << 20, Checks::Unchecked),
        ("Watched", DEFAULT, Checks::Checked),
        ("WatchedSmall", 64 << 10, Checks::Checked),
        ("Guarded", DEFAULT, Checks::Hardened),
        ("GuardedSmall", 128 << 10, Checks::Hardened),
        ("Spaced", DEFAULT, Checks::Default),
        ("SpacedSmall", 64 << 10, Checks::Default),
        ("RawSpaced", 256 << 10, Checks::Unchecked),
        ("WatchedSpaced", 128 << 10, Checks::Checked),
        ("GuardedSpaced", DEFAULT, Checks::Hardened),
    ];
    assert_eq!(declared, expected);
}
