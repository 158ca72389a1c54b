//! Children of this process that may end with a report: forked from the state as it is, so that the parent can go on.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

use family_alloc::{Fault, FaultKind, set_fault_handler};

use crate::common::child::leave_no_core;
use crate::common::shadow::Slot;

/// How a child ends as it should; a report adds the number of its kind.
const HARMLESS: i32 = 40;
const REPORTED: i32 = 50;
const KINDS: [FaultKind; 7] = [
    FaultKind::InvalidFree,
    FaultKind::WrongSize,
    FaultKind::DoubleFree,
    FaultKind::InteriorPointer,
    FaultKind::NeverAllocated,
    FaultKind::WriteAfterFree,
    FaultKind::Overflow,
];
/// A child that takes longer hangs.
const SECONDS: u32 = 60;

/// How a child ended.
pub(crate) enum Ending {
    /// With a report that was expected, by its number in [`KINDS`].
    Reported(usize),
    Harmless,
}

/// A fault that is right.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Expected {
    pub(crate) kinds: &'static [FaultKind],
    pub(crate) family: &'static str,
    pub(crate) address: usize,
}

impl Expected {
    fn is(&self, fault: &Fault) -> bool {
        let lies_in = || (fault.address..fault.address + fault.class_bytes.unwrap_or(0)).contains(&self.address);
        let place_is_right = fault.address == self.address || fault.kind == FaultKind::WriteAfterFree && lies_in();
        self.kinds.contains(&fault.kind) && fault.family == self.family && place_is_right
    }
}

static IS_CHILD: AtomicBool = AtomicBool::new(false);
static NOWHERE: AtomicI32 = AtomicI32::new(-1);
static EXPECTED: Mutex<Vec<Expected>> = Mutex::new(Vec::new());
static WATCHED: Mutex<Vec<Slot>> = Mutex::new(Vec::new());

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Must be called before [`run`].
pub(crate) fn prepare() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        set_fault_handler(told);
        leave_no_core();
        // SAFETY: a path that ends with a zero byte.
        NOWHERE.store(unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC) }, Relaxed);
    });
}

/// In a child: these must have their contents when a fault is reported.
pub(crate) fn watch(slots: &[Slot]) {
    *lock(&WATCHED) = slots.to_vec();
}

/// In a child: this fault is right from now on.
pub(crate) fn expect(expected: Expected) {
    lock(&EXPECTED).push(expected);
}

/// Ends the child: nothing was harmed.
pub(crate) fn end() -> ! {
    exit(HARMLESS)
}

/// While it lives, an access to memory that may not be touched ends the child well.
pub(crate) struct MayFault;

/// In a child: what is accessed next may be guarded.
pub(crate) fn may_fault() -> MayFault {
    extern "C" fn fault(_: libc::c_int) {
        end();
    }
    let fault: extern "C" fn(libc::c_int) = fault;
    // SAFETY: a handler that does nothing but end the process.
    unsafe { libc::signal(libc::SIGSEGV, fault as libc::sighandler_t) };
    MayFault
}

impl Drop for MayFault {
    fn drop(&mut self) {
        // SAFETY: the default action needs no handler.
        unsafe { libc::signal(libc::SIGSEGV, libc::SIG_DFL) };
    }
}

fn exit(status: i32) -> ! {
    // SAFETY: `_exit` has no preconditions.
    unsafe { libc::_exit(status) }
}

/// Called with every fault. In the parent no fault is right: it returns, and the process aborts.
fn told(fault: &Fault) {
    if !IS_CHILD.load(Relaxed) {
        return;
    }
    lock(&WATCHED).iter().for_each(Slot::verify);
    let expected = lock(&EXPECTED);
    assert!(expected.iter().any(|expected| expected.is(fault)), "{fault}, but expected {expected:x?}");
    let kind = KINDS.iter().position(|kind| *kind == fault.kind).expect("a known kind");
    exit(REPORTED + kind as i32);
}

/// Runs `body` in a child; panics unless that ends with a report that it expects, or by itself.
pub(crate) fn run(mut body: impl FnMut()) -> Ending {
    let status = fork(&mut body, false);
    let ended = libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status));
    match ended {
        Some(HARMLESS) => Ending::Harmless,
        Some(code) if (REPORTED..REPORTED + KINDS.len() as i32).contains(&code) => {
            Ending::Reported((code - REPORTED) as usize)
        }
        _ => {
            // Once more, for what it says.
            fork(&mut body, true);
            panic!("a child ended with wait status {status:#x}");
        }
    }
}

/// Runs `body` in a child and returns its wait status.
fn fork(body: &mut impl FnMut(), loud: bool) -> i32 {
    // SAFETY: the child uses what std and the C library keep usable in the child of a process with threads, and ends by `_exit`.
    match unsafe { libc::fork() } {
        -1 => panic!("no fork: {}", std::io::Error::last_os_error()),
        0 => in_child(body, loud),
        child => {
            let mut status = 0;
            // SAFETY: `waitpid` writes one status to a live one.
            while unsafe { libc::waitpid(child, &raw mut status, 0) } != child {}
            status
        }
    }
}

fn in_child(body: &mut impl FnMut(), loud: bool) -> ! {
    IS_CHILD.store(true, Relaxed);
    for signal in [libc::SIGABRT, libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGALRM, libc::SIGTERM]
    {
        // SAFETY: the default action needs no handler of ours: a fuzzer's would write the input down a second time.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    // SAFETY: `alarm` has no preconditions.
    unsafe { libc::alarm(SECONDS) };
    if !loud {
        // SAFETY: two descriptors; if the first is none, the lines are merely seen.
        unsafe { libc::dup2(NOWHERE.load(Relaxed), libc::STDERR_FILENO) };
    }
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(()) => end(),
        Err(_) => exit(1),
    }
}

/// Tells a fuzzer what happened in a child, where it does not look: a number below 512 for each thing that is of interest.
pub(crate) fn count(what: usize) {
    #[cfg_attr(all(feature = "libfuzzer", target_os = "linux"), unsafe(link_section = "__libfuzzer_extra_counters"))]
    static COUNTERS: [AtomicU8; 512] = [const { AtomicU8::new(0) }; 512];
    COUNTERS[what].fetch_add(1, Relaxed);
}
