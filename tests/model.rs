//! Random sequences of calls beside a shadow model: a map of live ranges over all families.
//!
//! The first test is deterministic, so that proptest can shrink a failing sequence: calls are made on several threads, but one
//! after another, and slots wander from thread to thread. The second lets threads run at once, with the map under a lock.

mod common;

use std::collections::{BTreeMap, HashMap};
use std::ptr::NonNull;
use std::sync::{Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;

use common::doors::{Doors, is_aligned, layout, promised_align};
use common::pattern;
use common::random::Random;
use family_alloc::{Checks, family};
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
}

const FAMILIES: [Doors; 8] = [
    Doors::of::<Plain>(),
    Doors::of::<Small>(),
    Doors::of::<Middle>(),
    Doors::of::<Raw>(),
    Doors::of::<Watched>(),
    Doors::of::<WatchedSmall>(),
    Doors::of::<Guarded>(),
    Doors::of::<GuardedSmall>(),
];
const THREADS: usize = 3;
/// The least slab: no two families may ever have slots in the same so many bytes.
const UNIT_BYTES: usize = 64 << 10;
/// So many allocations of at least this length may stand in mappings though slots would hold them: they have grown there.
const GROWN_COUNT: usize = 16;
const GROWN_FROM_BYTES: usize = 32 << 10;

/// A live allocation: what was asked for, what came, and the seed of its contents.
#[derive(Clone, Copy, Debug)]
struct Slot {
    family: usize,
    layout: Layout,
    memory: NonNull<[u8]>,
    seed: usize,
}

// SAFETY: an allocation may be used and freed on any thread; the tests hand each to one thread at a time.
unsafe impl Send for Slot {}

/// Which family each unit of address space has belonged to since it was first seen; slabs are never given up.
static UNITS: Mutex<Option<HashMap<usize, usize>>> = Mutex::new(None);

/// The live ranges of all families, by address.
#[derive(Default)]
struct Model {
    ranges: BTreeMap<usize, usize>,
}

impl Model {
    /// Checks what a new slot promises, and adds it.
    fn insert(&mut self, slot: &Slot) {
        let (start, end) = (slot.memory.addr().get(), slot.memory.addr().get() + slot.memory.len());
        let doors = FAMILIES[slot.family];
        assert!(is_aligned(start, promised_align(slot.layout)), "{slot:?}: alignment");
        assert_eq!(slot.memory.len(), doors.occupied(slot.layout), "{slot:?}: not the whole slot");
        if slot.layout.size() == 0 {
            return;
        }
        if let Some((&other, &other_end)) = self.ranges.range(..end).next_back() {
            assert!(other_end <= start, "{slot:?} overlaps {other:#x} to {other_end:#x}");
        }
        self.ranges.insert(start, end);
        let mut units = UNITS.lock().unwrap_or_else(PoisonError::into_inner);
        let units = units.get_or_insert_default();
        for unit in start / UNIT_BYTES..end.div_ceil(UNIT_BYTES) {
            if doors.is_large(slot.layout) {
                assert!(!units.contains_key(&unit), "{slot:?}: a mapping in the slabs of a family");
            } else {
                // What is as long as this may have grown into a mapping, which another family may have later.
                let known = units.get(&unit).copied().unwrap_or(slot.family);
                let may_be_mapped = slot.memory.len() >= GROWN_FROM_BYTES;
                let owner = if may_be_mapped { known } else { *units.entry(unit).or_insert(slot.family) };
                assert_eq!(owner, slot.family, "{slot:?}: in a slab of {}", FAMILIES[owner].name);
            }
        }
    }

    fn remove(&mut self, slot: &Slot) {
        if slot.layout.size() > 0 {
            let end = self.ranges.remove(&slot.memory.addr().get());
            assert_eq!(end, Some(slot.memory.addr().get() + slot.memory.len()), "{slot:?} is not in the model");
        }
    }
}

fn allocate(family: usize, layout: Layout, zeroed: bool, seed: usize) -> Slot {
    let doors = FAMILIES[family];
    let memory = if zeroed { (doors.allocate_zeroed)(layout) } else { (doors.allocate)(layout) };
    let memory = memory.unwrap_or_else(|| panic!("{layout:?} is refused"));
    assert!(!zeroed || pattern::is_zero_from(memory, 0), "{layout:?}: not zero to the end");
    pattern::fill(memory, seed);
    Slot { family, layout, memory, seed }
}

fn verify(slot: &Slot) {
    assert!(pattern::holds(slot.memory.cast(), slot.memory.len(), slot.seed), "{slot:?}: the contents have changed");
}

/// Some size that fits the slot: between the requested one and the whole.
fn fitting(slot: &Slot, fraction: u8) -> Layout {
    let slack = slot.memory.len() - slot.layout.size();
    layout(slot.layout.size() + slack * usize::from(fraction) / 255, slot.layout.align())
}

fn deallocate(slot: &Slot, fraction: u8) {
    verify(slot);
    // SAFETY: a live slot with a layout that fits; its owner gives it up.
    unsafe { (FAMILIES[slot.family].deallocate)(slot.memory.cast(), fitting(slot, fraction)) };
}

/// Grows or shrinks as the sizes have it, and checks that the contents came along.
fn resize(slot: &Slot, fraction: u8, new: Layout, zeroed: bool) -> Slot {
    let (doors, old) = (FAMILIES[slot.family], fitting(slot, fraction));
    verify(slot);
    let grows = new.size() >= old.size();
    let call = match (grows, zeroed) {
        (true, true) => doors.grow_zeroed,
        (true, false) => doors.grow,
        (false, _) => doors.shrink,
    };
    // SAFETY: a live slot with a layout that fits, the sizes in the order that the call wants; the owner gives it up.
    let memory = unsafe { call(slot.memory.cast(), old, new) };
    let memory = memory.unwrap_or_else(|| panic!("{slot:?} to {new:?} is refused"));
    assert!(
        pattern::holds(memory.cast(), old.size().min(new.size()), slot.seed),
        "{slot:?} to {new:?}: the contents did not come along"
    );
    assert!(
        !(grows && zeroed) || pattern::is_zero_from(memory, old.size()),
        "{slot:?} to {new:?}: not zero to the end"
    );
    pattern::fill(memory, slot.seed);
    Slot { layout: new, memory, ..*slot }
}

#[derive(Clone, Debug)]
enum Step {
    Allocate { family: usize, layout: Layout, zeroed: bool, count: usize },
    Free { place: usize, fraction: u8, count: usize },
    Resize { place: usize, fraction: u8, layout: Layout, zeroed: bool },
    Trim { family: usize },
    EndThread,
}

fn size() -> impl Strategy<Value = usize> {
    prop_oneof![
        1 => Just(0),
        8 => 1..200_usize,
        // Around every power of two there is an edge.
        8 => (0..21_u32, 0..3_usize).prop_map(|(shift, above)| ((1 << shift) + above).saturating_sub(1)),
        4 => 1..70_000_usize,
        1 => 1..6_000_000_usize,
    ]
}

fn any_layout() -> impl Strategy<Value = Layout> {
    let align = prop_oneof![12 => 0..5_u32, 2 => 0..13_u32, 1 => 13..23_u32];
    (size(), align).prop_map(|(size, shift)| layout(size, 1 << shift))
}

fn step() -> impl Strategy<Value = Step> {
    let family = 0..FAMILIES.len();
    let many = prop_oneof![6 => Just(1_usize), 1 => 2..300_usize];
    let allocate = (family.clone(), any_layout(), any::<bool>(), many.clone());
    prop_oneof![
        8 => allocate.prop_map(|(family, layout, zeroed, count)| {
            let most = (4 << 20) / layout.size().max(layout.align());
            Step::Allocate { family, layout, zeroed, count: count.min(most.max(1)) }
        }),
        8 => (any::<usize>(), any::<u8>(), many).prop_map(|(place, fraction, count)| Step::Free { place, fraction, count }),
        6 => (any::<usize>(), any::<u8>(), any_layout(), any::<bool>())
            .prop_map(|(place, fraction, layout, zeroed)| Step::Resize { place, fraction, layout, zeroed }),
        1 => family.prop_map(|family| Step::Trim { family }),
        1 => Just(Step::EndThread),
    ]
}

/// A thread that makes calls on behalf of another, one at a time.
struct Worker {
    calls: mpsc::Sender<Box<dyn FnOnce() + Send>>,
    thread: JoinHandle<()>,
}

impl Worker {
    fn start() -> Self {
        let (calls, inbox) = mpsc::channel::<Box<dyn FnOnce() + Send>>();
        Self { calls, thread: std::thread::spawn(move || inbox.into_iter().for_each(|call| call())) }
    }

    /// Makes a call there and waits for what it returns; a panic there becomes a panic here.
    fn call<T: Send + 'static>(&self, call: impl FnOnce() -> T + Send + 'static) -> T {
        let (sender, receiver) = mpsc::channel();
        let call = move || {
            let _ = sender.send(std::panic::catch_unwind(std::panic::AssertUnwindSafe(call)));
        };
        self.calls.send(Box::new(call)).expect("the worker listens");
        receiver.recv().expect("the worker answers").unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    fn end(self) {
        drop(self.calls);
        self.thread.join().expect("a worker does not panic");
    }
}

/// The state of one run: live slots in no order, workers, and the model.
struct Run {
    workers: Vec<Worker>,
    live: Vec<Slot>,
    model: Model,
    seed: usize,
}

impl Run {
    fn new() -> Self {
        Self {
            workers: (0..THREADS).map(|_| Worker::start()).collect(),
            live: Vec::new(),
            model: Model::default(),
            seed: 0,
        }
    }

    fn step(&mut self, thread: usize, step: &Step) {
        match *step {
            Step::Allocate { family, layout, zeroed, count } => {
                for _ in 0..count {
                    self.seed += 1;
                    let seed = self.seed;
                    let slot = self.workers[thread].call(move || allocate(family, layout, zeroed, seed));
                    self.model.insert(&slot);
                    self.live.push(slot);
                }
            }
            Step::Free { place, fraction, count } => {
                for _ in 0..count.min(self.live.len()) {
                    let slot = self.live.swap_remove(place % self.live.len());
                    self.model.remove(&slot);
                    self.workers[thread].call(move || deallocate(&slot, fraction));
                }
            }
            Step::Resize { place, fraction, layout, zeroed } if !self.live.is_empty() => {
                let place = place % self.live.len();
                let slot = self.live[place];
                self.model.remove(&slot);
                let resized = self.workers[thread].call(move || resize(&slot, fraction, layout, zeroed));
                self.model.insert(&resized);
                self.live[place] = resized;
            }
            Step::Resize { .. } => {}
            Step::Trim { family } => {
                (FAMILIES[family].trim)();
            }
            Step::EndThread => std::mem::replace(&mut self.workers[thread], Worker::start()).end(),
        }
    }

    /// Everything that the families count is what the model holds.
    fn check_counters(&self) {
        for (family, doors) in FAMILIES.iter().enumerate() {
            let mine = self.live.iter().filter(|slot| slot.family == family && slot.layout.size() > 0);
            let (large, small): (Vec<&Slot>, Vec<&Slot>) = mine.partition(|slot| doors.is_large(slot.layout));
            let bytes = |slots: &[&Slot]| slots.iter().map(|slot| slot.memory.len()).sum::<usize>();
            let stats = (doors.stats)();
            assert_eq!(stats.live_allocations, large.len() + small.len(), "{stats}");
            assert_eq!(stats.live_bytes, bytes(&large) + bytes(&small), "{stats}");
            // A few that have grown stand among the large ones though a slot would hold them.
            let (mut grown, mut grown_bytes) = (0, 0);
            assert!(stats.peak_live_allocations >= stats.live_allocations && stats.peak_live_bytes >= stats.live_bytes);
            for class in &stats.classes {
                let live = small.iter().filter(|slot| slot.memory.len() == class.slot_bytes).count();
                assert!(class.live_slots <= live, "slots of {} bytes: {stats}", class.slot_bytes);
                assert!(class.live_slots == live || class.slot_bytes >= GROWN_FROM_BYTES, "{stats}");
                grown += live - class.live_slots;
                grown_bytes += (live - class.live_slots) * class.slot_bytes;
                let all = class.live_slots + class.cached_slots + class.depot_slots + class.free_slots;
                assert_eq!(all * class.slot_bytes, class.slab_count * doors.slab_bytes, "{stats}");
            }
            assert!(grown <= GROWN_COUNT, "{stats}");
            let counted = (stats.large_allocations, stats.large_bytes);
            assert_eq!(counted, (large.len() + grown, bytes(&large) + grown_bytes), "{stats}");
        }
    }

    fn finish(mut self) {
        self.check_counters();
        for (index, slot) in std::mem::take(&mut self.live).into_iter().enumerate() {
            self.model.remove(&slot);
            self.workers[index % THREADS].call(move || deallocate(&slot, index as u8));
        }
        self.check_counters();
        for worker in self.workers.drain(..) {
            worker.end();
        }
        for doors in FAMILIES {
            let stats = (doors.stats)();
            assert_eq!((stats.thread_caches, stats.cached_slots), (0, 0), "{stats}");
        }
    }
}

/// The families are shared by the tests of this file, and their counters are compared: one test at a time.
static TURN: Mutex<()> = Mutex::new(());

#[test]
fn random_calls_on_threads_in_turn_keep_every_promise() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let sequence = proptest::collection::vec((0..THREADS, step()), 1..300);
    let config = ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(sequence in sequence)| {
        let mut run = Run::new();
        for (thread, step) in &sequence {
            run.step(*thread, step);
        }
        run.finish();
    });
}

#[test]
fn random_calls_on_threads_at_once_keep_every_promise() {
    const STEPS: usize = 8000;
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let model = Mutex::new(Model::default());
    let exchange = Mutex::new(Vec::<Slot>::new());
    std::thread::scope(|scope| {
        let (model, exchange) = (&model, &exchange);
        let threads = [0, 1, 2, 3].map(|thread| scope.spawn(move || run_at_once(thread, STEPS, model, exchange)));
        // Joined one by one: a scope may be left before the thread-locals of its threads are destroyed.
        for thread in threads {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
    });
    for slot in exchange.into_inner().expect("no thread panicked") {
        deallocate(&slot, 0);
    }
    for doors in FAMILIES {
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
                let slot = allocate(random.below(FAMILIES.len()), wanted, random.below(3) == 0, step * 4 + thread);
                model.lock().expect("no panic").insert(&slot);
                own.push(slot);
            }
            4 if !own.is_empty() => {
                let place = random.below(own.len());
                let old = own[place];
                // Both ends may exist at once while the contents move, so the old one leaves the model first.
                model.lock().expect("no panic").remove(&old);
                let new = resize(&old, random.below(256) as u8, wanted, random.below(2) == 0);
                model.lock().expect("no panic").insert(&new);
                own[place] = new;
            }
            5 if !own.is_empty() => exchange.lock().expect("no panic").push(own.swap_remove(random.below(own.len()))),
            _ => {
                let taken = if random.below(2) == 0 { exchange.lock().expect("no panic").pop() } else { own.pop() };
                if let Some(slot) = taken {
                    model.lock().expect("no panic").remove(&slot);
                    deallocate(&slot, random.below(256) as u8);
                }
            }
        }
    }
    exchange.lock().expect("no panic").append(&mut own);
}

#[test]
fn the_families_of_this_file_are_what_they_claim() {
    let declared = FAMILIES.map(|doors| (doors.name, doors.slab_bytes, doors.checks));
    let expected = [
        ("Plain", 2 << 20, Checks::Default),
        ("Small", 64 << 10, Checks::Default),
        ("Middle", 512 << 10, Checks::Default),
        ("Raw", 1 << 20, Checks::Unchecked),
        ("Watched", 2 << 20, Checks::Checked),
        ("WatchedSmall", 64 << 10, Checks::Checked),
        ("Guarded", 2 << 20, Checks::Hardened),
        ("GuardedSmall", 128 << 10, Checks::Hardened),
    ];
    assert_eq!(declared, expected);
}
