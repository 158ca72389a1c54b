//! The measured allocator as the programs see it, the blocks that it hands out, and lists of blocks outside of it.

use std::alloc::Layout;
use std::ops::{Deref, DerefMut};
use std::time::{Duration, Instant};

use crate::os::Table;
use crate::peers::Name;
use crate::random::Random;
use crate::subject::{Door, Subject};
use crate::trim;

/// Every this many bytes a block is written to.
const PAGE: usize = 4096;

/// The allocator under measurement.
#[derive(Clone, Copy)]
pub(crate) struct Heap {
    pub(crate) name: Name,
    pub(crate) main: Door,
    alloc_zeroed: unsafe fn(Layout) -> *mut u8,
    realloc: unsafe fn(*mut u8, Layout, usize) -> *mut u8,
    families: fn(usize) -> Vec<Door>,
}

/// A live allocation. Programs free each once, through the door that it came from.
#[derive(Clone, Copy)]
pub(crate) struct Block {
    pub(crate) address: usize,
    layout: Layout,
}

pub(crate) fn layout(size: usize, align: usize) -> Layout {
    Layout::from_size_align(size, align).expect("a layout")
}

fn pointer(address: usize) -> *mut u8 {
    std::ptr::with_exposed_provenance_mut(address)
}

impl Block {
    fn new(start: *mut u8, layout: Layout) -> Self {
        assert!(!start.is_null(), "no memory for {layout:?}");
        Self { address: start.expose_provenance(), layout }
    }

    /// The block at an address that a list has kept.
    pub(crate) fn at(address: usize, layout: Layout) -> Self {
        Self { address, layout }
    }

    /// Writes a byte at every `step`th place.
    pub(crate) fn touch(self, step: usize) {
        for at in (0..self.layout.size()).step_by(step) {
            // SAFETY: inside a live block.
            unsafe { pointer(self.address + at).write_volatile(1) };
        }
    }

    pub(crate) fn size(self) -> usize {
        self.layout.size()
    }

    /// The pages that it lies on, by number.
    fn pages(self) -> std::ops::RangeInclusive<usize> {
        self.address / PAGE..=(self.address + self.layout.size() - 1) / PAGE
    }
}

impl Door {
    /// A block as it comes, untouched.
    pub(crate) fn block(self, layout: Layout) -> Block {
        // SAFETY: no program asks for nothing.
        Block::new(unsafe { (self.alloc)(layout) }, layout)
    }

    /// A block on whose every page something is written.
    pub(crate) fn touched(self, layout: Layout) -> Block {
        let block = self.block(layout);
        block.touch(PAGE);
        block
    }

    /// A block with its first byte written, or nothing if there is no memory.
    pub(crate) fn try_block(self, layout: Layout) -> Option<Block> {
        // SAFETY: no program asks for nothing.
        let start = unsafe { (self.alloc)(layout) };
        if start.is_null() {
            return None;
        }
        let block = Block::new(start, layout);
        block.touch(layout.size());
        Some(block)
    }

    pub(crate) fn free(self, block: Block) {
        // SAFETY: the programs free through the door that a block came from, and once.
        unsafe { (self.dealloc)(pointer(block.address), block.layout) };
    }

    /// Allocates, touches and frees.
    pub(crate) fn pair(self, layout: Layout) {
        self.free(self.touched(layout));
    }

    /// Twenty pairs every millisecond.
    pub(crate) fn trickle(self, layout: Layout, time: Duration) {
        let begin = Instant::now();
        while begin.elapsed() < time {
            (0..20).for_each(|_| self.pair(layout));
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Every 5 ms some blocks of mixed sizes, which are freed before the next come.
    pub(crate) fn light_load(self, random: &mut Random, time: Duration) {
        const COUNT: usize = 50;
        let begin = Instant::now();
        while begin.elapsed() < time {
            let live: [Block; COUNT] = std::array::from_fn(|_| self.touched(layout(random.size(1024), 8)));
            live.into_iter().for_each(|block| self.free(block));
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Heap {
    pub(crate) fn of<S: Subject>(name: Name) -> Self {
        let main = Door { alloc: S::alloc, dealloc: S::dealloc };
        Self { name, main, alloc_zeroed: S::alloc_zeroed, realloc: S::realloc, families: S::doors }
    }

    /// Doors to so many families, or the same door that often.
    pub(crate) fn families(&self, count: usize) -> Vec<Door> {
        (self.families)(count)
    }

    /// The door that is given in family-alloc, and the usual one in its peers: for options that only a family has.
    pub(crate) fn ours_or_main(&self, ours: Door) -> Door {
        if self.name == Name::Ours { ours } else { self.main }
    }

    pub(crate) fn zeroed(&self, layout: Layout) -> Block {
        // SAFETY: no program asks for nothing.
        Block::new(unsafe { (self.alloc_zeroed)(layout) }, layout)
    }

    /// Changes a block's size.
    pub(crate) fn resize(&self, block: Block, size: usize) -> Block {
        // SAFETY: a live block of the main door, and no program asks for nothing.
        let start = unsafe { (self.realloc)(pointer(block.address), block.layout, size) };
        Block::new(start, layout(size, block.layout.align()))
    }

    pub(crate) fn trim(&self) {
        trim::trim(self.name);
    }
}

/// A list outside the measured allocator. Its memory is touched at once and never given back, so that it counts the same at
/// every moment.
pub(crate) struct List<T: Copy + 'static> {
    items: &'static mut [T],
    len: usize,
}

impl<T: Copy + Default> List<T> {
    pub(crate) fn new(capacity: usize) -> Self {
        let table = Box::leak(Box::new(Table::new(capacity, T::default())));
        Self { items: &mut **table, len: 0 }
    }
}

impl Default for Block {
    fn default() -> Self {
        Self { address: 0, layout: Layout::new::<u8>() }
    }
}

impl<T: Copy> List<T> {
    pub(crate) fn push(&mut self, item: T) {
        self.items[self.len] = item;
        self.len += 1;
    }

    /// Takes all items out, the first first.
    pub(crate) fn drain(&mut self, each: impl FnMut(T)) {
        let len = std::mem::take(&mut self.len);
        self.items[..len].iter().copied().for_each(each);
    }

    /// Takes the items out that a function says yes to.
    pub(crate) fn retain(&mut self, mut keep: impl FnMut(usize, T) -> bool) {
        let mut kept = 0;
        for index in 0..self.len {
            let item = self.items[index];
            if keep(index, item) {
                self.items[kept] = item;
                kept += 1;
            }
        }
        self.len = kept;
    }

    /// Takes the last item out.
    pub(crate) fn pop(&mut self) -> Option<T> {
        self.len = self.len.checked_sub(1)?;
        Some(self.items[self.len])
    }
}

impl<T: Copy> Deref for List<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.items[..self.len]
    }
}

impl<T: Copy> DerefMut for List<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.items[..self.len]
    }
}

/// Bytes of the pages that blocks lie on: the least that can be resident while they live. Sorts them.
pub(crate) fn page_bytes(blocks: &mut [Block]) -> usize {
    blocks.sort_unstable_by_key(|block| block.address);
    let mut count = 0;
    let mut next = 0;
    for block in blocks {
        let pages = block.pages();
        count += (pages.end() + 1).saturating_sub(next.max(*pages.start()));
        next = next.max(pages.end() + 1);
    }
    count * PAGE
}
