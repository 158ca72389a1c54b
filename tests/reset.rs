//! `reset`: all of a family freed at once, with caches of other threads, in every mode.

mod common;

use std::alloc::Layout;
use std::ptr::NonNull;
use std::sync::{Mutex, MutexGuard, PoisonError, mpsc};

use common::doors::layout;
use common::random::Random;
use common::times;
use family_alloc::allocator_api2::alloc::Allocator;
use family_alloc::{Checks, Classes, Family, Heap, LimitRefusal, Stats, family, last_refusal};

type Allocate = fn(&Option<Heap>, Layout, bool) -> Option<NonNull<[u8]>>;

/// A family by type or by value, as the tests use it.
#[derive(Clone)]
struct Subject {
    allocate: Allocate,
    deallocate: unsafe fn(&Option<Heap>, NonNull<u8>, Layout),
    reset: unsafe fn(&Option<Heap>),
    stats: fn(&Option<Heap>) -> Stats,
    heap: Option<Heap>,
}

fn allocate_in(allocator: &impl Allocator, layout: Layout, zeroed: bool) -> Option<NonNull<[u8]>> {
    if zeroed { allocator.allocate_zeroed(layout).ok() } else { allocator.allocate(layout).ok() }
}

impl Subject {
    fn of<F: Family>() -> Self {
        Self {
            allocate: |_, layout, zeroed| allocate_in(&F::default(), layout, zeroed),
            // SAFETY: the same contract, here and below.
            deallocate: |_, ptr, layout| unsafe { Allocator::deallocate(&F::default(), ptr, layout) },
            // SAFETY: as above.
            reset: |_| unsafe { F::reset() },
            stats: |_| F::stats(),
            heap: None,
        }
    }

    fn of_heap(heap: Heap) -> Self {
        Self {
            allocate: |heap, layout, zeroed| allocate_in(heap.as_ref().unwrap(), layout, zeroed),
            // SAFETY: the same contract, here and below.
            deallocate: |heap, ptr, layout| unsafe { Allocator::deallocate(heap.as_ref().unwrap(), ptr, layout) },
            // SAFETY: as above.
            reset: |heap| unsafe { heap.as_ref().unwrap().reset() },
            stats: |heap| heap.as_ref().unwrap().stats(),
            heap: Some(heap),
        }
    }

    fn block(&self, layout: Layout, zeroed: bool, seed: u8) -> Block {
        let memory = (self.allocate)(&self.heap, layout, zeroed).expect("there is memory");
        let block = Block { memory, layout, seed };
        assert!(!zeroed || block.bytes().iter().all(|byte| *byte == 0), "{layout:?} is not zero");
        // SAFETY: allocated just now.
        unsafe { memory.cast::<u8>().write_bytes(seed, memory.len()) };
        block
    }

    fn free(&self, block: &Block) {
        block.assert_intact();
        // SAFETY: live, and each is freed once.
        unsafe { (self.deallocate)(&self.heap, block.memory.cast(), block.layout) };
    }

    #[track_caller]
    fn assert_empty(&self) {
        let stats = (self.stats)(&self.heap);
        assert_eq!((stats.live_allocations, stats.live_bytes, stats.large_bytes), (0, 0, 0), "{stats}");
        assert_eq!((stats.cached_slots, stats.depot_bytes, stats.slab_bytes), (0, 0, 0), "{stats}");
        assert_eq!(stats.total_allocations, stats.total_frees, "{stats}");
        assert_eq!(self.heap.as_ref().map_or(0, Heap::charged_bytes), 0);
    }
}

struct Block {
    memory: NonNull<[u8]>,
    layout: Layout,
    seed: u8,
}

// SAFETY: the tests hand each to one thread at a time.
unsafe impl Send for Block {}

impl Block {
    fn bytes(&self) -> &[u8] {
        // SAFETY: live, and written from end to end, or zeroed.
        unsafe { std::slice::from_raw_parts(self.memory.cast().as_ptr(), self.memory.len()) }
    }

    #[track_caller]
    fn assert_intact(&self) {
        assert!(self.bytes().iter().all(|byte| *byte == self.seed), "somebody has written to {:?}", self.layout);
    }
}

family! {
    struct Plain;
    struct Small { slab_bytes: 64 << 10 }
    struct Raw { checks: Unchecked }
    struct Watched { checks: Checked, slab_bytes: 64 << 10 }
    struct Guarded { checks: Hardened }
    struct Spaced { classes: Spaced, slab_bytes: 256 << 10 }
    struct WatchedSpaced { classes: Spaced, checks: Checked }
}

/// The families are shared by the tests of this file: one test at a time.
static TURN: Mutex<()> = Mutex::new(());

fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn subjects() -> Vec<Subject> {
    let heap = |checks, slab_bytes| Heap::builder("reset").checks(checks).slab_bytes(slab_bytes).build().unwrap();
    let spaced = |checks, slab_bytes| {
        let builder = Heap::builder("reset").classes(Classes::Spaced);
        builder.checks(checks).slab_bytes(slab_bytes).build().unwrap()
    };
    vec![
        Subject::of::<Plain>(),
        Subject::of::<Small>(),
        Subject::of::<Raw>(),
        Subject::of::<Watched>(),
        Subject::of::<Guarded>(),
        Subject::of::<Spaced>(),
        Subject::of::<WatchedSpaced>(),
        Subject::of_heap(heap(Checks::Default, 64 << 10)),
        Subject::of_heap(heap(Checks::Default, 2 << 20)),
        Subject::of_heap(heap(Checks::Checked, 64 << 10)),
        Subject::of_heap(heap(Checks::Hardened, 512 << 10)),
        Subject::of_heap(spaced(Checks::Default, 64 << 10)),
        Subject::of_heap(spaced(Checks::Default, 2 << 20)),
        Subject::of_heap(spaced(Checks::Checked, 64 << 10)),
        Subject::of_heap(spaced(Checks::Hardened, 512 << 10)),
    ]
}

fn size(random: &mut Random) -> usize {
    let bits = random.below(18);
    match random.below(200) {
        0 => random.between(1 << 20, 5 << 20),
        1 => random.between(1, 3),
        _ => random.between(1 << bits, 2 << bits),
    }
}

/// What a thread does between two resets: allocates, frees some, and leaves the rest to the reset.
fn one_round(subject: &Subject, random: &mut Random) {
    let mut live = Vec::new();
    for _ in 0..random.between(1, 400) {
        let wanted = layout(size(random), 1 << random.below(5));
        live.push(subject.block(wanted, random.below(3) == 0, random.below(255) as u8 + 1));
        if random.below(3) > 0 {
            subject.free(&live.swap_remove(random.below(live.len())));
        }
    }
    live.iter().for_each(Block::assert_intact);
}

/// Threads that keep their caches over every reset, and do what they are told.
#[test]
fn caches_of_all_threads_hold_nothing_afterwards() {
    let _turn = turn();
    for (number, subject) in subjects().into_iter().enumerate() {
        let neighbour = subjects().swap_remove((number + 1) % 7);
        let kept = [8, 100, 5000, 70_000, 3 << 20].map(|size| neighbour.block(layout(size, 8), false, 77));
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..3)
                .map(|thread| {
                    let (orders, rounds) = mpsc::channel::<()>();
                    let (done, is_done) = mpsc::channel::<()>();
                    let subject = subject.clone();
                    scope.spawn(move || {
                        let mut random = Random::new((number * 10 + thread + 1) as u64);
                        for () in rounds {
                            one_round(&subject, &mut random);
                            done.send(()).unwrap();
                        }
                    });
                    (orders, is_done)
                })
                .collect();
            let mut random = Random::new(number as u64 + 100);
            for _ in 0..times(8) {
                threads.iter().for_each(|(orders, _)| orders.send(()).unwrap());
                one_round(&subject, &mut random);
                threads.iter().for_each(|(_, is_done)| is_done.recv().unwrap());
                // SAFETY: all threads wait for orders, and nothing is known of what they had.
                unsafe { (subject.reset)(&subject.heap) };
                subject.assert_empty();
            }
        });
        kept.iter().for_each(|block| neighbour.free(block));
    }
}

/// Each class, with each number of slots left: so slabs that are full, in part and empty, of tiny slots and of guarded ones.
#[test]
fn every_class_is_reset_with_any_number_of_slots() {
    let _turn = turn();
    for subject in subjects() {
        for shift in 0..21 {
            let wanted = layout(1 << shift, 1);
            let most = (200_000 >> shift).clamp(3, 40);
            for left in 0..=most {
                let blocks: Vec<_> = (0..most).map(|seed| subject.block(wanted, false, seed as u8 + 1)).collect();
                blocks[left..].iter().for_each(|block| subject.free(block));
                blocks[..left].iter().for_each(Block::assert_intact);
                // SAFETY: this thread alone uses the family, and gives up what it has.
                unsafe { (subject.reset)(&subject.heap) };
                subject.assert_empty();
            }
            let blocks: Vec<_> = (0..most).map(|seed| subject.block(wanted, seed % 2 == 0, seed as u8 + 1)).collect();
            let mut starts: Vec<_> = blocks.iter().map(|block| block.memory.addr().get()).collect();
            starts.sort_unstable();
            assert!(starts.windows(2).all(|pair| pair[0] + wanted.size() <= pair[1]), "two slots overlap");
            blocks.iter().for_each(|block| subject.free(block));
        }
    }
}

#[test]
fn limits_have_room_again_and_parents_too() {
    let process = Heap::builder("process").limit(4 << 20).build().unwrap();
    let tenant = Heap::builder("tenant").limit(1 << 20).parent(&process).build().unwrap();
    let other = Heap::builder("other").parent(&process).build().unwrap();
    let held = Subject::of_heap(other).block(layout(100_000, 8), false, 1);
    let of_other = process.charged_bytes();
    let subject = Subject::of_heap(tenant.clone());
    for _ in 0..10 {
        while (subject.allocate)(&subject.heap, layout(30_000, 8), false).is_some() {}
        while (subject.allocate)(&subject.heap, layout(100, 8), false).is_some() {}
        let LimitRefusal { limit, .. } = last_refusal().unwrap();
        assert_eq!(limit.name(), "tenant");
        assert!(process.charged_bytes() > of_other);
        // SAFETY: this thread alone uses the heap, and knows nothing of what it has allocated.
        unsafe { tenant.reset() };
        assert_eq!((tenant.charged_bytes(), process.charged_bytes()), (0, of_other));
    }
    held.assert_intact();
}

/// A thread of another family looks after all families while one is reset.
#[test]
fn who_looks_after_all_families_is_waited_for() {
    let _turn = turn();
    family! { struct Reset; }
    let subject = Subject::of::<Reset>();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                // As the housekeeper of any family does it, and more often.
                family_alloc::families().for_each(|family| _ = family.trim());
            }
        });
        let mut random = Random::new(5);
        for _ in 0..times(300) {
            let blocks: Vec<_> = (0..200).map(|_| subject.block(layout(4096, 1), false, 9)).collect();
            for block in &blocks {
                if random.below(3) > 0 {
                    subject.free(block);
                }
            }
            // SAFETY: the other thread has nothing of it, and no cache.
            unsafe { Reset::reset() };
            let stats = Reset::stats();
            assert_eq!((stats.live_allocations, stats.total_allocations - stats.total_frees), (0, 0), "{stats}");
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

/// What is warm is used again: no address space is added by resets.
#[test]
fn memory_is_used_again() {
    family! { struct Again; }
    let subject = Subject::of::<Again>();
    let mut reserved = Vec::new();
    for _ in 0..20 {
        for shift in 3..18 {
            (0..50).for_each(|_| _ = subject.block(layout(1 << shift, 8), false, 3));
        }
        reserved.push(Again::stats().reserved_bytes);
        // SAFETY: nothing is known of what was allocated.
        unsafe { Again::reset() };
    }
    assert_eq!(reserved.first(), reserved.last());
    Again::trim();
    // Some backends give nothing back.
    assert!(Again::stats().kept_bytes == 0 || cfg!(any(miri, feature = "portable", target_family = "wasm")));
}
