//! Code that stays where it is: what threads, keys and handlers point to is never unloaded.

/// Keeps the library that this code is part of in memory for good, once it has a family in use: `dlclose` then leaves it there, and
/// `dlopen` finds it again with all it holds. Unloaded and loaded anew it would know nothing of its regions, its tables and its
/// `pthread` key, and leave them behind each time: 4 GiB of address space and one of the system's 1024 keys.
///
/// Called with no lock held: the loader has one of its own. Where the loader cannot be asked, the library is as safe as its
/// thread-locals make it: systems don't unload code that has one to destroy. Asking clears an error that `dlerror` has not told yet.
#[cfg(all(target_os = "linux", target_env = "gnu", not(target_feature = "crt-static"), not(miri)))]
pub(crate) fn stay_loaded() {
    use core::ffi::{c_char, c_int, c_void};

    use crate::sync::{AtomicU32, Relaxed};

    /// The beginning of the loader's record of a program or library.
    #[repr(C)]
    struct LinkMap {
        _address: usize,
        /// Empty for the program itself, which is never unloaded.
        name: *const c_char,
    }
    /// Asks `dladdr1` for that record.
    const RTLD_DL_LINKMAP: c_int = 2;

    static ASKED: AtomicU32 = AtomicU32::new(0);
    // Relaxed: whoever comes second, which may be the loader's own need of memory, does not wait.
    if ASKED.swap(1, Relaxed) != 0 {
        return;
    }
    let mut info = libc::Dl_info {
        dli_fname: core::ptr::null(),
        dli_fbase: core::ptr::null_mut(),
        dli_sname: core::ptr::null(),
        dli_saddr: core::ptr::null_mut(),
    };
    let mut record: *mut c_void = core::ptr::null_mut();
    let own = (&raw const ASKED).cast::<c_void>();
    // SAFETY: writes one `Dl_info` and one pointer to live ones; it only searches for the address of a static.
    if unsafe { libc::dladdr1(own, &raw mut info, &raw mut record, RTLD_DL_LINKMAP) } == 0 || record.is_null() {
        return;
    }
    // SAFETY: the record of the library that this code is part of, which is loaded.
    let name = unsafe { (*record.cast::<LinkMap>()).name };
    // SAFETY: a name in the record is null or ends with a zero byte.
    if !name.is_null() && unsafe { *name } != 0 {
        // SAFETY: a name that ends with a zero byte; what is loaded already is not initialised again.
        unsafe { libc::dlopen(name, libc::RTLD_LAZY | libc::RTLD_NOLOAD | libc::RTLD_NODELETE) };
    }
}

/// Elsewhere a library that has thread-locals to destroy is not unloaded, or none is.
#[cfg(not(all(target_os = "linux", target_env = "gnu", not(target_feature = "crt-static"), not(miri))))]
pub(crate) fn stay_loaded() {}
