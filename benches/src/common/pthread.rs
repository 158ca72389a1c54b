//! Starts threads through rpmalloc's `pthread_create` where rpmalloc is measured, through the system's otherwise.
//!
//! `build.rs` makes the linker send every call here, under the names it has for that.

use std::ffi::{c_int, c_void};
use std::mem::transmute;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use libc::{pthread_attr_t, pthread_t};

type Start = extern "C" fn(*mut c_void) -> *mut c_void;
type Create = unsafe extern "C" fn(*mut pthread_t, *const pthread_attr_t, Start, *mut c_void) -> c_int;

/// Whether rpmalloc is what this process measures. Set before the first thread starts, which therefore sees it.
static IS_RPMALLOC: AtomicBool = AtomicBool::new(false);

/// Says that rpmalloc is measured in this process.
pub(crate) fn use_rpmalloc() {
    IS_RPMALLOC.store(true, Ordering::Relaxed);
}

unsafe extern "C" {
    /// What `pthread_create` would be without the wrapping: rpmalloc's, since its crate is linked.
    fn __real_pthread_create(
        thread: *mut pthread_t,
        attributes: *const pthread_attr_t,
        start: Start,
        argument: *mut c_void,
    ) -> c_int;
}

/// What everyone calls who calls `pthread_create`.
///
/// # Safety
/// - as `pthread_create`
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn __wrap_pthread_create(
    thread: *mut pthread_t,
    attributes: *const pthread_attr_t,
    start: Start,
    argument: *mut c_void,
) -> c_int {
    let create = if IS_RPMALLOC.load(Ordering::Relaxed) { __real_pthread_create } else { system() };
    // SAFETY: the caller's arguments.
    unsafe { create(thread, attributes, start, argument) }
}

/// The C library's own.
fn system() -> Create {
    static SYSTEM: OnceLock<Create> = OnceLock::new();
    *SYSTEM.get_or_init(|| {
        // SAFETY: a null-terminated name.
        let found = unsafe { libc::dlsym(libc::RTLD_NEXT, c"pthread_create".as_ptr()) };
        assert!(!found.is_null(), "the C library has threads");
        // SAFETY: the C library's function has this type.
        unsafe { transmute::<*mut c_void, Create>(found) }
    })
}
