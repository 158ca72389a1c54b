//! The global allocator of other crates' test programs: a family, or the system's allocator for comparison.
//!
//! `FAMILY_SUITES_MODE` chooses it when a process first allocates, so that one build serves every mode: `default`, `checked`,
//! `hardened`, anything else for the system's. What a process has done, and what was reported in it, is appended to
//! the file that `FAMILY_SUITES_LOG` names: one line for each process at its end, and one for each report.
//!
//! Nothing here allocates.

use core::ffi::{CStr, c_char, c_int};
use core::fmt::{self, Write as _};
use core::sync::atomic::{AtomicU8, AtomicUsize, Ordering::Relaxed};
use std::alloc::{GlobalAlloc, Layout, System};

use family_alloc::{Family, Fault, Stats, family, set_fault_handler};

family! {
    struct Plain;
    struct Watched { checks: Checked }
    struct Guarded { checks: Hardened }
}

#[global_allocator]
static GLOBAL: Chosen = Chosen;

/// Whatever the mode says.
struct Chosen;

#[derive(Clone, Copy, PartialEq)]
#[repr(u8)]
enum Mode {
    System = 1,
    Default,
    Checked,
    Hardened,
}

/// A [`Mode`], or 0 as long as nothing was allocated.
static MODE: AtomicU8 = AtomicU8::new(0);

static ALLOCATED: AtomicUsize = AtomicUsize::new(0);
static RESIZED: AtomicUsize = AtomicUsize::new(0);
static FREED: AtomicUsize = AtomicUsize::new(0);

impl Mode {
    #[inline]
    fn of_process() -> Self {
        match MODE.load(Relaxed) {
            0 => Self::choose(),
            1 => Self::System,
            2 => Self::Default,
            3 => Self::Checked,
            _ => Self::Hardened,
        }
    }

    /// Two threads that choose at once choose the same.
    #[cold]
    fn choose() -> Self {
        let mode = match variable(c"FAMILY_SUITES_MODE").map(CStr::to_bytes) {
            Some(b"default") => Self::Default,
            Some(b"checked") => Self::Checked,
            Some(b"hardened") => Self::Hardened,
            _ => Self::System,
        };
        if MODE.swap(mode as u8, Relaxed) == 0 {
            set_fault_handler(|fault: &Fault| log(format_args!("REPORT {fault}")));
            // SAFETY: a function of this program, which is never unloaded.
            unsafe { libc::atexit(at_exit) };
        }
        mode
    }

    fn stats(self) -> Option<Stats> {
        match self {
            Self::System => None,
            Self::Default => Some(Plain::stats()),
            Self::Checked => Some(Watched::stats()),
            Self::Hardened => Some(Guarded::stats()),
        }
    }
}

macro_rules! forward {
    ($call:ident($($argument:expr),*)) => {
        match Mode::of_process() {
            // SAFETY: the same contract, and the mode is the same as when the memory was allocated.
            Mode::System => unsafe { System.$call($($argument),*) },
            // SAFETY: as above.
            Mode::Default => unsafe { Plain.$call($($argument),*) },
            // SAFETY: as above.
            Mode::Checked => unsafe { Watched.$call($($argument),*) },
            // SAFETY: as above.
            Mode::Hardened => unsafe { Guarded.$call($($argument),*) },
        }
    };
}

// SAFETY: each call goes to the same allocator, chosen once in a process, unchanged.
unsafe impl GlobalAlloc for Chosen {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.fetch_add(1, Relaxed);
        forward!(alloc(layout))
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.fetch_add(1, Relaxed);
        forward!(alloc_zeroed(layout))
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        FREED.fetch_add(1, Relaxed);
        forward!(dealloc(ptr, layout))
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        RESIZED.fetch_add(1, Relaxed);
        forward!(realloc(ptr, layout, new_size))
    }
}

/// Says what the process did: calls counted here, and what the family itself counted.
extern "C" fn at_exit() {
    let [allocated, resized, freed] = [&ALLOCATED, &RESIZED, &FREED].map(|count| count.load(Relaxed));
    let peak = Mode::of_process().stats().map_or(0, |stats| stats.peak_live_allocations);
    log(format_args!("CALLS {allocated} {resized} {freed} {peak}"));
}

/// Appends one line that begins with the program's path.
fn log(message: fmt::Arguments<'_>) {
    let Some(path) = variable(c"FAMILY_SUITES_LOG") else { return };
    let mut line = Line { bytes: [0; 4096], length: 0 };
    // SAFETY: writes at most so many bytes to a live array.
    let length = unsafe { libc::readlink(c"/proc/self/exe".as_ptr(), line.bytes.as_mut_ptr().cast(), 2048) };
    line.length = usize::try_from(length).unwrap_or(0);
    // What does not fit is left out.
    let _ = writeln!(line, " {message}");
    // SAFETY: a path that ends with a zero; the mode is needed because the file may be new.
    let file: c_int = unsafe { libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_APPEND | libc::O_CREAT, 0o644) };
    // SAFETY: reads so many bytes of a live array; a file that could not be opened is refused.
    unsafe { libc::write(file, line.bytes.as_ptr().cast(), line.length) };
    // SAFETY: opened above and used nowhere else, or refused.
    unsafe { libc::close(file) };
}

/// The value of an environment variable.
fn variable(name: &'static CStr) -> Option<&'static CStr> {
    // SAFETY: a name that ends with a zero.
    let value: *const c_char = unsafe { libc::getenv(name.as_ptr()) };
    // SAFETY: what is not null is a text of the environment; the test programs change other variables at most, and glibc
    // leaves the texts of a variable where they are.
    (!value.is_null()).then(|| unsafe { CStr::from_ptr(value) })
}

struct Line {
    bytes: [u8; 4096],
    length: usize,
}

impl fmt::Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = &mut self.bytes[self.length..];
        let length = text.len().min(room.len());
        room[..length].copy_from_slice(&text.as_bytes()[..length]);
        self.length += length;
        Ok(())
    }
}
