//! Scopes that are entered and left in any order, and what is allocated in them: freed and resized inside and outside of others, on two
//! threads, while the handles of the heaps go and leave orphans.

use std::alloc::{GlobalAlloc, Layout};
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use arbitrary::{Arbitrary, Result, Unstructured};
use family_alloc::{Checks, Classes, Enter, Entered, Family, FamilyRef, Heap, Scoped, current_scope, families, family};

use crate::common::doors::layout;
use crate::common::worker::Worker;

family! {
    struct Home;
    struct Beside { slab_bytes: 256 * 1024 }
}

const SCOPED: Scoped<Home> = Scoped::new();
/// All heaps here are called so.
const NAME: &str = "fuzzed scope";
const HEAPS: usize = 5;
/// Scopes that are open at once, at most: more than are told apart at one depth.
const GUARDS: usize = 40;
/// Blocks that live at once, at most.
const BLOCKS: usize = 400;
/// Bytes that one input may write.
const BYTES: usize = 4 << 20;
/// Of longer contents only so many bytes at each end are written and looked at.
const ENDS: usize = 512;

/// Another thread, for all executions of this process.
static OTHER: Mutex<Option<Worker>> = Mutex::new(None);

struct Block {
    address: usize,
    layout: Layout,
    seed: u8,
    /// Whose it is; `None`: the home's.
    owner: Option<FamilyRef>,
}

impl Block {
    fn byte(&self, at: usize) -> *mut u8 {
        std::ptr::with_exposed_provenance_mut::<u8>(self.address).wrapping_add(at)
    }

    /// The first and the last bytes.
    fn ends(&self) -> impl Iterator<Item = usize> + use<> {
        let len = self.layout.size();
        (0..len.min(ENDS)).chain(len.saturating_sub(ENDS).max(ENDS.min(len))..len)
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

    fn free(self) {
        self.assert_intact(self.layout.size());
        // SAFETY: live, with this layout.
        unsafe { SCOPED.dealloc(self.byte(0), self.layout) };
    }
}

/// A scope that is open, as the crate has it and as it must be: it ends with those that it was entered in.
struct Guard {
    entered: Entered,
    entry: usize,
}

#[derive(Default)]
struct Run {
    heaps: Vec<(Heap, FamilyRef)>,
    guards: Vec<Guard>,
    /// The scopes that are open, with the numbers of their entries.
    open: Vec<(usize, Option<FamilyRef>)>,
    entries: usize,
    blocks: Vec<Block>,
    /// Where each block begins, and where it ends.
    ranges: BTreeMap<usize, usize>,
    seed: u8,
    budget: usize,
}

/// Runs the steps that the bytes say; panics if a promise is broken. Returns how many steps there were.
pub fn scopes(data: &[u8]) -> usize {
    let mut input = Unstructured::new(data);
    let mut run = Run { budget: BYTES, ..Run::default() };
    let mut steps = 0;
    while !input.is_empty() && run.step(&mut input).is_ok() {
        assert_eq!(current_scope(), run.current(), "the innermost scope that is open");
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
    fn current(&self) -> Option<FamilyRef> {
        self.open.last().and_then(|&(_, family)| family)
    }

    fn step(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        match below(input, 32)? {
            0..4 => self.make(input),
            4..6 if !self.heaps.is_empty() => {
                // What is live in it makes an orphan of it, unless a scope holds it.
                let place = below(input, self.heaps.len())?;
                self.heaps.swap_remove(place);
                Ok(())
            }
            6..10 => self.enter(input),
            10..13 if !self.guards.is_empty() => self.leave(input),
            13..20 => self.allocate(input),
            20..26 if !self.blocks.is_empty() => self.free(input),
            26..30 if !self.blocks.is_empty() => self.resize(input),
            30 => {
                families().for_each(|family| _ = family.trim());
                Ok(())
            }
            _ => {
                self.compare();
                Ok(())
            }
        }
    }

    fn make(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        if self.heaps.len() >= HEAPS {
            return Ok(());
        }
        let checks = [Checks::Default, Checks::Default, Checks::Unchecked, Checks::Checked, Checks::Hardened];
        let classes = [Classes::Natural, Classes::Natural, Classes::Spaced][below(input, 3)?];
        let builder = Heap::builder(NAME).checks(checks[below(input, 5)?]).classes(classes);
        let builder = builder.slab_bytes(64 << 10 << below(input, 6)?);
        // Limits are soft here.
        let builder = if bool::arbitrary(input)? { builder.limit(1 << (10 + below(input, 12)?)) } else { builder };
        let heap = builder.build().expect("there is room");
        let family = heap.scope(current_scope).expect("it is in the scope");
        self.heaps.push((heap, family));
        Ok(())
    }

    fn enter(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        if self.guards.len() >= GUARDS {
            return Ok(());
        }
        let choice = below(input, HEAPS + 1)?;
        let (entered, family) = match self.heaps.get(choice) {
            Some((heap, family)) => (heap.enter(), *family),
            None => {
                let entered = Beside.enter();
                (entered, current_scope().expect("it is in the scope"))
            }
        };
        self.entries += 1;
        self.open.push((self.entries, Some(family)));
        self.guards.push(Guard { entered, entry: self.entries });
        Ok(())
    }

    /// Drops a guard, most often the last.
    fn leave(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        let last = self.guards.len() - 1;
        let place = if below(input, 4)? == 0 { below(input, last + 1)? } else { last };
        let Guard { entered, entry } = self.guards.remove(place);
        drop(entered);
        if let Some(depth) = self.open.iter().position(|&(open, _)| open == entry) {
            self.open.truncate(depth);
        }
        Ok(())
    }

    fn allocate(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        let (wanted, zeroed, count) = (any_layout(input)?, bool::arbitrary(input)?, u8::arbitrary(input)?);
        let count = if count < 200 { 1 } else { usize::from(count - 199) };
        let is_outside = below(input, 8)? == 0;
        for _ in 0..count {
            self.budget =
                self.budget.checked_sub(wanted.size().min(2 * ENDS)).ok_or(arbitrary::Error::NotEnoughData)?;
            if self.blocks.len() < BLOCKS {
                let owner = if is_outside { None } else { self.current() };
                let allocate = if zeroed { GlobalAlloc::alloc_zeroed } else { GlobalAlloc::alloc };
                // SAFETY: the size is not 0.
                let call = || unsafe { allocate(&SCOPED, wanted) };
                let memory = if is_outside { Heap::outside(call) } else { call() };
                assert!(!memory.is_null(), "limits are soft");
                let block = Block { address: memory.expose_provenance(), layout: wanted, seed: 0, owner };
                if zeroed {
                    block.assert_intact(wanted.size());
                }
                self.seed = self.seed.wrapping_add(1);
                self.keep(Block { seed: self.seed, ..block });
            }
        }
        Ok(())
    }

    fn keep(&mut self, block: Block) {
        let (start, end) = (block.address, block.address + block.layout.size());
        assert!(start % block.layout.align() == 0, "{:?}", block.layout);
        let before = self.ranges.range(..end).next_back();
        assert!(before.is_none_or(|(_, before)| *before <= start), "two live blocks overlap");
        self.ranges.insert(start, end);
        block.fill();
        self.blocks.push(block);
    }

    fn take(&mut self, input: &mut Unstructured<'_>) -> Result<Block> {
        let block = self.blocks.swap_remove(usize::from(u16::arbitrary(input)?) % self.blocks.len());
        self.ranges.remove(&block.address);
        Ok(block)
    }

    fn free(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        let (choice, block) = (below(input, 4)?, self.take(input)?);
        match choice {
            0 => {
                let mut other = OTHER.lock().unwrap_or_else(PoisonError::into_inner);
                other.get_or_insert_with(Worker::start).call(move || block.free());
            }
            1 => Heap::outside(|| block.free()),
            _ => block.free(),
        }
        Ok(())
    }

    fn resize(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        let new = any_layout(input)?;
        let block = self.take(input)?;
        block.assert_intact(block.layout.size());
        self.budget = self.budget.saturating_sub(new.size().min(2 * ENDS));
        let is_orphan = block.owner.is_some_and(FamilyRef::is_orphan);
        let lives_in = |family: Option<FamilyRef>| family.map_or(Home::stats(), FamilyRef::stats).live_allocations;
        let before = lives_in(self.current());
        // SAFETY: live, with this layout, and the size is not 0.
        let memory = unsafe { SCOPED.realloc(block.byte(0), block.layout, new.size()) };
        assert!(!memory.is_null(), "limits are soft");
        // A block of an orphan moves out if it must, to where the thread allocates.
        let has_moved = is_orphan && lives_in(self.current()) > before;
        let resized = Block {
            address: memory.expose_provenance(),
            layout: layout(new.size(), block.layout.align()),
            owner: if has_moved { self.current() } else { block.owner },
            seed: block.seed,
        };
        resized.assert_intact(block.layout.size().min(new.size()).min(ENDS));
        self.keep(resized);
        Ok(())
    }

    /// Each family has what was allocated in its scopes.
    fn compare(&self) {
        let count = |owner: Option<FamilyRef>| self.blocks.iter().filter(|block| block.owner == owner).count();
        for (heap, family) in &self.heaps {
            assert_eq!(heap.stats().live_allocations, count(Some(*family)), "{}", heap.stats());
        }
        assert_eq!(Home::stats().live_allocations, count(None), "{}", Home::stats());
    }

    fn finish(mut self) {
        self.compare();
        self.heaps.clear();
        self.blocks.drain(..).for_each(Block::free);
        drop(self.guards);
        assert_eq!(current_scope(), None);
        assert!(families().all(|family| family.name() != NAME), "a heap is left");
        assert_eq!((Home::stats().live_allocations, Beside::stats().live_allocations), (0, 0));
    }
}
