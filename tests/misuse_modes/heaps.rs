//! Heaps that are mixed up, that have ended, and that are reset while something of them is used.

use std::mem::ManuallyDrop;
use std::ptr::NonNull;

use allocator_api2::alloc::Allocator;
use family_alloc::{Box, Checks, Heap};

use crate::common::doors::slot_bytes;
use crate::subject::{NOT_FOUND, NOTHING, OR, SIGSEGV, Subject, Try, bytes, expect, write};
use crate::twice::on_thread;

/// The longest slot of a heap here.
const LONGEST: usize = 1 << 20;
/// What is said of an address in no slab.
pub(crate) const NOBODYS: &str = "no family has allocated it";

/// A heap in the mode of the case.
pub(crate) fn heap(checks: Checks, name: &str) -> Heap {
    Heap::builder(name).checks(checks).slab_bytes(2 << 20).build().expect("there is memory")
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

pub(crate) fn class<F: Subject>(size: usize) -> String {
    let least = if F::CHECKS == Checks::Default { 1 } else { 16 };
    let slot = slot_bytes(family_alloc::Classes::Natural, bytes(size), least);
    if size > LONGEST { "large".to_owned() } else { format!("{slot}-byte class") }
}

/// The line of a free that is none.
pub(crate) fn invalid<F: Subject>(address: usize, size: usize, name: &str, truth: &str) -> String {
    format!("family_alloc: invalid free of {address:#x} (size {size}, {}, family {name}): {truth}", class::<F>(size))
}

/// Whose an allocation of a heap is.
pub(crate) fn truth<F: Subject>(address: usize, size: usize, name: &str) -> String {
    if size > LONGEST {
        format!(
            "it lies in the large allocation of {} bytes at {address:#x} of family {name}",
            size.next_multiple_of(4096)
        )
    } else {
        format!("it belongs to the {} of family {name}", class::<F>(size))
    }
}

fn double<F: Subject>(address: usize, size: usize, name: &str) -> String {
    format!("family_alloc: double free of {address:#x} (size {size}, {}, family {name})", class::<F>(size))
}

/// What was freed before its heap ended: where large ones are mapped singly, as in hardened heaps, it is known that they were.
fn expect_freed<F: Subject>(address: usize, size: usize, name: &str) {
    let is_single = F::CHECKS == Checks::Hardened || cfg!(any(feature = "portable", not(any(unix, windows))));
    let is_known = size > LONGEST && is_single;
    expect(&if is_known { double::<F>(address, size, name) } else { invalid::<F>(address, size, name, NOBODYS) });
}

case!(heap_wrong_heap, |t| {
    let (one, two) = (heap(F::CHECKS, "one"), heap(F::CHECKS, "two"));
    let address = allocate(&one, t.size);
    expect(&invalid::<F>(address, t.size, "two", &truth::<F>(address, t.size, "one")));
    free(&two, address, t.size);
});

case!(heap_wrong_heap_from_remote_thread, |t| {
    let (one, two) = (heap(F::CHECKS, "one"), heap(F::CHECKS, "two"));
    let address = allocate(&one, t.size);
    expect(&invalid::<F>(address, t.size, "two", &truth::<F>(address, t.size, "one")));
    on_thread(move || free(&two, address, t.size));
});

case!(heap_freed_to_a_family, |t| {
    let one = heap(F::CHECKS, "one");
    let address = allocate(&one, t.size);
    t.expect_invalid(address, bytes(t.size), &truth::<F>(address, t.size, "one"));
    t.free(address);
});

// The heap has ended, and somebody still has a handle that was never counted.
case!(heap_dead_handle_free, |t| {
    let one = heap(F::CHECKS, "one");
    let address = allocate(&one, t.size);
    let dead = uncounted(&one);
    free(&one, address, t.size);
    drop(one);
    expect_freed::<F>(address, t.size, "");
    free(&dead, address, t.size);
});

// Another heap lives where the first one lived.
case!(heap_stale_generation_free, |t| {
    let one = heap(F::CHECKS, "one");
    let address = allocate(&one, t.size);
    free(&one, address, t.size);
    drop(one);
    let two = heap(F::CHECKS, "two");
    expect_freed::<F>(address, t.size, "two");
    free(&two, address, t.size);
});

// No misuse: the block holds a handle, and whichever thread is last ends the heap.
case!(heap_drop_racing_remote_free, |t| {
    expect(NOTHING);
    for round in 0..50_u8 {
        let one = heap(F::CHECKS, "one");
        let mut block = family_alloc::Vec::with_capacity_in(t.size, one.clone());
        block.resize(t.size, round);
        let other = std::thread::spawn(move || {
            assert!(block.iter().all(|byte| *byte == round));
            drop(block);
        });
        drop(one);
        other.join().expect("no panic");
    }
    assert!(family_alloc::families().all(|family| family.name() != "one"), "a heap is left");
    drop(Box::new_in(1, heap(F::CHECKS, "two")));
});

case!(heap_free_after_reset, |t| {
    let one = heap(F::CHECKS, "one");
    let address = allocate(&one, t.size);
    // SAFETY: that the block is freed afterwards is the misuse.
    unsafe { one.reset() };
    // What is large was freed by itself, and is remembered.
    expect(&if t.size > LONGEST {
        double::<F>(address, t.size, "one")
    } else {
        invalid::<F>(address, t.size, "one", NOBODYS)
    });
    free(&one, address, t.size);
});

// Somebody still writes to what a reset has freed, and the slot is handed out.
case!(heap_written_after_reset, |t| {
    let one = heap(F::CHECKS, "one");
    let address = allocate(&one, t.size);
    // SAFETY: that the block is used afterwards is the misuse.
    unsafe { one.reset() };
    let line =
        format!("family_alloc: write after free of {address:#x} ({}, family one): at offset 5", class::<F>(t.size));
    expect(&match F::CHECKS {
        Checks::Hardened => [line.as_str(), SIGSEGV].join(OR),
        Checks::Checked => NOTHING.to_owned(),
        _ => NOT_FOUND.to_owned(),
    });
    write(address + 5, 0x41);
    // In a hardened heap slots come in any order, and some wait until others are freed.
    for _ in 0..20 {
        let slots: Vec<usize> =
            (0..(3 << 20) / t.size.next_power_of_two().max(16)).map(|_| allocate(&one, t.size)).collect();
        slots.into_iter().for_each(|slot| free(&one, slot, t.size));
    }
});
