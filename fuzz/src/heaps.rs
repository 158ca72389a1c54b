//! Heaps that are made, used, reset and dropped, and local heaps beside them. Each block holds a handle of its heap, so that a heap ends when
//! the last of them goes, on whichever thread.

use std::alloc::Layout;
use std::collections::BTreeMap;
use std::ptr::NonNull;
use std::sync::{Mutex, PoisonError};

use allocator_api2::alloc::Allocator;
use arbitrary::{Arbitrary, Result, Unstructured};
use family_alloc::{Checks, Classes, Heap, LocalHeap, families};

use crate::common::doors::layout;
use crate::common::worker::Worker;

/// All heaps here are called so.
const NAME: &str = "fuzzed heap";
/// Of each kind, at most.
const HEAPS: usize = 5;
/// Blocks that live at once, at most.
const BLOCKS: usize = 400;
/// Bytes that one input may write.
const BYTES: usize = 4 << 20;
/// Of longer contents only so many bytes at each end are written and looked at.
const ENDS: usize = 512;

/// Another thread, for all executions of this process.
static OTHER: Mutex<Option<Worker>> = Mutex::new(None);

/// Who has a block.
#[derive(Clone)]
enum Owner {
    Heap(Heap),
    /// The number of a local heap.
    Local(usize),
}

struct Block {
    owner: Owner,
    memory: NonNull<[u8]>,
    layout: Layout,
    seed: u8,
}

// SAFETY: handed to one thread at a time; blocks of local heaps stay where they are.
unsafe impl Send for Block {}

impl Block {
    /// The first and the last bytes.
    fn ends(&self) -> impl Iterator<Item = usize> + use<> {
        let len = self.memory.len();
        (0..len.min(ENDS)).chain(len.saturating_sub(ENDS).max(ENDS.min(len))..len)
    }

    fn byte(&self, at: usize) -> *mut u8 {
        self.memory.cast::<u8>().as_ptr().wrapping_add(at)
    }

    fn fill(&self) {
        // SAFETY: live, and inside.
        self.ends().for_each(|at| unsafe { self.byte(at).write(self.seed) });
    }

    fn assert_intact(&self, len: usize) {
        // SAFETY: live, inside, and written by `fill`.
        let is_right = |&at: &usize| unsafe { self.byte(at).read() } == self.seed;
        assert!(self.ends().filter(|&at| at < len).all(|at| is_right(&at)), "somebody wrote to {:?}", self.layout);
    }

    fn range(&self) -> (usize, usize) {
        (self.memory.addr().get(), self.memory.addr().get() + self.memory.len())
    }

    /// Frees a block of a heap, and lets the handle go.
    fn free_in_heap(self) {
        self.assert_intact(self.memory.len());
        if let Owner::Heap(heap) = &self.owner {
            // SAFETY: live, with this layout.
            unsafe { heap.deallocate(self.memory.cast(), self.layout) };
        }
    }
}

#[derive(Default)]
struct Run {
    heaps: Vec<Heap>,
    locals: Vec<Option<LocalHeap>>,
    blocks: Vec<Block>,
    /// Where each block begins, and where it ends.
    ranges: BTreeMap<usize, usize>,
    seed: u8,
    budget: usize,
}

/// Runs the steps that the bytes say; panics if a promise is broken. Returns how many steps there were.
pub fn heaps(data: &[u8]) -> usize {
    let mut input = Unstructured::new(data);
    let mut run = Run { budget: BYTES, ..Run::default() };
    let mut steps = 0;
    while !input.is_empty() && run.step(&mut input).is_ok() {
        steps += 1;
    }
    run.finish();
    steps
}

fn below(input: &mut Unstructured<'_>, bound: usize) -> Result<usize> {
    input.int_in_range(0..=bound - 1)
}

fn any_layout(input: &mut Unstructured<'_>) -> Result<Layout> {
    let size = match below(input, 16)? {
        0..8 => usize::from(u8::arbitrary(input)?),
        8..12 => (1 << below(input, 16)?) + below(input, 3)?,
        12..15 => usize::from(u16::arbitrary(input)?),
        _ => below(input, 3 << 10)? << 10,
    };
    Ok(layout(size.max(1), 1 << (u8::arbitrary(input)? % 8).saturating_sub(2)))
}

impl Run {
    fn step(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        match below(input, 32)? {
            0..4 => self.make(input),
            4..6 if !self.heaps.is_empty() => {
                let place = below(input, self.heaps.len())?;
                self.heaps.swap_remove(place);
                Ok(())
            }
            6 => self.make_local(input),
            7 => self.end_local(input),
            8..18 => self.allocate(input),
            18..24 if !self.blocks.is_empty() => self.free(input),
            24..29 if !self.blocks.is_empty() => self.resize(input),
            29..31 => self.reset(input),
            31 => {
                families().for_each(|family| _ = family.trim());
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn make(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        if self.heaps.len() >= HEAPS {
            return Ok(());
        }
        let checks = [Checks::Default, Checks::Default, Checks::Unchecked, Checks::Checked, Checks::Hardened];
        let parent = self.heaps.last().cloned();
        let classes = [Classes::Natural, Classes::Natural, Classes::Spaced][below(input, 3)?];
        let builder = Heap::builder(NAME).checks(checks[below(input, 5)?]).classes(classes);
        let mut builder = builder.slab_bytes(64 << 10 << below(input, 6)?);
        if bool::arbitrary(input)? {
            builder = builder.limit(1 << (12 + below(input, 12)?));
        }
        if let (Some(parent), true) = (&parent, bool::arbitrary(input)?) {
            builder = builder.parent(parent);
        }
        // Refused where the limit is above the parent's.
        self.heaps.extend(builder.build());
        Ok(())
    }

    fn make_local(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        if self.locals.iter().flatten().count() < HEAPS {
            let builder = LocalHeap::builder("fuzzed").chunk_bytes(1 << (10 + below(input, 6)?));
            let limit = if bool::arbitrary(input)? { usize::MAX } else { 1 << (12 + below(input, 10)?) };
            self.locals.push(builder.limit(limit).build().ok());
        }
        Ok(())
    }

    /// Drops a local heap or resets it: its blocks are gone.
    fn end_local(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        if !self.locals.is_empty() {
            let (number, is_reset) = (below(input, self.locals.len())?, bool::arbitrary(input)?);
            self.forget(|owner| matches!(owner, Owner::Local(of) if *of == number));
            let local = self.locals[number].take();
            self.locals[number] = local.filter(|_| is_reset).map(|mut local| {
                local.reset();
                assert_eq!((local.stats().live_allocations, local.stats().live_bytes), (0, 0));
                local
            });
        }
        Ok(())
    }

    /// Forgets the blocks of an owner whose memory is freed as a whole.
    fn forget(&mut self, is_of: impl Fn(&Owner) -> bool) {
        let (gone, left) = std::mem::take(&mut self.blocks).into_iter().partition(|block| is_of(&block.owner));
        self.blocks = left;
        for block in gone {
            block.assert_intact(block.memory.len());
            self.ranges.remove(&block.range().0);
        }
    }

    fn allocate(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        let choice = below(input, 2 * HEAPS)?;
        let locals: Vec<usize> = (0..self.locals.len()).filter(|&local| self.locals[local].is_some()).collect();
        let owner = match choice {
            ..HEAPS if !self.heaps.is_empty() => Owner::Heap(self.heaps[choice % self.heaps.len()].clone()),
            _ if !locals.is_empty() => Owner::Local(locals[choice % locals.len()]),
            _ => return Ok(()),
        };
        let (wanted, zeroed, count) = (any_layout(input)?, bool::arbitrary(input)?, u8::arbitrary(input)?);
        let count = if count < 200 { 1 } else { usize::from(count - 199) };
        for _ in 0..count {
            self.budget =
                self.budget.checked_sub(wanted.size().min(2 * ENDS)).ok_or(arbitrary::Error::NotEnoughData)?;
            if self.blocks.len() < BLOCKS {
                self.allocate_one(&owner, wanted, zeroed);
            }
        }
        Ok(())
    }

    fn allocate_one(&mut self, owner: &Owner, layout: Layout, zeroed: bool) {
        let allocated = match (owner, zeroed) {
            (Owner::Heap(heap), false) => heap.allocate(layout),
            (Owner::Heap(heap), true) => heap.allocate_zeroed(layout),
            (Owner::Local(number), false) => self.local(*number).allocate(layout),
            (Owner::Local(number), true) => self.local(*number).allocate_zeroed(layout),
        };
        // A limit may have refused it.
        let Ok(memory) = allocated else { return };
        self.seed = self.seed.wrapping_add(1);
        let block = Block { owner: owner.clone(), memory, layout, seed: 0 };
        if zeroed {
            block.assert_intact(memory.len());
        }
        self.enter(Block { seed: self.seed, ..block });
    }

    fn local(&self, number: usize) -> &LocalHeap {
        self.locals[number].as_ref().expect("blocks are of local heaps that live")
    }

    fn enter(&mut self, block: Block) {
        let (start, end) = block.range();
        assert!(start % block.layout.align() == 0 && end - start >= block.layout.size(), "{:?}", block.layout);
        let before = self.ranges.range(..end).next_back();
        assert!(before.is_none_or(|(_, before)| *before <= start), "two live blocks overlap");
        self.ranges.insert(start, end);
        block.fill();
        self.blocks.push(block);
    }

    fn take(&mut self, input: &mut Unstructured<'_>) -> Result<Block> {
        let block = self.blocks.swap_remove(usize::from(u16::arbitrary(input)?) % self.blocks.len());
        self.ranges.remove(&block.range().0);
        Ok(block)
    }

    /// Frees a block, one of a heap maybe on another thread.
    fn free(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        let (is_elsewhere, block) = (bool::arbitrary(input)?, self.take(input)?);
        match block.owner {
            Owner::Local(number) => {
                block.assert_intact(block.memory.len());
                // SAFETY: live, with this layout.
                unsafe { self.local(number).deallocate(block.memory.cast(), block.layout) };
            }
            Owner::Heap(_) if is_elsewhere => {
                let mut other = OTHER.lock().unwrap_or_else(PoisonError::into_inner);
                other.get_or_insert_with(Worker::start).call(move || block.free_in_heap());
            }
            Owner::Heap(_) => block.free_in_heap(),
        }
        Ok(())
    }

    fn resize(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        let (new, zeroed) = (any_layout(input)?, bool::arbitrary(input)?);
        let block = self.take(input)?;
        block.assert_intact(block.memory.len());
        self.budget = self.budget.saturating_sub(new.size().min(2 * ENDS));
        let resized = match &block.owner {
            Owner::Heap(heap) => resize(heap, &block, new, zeroed),
            Owner::Local(number) => resize(&self.local(*number), &block, new, zeroed),
        };
        let Some(memory) = resized else {
            block.assert_intact(block.memory.len());
            self.enter(block);
            return Ok(());
        };
        let resized = Block { memory, layout: new, ..block };
        resized.assert_intact(block.layout.size().min(new.size()).min(ENDS));
        self.enter(resized);
        Ok(())
    }

    /// Frees all of a heap at once. The other thread waits for work.
    fn reset(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        if self.heaps.is_empty() {
            return Ok(());
        }
        let heap = self.heaps[below(input, self.heaps.len())?].clone();
        self.forget(|owner| matches!(owner, Owner::Heap(of) if *of == heap));
        // SAFETY: all of its blocks are forgotten, and no other thread is in a call.
        unsafe { heap.reset() };
        let stats = heap.stats();
        assert_eq!((stats.live_allocations, stats.live_bytes, stats.cached_slots), (0, 0, 0), "{stats}");
        Ok(())
    }

    fn finish(mut self) {
        for heap in &self.heaps {
            let of_heap = |block: &&Block| matches!(&block.owner, Owner::Heap(of) if of == heap);
            assert_eq!(heap.stats().live_allocations, self.blocks.iter().filter(of_heap).count());
        }
        for number in 0..self.locals.len() {
            let count =
                self.blocks.iter().filter(|block| matches!(block.owner, Owner::Local(of) if of == number)).count();
            assert_eq!(self.locals[number].as_ref().map_or(0, |local| local.stats().live_allocations), count);
        }
        self.forget(|owner| matches!(owner, Owner::Local(_)));
        self.heaps.clear();
        self.blocks.drain(..).for_each(Block::free_in_heap);
        assert!(families().all(|family| family.name() != NAME), "a heap is left");
    }
}

fn resize(of: &impl Allocator, block: &Block, new: Layout, zeroed: bool) -> Option<NonNull<[u8]>> {
    let (ptr, old) = (block.memory.cast(), block.layout);
    let resized = if new.size() < old.size() {
        // SAFETY: live, with the old layout; the new size is below it.
        unsafe { of.shrink(ptr, old, new) }
    } else if zeroed {
        // SAFETY: live, with the old layout; the new size is not below it.
        unsafe { of.grow_zeroed(ptr, old, new) }
    } else {
        // SAFETY: as above.
        unsafe { of.grow(ptr, old, new) }
    };
    resized.ok()
}
