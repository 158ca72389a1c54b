//! The same misuses with the system's allocator, for comparison.

use std::os::unix::process::ExitStatusExt;

use crate::common::child;

const TEST: &str = "peer::the_peer_is_misused_in_children_only";

type Misuse = (&'static str, fn());

fn allocate(size: usize) -> *mut libc::c_void {
    // SAFETY: `malloc` has no preconditions.
    unsafe { libc::malloc(size) }
}

fn free(pointer: *mut libc::c_void) {
    // SAFETY: none: the peer is misused on purpose, in a child process.
    unsafe { libc::free(pointer) };
}

fn double_free_with(between: usize) {
    let (pointer, others) = (allocate(64), (0..between).map(|_| allocate(64)).collect::<Vec<_>>());
    free(pointer);
    others.into_iter().for_each(free);
    free(std::hint::black_box(pointer));
}

const MISUSES: &[Misuse] = &[
    ("df_same_thread_immediate", || double_free_with(0)),
    ("df_same_thread_one_between", || double_free_with(1)),
    ("df_same_thread_delayed", || double_free_with(1000)),
    ("df_two_remote_threads", || {
        let address = allocate(64).expose_provenance();
        for _ in 0..2 {
            let work = move || free(std::ptr::with_exposed_provenance_mut(address));
            std::thread::spawn(work).join().expect("the thread ends");
        }
    }),
    // It takes no size: whatever the caller believes is not looked at.
    ("size_wrong_class_larger", || free(allocate(64))),
    ("size_wrong_class_smaller", || free(allocate(64))),
    ("foreign_stack", || {
        let mut local = [0_u64; 4];
        free((&raw mut local).cast());
    }),
    ("foreign_static", || {
        static mut STATIC: [u64; 4] = [0; 4];
        free((&raw mut STATIC).cast());
    }),
    ("foreign_wild", || free(std::ptr::with_exposed_provenance_mut(0x0123_4560_0000))),
    ("interior_plus_1", || free(allocate(64).wrapping_byte_add(1))),
    ("interior_plus_16", || free(allocate(64).wrapping_byte_add(16))),
    ("uaf_write", || {
        let pointer = allocate(64);
        free(pointer);
        // SAFETY: none, on purpose.
        unsafe { pointer.cast::<u8>().write_volatile(1) };
        (0..100).for_each(|_| assert!(!allocate(64).is_null()));
    }),
    ("overflow_1", || {
        let pointer = allocate(100);
        // SAFETY: none, on purpose.
        unsafe { pointer.cast::<u8>().wrapping_add(100).write_volatile(1) };
        free(pointer);
    }),
];

/// How the system's allocator takes a case.
pub(crate) fn outcome(case: &str) -> &'static str {
    if !cfg!(target_env = "gnu") || !MISUSES.iter().any(|(name, _)| *name == case) {
        return "–";
    }
    let output = child::run(TEST, case);
    match output.status.signal() {
        Some(libc::SIGABRT) => "reported",
        Some(libc::SIGSEGV) => "SIGSEGV",
        None if output.status.success() => "not found",
        _ => "ends otherwise",
    }
}

#[test]
fn the_peer_is_misused_in_children_only() {
    if let Some(case) = child::case() {
        child::leave_no_core();
        let (_, misuse) = MISUSES.iter().find(|(name, _)| *name == case).expect("a known case");
        misuse();
    }
}
