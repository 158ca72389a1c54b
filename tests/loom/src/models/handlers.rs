//! Functions that a program sets once and others call: what they rely on was there before.

use super::exit::{free, take};
use super::heaps::begin_within;
use crate::family::{forget_all, set_limit_handler, softly};
use crate::fault::set_fault_handler;
use crate::sync::hook::{let_others_work, set_wait_hook};
use crate::sync::{Sleep, look, touch};
use crate::world::{HALF, One, Two, explore, let_others_go_first, line_of, spawn};

/// The address of what the handlers read: no memory, and nobody else's.
const RELIED_ON: usize = 8;

/// What a program does that sets a handler.
fn set(handler: impl FnOnce()) {
    touch(RELIED_ON);
    handler();
}

/// A handler of faults is set while another thread's wrong free is reported.
pub fn faults_are_told() {
    explore(Sleep::Lightly, || {
        let slot = take::<One>(HALF);
        let setter = spawn(|| set(|| set_fault_handler(|_| look(RELIED_ON))));
        let_others_go_first();
        let line = line_of(|| free::<Two>(slot)).expect("no slot of this family");
        assert!(line.contains("invalid free"), "{line}");
        setter.join();
    });
}

/// A handler of limits is set while another thread crosses one.
pub fn crossings_are_told() {
    explore(Sleep::Lightly, || {
        forget_all();
        let heap = begin_within("one", HALF.slot_bytes() - 1);
        let setter = spawn(|| set(|| set_limit_handler(|_| look(RELIED_ON))));
        let_others_go_first();
        let (slot, _) = softly(|| heap.take_one(HALF)).expect("there is memory");
        heap.tell_of_crossings();
        // SAFETY: taken above.
        unsafe { heap.give_one(HALF, slot) };
        setter.join();
        heap.let_go();
    });
}

/// A function for those who wait is set while another thread waits.
pub fn waiting_is_told() {
    explore(Sleep::Lightly, || {
        let setter = spawn(|| set(|| set_wait_hook(|| look(RELIED_ON))));
        let_others_go_first();
        let_others_work();
        setter.join();
    });
}
