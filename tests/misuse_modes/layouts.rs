//! The cases about what is freed with another size or alignment than its own.

use crate::common::doors::layout;
use crate::subject::{Door, NOTHING, Subject, Try, bytes, expect, read};

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

/// Frees what is no longer than a slot as one byte more or less than it is, where that is the same class.
fn within_the_class<F: Subject, Other: Subject>(t: Try<F, Other>) {
    let one_less = t.size - 1;
    if one_less > 0 && t.slot_bytes(one_less) == t.slot_bytes(t.size) && t.slot_bytes(t.size) == t.size {
        t.free_in::<F>(t.allocate(), bytes(one_less));
        t.free_in::<F>(t.allocate_in::<F>(bytes(one_less)), bytes(t.size));
    }
}

case!(size_off_by_one_at_every_class_edge, |t| {
    within_the_class(t);
    let (address, wrong) = (t.allocate(), t.size + 1);
    if t.slot_bytes(wrong) != t.slot_bytes(t.size) {
        t.expect_invalid(address, bytes(wrong), &t.slot_of(t.size, F::NAME));
    } else if t.is_hardened() && t.door == Door::Global {
        // The smallest class: the mark stands a byte before the place where it is looked for.
        let mark: Vec<u8> = (address + t.size..address + t.slot_bytes(t.size)).map(read).take(8).collect();
        let behind: Vec<u8> = (address + wrong..address + t.slot_bytes(wrong)).map(read).take(8).collect();
        let intact = behind.iter().zip(&mark).take_while(|(found, marked)| found == marked).count();
        let more = format!(": {wrong} bytes long, written at offset {}", wrong + intact);
        t.expect_state("overflow past the end of", address, &more);
    } else {
        expect(NOTHING);
    }
    t.free_in::<F>(address, bytes(wrong));
});

case!(size_off_by_one_below_every_class_edge, |t| {
    let longer = t.size + 1;
    let address = t.allocate_in::<F>(bytes(longer));
    if t.is_large_size(longer) {
        let length = longer.next_multiple_of(4096);
        let truth = format!("it lies in the large allocation of {length} bytes at {address:#x} of family {}", F::NAME);
        t.expect_invalid(address, bytes(t.size), &truth);
    } else if t.slot_bytes(longer) != t.slot_bytes(t.size) {
        t.expect_invalid(address, bytes(t.size), &t.slot_of(longer, F::NAME));
    } else if t.is_hardened() && t.door == Door::Global {
        // The smallest class: where the mark is looked for stands the last byte, which is zero here and there never.
        let more = format!(": {0} bytes long, written at offset {0}", t.size);
        t.expect_state("overflow past the end of", address, &more);
    } else {
        expect(NOTHING);
    }
    t.free(address);
});

case!(size_small_as_large, |t| {
    let address = t.allocate();
    t.expect_invalid(address, bytes(8 << 20), &t.slot_of(t.size, F::NAME));
    t.free_in::<F>(address, bytes(8 << 20));
});

/// A live allocation, freed with a layout that no allocation can have.
fn freed_as_all_there_is<F: Subject, Other: Subject>(t: Try<F, Other>, wrong: usize) {
    let address = t.allocate();
    if t.is_large() {
        t.expect_wrong_length(address, wrong);
    } else {
        t.expect_invalid(address, bytes(wrong), &t.slot_of(t.size, F::NAME));
    }
    t.free_in::<F>(address, bytes(wrong));
}

// Rounded up to pages it is more than an object may have.
case!(size_isize_max, |t| { freed_as_all_there_is(t, isize::MAX as usize) });
// Rounded up to a power of two it is.
case!(size_overflow_round_up, |t| { freed_as_all_there_is(t, (1 << (usize::BITS - 2)) + 1) });

case!(size_large_as_small, |t| {
    let address = t.allocate();
    t.expect_invalid(address, bytes(64), &t.truth(address, F::NAME));
    t.free_in::<F>(address, bytes(64));
});

case!(size_large_as_other_large, |t| {
    let address = t.allocate();
    t.expect_wrong_length(address, t.size + 1);
    t.free_in::<F>(address, bytes(t.size + 1));
});

case!(align_wrong_on_dealloc, |t| {
    let address = t.allocate();
    let wrong = t.expect_wrong_align(address);
    t.free_in::<F>(address, wrong);
});

// Where it is large, that is the same length in pages: all that is looked at.
case!(align_wrong_same_class_ok, |t| {
    let address = t.allocate();
    expect(NOTHING);
    // The lowest set bit of the slot's length.
    let align = 1 << t.slot_bytes(t.size).trailing_zeros();
    t.free_in::<F>(address, layout(t.size, align));
});

case!(overaligned_freed_as_default, |t| {
    let align = (t.slot_bytes(t.size) * 2).next_power_of_two();
    let address = t.allocate_in::<F>(layout(t.size, align));
    let truth = if t.is_large_size(align) {
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
