//! A heap ends while threads have caches of it, and another begins in its place.

use core::alloc::Layout;
use core::ptr::NonNull;

use crate::checks::Checks;
use crate::family::{FamilyCore, HeapOptions, Standing, families, forget_all, slot_of_none};
use crate::front::{Handle, allocate, deallocate};
use crate::magazine::{Cache, CacheSlot, empty};
use crate::size_class::Classes;
use crate::sync::{Sleep, look, touch};
use crate::thread::heaps::{cache_of, last, slot_of};
use crate::thread::scopes;
use crate::world::{HALF, QUARTER, SLAB_BYTES, disown, explore, let_others_go_first, own, spawn};

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
        let cache = last(Classes::Natural);
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

/// An orphan, as it is seen by who has a live block of it: without caches.
#[derive(Clone, Copy)]
struct Orphaned(&'static FamilyCore);

// SAFETY: one heap's core, and nothing else.
unsafe impl Handle for Orphaned {
    fn core(&self) -> &'static FamilyCore {
        self.0
    }

    fn slot(&self) -> &'static CacheSlot {
        // SAFETY: the calling thread's, which it does not leave.
        unsafe { &*slot_of_none() }
    }

    fn cache(&self) -> &'static Cache {
        empty()
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
    begin_within(name, HeapOptions::DEFAULT.limit)
}

/// A heap with a limit in bytes.
pub(super) fn begin_within(name: &'static str, limit: usize) -> &'static FamilyCore {
    let options = HeapOptions { slab_bytes: SLAB_BYTES, limit, ..HeapOptions::DEFAULT };
    FamilyCore::begin_heap(name, &options).expect("there is memory")
}

fn layout() -> Layout {
    Layout::from_size_align(HALF.slot_bytes(), 1).expect("a layout")
}

/// A slot that its thread owns from now on.
fn take(heap: &'static FamilyCore) -> usize {
    let memory = allocate(Lent(heap), layout()).expect("there is memory").cast::<u8>();
    own(memory.addr().get());
    memory.as_ptr().expose_provenance()
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

/// The address of what is done before the last handle goes: no memory, and nobody else's.
const LAST_DONE: usize = 8;

/// Frees a block as a global allocator does, which has no handle of its heap.
fn free_without_handle(heap: &'static FamilyCore, address: usize) {
    let memory = NonNull::new(core::ptr::with_exposed_provenance_mut(address)).expect("a slot");
    disown(address);
    match heap.hold_by_block() {
        Standing::Alive => {
            // SAFETY: a live slot of this layout, and the heap is held.
            unsafe { deallocate(Lent(heap), memory, layout()) };
            heap.let_go();
        }
        Standing::Orphan => {
            look(LAST_DONE);
            // SAFETY: a live slot of this layout, which keeps the orphan.
            unsafe { deallocate(Orphaned(heap), memory, layout()) };
            heap.count_off();
        }
        Standing::Dead => panic!("a live block's heap has ended"),
    }
}

/// The same, where the thread has a cache of the heap, which takes the block if the heap is alive.
fn free_in_cache(heap: &'static FamilyCore, address: usize) {
    let cache = scopes::owner(heap.number());
    if cache.heap() == heap.heap_id() {
        disown(address);
        if cache.take_back(cache.telling_tag(address), HALF, address) {
            return;
        }
        own(address);
    }
    free_without_handle(heap, address);
}

/// A thread that has let its handle go frees a block into its cache while the last handle goes, and another heap begins.
pub fn a_cache_takes_a_block_or_the_heap_ends() {
    explore(Sleep::Lightly, || {
        forget_all();
        let heap = begin("one");
        heap.hold();
        let address = take(heap);
        let thread = spawn(move || {
            use_once(heap);
            heap.let_go();
            free_in_cache(heap, address);
        });
        heap.let_go();
        let next = begin("two");
        use_once(next);
        thread.join();
        assert_eq!(next.stats().live_allocations, 0);
        next.let_go();
        assert_eq!(families().count(), 0);
    });
}

/// The last handle of a heap goes while another thread frees what is live in it, and another heap begins.
pub fn an_orphan_ends_with_its_last_block() {
    explore(Sleep::Lightly, || {
        forget_all();
        let heap = begin("one");
        let address = take(heap);
        let thread = spawn(move || free_without_handle(heap, address));
        heap.let_go();
        let next = begin("two");
        use_once(next);
        thread.join();
        assert_eq!(next.stats().live_allocations, 0);
        next.let_go();
        assert_eq!(families().count(), 0);
    });
}

/// A heap's depots come with its second cache, while the thread that has the first works with its bins.
pub fn depots_come_while_a_heap_is_used() {
    explore(Sleep::Lightly, || {
        forget_all();
        let heap = begin("one");
        use_once(heap);
        let thread = spawn(move || use_once(heap));
        let_others_go_first();
        let (slot, _) = heap.take_one(QUARTER).expect("there is memory");
        // SAFETY: taken above. A batch of the class is one slot, so it goes to the depot if there is one.
        unsafe { heap.give_one(QUARTER, slot) };
        thread.join();
        assert_eq!(heap.stats().live_allocations, 0);
        heap.let_go();
    });
}

/// What was done with the last handle is seen by who is told that the heap is an orphan. Nobody has a cache: changes of one publish more.
pub fn an_orphan_comes_after_its_last_handle() {
    explore(Sleep::Lightly, || {
        forget_all();
        let heap = begin("one");
        let (address, _) = heap.take_one(HALF).expect("there is memory");
        own(address);
        let thread = spawn(move || free_without_handle(heap, address));
        touch(LAST_DONE);
        heap.let_go();
        thread.join();
        assert_eq!(families().count(), 0);
    });
}

/// Two threads free the two blocks of an orphan: one of them ends it, and both are back.
pub fn two_threads_end_an_orphan() {
    explore(Sleep::Lightly, || {
        forget_all();
        let heap = begin("one");
        let (first, second) = (take(heap), take(heap));
        heap.let_go();
        let found = families().next().expect("an orphan is listed");
        assert!(found.is_orphan());
        let thread = spawn(move || free_without_handle(heap, first));
        free_without_handle(heap, second);
        thread.join();
        assert_eq!(families().count(), 0);
    });
}
