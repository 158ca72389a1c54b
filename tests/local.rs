//! `LocalHeap`: beside a shadow model, over all sizes and alignments, and what it costs and gives back.

mod common;

use std::alloc::Layout;
use std::ptr::NonNull;

use common::doors::layout;
use common::heaps::ends;
use common::times;
use family_alloc::allocator_api2::alloc::Allocator;
use family_alloc::{Box, Checks, Family, Heap, HeapError, LocalHeap, Vec, families, family};
use proptest::prelude::*;

/// A live allocation: its contents are made from the seed.
struct Held {
    memory: NonNull<[u8]>,
    layout: Layout,
    seed: u8,
}

impl Held {
    fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: live, and written from end to end by `fill`.
        unsafe { std::slice::from_raw_parts_mut(self.memory.cast().as_ptr(), self.memory.len()) }
    }

    fn new(memory: NonNull<[u8]>, layout: Layout, seed: u8) -> Self {
        assert!(
            memory.len() >= layout.size() && memory.addr().get() % layout.align() == 0,
            "{memory:?} for {layout:?}"
        );
        let mut held = Self { memory, layout, seed };
        held.fill();
        held
    }

    fn fill(&mut self) {
        let seed = self.seed;
        // SAFETY: allocated, so it may be written.
        unsafe { self.memory.cast::<u8>().write_bytes(seed, self.memory.len()) };
    }

    #[track_caller]
    fn assert_intact(&mut self, bytes: usize) {
        let (seed, layout) = (self.seed, self.layout);
        assert!(self.bytes()[..bytes].iter().all(|byte| *byte == seed), "somebody has written to {layout:?}");
    }

    /// A layout that fits as well: any size from the one asked for to the one that came.
    fn fitting(&self, fraction: u8) -> Layout {
        let more = (self.memory.len() - self.layout.size()) * usize::from(fraction) / 255;
        layout(self.layout.size() + more, self.layout.align())
    }
}

/// A heap, and all that is live in it.
struct Model {
    heap: LocalHeap,
    live: std::vec::Vec<Held>,
    seed: u8,
}

#[derive(Clone, Debug)]
enum Step {
    Allocate(Layout, bool),
    Free(usize, u8),
    FreeLast,
    Resize(usize, u8, Layout, bool),
    Reset,
    Trim,
    OtherThread,
}

impl Model {
    fn new(heap: LocalHeap) -> Self {
        Self { heap, live: std::vec::Vec::new(), seed: 0 }
    }

    fn step(mut self, step: &Step) -> Self {
        self.seed = self.seed.wrapping_add(1);
        match *step {
            Step::Allocate(layout, zeroed) => self.allocate(layout, zeroed),
            Step::Free(place, fraction) if !self.live.is_empty() => self.free(place % self.live.len(), fraction),
            Step::FreeLast if !self.live.is_empty() => self.free(self.live.len() - 1, 0),
            Step::Resize(place, fraction, layout, zeroed) if !self.live.is_empty() => {
                self.resize(place % self.live.len(), fraction, layout, zeroed);
            }
            Step::Reset => {
                self.check();
                self.live.clear();
                self.heap.reset();
                assert!(self.heap.held_bytes() <= 32 << 10);
            }
            Step::Trim => _ = self.heap.trim(),
            Step::OtherThread => return self.elsewhere(),
            _ => {}
        }
        self
    }

    fn elsewhere(self) -> Self {
        struct Sent(Model);
        // SAFETY: what is live goes with its heap.
        unsafe impl Send for Sent {}
        let sent = Sent(self);
        let go = move || {
            let mut sent = { sent };
            sent.0.check();
            if !sent.0.live.is_empty() {
                sent.0.free(0, 255);
            }
            sent
        };
        std::thread::spawn(go).join().unwrap().0
    }

    fn allocate(&mut self, layout: Layout, zeroed: bool) {
        let memory = if zeroed { (&self.heap).allocate_zeroed(layout) } else { (&self.heap).allocate(layout) };
        let mut held = Held { memory: memory.unwrap(), layout, seed: 0 };
        assert!(!zeroed || held.bytes().iter().all(|byte| *byte == 0), "{layout:?} is not zero");
        self.live.push(Held::new(held.memory, layout, self.seed));
    }

    fn free(&mut self, place: usize, fraction: u8) {
        let mut held = self.live.swap_remove(place);
        held.assert_intact(held.memory.len());
        // SAFETY: live, and the layout fits.
        unsafe { (&self.heap).deallocate(held.memory.cast(), held.fitting(fraction)) };
    }

    fn resize(&mut self, place: usize, fraction: u8, new: Layout, zeroed: bool) {
        let held = &mut self.live[place];
        held.assert_intact(held.memory.len());
        let old = held.fitting(fraction);
        let (ptr, heap) = (held.memory.cast(), &self.heap);
        let memory = if new.size() < old.size() {
            // SAFETY: live, the layout fits, and the new size is not above it.
            unsafe { heap.shrink(ptr, old, new) }
        } else if zeroed {
            // SAFETY: live, the layout fits, and the new size is not below it.
            unsafe { heap.grow_zeroed(ptr, old, new) }
        } else {
            // SAFETY: as above.
            unsafe { heap.grow(ptr, old, new) }
        }
        .unwrap();
        let mut moved = Held { memory, layout: new, seed: held.seed };
        moved.assert_intact(old.size().min(new.size()));
        if zeroed && new.size() >= old.size() {
            assert!(moved.bytes()[old.size()..].iter().all(|byte| *byte == 0), "{old:?} to {new:?} is not zero behind");
        }
        *held = Held::new(memory, new, self.seed);
    }

    /// All is as it was left, nothing overlaps, and the figures are right.
    fn check(&mut self) {
        self.live.iter_mut().for_each(|held| held.assert_intact(held.memory.len()));
        let ranges = self.live.iter().filter(|held| held.layout.size() > 0);
        let mut ranges: std::vec::Vec<_> = ranges.map(|held| (held.memory.addr().get(), held.memory.len())).collect();
        ranges.sort_unstable();
        assert!(ranges.windows(2).all(|pair| pair[0].0 + pair[0].1 <= pair[1].0), "two allocations overlap");
        let stats = self.heap.stats();
        let bytes: usize = ranges.iter().map(|range| range.1).sum();
        assert_eq!((stats.live_allocations, stats.live_bytes), (ranges.len(), bytes), "{stats}");
        assert!(stats.held_bytes >= stats.live_bytes && stats.large_bytes <= stats.live_bytes, "{stats}");
    }
}

fn any_layout() -> impl Strategy<Value = Layout> {
    let size = prop_oneof![
        1 => Just(0_usize),
        10 => 1..200_usize,
        4 => (0..17_u32, 0..3_usize).prop_map(|(shift, above)| ((1 << shift) + above).saturating_sub(1)),
        3 => 1..6000_usize,
        1 => 1..300_000_usize,
    ];
    let align = prop_oneof![16 => 0..5_u32, 1 => 5..14_u32];
    (size, align).prop_map(|(size, shift)| layout(size, 1 << shift))
}

fn steps() -> impl Strategy<Value = std::vec::Vec<Step>> {
    let step = prop_oneof![
        12 => (any_layout(), any::<bool>()).prop_map(|(layout, zeroed)| Step::Allocate(layout, zeroed)),
        6 => (any::<usize>(), any::<u8>()).prop_map(|(place, fraction)| Step::Free(place, fraction)),
        3 => Just(Step::FreeLast),
        5 => (any::<usize>(), any::<u8>(), any_layout(), any::<bool>())
            .prop_map(|(place, fraction, layout, zeroed)| Step::Resize(place, fraction, layout, zeroed)),
        1 => prop_oneof![4 => Just(Step::Reset), 2 => Just(Step::Trim), 1 => Just(Step::OtherThread)],
    ];
    proptest::collection::vec(step, 1..if cfg!(miri) { 40 } else { 400 })
}

family! {
    struct Watched { checks: Checked, slab_bytes: 64 << 10 }
    struct Guarded { checks: Hardened }
    struct Plain;
}

/// Local heaps over sources of every kind.
fn heap_of(kind: usize) -> LocalHeap {
    let builder = LocalHeap::builder("model");
    match kind {
        0 => LocalHeap::new(),
        1 => builder.chunk_bytes(32 << 10).build().unwrap(),
        2 => builder.parent(&Watched).build().unwrap(),
        3 => builder.parent(&Guarded).build().unwrap(),
        4 => builder.parent(&Plain).build().unwrap(),
        5 => builder.parent(&Heap::new("source").unwrap()).build().unwrap(),
        _ => builder.parent(&Heap::builder("source").checks(Checks::Checked).build().unwrap()).build().unwrap(),
    }
}

#[test]
fn random_calls_keep_every_promise() {
    let config = ProptestConfig { cases: times(150) as u32, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(kind in 0..7_usize, steps in steps())| {
        let mut model = steps.iter().fold(Model::new(heap_of(kind)), Model::step);
        model.check();
        while !model.live.is_empty() {
            model.free(model.live.len() / 2, 0);
        }
        assert_eq!((model.heap.stats().live_allocations, model.heap.stats().live_bytes), (0, 0));
        model.heap.trim();
        assert_eq!(model.heap.held_bytes(), 0);
    });
}

/// Every size up to beyond the longest slot with every alignment that slots have, allocated beside each other and freed.
#[test]
fn every_size_and_alignment_is_served() {
    let mut heap = LocalHeap::new();
    let step = if cfg!(miri) { 331 } else { 1 };
    for align in (0..8).map(|shift| 1 << shift) {
        let mut model = Model::new(heap);
        for size in (1..=4200_usize).step_by(step) {
            model.seed = model.seed.wrapping_add(1);
            model.allocate(layout(size, align), size % 3 == 0);
            let held = model.live.last().unwrap();
            assert!(
                held.memory.len() < size + size.div_ceil(8).max(align).max(8),
                "{size} bytes take {}",
                held.memory.len()
            );
        }
        model.check();
        while !model.live.is_empty() {
            let place = if model.live.len() % 2 == 0 { 0 } else { model.live.len() - 1 };
            model.free(place, model.live.len() as u8);
        }
        assert_eq!(model.heap.stats().live_bytes, 0);
        heap = model.heap;
        heap.reset();
    }
}

#[test]
fn it_goes_to_other_threads_and_is_not_shared() {
    fn is_send<T: Send>() {}
    is_send::<LocalHeap>();
    let heap = LocalHeap::new();
    let v = Vec::<u64, _>::with_capacity_in(1000, &heap);
    drop(v);
    let heap = std::thread::spawn(move || {
        drop(Box::new_in(1, &heap));
        heap
    });
    drop(heap.join().unwrap());
}

/// What grows at the end of what is carved stays where it is, and what is freed there is carved again.
#[test]
fn the_last_allocation_grows_and_shrinks_where_it_is() {
    let heap = LocalHeap::builder("last").chunk_bytes(8 << 10).build().unwrap();
    let mut v = Vec::<u64, _>::with_capacity_in(2, &heap);
    let start = v.as_ptr();
    for value in 0..400 {
        v.push(value);
    }
    assert_eq!((v.as_ptr(), v.len()), (start, 400));
    v.truncate(10);
    v.shrink_to_fit();
    assert_eq!((v.as_ptr(), heap.stats().live_bytes), (start, 80));
    drop(v);
    let other = Box::new_in([0_u8; 48], &heap);
    assert_eq!(other.as_ptr().addr(), start.addr(), "what was freed at the end is carved again");
    assert_eq!(heap.held_bytes(), 8 << 10);
}

/// What is freed serves what comes next, also of other sizes: what is held stays near what is live.
#[test]
fn what_is_freed_serves_what_comes_next() {
    let heap = LocalHeap::new();
    let mut live = std::collections::VecDeque::new();
    let mut random = common::random::Random::new(1);
    let mut most = 0;
    for round in 0..times(200_000) {
        // Sizes wander, so that no class is always the one that is wanted.
        let least = 1 + round / 1000 % 7 * 40;
        live.push_back(Vec::<u8, _>::with_capacity_in(random.between(least, least + 300), &heap));
        if live.len() > 500 {
            live.swap_remove_back(random.below(500));
        }
        most = most.max(heap.stats().live_bytes);
    }
    let held = heap.held_bytes();
    println!("{held} bytes held, {most} live at most");
    assert!(held < 5 * most, "{held} bytes are held for at most {most} live");
    drop(live);
    // Of a free slot shorter ones are made, and where nothing is live all begins anew.
    for bytes in [4000, 8, 900, 40] {
        let v: std::vec::Vec<_> = (0..most / bytes / 2).map(|_| (&heap).allocate(layout(bytes, 8)).unwrap()).collect();
        assert!(heap.held_bytes() <= held + (32 << 10), "{} of {held} for {bytes}", heap.held_bytes());
        for memory in v {
            // SAFETY: allocated above.
            unsafe { (&heap).deallocate(memory.cast(), layout(bytes, 8)) };
        }
    }
}

#[test]
fn reset_frees_all_and_keeps_a_chunk() {
    let mut heap = LocalHeap::new();
    let mut starts = std::collections::HashSet::new();
    for round in 0..10 {
        let small: std::vec::Vec<_> = (0..1000).map(|n| Box::new_in([n; 4], &heap)).collect();
        let large = Vec::<u8, _>::with_capacity_in(200_000, &heap);
        assert_eq!((heap.stats().live_allocations, heap.stats().large_allocations), (1001, 1));
        if round > 0 {
            starts.insert(small[0].as_ptr().addr());
        }
        std::mem::forget((small, large));
        heap.reset();
        assert_eq!((heap.stats().live_bytes, heap.stats().live_allocations, heap.stats().large_bytes), (0, 0, 0));
        assert!((1..=32 << 10).contains(&heap.held_bytes()));
    }
    assert!(starts.len() < 9, "what was warm is used again");
}

#[test]
fn limits_hold_and_leave_room_for_little() {
    let heap = LocalHeap::builder("limited").limit(10_000).build().unwrap();
    let mut live = std::vec::Vec::new();
    while let Ok(memory) = (&heap).allocate(layout(100, 8)) {
        live.push(memory.cast::<u8>());
        assert!(heap.held_bytes() <= 10_000);
    }
    assert!(live.len() > 10_000 / 104 * 8 / 10, "{} of 104 bytes in 10 000", live.len());
    assert!((&heap).allocate(layout(5000, 8)).is_err());
    for memory in live.drain(..) {
        // SAFETY: allocated above.
        unsafe { (&heap).deallocate(memory, layout(100, 8)) };
    }
    heap.trim();
    let block = Box::new_in([0_u8; 9000], &heap);
    assert!(Vec::<u8, _>::new_in(&heap).try_reserve(5000).is_err());
    drop(block);
    assert!(Vec::<u8, _>::new_in(&heap).try_reserve(5000).is_ok());
}

/// Chunks become as short as what is needed where a limit has no room for more, and the next ones halves of others.
#[test]
fn any_limit_is_used_to_its_end() {
    for limit in (0..40_000).step_by(if cfg!(miri) { 1999 } else { 61 }) {
        let heap = LocalHeap::builder("limited").limit(limit).build().unwrap();
        let mut model = Model::new(heap);
        for size in [4096, 24, 700, 8, 3000, 100] {
            for _ in 0..20 {
                let wanted = layout(size, 8);
                let Ok(memory) = (&model.heap).allocate(wanted) else { break };
                model.live.push(Held::new(memory, wanted, size as u8));
            }
            assert!(model.heap.held_bytes() <= limit);
        }
        model.check();
        assert!(limit < 5000 || model.heap.stats().live_bytes > limit / 2);
    }
}

#[test]
fn a_resize_that_is_refused_changes_nothing() {
    let heap = LocalHeap::builder("limited").limit(20_000).build().unwrap();
    let mut v = Vec::<u8, _>::new_in(&heap);
    v.resize(10_000, 7);
    let before = (heap.stats(), v.as_ptr());
    assert!(v.try_reserve_exact(50_000).is_err());
    assert_eq!((heap.stats(), v.as_ptr()), before);
    assert!(v.iter().all(|byte| *byte == 7));
}

#[test]
fn a_parent_pays_and_limits_and_lives_as_long() {
    let tenant = Heap::builder("tenant").limit(256 << 10).build().unwrap();
    let local = LocalHeap::builder("request").parent(&tenant).build().unwrap();
    let boxed = Box::new_in([0_u64; 4], &local);
    assert!(tenant.live_bytes() >= 4096);
    assert!(Vec::<u8, _>::new_in(&local).try_reserve(300 << 10).is_err());
    assert_eq!(family_alloc::last_refusal().unwrap().limit.name(), "tenant");
    drop(tenant);
    assert!(families().any(|family| family.name() == "tenant"));
    drop(boxed);
    drop(local);
    assert!(ends("tenant"), "the last handle was the local heap's");
    let tenant = Heap::builder("tenant").limit(256 << 10).build().unwrap();
    let over = LocalHeap::builder("request").parent(&tenant).limit(1 << 20).build();
    assert_eq!(over.err(), Some(HeapError::OverParent));
}

/// The end gives all back: nothing of the source is live.
#[test]
fn the_end_gives_all_back() {
    family! { struct Own; }
    for objects in [0, 1, 100, 10_000] {
        let heap = LocalHeap::builder("").parent(&Own).build().unwrap();
        for object in 0..objects {
            std::mem::forget(Box::new_in([object as u8; 24], &heap));
        }
        std::mem::forget(Vec::<u8, _>::with_capacity_in(objects * 10, &heap));
        assert!(Own::live_bytes() >= objects * 24);
        drop(heap);
        assert_eq!((Own::live_bytes(), Own::stats().live_allocations), (0, 0));
    }
}

#[test]
fn hashbrown_and_threads_of_requests() {
    let work = |seed: u64| {
        let mut heap = LocalHeap::builder("request").build().unwrap();
        for request in 0..times(200) as u64 {
            let mut map: hashbrown::HashMap<u64, Vec<u8, &LocalHeap>, std::hash::RandomState, &LocalHeap> =
                hashbrown::HashMap::with_hasher_in(std::hash::RandomState::new(), &heap);
            for key in 0..100 {
                let mut value = Vec::new_in(&heap);
                value.resize((key * seed + request) as usize % 300, key as u8);
                map.insert(key, value);
            }
            assert!((0..100).all(|key| map[&key].iter().all(|byte| *byte == key as u8)));
            map.retain(|key, _| key % 3 == 0);
            assert_eq!(heap.stats().live_allocations, 1 + map.values().filter(|value| value.capacity() > 0).count());
            drop(map);
            heap.reset();
        }
    };
    std::thread::scope(|scope| {
        for seed in 1..4 {
            scope.spawn(move || work(seed));
        }
    });
}
