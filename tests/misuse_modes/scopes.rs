//! Scopes that are misused: blocks freed twice and wrongly through a global allocator that finds their owners, and guards that are
//! forgotten, or dropped in another order.

use std::alloc::GlobalAlloc;

use family_alloc::{Checks, Heap, Scoped, current_scope, families};

use crate::heaps::{Kind, NOBODYS};
use crate::subject::{NOT_FOUND, NOTHING, Subject, Try, bytes, expect};
use crate::twice::on_thread;

fn allocate<Home: Subject>(size: usize) -> usize {
    // SAFETY: no size here is 0.
    let memory = unsafe { Scoped::<Home>::new().alloc(bytes(size)) };
    assert!(!memory.is_null());
    memory.expose_provenance()
}

fn free<Home: Subject>(address: usize, size: usize) {
    let memory = std::ptr::with_exposed_provenance_mut(address);
    // SAFETY: a case breaks the contract on purpose.
    unsafe { Scoped::<Home>::new().dealloc(memory, bytes(size)) }
}

/// What is said of a slot of heap `one` that was freed already; another of its slab is live.
fn expect_double<F: Subject>(kind: Kind, address: usize, size: usize) {
    match F::CHECKS {
        Checks::Default | Checks::Unchecked => expect(NOT_FOUND),
        _ => expect(&format!("family_alloc: double free of {address:#x} ({}, family one)", kind.class(size))),
    }
}

case!(scope_double_free_outside, |t| {
    let one = Kind::natural::<F>().heap("one");
    let (address, _keep) = one.scope(|| (allocate::<F>(t.size), allocate::<F>(t.size)));
    free::<F>(address, t.size);
    expect_double::<F>(Kind::natural::<F>(), address, t.size);
    free::<F>(address, t.size);
});

// A thread that is in the scope of another heap frees it a second time.
case!(scope_double_free_in_another_scope, |t| {
    let (one, two) = (Kind::natural::<F>().heap("one"), Kind::natural::<F>().heap("two"));
    let (address, _keep) = one.scope(|| (allocate::<F>(t.size), allocate::<F>(t.size)));
    one.scope(|| free::<F>(address, t.size));
    expect_double::<F>(Kind::natural::<F>(), address, t.size);
    two.scope(|| free::<F>(address, t.size));
});

case!(scope_double_free_on_remote_thread, |t| {
    let one = Kind::natural::<F>().heap("one");
    let (address, _keep) = one.scope(|| (allocate::<F>(t.size), allocate::<F>(t.size)));
    one.scope(|| free::<F>(address, t.size));
    expect_double::<F>(Kind::natural::<F>(), address, t.size);
    on_thread(move || free::<F>(address, t.size));
});

case!(scope_free_after_heap_end, |t| {
    let one = Kind::natural::<F>().heap("one");
    let address = one.scope(|| allocate::<F>(t.size));
    drop(one);
    free::<F>(address, t.size);
    // It was the orphan's last block: nobody's any more, which the home says.
    t.expect_invalid(address, bytes(t.size), NOBODYS);
    free::<F>(address, t.size);
});

// It is still live when the heap's handle goes: it comes back to the orphan, once.
case!(scope_double_free_in_orphan, |t| {
    let one = Kind::natural::<F>().heap("one");
    let (address, _keep) = one.scope(|| (allocate::<F>(t.size), allocate::<F>(t.size)));
    drop(one);
    free::<F>(address, t.size);
    expect_double::<F>(Kind::natural::<F>(), address, t.size);
    free::<F>(address, t.size);
});

// Another class than it was allocated in: its own heap says so, whichever scope the thread is in.
fn free_of_wrong_class<F: Subject>(kind: Kind, size: usize, wrong: usize) {
    let (one, two) = (kind.heap("one"), kind.heap("two"));
    let address = one.scope(|| allocate::<F>(size));
    if kind.class(wrong) == kind.class(size) {
        // Not where slots have sixteen bytes at least.
        expect(NOTHING);
        return two.scope(|| free::<F>(address, size));
    }
    expect(&kind.invalid(address, wrong, "one", &kind.truth(address, size, "one")));
    two.scope(|| free::<F>(address, wrong));
}

case!(scope_free_of_wrong_class, |t| {
    free_of_wrong_class::<F>(Kind::natural::<F>(), t.size, t.size / 8);
});

// The next class, which for some sizes has the index that the right one has among natural classes. The threads' caches are there.
case!(spaced_scope_free_of_wrong_class, |t| {
    let kind = Kind::spaced::<F>();
    let (one, two) = (kind.heap("one"), kind.heap("two"));
    for heap in [&one, &two] {
        heap.scope(|| (0..200).for_each(|_| free::<F>(allocate::<F>(t.size), t.size)));
    }
    let address = one.scope(|| allocate::<F>(t.size));
    let wrong = kind.slot_bytes(t.size) + 1;
    expect(&kind.invalid(address, wrong, "one", &kind.truth(address, t.size, "one")));
    two.scope(|| free::<F>(address, wrong));
});

case!(spaced_scope_own_free_of_wrong_class, |t| {
    let kind = Kind::spaced::<F>();
    let one = kind.heap("one");
    one.scope(|| {
        (0..200).for_each(|_| free::<F>(allocate::<F>(t.size), t.size));
        let address = allocate::<F>(t.size);
        let wrong = kind.slot_bytes(t.size) + 1;
        expect(&kind.invalid(address, wrong, "one", &kind.truth(address, t.size, "one")));
        free::<F>(address, wrong);
    });
});

case!(spaced_scope_double_free_in_another_scope, |t| {
    let kind = Kind::spaced::<F>();
    let (one, two) = (kind.heap("one"), kind.heap("two"));
    let (address, _keep) = one.scope(|| (allocate::<F>(t.size), allocate::<F>(t.size)));
    one.scope(|| free::<F>(address, t.size));
    expect_double::<F>(kind, address, t.size);
    two.scope(|| free::<F>(address, t.size));
});

// It was the orphan's last block: nobody's any more, which the home says.
case!(spaced_scope_free_after_heap_end, |t| {
    let one = Kind::spaced::<F>().heap("one");
    let address = one.scope(|| {
        (0..200).for_each(|_| free::<F>(allocate::<F>(t.size), t.size));
        allocate::<F>(t.size)
    });
    drop(one);
    free::<F>(address, t.size);
    t.expect_invalid(address, bytes(t.size), NOBODYS);
    free::<F>(address, t.size);
});

// What no family has allocated is said to be the home's, also in a scope.
case!(scope_foreign_free, |t| {
    let one = Kind::natural::<F>().heap("one");
    let local = [0_u64; 4];
    let address = (&raw const local).expose_provenance();
    t.expect_invalid(address, bytes(t.size), NOBODYS);
    one.scope(|| {
        free::<F>(allocate::<F>(t.size), t.size);
        free::<F>(address, t.size);
    });
});

// What was allocated outside of all scopes is freed by a handle of a heap.
case!(scope_home_block_freed_by_heap, |t| {
    let one = Kind::natural::<F>().heap("one");
    let address = allocate::<Other>(t.size);
    if family_alloc::Classes::Natural != F::CLASSES {
        expect(NOTHING);
        return free::<Other>(address, t.size);
    }
    expect(&Kind::natural::<F>().invalid(
        address,
        t.size,
        "one",
        &Kind::natural::<F>().truth(address, t.size, Other::NAME),
    ));
    one.scope(|| crate::heaps::free(&one, address, t.size));
});

// No misuse: the scope stays open, and holds its heap.
case!(scope_guard_forgotten, |t| {
    expect(NOTHING);
    on_thread(move || {
        let one = Kind::natural::<F>().heap("one");
        std::mem::forget(one.enter());
        drop(one);
        let address = allocate::<F>(t.size);
        assert_eq!(current_scope().map(|family| family.name()), Some("one"));
        Heap::outside(|| free::<F>(address, t.size));
    });
    assert!(families().any(|family| family.name() == "one"), "the guard's handle is kept for good");
});

// No misuse either: a guard that goes first ends the scopes that were entered in it.
case!(scope_guards_out_of_order, |t| {
    expect(NOTHING);
    on_thread(move || {
        let (one, two) = (Kind::natural::<F>().heap("one"), Kind::natural::<F>().heap("two"));
        let (first, second) = (one.enter(), two.enter());
        let address = allocate::<F>(t.size);
        drop(first);
        assert_eq!(current_scope(), None);
        let other = allocate::<F>(t.size);
        drop(second);
        assert_eq!(current_scope(), None);
        free::<F>(address, t.size);
        free::<F>(other, t.size);
        assert_eq!((two.stats().live_allocations, one.stats().live_allocations), (0, 0));
    });
    let left = |name: &str| families().any(|family| family.name() == name);
    assert!(!left("one") && !left("two"), "all guards are gone");
});
