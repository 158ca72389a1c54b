//! The hook for test harnesses: called once, after the line, and never able to save the process.

use std::sync::atomic::{AtomicU32, Ordering};

use family_alloc::{Family, Fault, FaultKind, set_fault_handler};

use crate::Watched;
use crate::common::child;

fn free_twice() {
    let pointer = Watched::malloc(64);
    for _ in 0..2 {
        // SAFETY: the second time breaks the contract on purpose.
        unsafe { Watched::free(pointer, 64) };
    }
}

fn tell(fault: &Fault) {
    // The family is usable: no lock is held.
    let more = Watched::malloc(64);
    println!("\ntold: {fault}");
    assert_eq!((fault.kind, fault.class_bytes, fault.family), (FaultKind::DoubleFree, Some(64), "Watched"));
    // SAFETY: allocated above with this size.
    unsafe { Watched::free(more, 64) };
}

fn misuse_again(_: &Fault) {
    static CALLS: AtomicU32 = AtomicU32::new(0);
    println!("\ntold: {} time", CALLS.fetch_add(1, Ordering::Relaxed) + 1);
    free_twice();
}

#[test]
fn the_handler_is_told_and_the_process_ends() {
    const TEST: &str = "handler::the_handler_is_told_and_the_process_ends";
    match child::case().as_deref() {
        Some("returns") => set_fault_handler(tell),
        Some("unwinds") => set_fault_handler(|_| std::panic::resume_unwind(Box::new("out of here"))),
        Some("misuses") => set_fault_handler(misuse_again),
        _ => {
            for (case, lines) in [("returns", 1), ("unwinds", 1), ("misuses", 2)] {
                let errors = child::assert_aborted(TEST, case);
                assert_eq!(errors.len(), lines, "{case}: {errors:?}");
                assert!(errors.iter().all(|line| line.starts_with("family_alloc: double free of 0x")), "{errors:?}");
            }
            return;
        }
    }
    child::leave_no_core();
    free_twice();
}
