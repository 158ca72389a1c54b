//! The global allocator of this program: the measured one in programs that ask for it, the system's in all others.
//!
//! A global allocator is one for the whole of a process, from its first allocation on. So a child is told by an environment
//! variable, which can be read before anything is allocated.

use std::alloc::{GlobalAlloc, Layout, System};
use std::ffi::CStr;
use std::sync::atomic::{AtomicU8, Ordering};

use mimalloc::MiMalloc;
use tikv_jemallocator::Jemalloc;

use crate::peers::Name;

/// The variable that names the allocator.
pub(crate) const VARIABLE: &CStr = c"MEMORY_OVER_TIME_GLOBAL";

/// Those that can be the global allocator here.
const ALLOCATORS: [Name; 4] = [Name::System, Name::Ours, Name::Mimalloc, Name::Jemalloc];

const UNKNOWN: u8 = u8::MAX;

/// The index of the allocator that was chosen. Every thread that reads the variable finds the same, so no order is needed.
static CHOSEN: AtomicU8 = AtomicU8::new(UNKNOWN);

// Classes as the README advises for a global allocator.
family_alloc::family! {
    struct Everything { classes: Spaced }
}

struct Chosen;

#[global_allocator]
static GLOBAL: Chosen = Chosen;

/// Whether an allocator can be the global one here.
pub(crate) fn is_possible(name: Name) -> bool {
    ALLOCATORS.contains(&name)
}

fn chosen() -> Name {
    let mut index = CHOSEN.load(Ordering::Relaxed);
    if index == UNKNOWN {
        index = read();
        CHOSEN.store(index, Ordering::Relaxed);
    }
    ALLOCATORS[usize::from(index)]
}

#[cold]
fn read() -> u8 {
    // SAFETY: a name that ends with a zero byte; nothing in this program changes its environment.
    let value = unsafe { libc::getenv(VARIABLE.as_ptr()) };
    if value.is_null() {
        return 0;
    }
    // SAFETY: a value of the environment ends with a zero byte.
    let value = unsafe { CStr::from_ptr(value) };
    let is_named = |name: &Name| name.as_str().as_bytes() == value.to_bytes();
    ALLOCATORS.iter().position(is_named).and_then(|index| u8::try_from(index).ok()).unwrap_or(0)
}

/// Calls a method of the allocator that was chosen.
macro_rules! forward {
    ($method:ident($($argument:expr),*)) => {
        match chosen() {
            // SAFETY: the caller keeps the contract; all calls of a process go to the same allocator.
            Name::Ours => unsafe { Everything.$method($($argument),*) },
            // SAFETY: as above.
            Name::Mimalloc => unsafe { MiMalloc.$method($($argument),*) },
            // SAFETY: as above.
            Name::Jemalloc => unsafe { Jemalloc.$method($($argument),*) },
            // SAFETY: as above.
            _ => unsafe { System.$method($($argument),*) },
        }
    };
}

// SAFETY: forwards to one allocator for the whole life of the process.
unsafe impl GlobalAlloc for Chosen {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        forward!(alloc(layout))
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        forward!(alloc_zeroed(layout))
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        forward!(dealloc(ptr, layout))
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        forward!(realloc(ptr, layout, new_size))
    }
}
