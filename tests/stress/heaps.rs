//! Heaps in the midst of it: made by one thread, used by others, dropped by a third while blocks are on their way between them; and local
//! heaps that go from thread to thread.

use std::sync::{Mutex, PoisonError};

use allocator_api2::alloc::Allocator;
use allocator_api2::vec::Vec;
use family_alloc::{Checks, Heap, LocalHeap, families};

/// All heaps here are called so.
const NAME: &str = "stressed heap";
const PLACES: usize = 8;
/// Blocks on their way at a time, at most.
const BLOCKS: usize = 200;

type Block = (Vec<u8, Heap>, u8);

/// What threads share of heaps.
pub(crate) struct Traffic {
    heaps: [Mutex<Option<Heap>>; PLACES],
    locals: [Mutex<Option<LocalHeap>>; PLACES],
    blocks: Mutex<std::vec::Vec<Block>>,
}

fn lock<T>(shared: &Mutex<T>) -> impl std::ops::DerefMut<Target = T> + '_ {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn free((contents, seed): Block) {
    assert!(contents.iter().all(|byte| *byte == seed), "somebody has written to a block of {} bytes", contents.len());
}

impl Traffic {
    pub(crate) fn new() -> Self {
        Self {
            heaps: [const { Mutex::new(None) }; PLACES],
            locals: [const { Mutex::new(None) }; PLACES],
            blocks: Mutex::new(std::vec::Vec::new()),
        }
    }

    /// Does one thing, as some random bits say, with a block of so many bytes.
    pub(crate) fn step(&self, bits: usize, size: usize) {
        let (place, seed) = (bits % PLACES, (bits >> 8) as u8);
        match bits >> 16 & 7 {
            0 => self.make(place, bits >> 20),
            1 => drop(lock(&self.heaps[place]).take()),
            2 => Self::visit(&self.locals[place], seed, size),
            3 => _ = lock(&self.blocks).pop().map(free),
            _ => self.fill(place, seed, size),
        }
    }

    fn make(&self, place: usize, bits: usize) {
        let checks = [Checks::Default, Checks::Default, Checks::Checked, Checks::Hardened][bits & 3];
        let heap = Heap::builder(NAME).checks(checks).limit(64 << 20).build().expect("there is room");
        // The handle that was there goes when nobody has the place's lock.
        let old = lock(&self.heaps[place]).replace(heap);
        drop(old);
    }

    /// A block of the heap that lives there takes the place of another, which is freed here.
    fn fill(&self, place: usize, seed: u8, size: usize) {
        let Some(heap) = lock(&self.heaps[place]).clone() else { return };
        let mut contents = Vec::new_in(heap);
        contents.resize(size, seed);
        contents.resize(size / 2 + 1, seed);
        let mut blocks = lock(&self.blocks);
        let other = (blocks.len() > BLOCKS).then(|| blocks.swap_remove(usize::from(seed) % BLOCKS));
        blocks.push((contents, seed));
        drop(blocks);
        other.into_iter().for_each(free);
    }

    /// Uses the local heap that is there, which another thread has made and left.
    fn visit(place: &Mutex<Option<LocalHeap>>, seed: u8, size: usize) {
        let mut local = lock(place).take().unwrap_or_default();
        let left = local.stats().live_allocations;
        {
            let mut blocks = std::vec::Vec::new();
            for count in 0..20 {
                let mut block = Vec::new_in(&local);
                block.resize(size.min(40_000) / (count + 1) + 1, seed);
                blocks.push(block);
                if count % 3 == 0 {
                    blocks.swap_remove(0);
                }
            }
            assert!(blocks.iter().flatten().all(|byte| *byte == seed));
            assert_eq!(local.stats().live_allocations, left + blocks.len());
            // Left to the reset, or to whoever drops the heap.
            std::mem::forget(blocks.pop());
        }
        match seed % 4 {
            0 => drop(local),
            1 => {
                local.reset();
                *lock(place) = Some(local);
            }
            _ => *lock(place) = Some(local),
        }
    }

    /// Drops all, and fails if a heap is left.
    pub(crate) fn end(&self) {
        self.heaps.iter().for_each(|place| drop(lock(place).take()));
        self.locals.iter().for_each(|place| drop(lock(place).take()));
        std::mem::take(&mut *lock(&self.blocks)).into_iter().for_each(free);
        assert!(families().all(|family| family.name() != NAME), "a heap is left");
        assert!((&LocalHeap::new()).allocate(std::alloc::Layout::new::<u64>()).is_ok());
    }
}
