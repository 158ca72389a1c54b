//! The cases about what is freed twice, and what several of them need.

use std::sync::Barrier;
use std::thread;

use crate::heaps::NOBODYS;
use crate::subject::{NOT_FOUND, NOTHING, Subject, THIS_TIME, Try, bytes, expect};

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
    if usize::BITS < 64 && t.size >= 4 << 20 && !t.is_hardened() {
        // Where addresses are short it had a range of its own, which is gone.
        t.expect_invalid(address, bytes(t.size), NOBODYS);
    } else {
        t.expect_double_free(address);
    }
    t.free(address);
});

/// Two slots of one slab (or any two, if each has one of its own).
pub(crate) fn neighbours(slots: &[usize], slab_bytes: usize) -> (usize, usize) {
    let same_slab = |one: usize, other: usize| one != other && (one ^ other) < slab_bytes;
    let pairs = slots.iter().flat_map(|&one| slots.iter().map(move |&other| (one, other)));
    pairs.into_iter().find(|&(one, other)| same_slab(one, other)).unwrap_or((slots[0], slots[1]))
}

pub(crate) fn on_thread(work: impl FnOnce() + Send + 'static) {
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
pub(crate) fn released<F: Subject, Other: Subject>(t: Try<F, Other>) -> usize {
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

// Who had it first frees what somebody else may have by now. How often that is so: `stale`.
case!(stale_free_after_reuse, |t| {
    let address = t.allocate();
    t.free(address);
    let is_reused = t.allocate() == address;
    if t.is_hardened() {
        let line = t.state_line("double free of", address, "");
        expect(&format!("{THIS_TIME}{}", if is_reused { NOTHING } else { &line }));
    } else {
        assert!(is_reused, "the last one freed is the next one handed out");
        expect(NOT_FOUND);
    }
    t.free(address);
});

case!(stale_free_found_at_the_next, |t| {
    let address = t.allocate();
    t.free(address);
    let again = t.allocate();
    t.expect_double_free(address);
    t.free(address);
    assert_eq!(address, again, "or it was found already");
    // To whoever has it now, this is the first.
    t.free(again);
});
