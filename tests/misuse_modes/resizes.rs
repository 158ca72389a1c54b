//! The cases about what is resized from a wrong layout or pointer, and freed with the layout that it had before.

use crate::pointers::STATIC;
use crate::subject::{Subject, Try, bytes};
use crate::twice::pair;

case!(realloc_wrong_old_size, |t| {
    let address = t.allocate();
    let wrong = t.size * 4;
    if t.is_large() {
        t.expect_wrong_length(address, wrong);
    } else {
        t.expect_invalid(address, bytes(wrong), &t.slot_of(t.size, F::NAME));
    }
    t.resize(address, wrong, wrong * 2);
});

case!(realloc_wrong_align, |t| {
    let address = t.allocate();
    let wrong = t.expect_wrong_align(address);
    t.resize_from(address, wrong, t.size * 2);
});

// What stands in an empty collection, resized as if it had memory.
case!(realloc_dangling, |t| {
    t.allocate();
    let address = std::ptr::NonNull::<u64>::dangling().addr().get();
    t.expect_invalid(address, bytes(t.size), "no family has allocated it");
    t.resize(address, t.size, t.size * 2);
});

case!(realloc_after_free, |t| {
    let address = pair(t);
    t.free(address);
    t.expect_double_free(address);
    t.resize(address, t.size, t.size * 2);
});

case!(realloc_foreign, |t| {
    t.allocate();
    let address = (&raw const STATIC).expose_provenance();
    t.expect_invalid(address, bytes(t.size), "no family has allocated it");
    t.resize(address, t.size, t.size * 2);
});

case!(realloc_wrong_family, |t| {
    t.allocate();
    let address = t.allocate_in::<Other>(bytes(t.size));
    t.expect_invalid(address, bytes(t.size), &t.truth(address, Other::NAME));
    t.resize(address, t.size, t.size * 2);
});

case!(shrink_then_free_old_layout, |t| {
    let address = t.allocate();
    let shrunk = t.resize(address, t.size, t.size / 4);
    if t.is_large_size(t.size / 4) {
        t.expect_other_length(shrunk, t.size, t.size / 4);
    } else {
        t.expect_invalid(shrunk, bytes(t.size), &t.slot_of(t.size / 4, F::NAME));
    }
    t.free(shrunk);
});

case!(grow_then_free_old_layout, |t| {
    let grown = t.resize(t.allocate(), t.size, 8 << 20);
    let truth = format!("it lies in the large allocation of {} bytes at {grown:#x} of family {}", 8 << 20, F::NAME);
    t.expect_invalid(grown, bytes(t.size), &truth);
    t.free(grown);
});
