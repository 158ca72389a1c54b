//! The cases about what is written and read: after a free, past an end, in what order.

use crate::subject::{NOT_FOUND, NOTHING, OR, SIGSEGV, Subject, Try, expect, read, write};
use crate::twice::{many, neighbours, on_thread, pair};

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

/// Allocates until all that was free is handed out again, and fails if two of it are one; `live` is live.
fn allocate_anew<F: Subject, Other: Subject>(t: Try<F, Other>, live: &[usize]) {
    let mut all: Vec<usize> = (0..2 * many(t)).map(|_| t.allocate()).chain(live.iter().copied()).collect();
    all.sort_unstable();
    let apart = all.windows(2).all(|two| two[1] - two[0] >= t.slot_bytes(t.size));
    assert!(!t.keeps_states() || apart, "no two share memory");
}

/// Says what must happen when something is written to a slot that is free, at this offset first.
fn expect_written<F: Subject, Other: Subject>(t: Try<F, Other>, address: usize, offset: usize) {
    if !t.is_hardened() {
        // Without links in the slots, a checked family hands out what it would have; default: see `Checks::Default`.
        expect(if t.keeps_states() { NOTHING } else { NOT_FOUND });
    } else if t.is_guarded() {
        expect(SIGSEGV);
    } else {
        t.expect_state("write after free of", address, &format!(": at offset {offset}"));
    }
}

case!(uaf_write, |t| {
    let slots: Vec<usize> = (0..many(t)).map(|_| t.allocate()).collect();
    let address = neighbours(&slots, F::SLAB_BYTES).0;
    slots.iter().for_each(|&slot| t.free(slot));
    expect_written(t, address, 5);
    write(address + 5, 0x41);
    allocate_anew(t, &[]);
});

/// Writes over all that a list may keep in a slot: a link and an entry. Its neighbour keeps the slab open.
fn write_link_word<F: Subject, Other: Subject>(t: Try<F, Other>, free: impl FnOnce(Vec<usize>)) {
    let slots: Vec<usize> = (0..many(t)).map(|_| t.allocate()).collect();
    let (address, keep) = neighbours(&slots, F::SLAB_BYTES);
    free(slots.into_iter().filter(|&slot| slot != keep).collect());
    expect_written(t, address, 0);
    (address..address + 8).for_each(|at| write(at, 0x41));
    allocate_anew(t, &[keep]);
}

case!(uaf_write_link_word_local, |t| {
    write_link_word(t, |slots| slots.into_iter().for_each(|slot| t.free(slot)));
});

case!(uaf_write_link_word_remote, |t| {
    write_link_word(t, |slots| on_thread(move || slots.into_iter().for_each(|slot| t.free(slot))));
});

// From the end of a live slot over the next three, which are free.
case!(overflow_into_freed_neighbour_192b, |t| {
    let slots: Vec<usize> = (0..1024).map(|_| t.allocate()).collect();
    let has_three_behind = |&&slot: &&usize| (1..4).all(|behind| slots.contains(&(slot + behind * t.size)));
    let live = *slots.iter().find(has_three_behind).expect("slots stand one after another");
    slots.iter().filter(|&&slot| slot != live).for_each(|&slot| t.free(slot));
    match (t.keeps_states(), t.is_hardened()) {
        (false, _) => expect(NOT_FOUND),
        (true, false) => expect(NOTHING),
        // Which of the three is handed out first, nobody can tell.
        (true, true) => {
            let line = |behind| t.state_line("write after free of", live + behind * t.size, ": at offset 0");
            expect(&[line(1), line(2), line(3)].join(OR));
        }
    }
    (live + t.size..live + 4 * t.size).for_each(|at| write(at, 0x41));
    allocate_anew(t, &[live]);
});

// Before the first slot of a region: no header stands there, but side tables, which the default mode has for the tiniest slots only.
case!(underflow_into_header, |t| {
    let address = t.allocate();
    let side_units = if t.keeps_states() { 8 } else { 1 };
    let first = (address & !(64 * F::SLAB_BYTES - 1)) + side_units * F::SLAB_BYTES;
    assert_eq!(address / F::SLAB_BYTES, first / F::SLAB_BYTES, "the family's first slab");
    expect(if t.keeps_states() { NOTHING } else { SIGSEGV });
    write(first - 1, 0x41);
    t.free(address);
    allocate_anew(t, &[]);
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
    expect_overflow(t, address);
    changed.iter().enumerate().for_each(|(at, &byte)| write(start + at, byte));
    address
}

fn expect_overflow<F: Subject, Other: Subject>(t: Try<F, Other>, address: usize) {
    if t.is_hardened() {
        t.expect_state(
            "overflow past the end of",
            address,
            &format!(": {0} bytes long, written at offset {0}", t.size),
        );
    } else {
        expect(NOT_FOUND);
    }
}

case!(overflow_1, |t| { t.free(overflow(t, 1)) });
case!(overflow_8, |t| { t.free(overflow(t, 8)) });
// The commonest overflow of all: the end of a string.
case!(overflow_1_zero, |t| {
    let address = t.allocate();
    expect_overflow(t, address);
    write(address + t.size, 0);
    t.free(address);
});

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
