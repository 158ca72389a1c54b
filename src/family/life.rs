//! How long a heap lives: its handles are counted, and its memory serves another heap after its
//! death, under another generation.
//!
//! ```text
//!           begin            last one dropped              begin
//!   dead ──────────► alive ──────────────────► ended ──► dead ──────────► alive, next generation
//!   0 handles        1 or more                 0 handles                  1 or more
//! ```
//!
//! **G1** While somebody holds one of the handles, the generation stays as it is. Who ends the last one
//! is told so, and has the heap to itself until the next `begin`, but for what is under locks. **G2** No
//! generation comes twice: what knows a heap by number and generation never finds another.

use crate::sync::{Acquire, AtomicU32, AtomicUsize, Cell, Relaxed, Release};

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
    handles: AtomicUsize,
    generation: AtomicU32,
}

impl Life {
    pub(super) const fn new() -> Self {
        Self { handles: AtomicUsize::new(0), generation: AtomicU32::new(0) }
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

    /// Begins a life, or goes on with one that has just ended, with one handle. For whoever has the heap
    /// to itself.
    pub(super) fn begin(&self) {
        // Release: pairs with the Acquire in `hold_if`, which reads the generation.
        self.handles.store(1, Release);
    }

    /// The generation that lives, or that lived last.
    pub(super) fn generation(&self) -> u32 {
        // Relaxed: of use to those who hold a handle (G1), and a hint to others.
        self.generation.load(Relaxed)
    }

    /// Whether the heap lives; a hint for who holds no handle.
    pub(super) fn is_alive(&self) -> bool {
        self.handles.load(Relaxed) != 0
    }

    /// One handle more, for who holds one.
    pub(super) fn hold(&self) {
        // Relaxed: who holds a handle sees all that there is to see.
        if self.handles.fetch_add(1, Relaxed) > isize::MAX as usize {
            // Leaked clones must not bring the count round to 0.
            crate::fatal::end();
        }
    }

    /// One handle more, if this generation lives. On `Err` the caller may have come to hold the last
    /// handle of another one, and has ended it: `Err(true)`.
    pub(super) fn hold_if(&self, generation: u32) -> Result<(), bool> {
        let mut handles = self.handles.load(Relaxed);
        loop {
            if handles == 0 {
                return Err(false);
            }
            // Acquire: pairs with the Release in `begin`.
            match self.handles.compare_exchange(handles, handles + 1, Acquire, Relaxed) {
                Ok(_) => break,
                Err(now) => handles = now,
            }
        }
        if self.generation() == generation { Ok(()) } else { Err(self.end_one()) }
    }

    /// Ends a handle; whether it was the last.
    pub(super) fn end_one(&self) -> bool {
        // Release: what was done with this handle comes before what is done by who ends the last.
        if self.handles.fetch_sub(1, Release) != 1 {
            return false;
        }
        // Acquire: pairs with the Releases above. A load, because ThreadSanitizer knows no fences.
        self.handles.load(Acquire) == 0
    }
}
