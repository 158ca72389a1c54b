//! The cases about pointers that are no allocation of the family: another family's, nobody's, into the middle.

use std::thread;

use crate::common::doors::slots_of_slab;
use crate::subject::{NOT_FOUND, NOTHING, Subject, Try, bytes, expect};
use crate::twice::{on_thread, released};

case!(family_wrong_same_class, |t| {
    t.allocate();
    let address = t.allocate_in::<Other>(bytes(t.size));
    t.expect_invalid(address, bytes(t.size), &t.truth(address, Other::NAME));
    t.free(address);
});

case!(family_wrong_from_remote_thread, |t| {
    t.allocate();
    let address = t.allocate_in::<Other>(bytes(t.size));
    t.expect_invalid(address, bytes(t.size), &t.truth(address, Other::NAME));
    on_thread(move || t.free(address));
});

case!(family_wrong_after_owner_exit, |t| {
    let address = thread::spawn(move || t.allocate_in::<Other>(bytes(t.size))).join().expect("the thread ends");
    t.expect_invalid(address, bytes(t.size), &t.truth(address, Other::NAME));
    t.free(address);
});

fn clone_of<F: Clone>(family: &F) -> F {
    family.clone()
}

case!(family_clone_frees_sibling_ok, |t| {
    let family = F::default();
    let sibling = clone_of(&family);
    expect(NOTHING);
    t.free_by(&sibling, t.allocate_by(&family, bytes(t.size)), bytes(t.size));
    t.free_by(&family, t.allocate_by(&sibling, bytes(t.size)), bytes(t.size));
    let address = t.allocate_by(&family, bytes(t.size));
    on_thread(move || t.free_by(&sibling, address, bytes(t.size)));
    assert_eq!(F::stats().live_allocations, 0);
});

/// Frees what no family allocated, after the family has been used.
fn foreign<F: Subject, Other: Subject>(t: Try<F, Other>, address: usize) {
    t.allocate();
    t.expect_invalid(address, bytes(t.size), "no family has allocated it");
    t.free(address);
}

case!(global_vs_family_mixup, |t| {
    foreign(t, (&raw const *Box::leak(vec![0_u64; t.size / 8].into_boxed_slice())).expose_provenance());
});

case!(foreign_stack, |t| {
    let local = [0_u64; 4];
    foreign(t, (&raw const local).expose_provenance());
});

/// No family has allocated it.
pub(crate) static STATIC: u64 = 7;

case!(foreign_static, |t| { foreign(t, (&raw const STATIC).expose_provenance()) });
/// A mapping that is nobody's allocation, with this access.
fn mapping(bytes: usize, access: libc::c_int) -> usize {
    let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a new mapping.
    let memory = unsafe { libc::mmap(std::ptr::null_mut(), bytes, access, kind, -1, 0) };
    assert_ne!(memory, libc::MAP_FAILED);
    memory.expose_provenance()
}

// A write to the first, and any access to the second, would end the process in another way.
case!(foreign_mmap, |t| { foreign(t, mapping(t.size, libc::PROT_READ)) });
case!(foreign_mmap_none, |t| { foreign(t, mapping(t.size, libc::PROT_NONE)) });
case!(foreign_wild, |t| { foreign(t, 0x0123_4560_0000_u64 as usize) });
case!(foreign_null_page, |t| { foreign(t, 0x10) });

case!(foreign_high_bits, |t| {
    let address = t.allocate() | (1_u64 << 60) as usize;
    if t.keeps_states() || t.is_large() {
        t.expect_invalid(address, bytes(t.size), "no family has allocated it");
    } else {
        expect(NOT_FOUND);
    }
    t.free(address);
});

case!(free_into_metadata, |t| {
    let region = t.allocate() & !(64 * F::SLAB_BYTES - 1);
    let address = region + 64 * 1024;
    t.expect_invalid(address, bytes(t.size), "no family has allocated it");
    t.free(address);
});

case!(free_unused_slot_of_live_slab, |t| {
    let address = t.allocate();
    let (slab, slot_bytes) = (address & !(F::SLAB_BYTES - 1), t.slot_bytes(t.size));
    let last = slab + (slots_of_slab(F::CLASSES, F::CHECKS, F::SLAB_BYTES, slot_bytes) - 1) * slot_bytes;
    let unused = if last == address { address - t.slot_bytes(t.size) } else { last };
    t.expect_state("free of never allocated", unused, "");
    t.free(unused);
});

case!(free_in_released_slab, |t| {
    let address = released(t);
    t.expect_invalid(address, bytes(t.size), "no family has allocated it");
    t.free(address);
});

fn interior<F: Subject, Other: Subject>(t: Try<F, Other>, offset: usize) {
    let address = t.allocate();
    if t.is_large() {
        t.expect_invalid(address + offset, bytes(t.size), &t.truth(address, F::NAME));
    } else {
        t.expect_state("free of interior pointer", address + offset, &format!(": its slot begins at {address:#x}"));
    }
    t.free(address + offset);
}

/// Frees what the default mode takes for a slot until it goes back to its slab.
fn found_at_the_slab<F: Subject, Other: Subject>(t: Try<F, Other>, address: usize) {
    if !t.keeps_states() {
        expect(&t.state_line("invalid free of", address, ": it is no slot; found when it went back to its slab"));
    }
    t.free(address);
    F::trim();
}

case!(foreign_high_bits_then_trim, |t| {
    // In a slab that has free slots, and others in use, as most have.
    let others: [usize; 6] = std::array::from_fn(|_| t.allocate());
    others[3..].iter().for_each(|&other| t.free(other));
    F::trim();
    let address = t.allocate() | (1_u64 << 60) as usize;
    if t.keeps_states() {
        t.expect_invalid(address, bytes(t.size), "no family has allocated it");
    }
    found_at_the_slab(t, address);
});

case!(interior_plus_1_then_trim, |t| {
    let address = t.allocate();
    if t.keeps_states() {
        t.expect_state("free of interior pointer", address + 1, &format!(": its slot begins at {address:#x}"));
    }
    found_at_the_slab(t, address + 1);
});

case!(interior_plus_1, |t| { interior(t, 1) });
case!(interior_plus_16, |t| { interior(t, 16) });
case!(interior_large_plus_page, |t| { interior(t, 4096) });

case!(uninitialised_allocator_free, |t| {
    let address = (&raw const STATIC).expose_provenance();
    t.expect_invalid(address, bytes(t.size), "no family has allocated it");
    t.free(address);
});
