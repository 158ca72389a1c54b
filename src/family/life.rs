//! How long a heap lives: its handles are counted, and its memory serves another heap after its
//! death, under another generation.
//!
//! ```text
//!          begin             last handle dropped          nothing live
//!   dead ─────────► alive ─────────────────────► ending ────────────────► dead, next generation
//!                                                 │  ▲
//!                                 something live  ▼  │ the last live block is freed
//!                                                orphan
//! ```
//!
//! One word says which of these it is, and how many handles there are. All live blocks of an orphan
//! hold one handle together, and are counted.
//!
//! **G1** While somebody holds one of the handles, the generation stays as it is. Who ends the last one
//! is told so, and has the heap to itself until it has become something else, but for what is under locks. **G2** No
//! generation comes twice: what knows a heap by number and generation never finds another. **G3** Who
//! has a live block and no handle may ask: while the heap is alive it is given a handle; while it is an orphan
//! the block is one, until it has been counted off; and while it is ending it waits.

use crate::sync::{Acquire, AtomicU32, AtomicUsize, Cell, Relaxed, Release, give_way};

/// What changes between two lives only; of a static family, never.
pub(super) struct Settled<T>(Cell<T>);

// SAFETY: G1: it is written by who has the heap to itself, before the life in which others read it.
unsafe impl<T: Sync + Send> Sync for Settled<T> {}

impl<T: Copy> Settled<T> {
    pub(super) const fn new(value: T) -> Self {
        Self(Cell::new(value))
    }

    /// The value, for who knows that the family lives.
    #[inline(always)]
    pub(super) fn get(&self) -> T {
        self.0.get()
    }

    /// Changes it.
    ///
    /// # Safety
    /// The caller has the heap to itself.
    pub(super) unsafe fn set(&self, value: T) {
        self.0.set(value);
    }
}

pub(super) struct Life {
    /// What the heap is, and its handles: see [`ALIVE`].
    state: AtomicUsize,
    generation: AtomicU32,
    /// Live blocks of an orphan that have not been counted off; so many that the count is at its end keep it for good.
    orphaned: AtomicU32,
}

/// Above the count of handles stands what they are handles of; nothing at all is a dead heap. Without
/// handles, it is ending.
const ALIVE: usize = 1 << (usize::BITS - 2);
const ORPHAN: usize = 1 << (usize::BITS - 1);
/// One of the handles is that of who looks after the house: in one word with the count, so that the
/// child of a fork, which does not have that thread, knows of it and ends it.
const LOOKED_AFTER: usize = 1 << (usize::BITS - 3);
const COUNT: usize = LOOKED_AFTER - 1;

/// What a heap is to somebody who has a live block of it, and no handle.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Standing {
    /// It is alive, and there is one handle more now.
    Alive,
    /// It is an orphan, for as long as the block is live.
    Orphan,
    /// It has ended: the block is not live.
    Dead,
}

impl Life {
    pub(super) const fn new() -> Self {
        Self { state: AtomicUsize::new(0), generation: AtomicU32::new(0), orphaned: AtomicU32::new(0) }
    }

    /// The generation of the next life. For whoever has the heap to itself; `None`: there are none left.
    pub(super) fn next_generation(&self) -> Option<u32> {
        // Relaxed: nobody else changes it (G1); published by `begin`.
        let generation = self.generation.load(Relaxed).checked_add(1)?;
        self.generation.store(generation, Relaxed);
        Some(generation)
    }

    /// Whether there is no generation left: the core serves nobody any more.
    pub(super) fn is_worn_out(&self) -> bool {
        self.generation.load(Relaxed) == u32::MAX
    }

    /// Begins a life with one handle. For whoever has the heap to itself.
    pub(super) fn begin(&self) {
        // Release: pairs with the Acquire in `hold_if`, which reads the generation.
        self.state.store(ALIVE | 1, Release);
    }

    /// Goes on as an orphan with so many live blocks. For whoever has the heap to itself.
    pub(super) fn orphan(&self, live: usize) {
        // Relaxed: published by the next line.
        self.orphaned.store(u32::try_from(live).unwrap_or(u32::MAX), Relaxed);
        // Release: pairs with the Acquires in `hold_if` and `hold_by_block`.
        self.state.store(ORPHAN | 1, Release);
    }

    /// Ends a life. For whoever has the heap to itself, and until now.
    pub(super) fn end(&self) {
        // Relaxed: the list of the dead publishes it, under its lock.
        self.state.store(0, Relaxed);
    }

    /// The generation that lives, or that lived last.
    pub(super) fn generation(&self) -> u32 {
        // Relaxed: of use to those who hold a handle (G1), and a hint to others.
        self.generation.load(Relaxed)
    }

    /// Whether the heap lives; a hint for who holds no handle.
    pub(super) fn is_alive(&self) -> bool {
        self.state.load(Relaxed) & COUNT != 0
    }

    /// Whether the heap is an orphan, for who holds a handle.
    pub(super) fn is_orphan(&self) -> bool {
        // Relaxed: it changes only while nobody holds a handle.
        self.state.load(Relaxed) & ORPHAN != 0
    }

    /// Whether somebody is ending it.
    #[cfg(all(unix, not(any(miri, loom))))]
    pub(super) fn is_ending(&self) -> bool {
        let state = self.state.load(Relaxed);
        state != 0 && state & COUNT == 0
    }

    /// One handle more, for who holds one.
    pub(super) fn hold(&self) {
        // Relaxed: who holds a handle sees all that there is to see.
        if self.state.fetch_add(1, Relaxed) & COUNT > COUNT / 2 {
            // Leaked clones must not bring the count round to 0.
            crate::fatal::end();
        }
    }

    /// One handle more, if this generation lives. On `Err` the caller may have come to hold the last
    /// handle of another one, and has ended it: `Err(true)`.
    pub(super) fn hold_if(&self, generation: u32) -> Result<(), bool> {
        self.hold_marked(generation, 0)
    }

    /// The same for who looks after the house, until [`end_look`](Self::end_look): one at a time.
    /// `Err(false)` also if another does.
    pub(super) fn hold_to_look(&self, generation: u32) -> Result<(), bool> {
        self.hold_marked(generation, LOOKED_AFTER)
    }

    #[inline(always)]
    fn hold_marked(&self, generation: u32, mark: usize) -> Result<(), bool> {
        let mut state = self.state.load(Relaxed);
        loop {
            if state & COUNT == 0 || state & mark != 0 {
                return Err(false);
            }
            // Acquire: pairs with the Releases in `begin` and `orphan`.
            match self.state.compare_exchange(state, state + (mark | 1), Acquire, Relaxed) {
                Ok(_) => break,
                Err(now) => state = now,
            }
        }
        if self.generation() == generation { Ok(()) } else { Err(self.end_marked(mark)) }
    }

    /// What the heap is to who has a live block of it (G3).
    #[inline]
    pub(super) fn hold_by_block(&self) -> Standing {
        let (mut state, mut waited) = (self.state.load(Relaxed), 0);
        loop {
            if state.wrapping_sub(ALIVE + 1) < ALIVE - 1 {
                // Acquire: pairs with the Release in `begin`.
                match self.state.compare_exchange(state, state + 1, Acquire, Relaxed) {
                    Ok(_) => return Standing::Alive,
                    Err(now) => state = now,
                }
                continue;
            }
            match self.standing_of(state, waited) {
                Some(standing) => return standing,
                None => (state, waited) = (self.state.load(Relaxed), waited.saturating_add(1)),
            }
        }
    }

    /// The rare part of [`hold_by_block`](Self::hold_by_block). `None`: somebody is ending the heap, and will find the block; the
    /// caller has waited so many times.
    #[cold]
    fn standing_of(&self, state: usize, waited: u32) -> Option<Standing> {
        if state == 0 {
            return Some(Standing::Dead);
        }
        if state & COUNT == 0 {
            give_way(waited);
            return None;
        }
        // Acquire: pairs with the Release in `orphan`; it stays one until the caller's block is counted off. A load, because
        // ThreadSanitizer knows no fences.
        let _orphan = self.state.load(Acquire);
        debug_assert_ne!(_orphan & ORPHAN, 0, "the caller's block keeps it (G3)");
        Some(Standing::Orphan)
    }

    /// Counts a block of an orphan off that was freed; whether it was the last. Then the handle of all of them
    /// is the caller's to end.
    pub(super) fn count_off(&self) -> bool {
        // Relaxed: set before the heap was an orphan, and then only counted down.
        if self.orphaned.load(Relaxed) == u32::MAX {
            return false;
        }
        // Release: what was done with this block comes before what is done by who ends the heap.
        if self.orphaned.fetch_sub(1, Release) != 1 {
            return false;
        }
        // Acquire: pairs with the Releases above, as in `end_one`.
        let _left = self.orphaned.load(Acquire);
        debug_assert_eq!(_left, 0, "each block is counted off once");
        true
    }

    /// Ends a handle; whether it was the last.
    #[inline]
    pub(super) fn end_one(&self) -> bool {
        self.end_marked(0)
    }

    /// Whether somebody looks after the house.
    pub(super) fn is_looked_after(&self) -> bool {
        // Relaxed: it only says that somebody does.
        self.state.load(Relaxed) & LOOKED_AFTER != 0
    }

    /// Ends the handle of who looks after the house; whether it was the last. Nothing is left to
    /// end where that thread was the one that forked, in the child: its handle ended there with
    /// those of the others.
    pub(super) fn end_look(&self) -> bool {
        self.is_looked_after() && self.end_marked(LOOKED_AFTER)
    }

    #[inline(always)]
    fn end_marked(&self, mark: usize) -> bool {
        // Release: what was done with this handle comes before what is done by who ends the last.
        if self.state.fetch_sub(mark | 1, Release) & COUNT != 1 {
            return false;
        }
        // Acquire: pairs with the Releases above. A load, because ThreadSanitizer knows no fences.
        let _ended = self.state.load(Acquire);
        debug_assert_eq!(_ended & COUNT, 0, "it is this thread's to end (G1)");
        true
    }
}
