//! Where the memory of a local heap comes from: a family or a heap, any of them, and how much it has given.

use core::alloc::Layout;
use core::ptr::NonNull;

use crate::checks::Checks;
use crate::family::FamilyCore;
use crate::front::{self, Family, Handle};
use crate::magazine::{Cache, CacheSlot};
use crate::size_class::Classes;
use crate::sync::Cell;
use crate::thread::heaps::{cache_of, slot_of};

crate::family! {
    /// What local heaps without a parent have their memory from.
    pub(super) struct LocalHeaps { classes: Spaced, cache_bytes: 1 << 20 }
}

/// The core of a static family, or of a heap of which a handle is held.
#[derive(Clone, Copy)]
pub(super) struct Source(&'static FamilyCore);

// SAFETY: the core of one family; the slot is the one that the calling thread has of it, or one without
// a cache.
unsafe impl Handle for Source {
    fn core(&self) -> &'static FamilyCore {
        self.0
    }

    fn slot(&self) -> &'static CacheSlot {
        if self.0.is_heap() {
            // SAFETY: the calling thread's, which lives as long as the thread; it does not leave it.
            unsafe { &*slot_of(self.0) }
        } else {
            self.0.slot()
        }
    }

    fn cache(&self) -> &'static Cache {
        if self.0.is_heap() { cache_of(self.0) } else { self.slot().get(self.0.class_count()) }
    }

    fn checks(&self) -> Checks {
        self.0.checks()
    }

    fn classes(&self) -> Classes {
        self.0.classes()
    }

    fn unit_shift(&self) -> u32 {
        self.0.unit_shift()
    }

    fn has_slots_of(&self, class: usize) -> bool {
        class <= self.classes().largest(1 << self.unit_shift())
    }
}

impl Source {
    /// The family of all local heaps without a parent.
    pub(super) fn shared() -> Self {
        Self(LocalHeaps::__core())
    }

    /// A family, or a heap that lives, as parent.
    pub(super) fn of(core: &'static FamilyCore) -> Self {
        Self(core)
    }
}

/// A source, how much it has given, and how much it may give. Holds a handle of the source, if that is a heap.
pub(super) struct Supply {
    source: Source,
    held_bytes: Cell<usize>,
    limit: usize,
}

impl Supply {
    pub(super) fn new(source: Source, limit: usize) -> Self {
        source.0.hold();
        Self { source, held_bytes: Cell::new(0), limit }
    }

    pub(super) fn core(&self) -> &'static FamilyCore {
        self.source.0
    }

    pub(super) fn held_bytes(&self) -> usize {
        self.held_bytes.get()
    }

    /// The longest chunk that is a slot of the source.
    pub(super) fn longest_slot(&self) -> usize {
        let classes = self.source.classes();
        classes.class(classes.largest(1 << self.source.unit_shift())).slot_bytes()
    }

    fn has_room(&self, bytes: usize) -> bool {
        bytes <= self.limit.saturating_sub(self.held_bytes.get())
    }

    /// Takes memory for a layout of at least one byte. `None`: out of memory, or at the limit.
    pub(super) fn take(&self, layout: Layout, want_zero: bool) -> Option<NonNull<u8>> {
        if !self.has_room(layout.size()) {
            return None;
        }
        let memory =
            if want_zero { front::allocate_zeroed(self.source, layout) } else { front::allocate(self.source, layout) }?;
        self.held_bytes.set(self.held_bytes.get() + layout.size());
        Some(memory.cast())
    }

    /// Gives memory back.
    ///
    /// # Safety
    /// Taken from here with this layout, and nobody uses it any more.
    pub(super) unsafe fn give(&self, memory: NonNull<u8>, layout: Layout) {
        self.held_bytes.set(self.held_bytes.get() - layout.size());
        // SAFETY: the same contract.
        unsafe { front::deallocate(self.source, memory, layout) };
    }

    /// Makes memory fit another layout; what fits both stays. `None`: out of memory, or at the limit; it is as it was.
    ///
    /// # Safety
    /// Taken from here with the layout `old`.
    pub(super) unsafe fn resize(&self, memory: NonNull<u8>, old: Layout, new: Layout) -> Option<NonNull<u8>> {
        if new.size() > old.size() && !self.has_room(new.size() - old.size()) {
            return None;
        }
        let resized = if new.size() >= old.size() {
            // SAFETY: the same contract, and the order of the sizes was just tested.
            unsafe { front::grow(self.source, memory, old, new) }
        } else {
            // SAFETY: as above, with the other order.
            unsafe { front::shrink(self.source, memory, old, new) }
        }?;
        self.held_bytes.set(self.held_bytes.get() - old.size() + new.size());
        Some(resized.cast())
    }

    /// Whether a slab of the source holds an address.
    #[cfg(debug_assertions)]
    pub(super) fn may_hold(&self, address: usize) -> bool {
        self.source.0.has_slab_at(address)
    }
}

impl Drop for Supply {
    fn drop(&mut self) {
        self.source.0.let_go();
    }
}
