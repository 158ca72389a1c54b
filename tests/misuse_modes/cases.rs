//! The cases: each misuses a family, after it has said what must happen.

use std::sync::Barrier;
use std::thread;

use crate::common::doors::layout;
use crate::contents::*;
use crate::subject::{Door, NOT_FOUND, NOTHING, Subject, Try, bytes, expect};
use crate::{Case, Guarded, GuardedOther, Plain, PlainOther, Sizes, Watched, WatchedOther};

macro_rules! cases {
    ($($name:ident in $sizes:ident $(by $door:ident)?;)*) => {
        &[$(Case {
            name: stringify!($name),
            sizes: Sizes::$sizes,
            only: &[$(Door::$door)?],
            bodies: [
                |door, size| $name(Try::<Plain, PlainOther> { door, size, families: std::marker::PhantomData }),
                |door, size| $name(Try::<Watched, WatchedOther> { door, size, families: std::marker::PhantomData }),
                |door, size| $name(Try::<Guarded, GuardedOther> { door, size, families: std::marker::PhantomData }),
            ],
        }),*]
    };
}

pub(crate) const CASES: &[Case] = cases! {
    df_same_thread_immediate in All;
    df_same_thread_one_between in All;
    df_same_thread_delayed in All;
    df_after_flush_to_shared in All;
    df_two_remote_threads in All;
    df_owner_then_remote in All;
    df_remote_then_owner in All;
    df_racing_threads_same_instant in Slabs;
    df_after_owner_thread_exit in All;
    df_after_slab_reused_by_other_class in Slabs;
    stale_free_after_reuse in Slabs;
    size_wrong_class_smaller in All;
    size_wrong_class_larger in All;
    size_wrong_same_class_ok in Slabs by Allocator;
    size_off_by_one_at_class_edge in Slabs;
    size_small_as_large in Slabs;
    align_wrong_on_dealloc in Slabs;
    align_wrong_same_class_ok in Slabs by Allocator;
    overaligned_freed_as_default in Slabs;
    zero_size_dealloc_dangling in Slabs;
    family_wrong_same_class in All;
    family_wrong_from_remote_thread in All;
    family_wrong_after_owner_exit in All;
    global_vs_family_mixup in All;
    foreign_stack in All;
    foreign_static in All;
    foreign_wild in All;
    foreign_null_page in All;
    foreign_high_bits in All;
    free_into_metadata in Slabs;
    free_unused_slot_of_live_slab in Slabs;
    free_in_released_slab in Slabs;
    interior_plus_1 in All;
    interior_plus_16 in AboveAStep;
    interior_large_plus_page in Large;
    uninitialised_allocator_free in All;
    realloc_wrong_old_size in All;
    realloc_after_free in All;
    realloc_foreign in All;
    realloc_wrong_family in All;
    shrink_then_free_old_layout in AboveAStep;
    grow_then_free_old_layout in Slabs;
    alloc_zeroed_after_dirty_free in All;
    uaf_write in Slabs;
    uaf_write_large in Large;
    uaf_read_no_stale_secret in Slabs;
    overflow_1 in Slack by Global;
    overflow_8 in Slack by Global;
    overflow_found_by_realloc in Slack by Global;
    overflow_past_large_1 in Large;
    underflow_before_large_1 in Large;
    order_is_not_linear in Slabs;
};

case!(df_same_thread_immediate, |t| {
    let address = t.allocate();
    t.free(address);
    t.expect_double_free(address);
    t.free(address);
});

case!(df_same_thread_one_between, |t| {
    let (address, other) = (t.allocate(), t.allocate());
    t.free(address);
    t.free(other);
    t.expect_double_free(address);
    t.free(address);
});

/// How many allocations fill more than the caches of a thread.
pub(crate) fn many<F: Subject, Other: Subject>(t: Try<F, Other>) -> usize {
    if t.size > 4096 { 20 } else { 1000 }
}

case!(df_same_thread_delayed, |t| {
    let (address, keep) = (t.allocate(), t.allocate());
    let others: Vec<usize> = (0..many(t)).map(|_| t.allocate()).collect();
    t.free(address);
    others.into_iter().for_each(|other| t.free(other));
    t.expect_double_free(address);
    t.free(address);
    t.free(keep);
});

case!(df_after_flush_to_shared, |t| {
    // Its neighbour keeps the slab from being released.
    let slots: Vec<usize> = (0..many(t)).map(|_| t.allocate()).collect();
    let (address, keep) = neighbours(&slots, F::SLAB_BYTES);
    slots.iter().filter(|&&slot| slot != keep).for_each(|&slot| t.free(slot));
    // The thread that ends takes nothing with it; `trim` empties what is on its way.
    thread::spawn(move || t.free(t.allocate())).join().expect("the thread ends");
    F::trim();
    t.expect_double_free(address);
    t.free(address);
});

/// Two slots of one slab (or any two, if each has one of its own).
pub(crate) fn neighbours(slots: &[usize], slab_bytes: usize) -> (usize, usize) {
    let same_slab = |one: usize, other: usize| one != other && (one ^ other) < slab_bytes;
    let pairs = slots.iter().flat_map(|&one| slots.iter().map(move |&other| (one, other)));
    pairs.into_iter().find(|&(one, other)| same_slab(one, other)).unwrap_or((slots[0], slots[1]))
}

fn on_thread(work: impl FnOnce() + Send + 'static) {
    thread::spawn(work).join().expect("the thread ends");
}

/// Two slots of which the second keeps the slab of the first open.
pub(crate) fn pair<F: Subject, Other: Subject>(t: Try<F, Other>) -> usize {
    let slots: Vec<usize> = (0..4).map(|_| t.allocate()).collect();
    neighbours(&slots, F::SLAB_BYTES).0
}

case!(df_two_remote_threads, |t| {
    let address = pair(t);
    on_thread(move || t.free(address));
    t.expect_double_free(address);
    on_thread(move || t.free(address));
});

case!(df_owner_then_remote, |t| {
    let address = pair(t);
    t.free(address);
    t.expect_double_free(address);
    on_thread(move || t.free(address));
});

case!(df_remote_then_owner, |t| {
    let address = pair(t);
    on_thread(move || t.free(address));
    t.expect_double_free(address);
    t.free(address);
});

case!(df_racing_threads_same_instant, |t| {
    static START: Barrier = Barrier::new(2);
    let address = pair(t);
    t.expect_double_free(address);
    // Found by the second free, or when the second thread gives back what it holds.
    let free = move || {
        START.wait();
        t.free(address);
    };
    let threads = [thread::spawn(free), thread::spawn(free)];
    threads.into_iter().for_each(|thread| thread.join().expect("the thread ends"));
});

case!(df_after_owner_thread_exit, |t| {
    let (sender, receiver) = std::sync::mpsc::channel();
    on_thread(move || {
        let address = pair(t);
        t.free(address);
        sender.send(address).expect("somebody listens");
    });
    let address = receiver.recv().expect("an address");
    t.expect_double_free(address);
    t.free(address);
});

/// A slot whose slab has been given back.
fn released<F: Subject, Other: Subject>(t: Try<F, Other>) -> usize {
    let work = move || {
        let address = t.allocate();
        t.free(address);
        address
    };
    let address = thread::spawn(work).join().expect("the thread ends");
    F::trim();
    address
}

case!(df_after_slab_reused_by_other_class, |t| {
    let address = released(t);
    let other = if t.size == 4096 { 512 } else { 4096 };
    t.allocate_in::<F>(bytes(other));
    t.expect_invalid(address, bytes(t.size), &t.slot_of(other, F::NAME));
    t.free(address);
});

case!(stale_free_after_reuse, |t| {
    let address = t.allocate();
    t.free(address);
    let again = t.allocate();
    t.expect_double_free(address);
    // Who had it first frees what somebody else may have by now; that one's free is the second.
    t.free(address);
    assert_eq!(address, again, "or it was found already");
    t.free(again);
});

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

static STATIC: u64 = 7;

case!(foreign_static, |t| { foreign(t, (&raw const STATIC).expose_provenance()) });
case!(foreign_wild, |t| { foreign(t, 0x0123_4560_0000) });
case!(foreign_null_page, |t| { foreign(t, 0x10) });

case!(foreign_high_bits, |t| {
    let address = t.allocate() | 1 << 60;
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
    let last = (address | (F::SLAB_BYTES - 1)) + 1 - t.slot_bytes(t.size);
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

case!(interior_plus_1, |t| { interior(t, 1) });
case!(interior_plus_16, |t| { interior(t, 16) });
case!(interior_large_plus_page, |t| { interior(t, 4096) });

case!(uninitialised_allocator_free, |t| {
    let address = (&raw const STATIC).expose_provenance();
    t.expect_invalid(address, bytes(t.size), "no family has allocated it");
    t.free(address);
});

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
    t.expect_invalid(shrunk, bytes(t.size), &t.slot_of(t.size / 4, F::NAME));
    t.free(shrunk);
});

case!(grow_then_free_old_layout, |t| {
    let grown = t.resize(t.allocate(), t.size, 8 << 20);
    let truth = format!("it lies in the large allocation of {} bytes at {grown:#x} of family {}", 8 << 20, F::NAME);
    t.expect_invalid(grown, bytes(t.size), &truth);
    t.free(grown);
});
