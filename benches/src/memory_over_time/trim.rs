//! How a program asks its allocator to give back what it can, in each allocator's own way.

use crate::peers::Name;

/// Gives back what the allocator holds and nobody needs.
pub(crate) fn trim(name: Name) {
    match name {
        Name::Ours | Name::OursSpaced | Name::OursUnchecked => {
            family_alloc::families().for_each(|family| _ = family.trim())
        }
        // SAFETY: a function without preconditions.
        Name::System => _ = unsafe { libc::malloc_trim(0) },
        // SAFETY: a function without preconditions.
        Name::Mimalloc => unsafe { libmimalloc_sys::mi_collect(true) },
        Name::Jemalloc => {
            call_jemalloc(c"thread.tcache.flush");
            // The number that stands for all arenas.
            call_jemalloc(c"arena.4096.purge");
        }
        // These have no such call that their crates show.
        Name::RustyAlloc | Name::Snmalloc | Name::Rpmalloc | Name::Smmalloc | Name::Bumpalo => {}
    }
}

/// A command of jemalloc's that takes and returns nothing.
fn call_jemalloc(command: &std::ffi::CStr) {
    let null = std::ptr::null_mut();
    // SAFETY: a command that ends with a zero byte; no value is read and none written.
    let error = unsafe { tikv_jemalloc_sys::mallctl(command.as_ptr(), null, null.cast(), null, 0) };
    assert_eq!(error, 0, "jemalloc knows {command:?}");
}
