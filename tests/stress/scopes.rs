//! Scopes in the midst of it: blocks that are allocated in scopes of heaps and families, on their way between threads, freed and resized
//! inside and outside of others, while the heaps' handles go and what is live makes orphans of them.

use std::alloc::{GlobalAlloc, Layout};
use std::sync::{Mutex, PoisonError};

use family_alloc::{Checks, Enter, Entered, Family, Heap, Scoped, families, family};

family! {
    struct Home;
    struct Beside { slab_bytes: 64 * 1024 }
    struct BesideChecked { checks: Checked }
}

const SCOPED: Scoped<Home> = Scoped::new();
/// All heaps here are called so.
const NAME: &str = "heap with scopes";
const PLACES: usize = 8;
/// Blocks on their way at a time, at most.
const BLOCKS: usize = 400;
/// Blocks that one step allocates: more than a cache takes to be earned.
const AT_ONCE: usize = 40;

struct Block {
    address: usize,
    layout: Layout,
    seed: u8,
}

fn lock<T>(shared: &Mutex<T>) -> impl std::ops::DerefMut<Target = T> + '_ {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Block {
    fn allocate(size: usize, seed: u8) -> Self {
        let layout = Layout::from_size_align(size, 1 << (seed % 5)).expect("a layout");
        let allocate = if seed % 8 == 0 { GlobalAlloc::alloc_zeroed } else { GlobalAlloc::alloc };
        // SAFETY: the size is not 0.
        let memory = unsafe { allocate(&SCOPED, layout) };
        assert!(!memory.is_null() && memory.addr() % layout.align() == 0, "{layout:?}");
        if seed % 8 == 0 {
            // SAFETY: a new block of that length, all of which is initialised.
            let contents = unsafe { std::slice::from_raw_parts(memory, size) };
            assert!(contents.iter().all(|byte| *byte == 0), "{layout:?}: not zero");
        }
        let block = Self { address: memory.expose_provenance(), layout, seed };
        block.fill();
        block
    }

    fn pointer(&self) -> *mut u8 {
        std::ptr::with_exposed_provenance_mut(self.address)
    }

    fn fill(&self) {
        // SAFETY: live, and that long.
        unsafe { self.pointer().write_bytes(self.seed, self.layout.size()) };
    }

    fn assert_intact(&self, len: usize) {
        // SAFETY: live, at least that long, and filled.
        let contents = unsafe { std::slice::from_raw_parts(self.pointer(), len) };
        assert!(contents.iter().all(|byte| *byte == self.seed), "somebody has written to a block of {:?}", self.layout);
    }

    fn free(self) {
        self.assert_intact(self.layout.size());
        // SAFETY: live, with this layout.
        unsafe { SCOPED.dealloc(self.pointer(), self.layout) };
    }

    fn resize(self, size: usize) -> Self {
        // SAFETY: live, with this layout, and the size is not 0.
        let memory = unsafe { SCOPED.realloc(self.pointer(), self.layout, size) };
        assert!(!memory.is_null(), "limits are soft");
        let layout = Layout::from_size_align(size, self.layout.align()).expect("a layout");
        let resized = Self { address: memory.expose_provenance(), layout, ..self };
        resized.assert_intact(size.min(self.layout.size()));
        resized.fill();
        resized
    }
}

/// What threads share of scopes.
pub(crate) struct Scopes {
    heaps: [Mutex<Option<Heap>>; PLACES],
    blocks: Mutex<Vec<Block>>,
}

impl Scopes {
    pub(crate) fn new() -> Self {
        Self { heaps: [const { Mutex::new(None) }; PLACES], blocks: Mutex::new(Vec::new()) }
    }

    /// Does one thing, as some random bits say, with blocks of so many bytes at most.
    pub(crate) fn step(&self, bits: usize, size: usize) {
        let (place, seed) = (bits % PLACES, (bits >> 8) as u8);
        match bits >> 16 & 7 {
            0 => self.make(place, bits >> 20),
            1 => drop(lock(&self.heaps[place]).take()),
            2 => self.take_some(seed).into_iter().for_each(Block::free),
            3 => {
                let _entered = self.enter(place, seed);
                self.take_some(seed).into_iter().for_each(Block::free);
            }
            4 => {
                let _entered = self.enter(place, seed);
                let resized: Vec<Block> =
                    self.take_some(seed).into_iter().map(|block| block.resize(size.min(100_000) + 1)).collect();
                self.give(resized);
            }
            _ => {
                let _entered = self.enter(place, seed);
                let sizes = (0..AT_ONCE).map(|count| size.min(40_000) / (count + 1) + 1);
                self.give(sizes.map(|size| Block::allocate(size, seed)).collect());
            }
        }
    }

    fn make(&self, place: usize, bits: usize) {
        let checks = [Checks::Default, Checks::Default, Checks::Unchecked, Checks::Checked][bits & 3];
        // Limits are soft here, and mostly passed.
        let heap = Heap::builder(NAME).checks(checks).limit(64 << 10).build().expect("there is room");
        let old = lock(&self.heaps[place]).replace(heap);
        drop(old);
    }

    /// The scope of the heap that lives in a place, of a family, or none. The handle may go while it is open.
    fn enter(&self, place: usize, seed: u8) -> Option<Entered> {
        match seed % 16 {
            0 => Some(Beside.enter()),
            1 => Some(BesideChecked.enter()),
            2 => None,
            _ => lock(&self.heaps[place]).as_ref().map(Heap::enter),
        }
    }

    fn take_some(&self, seed: u8) -> Vec<Block> {
        let mut blocks = lock(&self.blocks);
        let left = blocks.len() - blocks.len().min(usize::from(seed) % AT_ONCE + 1);
        blocks.split_off(left)
    }

    /// Lets others have blocks; the first of too many are freed here.
    fn give(&self, new: Vec<Block>) {
        let mut blocks = lock(&self.blocks);
        blocks.extend(new);
        let more = blocks.len().saturating_sub(BLOCKS);
        let others: Vec<Block> = blocks.drain(..more).collect();
        drop(blocks);
        others.into_iter().for_each(Block::free);
    }

    /// Drops all, and fails if a heap or a block is left.
    pub(crate) fn end(&self) {
        self.heaps.iter().for_each(|place| drop(lock(place).take()));
        std::mem::take(&mut *lock(&self.blocks)).into_iter().for_each(Block::free);
        assert!(families().all(|family| family.name() != NAME), "a heap is left");
        let live = [Home::stats(), Beside::stats(), BesideChecked::stats()].map(|stats| stats.live_allocations);
        assert_eq!(live, [0; 3], "blocks are left");
    }
}
