//! Heaps with spaced classes, beside natural ones: every call, from every thread, in every mode, over the lives of many.

mod common;

use std::alloc::Layout;
use std::collections::BTreeMap;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex};

use allocator_api2::alloc::Allocator;
#[cfg(all(target_os = "linux", not(miri)))]
use common::child;
use common::doors::{is_aligned, layout, longest_slot, slot_bytes};
#[cfg(all(target_os = "linux", not(any(miri, feature = "portable"))))]
use common::memory;
use common::worker::Worker;
use common::{pattern, times};
use family_alloc::{Checks, Classes, Heap, HugePages, LocalHeap, Stats};
use proptest::prelude::*;

const THREADS: usize = 3;
const SLABS: [usize; 3] = [64 << 10, 512 << 10, 2 << 20];
const CHECKS: [Checks; 4] = [Checks::Unchecked, Checks::Default, Checks::Checked, Checks::Hardened];

/// How a heap is built.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Kind {
    checks: Checks,
    classes: Classes,
    slab_bytes: usize,
}

impl Kind {
    fn build(self) -> Heap {
        let Self { checks, classes, slab_bytes } = self;
        Heap::builder("kind").checks(checks).classes(classes).slab_bytes(slab_bytes).build().unwrap()
    }

    fn least(self) -> usize {
        if matches!(self.checks, Checks::Checked | Checks::Hardened) { 16 } else { 1 }
    }

    fn is_large(self, layout: Layout) -> bool {
        slot_bytes(self.classes, layout, 1) > longest_slot(self.classes, self.slab_bytes)
    }

    /// What an allocation of a layout is long.
    fn occupied(self, layout: Layout) -> usize {
        match layout.size() {
            0 => 0,
            _ if self.is_large(layout) => {
                layout.size().max(layout.align()).next_multiple_of(common::memory::page_bytes())
            }
            _ => slot_bytes(self.classes, layout, self.least()),
        }
    }
}

fn any_kind() -> impl Strategy<Value = Kind> {
    let classes = prop_oneof![3 => Just(Classes::Spaced), 1 => Just(Classes::Natural)];
    (0..CHECKS.len(), classes, 0..SLABS.len()).prop_map(|(checks, classes, slab)| Kind {
        checks: CHECKS[checks],
        classes,
        slab_bytes: SLABS[slab],
    })
}

fn any_layout() -> impl Strategy<Value = Layout> {
    let size = prop_oneof![
        1 => Just(0),
        8 => 1..200_usize,
        // Around every eighth of a power of two there is an edge.
        8 => (3..19_u32, 0..8_usize, 0..3_usize).prop_map(|(shift, step, above)| (8 + step) * (1 << shift) / 8 + above - 1),
        4 => 1..70_000_usize,
        1 => 1..3_000_000_usize,
    ];
    let align = prop_oneof![12 => 0..5_u32, 2 => 0..13_u32, 1 => 13..20_u32];
    (size, align).prop_map(|(size, shift)| layout(size, 1 << shift))
}

#[derive(Clone, Debug)]
enum Step {
    Allocate {
        heap: usize,
        layout: Layout,
        zeroed: bool,
        count: usize,
    },
    Free {
        place: usize,
        count: usize,
    },
    Resize {
        place: usize,
        layout: Layout,
        zeroed: bool,
    },
    /// All of a heap is freed and its last handle dropped, and another is built.
    Replace {
        heap: usize,
        kind: Kind,
    },
    /// All of a heap is freed by itself.
    Reset {
        heap: usize,
    },
    Trim {
        heap: usize,
    },
    EndThread,
}

fn any_step() -> impl Strategy<Value = Step> {
    let many = prop_oneof![6 => Just(1_usize), 1 => 2..200_usize];
    prop_oneof![
        16 => (any::<usize>(), any_layout(), any::<bool>(), many.clone()).prop_map(|(heap, layout, zeroed, count)| {
            let most = (2 << 20) / layout.size().max(layout.align());
            Step::Allocate { heap, layout, zeroed, count: count.min(most.max(1)) }
        }),
        12 => (any::<usize>(), many).prop_map(|(place, count)| Step::Free { place, count }),
        10 => (any::<usize>(), any_layout(), any::<bool>())
            .prop_map(|(place, layout, zeroed)| Step::Resize { place, layout, zeroed }),
        2 => (any::<usize>(), any_kind()).prop_map(|(heap, kind)| Step::Replace { heap, kind }),
        1 => any::<usize>().prop_map(|heap| Step::Reset { heap }),
        1 => any::<usize>().prop_map(|heap| Step::Trim { heap }),
        1 => Just(Step::EndThread),
    ]
}

struct Block {
    heap: usize,
    layout: Layout,
    memory: NonNull<[u8]>,
    seed: usize,
}

// SAFETY: an allocation may be used and freed on any thread; the test hands each to one thread at a time.
unsafe impl Send for Block {}

/// Heaps, what is live in them, and where.
struct World {
    heaps: Vec<(Kind, Heap)>,
    live: Vec<Block>,
    ranges: BTreeMap<usize, usize>,
    seed: usize,
}

impl World {
    fn new(kinds: &[Kind]) -> Self {
        let heaps = kinds.iter().map(|&kind| (kind, kind.build())).collect();
        Self { heaps, live: Vec::new(), ranges: BTreeMap::new(), seed: 0 }
    }

    fn insert(&mut self, block: Block) {
        let (kind, wanted, start) = (self.heaps[block.heap].0, block.layout, block.memory.addr().get());
        assert_eq!(block.memory.len(), kind.occupied(wanted), "{kind:?}: {wanted:?}");
        assert!(is_aligned(start, wanted.align()), "{kind:?}: {wanted:?} at {start:#x}");
        if wanted.size() > 0 {
            let end = start + block.memory.len();
            let before = self.ranges.range(..end).next_back();
            assert!(before.is_none_or(|(_, &end)| end <= start), "{kind:?}: {wanted:?} overlaps another");
            self.ranges.insert(start, end);
        }
        pattern::fill(block.memory, block.seed);
        self.live.push(block);
    }

    fn remove(&mut self, place: usize) -> Block {
        let block = self.live.swap_remove(place);
        if block.layout.size() > 0 {
            self.ranges.remove(&block.memory.addr().get()).expect("it is in the model");
        }
        assert!(
            pattern::holds(block.memory.cast(), block.memory.len(), block.seed),
            "{:?}: the contents of {:?} have changed",
            self.heaps[block.heap].0,
            block.layout
        );
        block
    }

    fn free(&mut self, place: usize) {
        let block = self.remove(place);
        // SAFETY: live, of this heap, with its layout.
        unsafe { self.heaps[block.heap].1.deallocate(block.memory.cast(), block.layout) };
    }

    fn free_all_of(&mut self, heap: usize) {
        (0..self.live.len()).rev().for_each(|place| {
            if self.live[place].heap == heap {
                self.free(place);
            }
        });
    }

    fn resize(&mut self, place: usize, new: Layout, zeroed: bool) {
        let old = self.remove(place);
        let heap = &self.heaps[old.heap].1;
        let zeroed = zeroed && new.size() >= old.layout.size();
        let (ptr, old_layout) = (old.memory.cast(), old.layout);
        let memory = match (new.size() >= old_layout.size(), zeroed) {
            // SAFETY: live, of this heap, with its layout, and the sizes are in the order that the call wants; here and below.
            (true, true) => unsafe { heap.grow_zeroed(ptr, old_layout, new) },
            // SAFETY: as above.
            (true, false) => unsafe { heap.grow(ptr, old_layout, new) },
            // SAFETY: as above.
            (false, _) => unsafe { heap.shrink(ptr, old_layout, new) },
        }
        .unwrap_or_else(|_| panic!("{:?} to {new:?} is refused", old.layout));
        let kept = old.layout.size().min(new.size());
        assert!(pattern::holds(memory.cast(), kept, old.seed), "{:?} to {new:?}: the contents", old.layout);
        if zeroed {
            assert!(pattern::is_zero_from(memory, old.layout.size()), "{:?} to {new:?}: not zero", old.layout);
        }
        self.insert(Block { layout: new, memory, ..old });
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Allocate { heap, layout, zeroed, count } => {
                for _ in 0..count {
                    let heap = heap % self.heaps.len();
                    let allocator = &self.heaps[heap].1;
                    let memory = if zeroed { allocator.allocate_zeroed(layout) } else { allocator.allocate(layout) };
                    let memory = memory.unwrap_or_else(|_| panic!("{layout:?} is refused"));
                    assert!(!zeroed || pattern::is_zero_from(memory, 0), "{layout:?} is not zero");
                    self.seed += 1;
                    self.insert(Block { heap, layout, memory, seed: self.seed });
                }
            }
            Step::Free { place, count } => {
                (0..count.min(self.live.len())).for_each(|_| self.free(place % self.live.len()));
            }
            Step::Resize { place, layout, zeroed } if !self.live.is_empty() => {
                self.resize(place % self.live.len(), layout, zeroed);
            }
            Step::Replace { heap, kind } => {
                let heap = heap % self.heaps.len();
                self.free_all_of(heap);
                self.heaps[heap] = (kind, kind.build());
            }
            Step::Reset { heap } => {
                let heap = heap % self.heaps.len();
                let of_heap = |block: &Block| block.heap == heap;
                let places: Vec<_> = (0..self.live.len()).rev().filter(|&place| of_heap(&self.live[place])).collect();
                places.into_iter().for_each(|place| _ = self.remove(place));
                // SAFETY: nothing of it is used any more, and the other workers are in no call and wait for one.
                unsafe { self.heaps[heap].1.reset() };
            }
            Step::Trim { heap } => _ = self.heaps[heap % self.heaps.len()].1.trim(),
            Step::Resize { .. } | Step::EndThread => {}
        }
    }

    fn check_figures(&self) {
        for (index, (kind, heap)) in self.heaps.iter().enumerate() {
            let blocks = self.live.iter().filter(|block| block.heap == index && block.layout.size() > 0);
            let expected = blocks.fold((0, 0), |(count, bytes), block| (count + 1, bytes + block.memory.len()));
            let stats: Stats = heap.stats();
            assert_eq!((stats.live_allocations, stats.live_bytes), expected, "{kind:?}: {stats}");
            assert!(heap.charged_bytes() >= stats.live_bytes, "{kind:?}: {stats}");
            let longest = longest_slot(kind.classes, kind.slab_bytes);
            let mut used = stats.classes.iter().filter(|class| class.slab_count > 0);
            assert!(used.all(|class| class.slot_bytes <= longest), "{kind:?}: {stats}");
        }
    }
}

/// Calls of three threads in turn, so that what one allocates another frees or resizes; threads end and heaps are replaced
/// meanwhile, so that a place of a thread's caches serves heaps of both kinds.
#[test]
fn random_calls_of_all_kinds_keep_every_promise() {
    let kinds = proptest::collection::vec(any_kind(), 5);
    let steps = proptest::collection::vec((0..THREADS, any_step()), 1..250);
    let config = ProptestConfig { cases: times(80) as u32, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(kinds in kinds, steps in steps)| {
        let world = Arc::new(Mutex::new(World::new(&kinds)));
        let mut workers: Vec<_> = (0..THREADS).map(|_| Worker::start()).collect();
        for (thread, step) in steps {
            if matches!(step, Step::EndThread) {
                std::mem::replace(&mut workers[thread], Worker::start()).end();
            }
            let world = Arc::clone(&world);
            workers[thread].call(move || world.lock().unwrap().step(&step));
        }
        world.lock().unwrap().check_figures();
        let all = Arc::clone(&world);
        workers[0].call(move || {
            let mut world = all.lock().unwrap();
            (0..5).for_each(|heap| world.free_all_of(heap));
            world.check_figures();
        });
        workers.into_iter().for_each(Worker::end);
        for (kind, heap) in &world.lock().unwrap().heaps {
            assert_eq!(heap.charged_bytes(), 0, "{kind:?}");
            heap.trim();
            // What the portable backend keeps it cannot give back in parts.
            if cfg!(not(any(miri, feature = "portable"))) {
                assert_eq!(heap.stats().kept_bytes, 0, "{kind:?}: {}", heap.stats());
            }
        }
    });
}

/// The lengths of slots, all of them, and what they leave over.
#[test]
fn slots_have_the_lengths_of_their_classes() {
    for slab_bytes in SLABS {
        for classes in [Classes::Natural, Classes::Spaced] {
            let heap = Kind { checks: Checks::Default, classes, slab_bytes }.build();
            for size in (1..longest_slot(classes, slab_bytes)).step_by(if cfg!(miri) { 9973 } else { 97 }) {
                let wanted = layout(size, 1);
                let memory = heap.allocate(wanted).unwrap();
                assert_eq!(memory.len(), slot_bytes(classes, wanted, 1), "{size} bytes");
                assert_eq!(heap.live_bytes(), memory.len());
                // SAFETY: allocated just now.
                unsafe { heap.deallocate(memory.cast(), wanted) };
            }
            assert_eq!(heap.live_bytes(), 0);
        }
    }
}

/// A thread earns a cache of such a heap, and that cache serves its calls.
#[test]
fn a_hot_heap_is_served_by_its_cache() {
    for checks in CHECKS {
        let heap = Kind { checks, classes: Classes::Spaced, slab_bytes: 64 << 10 }.build();
        for round in 0..200 {
            let blocks: Vec<_> = (1..20).map(|words| (heap.allocate(layout(words * 24, 8)).unwrap(), words)).collect();
            for (memory, words) in blocks {
                // SAFETY: allocated just now with this layout.
                unsafe { heap.deallocate(memory.cast(), layout(words * 24, 8)) };
            }
            assert_eq!(heap.stats().live_allocations, 0, "round {round}");
        }
        let stats = heap.stats();
        assert_eq!(stats.thread_caches, 1, "{stats}");
        assert!(stats.cached_slots > 0 && stats.to_string().contains("(spaced)"), "{stats}");
        assert_eq!((stats.total_allocations, stats.total_frees), (200 * 19, 200 * 19), "{stats}");
    }
}

/// A limit is reached to the last slot and not passed, and holds for a spaced heap in a natural one.
#[test]
fn limits_hold_for_both_together() {
    let parent = Heap::builder("process").limit(1 << 20).build().unwrap();
    let build = |classes| Heap::builder("query").classes(classes).parent(&parent).build().unwrap();
    let (spaced, natural) = (build(Classes::Spaced), build(Classes::Natural));
    let wanted = layout(96, 8);
    let mut held = Vec::new();
    while let Ok(memory) = spaced.allocate(wanted) {
        held.push(memory);
        assert!(parent.charged_bytes() <= 1 << 20);
    }
    assert_eq!((held.len(), natural.allocate(layout(96, 8)).is_err()), ((1 << 20) / 96, true));
    for memory in held {
        // SAFETY: allocated above with this layout.
        unsafe { spaced.deallocate(memory.cast(), wanted) };
    }
    spaced.trim();
    assert_eq!((spaced.charged_bytes(), parent.charged_bytes()), (0, 0));
    assert!(natural.allocate(layout(96, 8)).is_ok());
}

/// All options at once.
#[test]
fn every_option_can_be_had_with_spaced_classes() {
    for huge_pages in [HugePages::Never, HugePages::Adaptive, HugePages::Always] {
        let builder = Heap::builder("options").classes(Classes::Spaced).huge_pages(huge_pages);
        let heap = builder.slab_bytes(2 << 20).cache_bytes(1 << 20).limit(64 << 20).build().unwrap();
        let mut v = family_alloc::Vec::new_in(heap.clone());
        (0..100_000_u64).for_each(|value| v.push(value));
        assert!(v.iter().copied().eq(0..100_000));
        assert!(heap.live_bytes() >= 800_000);
    }
}

/// A local heap has its chunks from a spaced heap.
#[test]
fn a_local_heap_lives_in_a_spaced_one() {
    for slab_bytes in SLABS {
        let parent = Kind { checks: Checks::Default, classes: Classes::Spaced, slab_bytes }.build();
        let mut local = LocalHeap::builder("request").parent(&parent).build().unwrap();
        for _ in 0..3 {
            let mut words = family_alloc::Vec::new_in(&local);
            (0..20_000_u64).for_each(|word| words.push(family_alloc::Box::new_in(word, &local)));
            assert!(words.iter().zip(0..).all(|(word, expected)| **word == expected));
            assert!(parent.live_bytes() >= 160_000);
            drop(words);
            local.reset();
        }
        drop(local);
        assert_eq!(parent.live_bytes(), 0);
    }
}

/// Blocks that are freed while their thread's place of the table goes from heap to heap.
#[test]
fn a_place_of_a_threads_caches_serves_heaps_of_both_kinds() {
    let kinds = [
        (Classes::Natural, SLABS[0]),
        (Classes::Spaced, SLABS[0]),
        (Classes::Spaced, SLABS[2]),
        (Classes::Natural, SLABS[2]),
    ];
    // More than there are places, so that each serves several.
    let heaps: Vec<_> = (0..100)
        .map(|index| kinds[index % 4])
        .map(|(classes, slab_bytes)| Kind { checks: Checks::Default, classes, slab_bytes }.build())
        .collect();
    for round in 0..times(30) {
        for (index, heap) in heaps.iter().enumerate() {
            let wanted = layout(8 + (round * 40 + index) % 900, 8);
            let blocks: Vec<_> = (0..60).map(|seed| (heap.allocate(wanted).unwrap(), seed + index)).collect();
            blocks.iter().for_each(|&(memory, seed)| pattern::fill(memory, seed));
            for (memory, seed) in blocks {
                assert!(pattern::holds(memory.cast(), memory.len(), seed), "heap {index} in round {round}");
                // SAFETY: allocated just now with this layout.
                unsafe { heap.deallocate(memory.cast(), wanted) };
            }
        }
    }
    assert!(heaps.iter().all(|heap| heap.stats().live_allocations == 0));
}

/// What a thread needs for its caches is used again, whatever heaps come and go.
#[test]
#[cfg(all(target_os = "linux", not(any(miri, feature = "portable"))))]
fn heaps_of_all_kinds_in_turn_leave_nothing_behind() {
    child::isolated("heaps_of_all_kinds_in_turn_leave_nothing_behind", || {
        let round = |rounds: usize| {
            for index in 0..rounds {
                let classes = if index % 3 == 0 { Classes::Natural } else { Classes::Spaced };
                let heap = Kind { checks: Checks::Default, classes, slab_bytes: SLABS[index % SLABS.len()] }.build();
                for size in [24, 100, 1000, 7000, 20_000, 200_000] {
                    let wanted = layout(size, 8);
                    let blocks: Vec<_> = (0..40).map(|_| heap.allocate(wanted).unwrap()).collect();
                    for memory in blocks {
                        // SAFETY: allocated just now with this layout.
                        unsafe { heap.deallocate(memory.cast(), wanted) };
                    }
                }
            }
        };
        round(100);
        let before = memory::resident_bytes();
        round(times(3000));
        let after = memory::resident_bytes();
        println!("{} KiB resident before, {} after", before >> 10, after >> 10);
        assert!(after <= before + (1 << 20), "{} KiB resident before, {} after", before >> 10, after >> 10);
    });
}

/// What is known of a heap with more classes.
#[test]
#[cfg(all(target_os = "linux", not(any(miri, feature = "portable"))))]
fn a_spaced_heap_with_one_object_costs_sixteen_kibibytes() {
    child::isolated("a_spaced_heap_with_one_object_costs_sixteen_kibibytes", || {
        const COUNT: usize = 2000;
        let build = || Heap::builder("tenant").classes(Classes::Spaced).build().unwrap();
        let mut heaps = Vec::with_capacity(COUNT);
        heaps.push(family_alloc::Box::new_in([0_u64; 8], build()));
        let before = memory::resident_bytes();
        heaps.extend((1..COUNT).map(|index| family_alloc::Box::new_in([index as u64; 8], build())));
        let each = (memory::resident_bytes() - before) / (COUNT - 1);
        println!("{each} bytes resident for each heap");
        assert!(each <= 16 << 10, "{each} bytes resident for each heap");
        assert!(heaps.iter().enumerate().all(|(index, boxed)| boxed[7] == index as u64));
    });
}

/// Wrong frees are told as they are in static families.
#[test]
#[cfg(all(target_os = "linux", not(miri)))]
fn wrong_frees_are_told() {
    const TEST: &str = "wrong_frees_are_told";
    if let Some(case) = child::case() {
        let (checks, wrong) = case.split_once(' ').unwrap();
        let checks = if checks == "default" { Checks::Default } else { Checks::Checked };
        let build = |name| Heap::builder(name).checks(checks).classes(Classes::Spaced).build().unwrap();
        let (mine, yours) = (build("mine"), build("yours"));
        let memory = mine.allocate(layout(40, 8)).unwrap().cast::<u8>();
        _ = yours.allocate(layout(40, 8)).unwrap();
        // SAFETY: none: that is the case, here and below.
        let free = |heap: &Heap, memory, layout| unsafe { heap.deallocate(memory, layout) };
        match wrong {
            "class" => free(&mine, memory, layout(48, 8)),
            "heap" => free(&yours, memory, layout(40, 8)),
            // SAFETY: within the slot.
            "inside" => free(&mine, unsafe { memory.add(8) }, layout(40, 8)),
            _ => {
                free(&mine, memory, layout(40, 8));
                free(&mine, memory, layout(40, 8));
            }
        }
        return;
    }
    let cases = ["default class", "default heap", "checked class", "checked heap", "checked inside", "checked twice"];
    for case in cases {
        let lines = child::assert_aborted(TEST, case).join("\n");
        let family = if case.ends_with("heap") { "family yours" } else { "family mine" };
        assert!(lines.contains(family), "{case}: {lines}");
    }
}
