//! The cases about what is freed with another size or alignment than its own.

use crate::common::doors::layout;
use crate::subject::{Door, NOTHING, Subject, Try, bytes, expect};

case!(size_wrong_class_smaller, |t| {
    let address = t.allocate();
    let wrong = t.size / 2;
    if t.is_large() {
        t.expect_wrong_length(address, wrong);
    } else if t.slot_bytes(wrong) == t.slot_bytes(t.size) {
        // The smallest class: it fits, but the mark of `GlobalAlloc` stands elsewhere.
        if t.is_hardened() && t.door == Door::Global {
            t.expect_state("overflow past the end of", address, ": 4 bytes long, written at offset 4");
        } else {
            expect(NOTHING);
        }
    } else {
        t.expect_invalid(address, bytes(wrong), &t.slot_of(t.size, F::NAME));
    }
    t.free_in::<F>(address, bytes(wrong));
});

case!(size_wrong_class_larger, |t| {
    let address = t.allocate();
    let wrong = t.size * 2;
    if t.is_large() {
        t.expect_wrong_length(address, wrong);
    } else if t.slot_bytes(wrong) == t.slot_bytes(t.size) {
        // The smallest class: it fits, and there is no mark behind a full slot to compare.
        expect(NOTHING);
    } else {
        t.expect_invalid(address, bytes(wrong), &t.slot_of(t.size, F::NAME));
    }
    t.free_in::<F>(address, bytes(wrong));
});

case!(size_wrong_same_class_ok, |t| {
    let address = t.allocate();
    expect(NOTHING);
    t.free_in::<F>(address, bytes(t.slot_bytes(t.size)));
});

case!(size_off_by_one_at_class_edge, |t| {
    let slot_bytes = t.slot_bytes(t.size);
    let address = t.allocate_in::<F>(bytes(slot_bytes));
    t.expect_invalid(address, bytes(slot_bytes + 1), &t.slot_of(slot_bytes, F::NAME));
    t.free_in::<F>(address, bytes(slot_bytes + 1));
});

case!(size_small_as_large, |t| {
    let address = t.allocate();
    t.expect_invalid(address, bytes(8 << 20), &t.slot_of(t.size, F::NAME));
    t.free_in::<F>(address, bytes(8 << 20));
});

case!(align_wrong_on_dealloc, |t| {
    let address = t.allocate();
    let wrong = layout(t.size, t.slot_bytes(t.size) * 2);
    t.expect_invalid(address, wrong, &t.slot_of(t.size, F::NAME));
    t.free_in::<F>(address, wrong);
});

case!(align_wrong_same_class_ok, |t| {
    let address = t.allocate();
    expect(NOTHING);
    t.free_in::<F>(address, layout(t.size, t.slot_bytes(t.size)));
});

case!(overaligned_freed_as_default, |t| {
    let align = t.slot_bytes(t.size) * 2;
    let address = t.allocate_in::<F>(layout(t.size, align));
    let truth = if align > F::SLAB_BYTES / 2 {
        format!("it lies in the large allocation of {align} bytes at {address:#x} of family {}", F::NAME)
    } else {
        t.slot_of(align, F::NAME)
    };
    t.expect_invalid(address, bytes(t.size), &truth);
    t.free(address);
});

case!(zero_size_dealloc_dangling, |t| {
    expect(NOTHING);
    t.free_in::<F>(t.size.next_power_of_two(), layout(0, t.size.next_power_of_two()));
});
