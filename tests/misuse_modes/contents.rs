//! The cases about what is written and read: after a free, past an end, in what order.

use crate::subject::{NOT_FOUND, NOTHING, SIGSEGV, Subject, Try, expect, read, write};
use crate::twice::{many, neighbours, pair};

case!(alloc_zeroed_after_dirty_free, |t| {
    expect(NOTHING);
    // Clearing what is large takes long.
    for _ in 0..((16 << 20) / t.size).clamp(10, 200) {
        let memory = F::calloc(t.size);
        let address = memory.expose_provenance();
        assert!(!memory.is_null() && [0, t.size / 2, t.size - 1].into_iter().all(|at| read(address + at) == 0));
        // SAFETY: allocated with this size.
        unsafe { memory.write_bytes(0xA5, t.size) };
        // SAFETY: as above, and not used any more.
        unsafe { F::free(memory, t.size) };
    }
});

case!(uaf_write, |t| {
    let slots: Vec<usize> = (0..many(t)).map(|_| t.allocate()).collect();
    let address = neighbours(&slots, F::SLAB_BYTES).0;
    slots.iter().for_each(|&slot| t.free(slot));
    if !t.is_hardened() {
        // Without links in the slots, a checked family hands out what it would have; default: see `Checks::Default`.
        expect(if t.keeps_states() { NOTHING } else { NOT_FOUND });
    } else if t.is_guarded() {
        expect(SIGSEGV);
    } else {
        t.expect_state("write after free of", address, ": at offset 5");
    }
    write(address + 5, 0x41);
    let mut again: Vec<usize> = (0..2 * many(t)).map(|_| t.allocate()).collect();
    again.sort_unstable();
    again.dedup();
    assert!(!t.keeps_states() || again.len() == 2 * many(t), "no two are one");
});

case!(uaf_write_large, |t| {
    let address = t.allocate();
    t.free(address);
    expect(if t.is_hardened() { SIGSEGV } else { NOT_FOUND });
    write(address, 1);
});

case!(uaf_read_no_stale_secret, |t| {
    let address = pair(t);
    write(address + 3, 0x5A);
    t.free(address);
    match t.is_hardened() {
        false => expect(NOT_FOUND),
        true if t.is_guarded() => expect(SIGSEGV),
        true => expect(NOTHING),
    }
    assert!(read(address + 3) == 0 || !t.is_hardened(), "the secret is still there");
});

fn overflow<F: Subject, Other: Subject>(t: Try<F, Other>, length: usize) -> usize {
    let address = t.allocate();
    let start = address + t.size;
    let changed: Vec<u8> = (0..length).map(|at| !read(start + at)).collect();
    if t.is_hardened() {
        t.expect_state(
            "overflow past the end of",
            address,
            &format!(": {0} bytes long, written at offset {0}", t.size),
        );
    } else {
        expect(NOT_FOUND);
    }
    changed.iter().enumerate().for_each(|(at, &byte)| write(start + at, byte));
    address
}

case!(overflow_1, |t| { t.free(overflow(t, 1)) });
case!(overflow_8, |t| { t.free(overflow(t, 8)) });
case!(overflow_found_by_realloc, |t| {
    t.resize(overflow(t, 1), t.size, t.size + 1);
});

case!(overflow_past_large_1, |t| {
    let end = t.allocate() + t.size;
    expect(if t.is_hardened() { SIGSEGV } else { NOT_FOUND });
    if t.is_hardened() {
        write(end, 1);
    }
});

case!(underflow_before_large_1, |t| {
    let start = t.allocate();
    expect(if t.is_hardened() { SIGSEGV } else { NOT_FOUND });
    if t.is_hardened() {
        write(start - 1, 1);
    }
});

case!(order_is_not_linear, |t| {
    expect(NOTHING);
    let slots: Vec<usize> = (0..64).map(|_| t.allocate()).collect();
    let steps = slots.windows(2).filter(|two| two[1].wrapping_sub(two[0]) == t.slot_bytes(t.size)).count();
    // Large slots come by ones and twos: there is little to mix.
    let little = t.size > 4096;
    assert!(little || if t.is_hardened() { steps < 32 } else { steps == 63 }, "{steps} linear steps");
});
