//! Heaps that are mixed up, that have ended, and that are reset while something of them is used.

use std::mem::ManuallyDrop;
use std::ptr::NonNull;

use allocator_api2::alloc::Allocator;
use family_alloc::{Box, Checks, Classes, Heap};

use crate::common::doors::{longest_slot, slot_bytes};
use crate::subject::{NOT_FOUND, NOTHING, OR, SIGSEGV, Subject, Try, bytes, expect, write};
use crate::twice::on_thread;

/// Bytes of a heap's slabs.
const SLAB_BYTES: usize = 2 << 20;
/// What is said of an address in no slab.
pub(crate) const NOBODYS: &str = "no family has allocated it";

/// The heaps of a case: in its mode, with natural or spaced classes.
#[derive(Clone, Copy)]
pub(crate) struct Kind {
    checks: Checks,
    classes: Classes,
}

impl Kind {
    pub(crate) fn natural<F: Subject>() -> Self {
        Self { checks: F::CHECKS, classes: Classes::Natural }
    }

    pub(crate) fn spaced<F: Subject>() -> Self {
        Self { checks: F::CHECKS, classes: Classes::Spaced }
    }

    pub(crate) fn heap(self, name: &str) -> Heap {
        let builder = Heap::builder(name).checks(self.checks).classes(self.classes);
        builder.slab_bytes(SLAB_BYTES).build().expect("there is memory")
    }

    fn is_large(self, size: usize) -> bool {
        size > longest_slot(self.classes, SLAB_BYTES)
    }

    pub(crate) fn slot_bytes(self, size: usize) -> usize {
        let least = if matches!(self.checks, Checks::Default) { 1 } else { 16 };
        slot_bytes(self.classes, bytes(size), least)
    }

    pub(crate) fn class(self, size: usize) -> String {
        if self.is_large(size) { "large".to_owned() } else { format!("{}-byte class", self.slot_bytes(size)) }
    }

    /// The line of a free that is none.
    pub(crate) fn invalid(self, address: usize, size: usize, name: &str, truth: &str) -> String {
        let class = self.class(size);
        format!("family_alloc: invalid free of {address:#x} (size {size}, {class}, family {name}): {truth}")
    }

    /// Whose an allocation of a heap is.
    pub(crate) fn truth(self, address: usize, size: usize, name: &str) -> String {
        if self.is_large(size) {
            let bytes = size.next_multiple_of(4096);
            format!("it lies in the large allocation of {bytes} bytes at {address:#x} of family {name}")
        } else {
            format!("it belongs to the {} of family {name}", self.class(size))
        }
    }

    fn double(self, address: usize, size: usize, name: &str) -> String {
        format!("family_alloc: double free of {address:#x} (size {size}, {}, family {name})", self.class(size))
    }

    /// What was freed before its heap ended: where large ones are mapped singly, as in hardened heaps, it is known that they were.
    fn expect_freed(self, address: usize, size: usize, name: &str) {
        let is_single = self.checks == Checks::Hardened || cfg!(any(feature = "portable", not(any(unix, windows))));
        let is_known = self.is_large(size) && is_single;
        let (double, invalid) = (self.double(address, size, name), self.invalid(address, size, name, NOBODYS));
        expect(if is_known { &double } else { &invalid });
    }
}

fn allocate(heap: &Heap, size: usize) -> usize {
    heap.allocate(bytes(size)).expect("there is memory").cast::<u8>().as_ptr().expose_provenance()
}

pub(crate) fn free(heap: &Heap, address: usize, size: usize) {
    let memory = NonNull::new(std::ptr::with_exposed_provenance_mut(address)).expect("not null");
    // SAFETY: a case breaks the contract on purpose.
    unsafe { heap.deallocate(memory, bytes(size)) };
}

/// A second handle that the heap does not count.
fn uncounted(heap: &Heap) -> ManuallyDrop<Heap> {
    // SAFETY: never dropped; that it is used after the end of the heap is the misuse.
    ManuallyDrop::new(unsafe { std::ptr::read(heap) })
}

fn wrong_heap(kind: Kind, size: usize) {
    let (one, two) = (kind.heap("one"), kind.heap("two"));
    let address = allocate(&one, size);
    expect(&kind.invalid(address, size, "two", &kind.truth(address, size, "one")));
    free(&two, address, size);
}

case!(heap_wrong_heap, |t| {
    wrong_heap(Kind::natural::<F>(), t.size);
});

case!(spaced_heap_wrong_heap, |t| {
    wrong_heap(Kind::spaced::<F>(), t.size);
});

// The same size in a heap with the other classes, of which most have other slots.
case!(spaced_heap_freed_to_a_natural_one, |t| {
    let (spaced, natural) = (Kind::spaced::<F>(), Kind::natural::<F>());
    let (one, two) = (spaced.heap("one"), natural.heap("two"));
    let address = allocate(&one, t.size);
    expect(&natural.invalid(address, t.size, "two", &spaced.truth(address, t.size, "one")));
    free(&two, address, t.size);
});

case!(heap_wrong_heap_from_remote_thread, |t| {
    let kind = Kind::natural::<F>();
    let (one, two) = (kind.heap("one"), kind.heap("two"));
    let address = allocate(&one, t.size);
    expect(&kind.invalid(address, t.size, "two", &kind.truth(address, t.size, "one")));
    on_thread(move || free(&two, address, t.size));
});

case!(heap_freed_to_a_family, |t| {
    let kind = Kind::natural::<F>();
    let one = kind.heap("one");
    let address = allocate(&one, t.size);
    t.expect_invalid(address, bytes(t.size), &kind.truth(address, t.size, "one"));
    t.free(address);
});

// The heap has ended, and somebody still has a handle that was never counted. After so many pairs the thread has a cache of the heap,
// with the block in it.
fn dead_handle_free(kind: Kind, size: usize, pairs: usize) {
    let one = kind.heap("one");
    (0..pairs).for_each(|_| free(&one, allocate(&one, size), size));
    let address = allocate(&one, size);
    let dead = uncounted(&one);
    free(&one, address, size);
    drop(one);
    kind.expect_freed(address, size, "");
    free(&dead, address, size);
}

case!(heap_dead_handle_free, |t| {
    dead_handle_free(Kind::natural::<F>(), t.size, 0);
});

case!(spaced_heap_dead_handle_free, |t| {
    dead_handle_free(Kind::spaced::<F>(), t.size, 0);
});

case!(heap_dead_handle_free_with_a_cache, |t| {
    dead_handle_free(Kind::natural::<F>(), t.size, 200);
});

case!(spaced_heap_dead_handle_free_with_a_cache, |t| {
    dead_handle_free(Kind::spaced::<F>(), t.size, 200);
});

// Another heap lives where the first one lived.
fn stale_generation_free(kind: Kind, size: usize) {
    let one = kind.heap("one");
    let address = allocate(&one, size);
    free(&one, address, size);
    drop(one);
    let two = kind.heap("two");
    kind.expect_freed(address, size, "two");
    free(&two, address, size);
}

case!(heap_stale_generation_free, |t| {
    stale_generation_free(Kind::natural::<F>(), t.size);
});

case!(spaced_heap_stale_generation_free, |t| {
    stale_generation_free(Kind::spaced::<F>(), t.size);
});

// No misuse: the block holds a handle, and whichever thread is last ends the heap.
fn drop_racing_remote_free(kind: Kind, size: usize) {
    expect(NOTHING);
    for round in 0..50_u8 {
        let one = kind.heap("one");
        let mut block = family_alloc::Vec::with_capacity_in(size, one.clone());
        block.resize(size, round);
        let other = std::thread::spawn(move || {
            assert!(block.iter().all(|byte| *byte == round));
            drop(block);
        });
        drop(one);
        other.join().expect("no panic");
    }
    assert!(family_alloc::families().all(|family| family.name() != "one"), "a heap is left");
    drop(Box::new_in(1, kind.heap("two")));
}

case!(heap_drop_racing_remote_free, |t| {
    drop_racing_remote_free(Kind::natural::<F>(), t.size);
});

case!(spaced_heap_drop_racing_remote_free, |t| {
    drop_racing_remote_free(Kind::spaced::<F>(), t.size);
});

fn free_after_reset(kind: Kind, size: usize) {
    let one = kind.heap("one");
    let address = allocate(&one, size);
    // SAFETY: that the block is freed afterwards is the misuse.
    unsafe { one.reset() };
    // What is large was freed by itself, and is remembered.
    let (double, invalid) = (kind.double(address, size, "one"), kind.invalid(address, size, "one", NOBODYS));
    expect(if kind.is_large(size) { &double } else { &invalid });
    free(&one, address, size);
}

case!(heap_free_after_reset, |t| {
    free_after_reset(Kind::natural::<F>(), t.size);
});

case!(spaced_heap_free_after_reset, |t| {
    free_after_reset(Kind::spaced::<F>(), t.size);
});

// Somebody still writes to what a reset has freed, and the slot is handed out.
fn written_after_reset(kind: Kind, size: usize) {
    let one = kind.heap("one");
    let address = allocate(&one, size);
    // SAFETY: that the block is used afterwards is the misuse.
    unsafe { one.reset() };
    let line =
        format!("family_alloc: write after free of {address:#x} ({}, family one): at offset 5", kind.class(size));
    expect(&match kind.checks {
        Checks::Hardened => [line.as_str(), SIGSEGV].join(OR),
        Checks::Checked => NOTHING.to_owned(),
        _ => NOT_FOUND.to_owned(),
    });
    write(address + 5, 0x41);
    // In a hardened heap slots come in any order, and some wait until others are freed.
    for _ in 0..20 {
        let slots: Vec<usize> =
            (0..(3 << 20) / size.next_power_of_two().max(16)).map(|_| allocate(&one, size)).collect();
        slots.into_iter().for_each(|slot| free(&one, slot, size));
    }
}

case!(heap_written_after_reset, |t| {
    written_after_reset(Kind::natural::<F>(), t.size);
});

case!(spaced_heap_written_after_reset, |t| {
    written_after_reset(Kind::spaced::<F>(), t.size);
});

// No misuse: any size of the class says which slot it is.
case!(spaced_heap_size_within_the_class, |t| {
    expect(NOTHING);
    let kind = Kind::spaced::<F>();
    let one = kind.heap("one");
    let slot_bytes = kind.slot_bytes(t.size);
    let least = (1..=slot_bytes).rev().take_while(|&size| kind.slot_bytes(size) == slot_bytes).last();
    for size in [slot_bytes, least.expect("the slot's own size is one")] {
        free(&one, allocate(&one, t.size), size);
    }
    assert_eq!(one.stats().live_allocations, 0);
});

// One byte more than the slot has: the next class.
case!(spaced_heap_size_of_the_next_class, |t| {
    let kind = Kind::spaced::<F>();
    let one = kind.heap("one");
    let address = allocate(&one, t.size);
    let wrong = kind.slot_bytes(t.size) + 1;
    expect(&kind.invalid(address, wrong, "one", &kind.truth(address, t.size, "one")));
    free(&one, address, wrong);
});

case!(spaced_heap_size_of_a_shorter_class, |t| {
    let kind = Kind::spaced::<F>();
    let one = kind.heap("one");
    let address = allocate(&one, t.size);
    let wrong = t.size / 2;
    if kind.class(wrong) == kind.class(t.size) {
        // Not where all shorter sizes have this slot.
        expect(NOTHING);
        return free(&one, address, t.size);
    }
    expect(&kind.invalid(address, wrong, "one", &kind.truth(address, t.size, "one")));
    free(&one, address, wrong);
});
