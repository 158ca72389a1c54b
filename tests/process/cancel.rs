//! Threads that have been cancelled (`pthread_cancel`): nothing in the crate is a point at which
//! one ends, as nothing in `malloc` is. It would keep a lock, or take a report with it.

use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use family_alloc::{Fault, families, set_fault_handler};

use crate::common::child;
use crate::common::doors::{Doors, layout};
use crate::host_families;

unsafe extern "C" {
    fn pthread_cancel(thread: libc::pthread_t) -> c_int;
}

fn cancel_this_thread() {
    // SAFETY: no preconditions.
    let this = unsafe { libc::pthread_self() };
    // SAFETY: the calling thread, which ends at its next cancellation point.
    assert_eq!(unsafe { pthread_cancel(this) }, 0);
}

/// Runs `body` on a thread that `std` knows nothing of, to its end or to where it is cancelled.
fn on_a_thread(body: extern "C-unwind" fn(*mut c_void) -> *mut c_void) {
    type Body = extern "C" fn(*mut c_void) -> *mut c_void;
    // SAFETY: the two differ in what becomes of an unwinding, and that is the C library's own here.
    let body = unsafe { std::mem::transmute::<extern "C-unwind" fn(*mut c_void) -> *mut c_void, Body>(body) };
    let mut thread = 0;
    // SAFETY: writes one thread's name; the function needs no argument.
    let started = unsafe { libc::pthread_create(&raw mut thread, std::ptr::null(), body, std::ptr::null_mut()) };
    assert_eq!(started, 0, "no thread");
    // SAFETY: started above and joined once.
    assert_eq!(unsafe { libc::pthread_join(thread, std::ptr::null_mut()) }, 0);
}

fn use_all(doors: Doors) {
    for size in [1, 16, 64, 1000, 40_000, 100_000, 1 << 20, 3 << 20] {
        let (old, new) = (layout(size, 1), layout(size * 3, 1));
        let memory = (doors.allocate)(old).expect("memory").cast();
        // SAFETY: allocated above with this layout.
        let memory = unsafe { (doors.grow)(memory, old, new) }.expect("memory").cast();
        // SAFETY: as it was resized.
        unsafe { (doors.deallocate)(memory, new) };
        let zeroed = (doors.allocate_zeroed)(old).expect("memory").cast();
        // SAFETY: allocated above with this layout.
        unsafe { (doors.deallocate)(zeroed, old) };
    }
    (doors.trim)();
    let _ = ((doors.stats)(), families().count());
}

static GOT_THROUGH: AtomicBool = AtomicBool::new(false);

extern "C-unwind" fn all_calls(_: *mut c_void) -> *mut c_void {
    cancel_this_thread();
    host_families().into_iter().for_each(use_all);
    GOT_THROUGH.store(true, Relaxed);
    std::ptr::null_mut()
}

#[test]
fn a_cancelled_thread_gets_through_every_call() {
    child::isolated("cancel::a_cancelled_thread_gets_through_every_call", || {
        on_a_thread(all_calls);
        assert!(GOT_THROUGH.load(Relaxed), "the thread ended in the middle of a call");
        // Whoever comes next finds no lock taken.
        std::thread::spawn(|| host_families().into_iter().for_each(use_all)).join().expect("no panic");
    });
}

extern "C-unwind" fn free_twice(_: *mut c_void) -> *mut c_void {
    let doors = host_families()[2];
    let slot = (doors.allocate)(layout(64, 1)).expect("memory").cast();
    // SAFETY: allocated above.
    unsafe { (doors.deallocate)(slot, layout(64, 1)) };
    child::expect(&format!("double free of {slot:p} (64-byte class, family HostChecked)"));
    cancel_this_thread();
    // SAFETY: a misuse that is found before anything is done.
    unsafe { (doors.deallocate)(slot, layout(64, 1)) };
    std::ptr::null_mut()
}

/// With a handler or without, the process ends by its report.
#[test]
fn a_report_on_a_cancelled_thread_ends_the_process() {
    const NAME: &str = "cancel::a_report_on_a_cancelled_thread_ends_the_process";
    // What passes a cancellation point itself.
    fn handler(_: &Fault) {
        // SAFETY: writes nothing.
        unsafe { libc::write(libc::STDERR_FILENO, std::ptr::null(), 0) };
    }
    if let Some(case) = child::case() {
        child::leave_no_core();
        if case == "handler" {
            set_fault_handler(handler);
        }
        return on_a_thread(free_twice);
    }
    let failures: Vec<String> = ["plain", "handler"].iter().filter_map(|case| child::wrong_end(NAME, case)).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
