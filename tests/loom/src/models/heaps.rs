//! A heap ends while threads have caches of it, and another begins in its place.

use core::alloc::Layout;
use core::ptr::NonNull;

use crate::checks::Checks;
use crate::family::{FamilyCore, HeapOptions, families, forget_all};
use crate::front::{Handle, allocate, deallocate};
use crate::magazine::{Cache, CacheSlot};
use crate::size_class::Classes;
use crate::sync::Sleep;
use crate::thread::heaps::{cache_of, last, slot_of};
use crate::world::{HALF, SLAB_BYTES, disown, explore, let_others_go_first, own, spawn};

/// A handle, as the crate's own: the cache that was used last, or what the table has.
#[derive(Clone, Copy)]
struct Lent(&'static FamilyCore);

// SAFETY: one heap's core, and what the calling thread has of it.
unsafe impl Handle for Lent {
    fn core(&self) -> &'static FamilyCore {
        self.0
    }

    fn slot(&self) -> &'static CacheSlot {
        // SAFETY: the calling thread's, which it does not leave.
        unsafe { &*slot_of(self.0) }
    }

    fn cache(&self) -> &'static Cache {
        let cache = last();
        if cache.heap() == self.0.heap_id() { cache } else { cache_of(self.0) }
    }

    fn checks(&self) -> Checks {
        Checks::Default
    }

    fn classes(&self) -> Classes {
        Classes::Natural
    }

    fn unit_shift(&self) -> u32 {
        self.0.unit_shift()
    }

    fn has_slots_of(&self, class: usize) -> bool {
        class < self.unit_shift() as usize
    }
}

fn begin(name: &'static str) -> &'static FamilyCore {
    let options = HeapOptions { slab_bytes: SLAB_BYTES, ..HeapOptions::DEFAULT };
    FamilyCore::begin_heap(name, &options).expect("there is memory")
}

fn layout() -> Layout {
    Layout::from_size_align(HALF.slot_bytes(), 1).expect("a layout")
}

/// An allocation and its free.
fn use_once(heap: &'static FamilyCore) {
    let memory = allocate(Lent(heap), layout()).expect("there is memory").cast::<u8>();
    own(memory.addr().get());
    disown(memory.addr().get());
    let memory = NonNull::new(core::ptr::with_exposed_provenance_mut(memory.as_ptr().expose_provenance()));
    // SAFETY: a live slot of this layout.
    unsafe { deallocate(Lent(heap), memory.expect("not null"), layout()) };
}

/// A thread ends with a cache of a heap whose last handle goes, and another heap begins meanwhile.
pub fn a_dead_heap_serves_nobody() {
    explore(Sleep::Lightly, || {
        forget_all();
        let heap = begin("one");
        heap.hold();
        let thread = spawn(move || {
            use_once(heap);
            heap.let_go();
        });
        heap.let_go();
        let next = begin("two");
        use_once(next);
        thread.join();
        assert_eq!((next.stats().live_allocations, next.stats().thread_caches), (0, 1));
        next.let_go();
        assert_eq!(families().count(), 0);
    });
}

/// Two threads use a heap, let it go, and use another, which may stand where the first one stood.
pub fn a_thread_goes_on_to_the_next_heap() {
    explore(Sleep::Lightly, || {
        forget_all();
        let heap = begin("one");
        heap.hold();
        let thread = spawn(move || {
            use_once(heap);
            heap.let_go();
            let next = begin("two");
            use_once(next);
            assert_eq!(next.stats().live_allocations, 0);
            next.let_go();
        });
        heap.let_go();
        thread.join();
        assert_eq!(families().count(), 0);
    });
}

/// A reference to a heap is used while that ends and another begins.
pub fn a_reference_finds_no_other_heap() {
    explore(Sleep::Lightly, || {
        forget_all();
        let heap = begin("one");
        let found = families().next().expect("it lives");
        let walker = spawn(move || {
            let_others_go_first();
            if let Some(held) = found.hold() {
                assert_eq!(held.heap_name(), "one");
            }
        });
        heap.let_go();
        let next = begin("two");
        walker.join();
        assert_eq!(next.heap_name(), "two");
        next.let_go();
        assert_eq!(families().count(), 0);
    });
}
