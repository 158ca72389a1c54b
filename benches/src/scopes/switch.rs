//! The global allocator of the benchmark: one of several, for the whole process, as its environment says.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

use family_alloc::{Scoped, family};

family! {
    /// All that is in no scope.
    struct Home;
}

const SCOPED: Scoped<Home> = Scoped::new();

/// Which allocator: `system`, `plain`, or anything else for `Scoped`.
pub(crate) const VARIABLE: &str = "FAMILY_ALLOC_BENCH_WAY";

const UNKNOWN: u8 = 0;
const SYSTEM: u8 = 1;
const PLAIN: u8 = 2;
const WITH_SCOPES: u8 = 3;

static CHOSEN: AtomicU8 = AtomicU8::new(UNKNOWN);

/// One load and a jump more than the allocator that is chosen, whichever it is.
struct Switch;

#[global_allocator]
static GLOBAL: Switch = Switch;

/// Reads the environment, without allocating.
#[cold]
#[inline(never)]
fn choose() -> u8 {
    // SAFETY: a constant string that ends with zero; nobody changes the environment.
    let way = unsafe { libc::getenv(c"FAMILY_ALLOC_BENCH_WAY".as_ptr()) };
    let first = match way.is_null() {
        true => 0,
        // SAFETY: not null: a string that ends with zero.
        false => unsafe { way.read() },
    };
    let chosen = match u8::try_from(first) {
        Ok(b's') => SYSTEM,
        Ok(b'p') => PLAIN,
        _ => WITH_SCOPES,
    };
    CHOSEN.store(chosen, Relaxed);
    chosen
}

#[inline(always)]
fn chosen() -> u8 {
    match CHOSEN.load(Relaxed) {
        UNKNOWN => choose(),
        chosen => chosen,
    }
}

/// Calls the one that is chosen; each is a call of its own, as it is where it is the only one.
macro_rules! switched {
    ($name:ident ( $($argument:ident: $type:ty),* ) $(-> $result:ty)?) => {{
        #[inline(never)]
        unsafe fn call<A: GlobalAlloc>(allocator: A, $($argument: $type),*) $(-> $result)? {
            // SAFETY: the caller's contract.
            unsafe { allocator.$name($($argument),*) }
        }
        match chosen() {
            // SAFETY: the caller's contract: always the same allocator.
            SYSTEM => unsafe { call(System, $($argument),*) },
            // SAFETY: as above.
            PLAIN => unsafe { call(Home, $($argument),*) },
            // SAFETY: as above.
            _ => unsafe { call(SCOPED, $($argument),*) },
        }
    }};
}

// SAFETY: each process chooses one allocator before its first allocation, and forwards to it.
unsafe impl GlobalAlloc for Switch {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        switched!(alloc(layout: Layout) -> *mut u8)
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        switched!(alloc_zeroed(layout: Layout) -> *mut u8)
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        switched!(dealloc(ptr: *mut u8, layout: Layout))
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        switched!(realloc(ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8)
    }
}
