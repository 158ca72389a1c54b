//! Code that stays where it is: what threads, keys and handlers point to is never unloaded.

/// Keeps what holds this code, and the library that holds `address`, in memory for good: `dlclose`
/// then leaves them there, and `dlopen` finds them again with all they hold. The two differ where
/// this crate is in a shared library of its own (a Rust `dylib`) and a plugin declares a family:
/// the registry would point to what is gone. And unloaded and loaded anew, this code would know
/// nothing of its regions, its tables and its `pthread` key, and leave them behind each time: 4 GiB
/// of address space and one of the system's 1024 keys.
///
/// Called with no lock held: the loader has one of its own. Where the loader cannot be asked, the library is as safe as its
/// thread-locals make it: systems don't unload code that has one to destroy. Asking clears an error that `dlerror` has not told yet.
#[cfg(all(target_os = "linux", target_env = "gnu", not(target_feature = "crt-static"), not(miri)))]
pub(crate) fn stay_loaded(address: usize) {
    use crate::sync::{AtomicU32, Relaxed};

    static ASKED: AtomicU32 = AtomicU32::new(0);
    // Relaxed: whoever comes second, which may be the loader's own need of memory, does not wait.
    if ASKED.swap(1, Relaxed) == 0 {
        glibc::keep((&raw const ASKED).addr());
    }
    glibc::keep(address);
}

#[cfg(all(target_os = "linux", target_env = "gnu", not(target_feature = "crt-static"), not(miri)))]
mod glibc {
    use core::ffi::{c_char, c_int, c_void};

    /// The beginning of the loader's record of a program or library.
    #[repr(C)]
    struct LinkMap {
        _address: usize,
        /// Empty for the program itself, which is never unloaded.
        name: *const c_char,
    }
    /// Asks `dladdr1` for that record.
    const RTLD_DL_LINKMAP: c_int = 2;

    /// Keeps the library that holds an address.
    pub(super) fn keep(address: usize) {
        let mut info = libc::Dl_info {
            dli_fname: core::ptr::null(),
            dli_fbase: core::ptr::null_mut(),
            dli_sname: core::ptr::null(),
            dli_saddr: core::ptr::null_mut(),
        };
        let mut record: *mut c_void = core::ptr::null_mut();
        let place = core::ptr::without_provenance(address);
        // SAFETY: writes one `Dl_info` and one pointer to live ones; it only searches for the
        // address.
        if unsafe { libc::dladdr1(place, &raw mut info, &raw mut record, RTLD_DL_LINKMAP) } == 0 || record.is_null() {
            return;
        }
        // SAFETY: the record of a library that is loaded: the caller calls from it, or has
        // something of it.
        let name = unsafe { (*record.cast::<LinkMap>()).name };
        // SAFETY: a name in the record is null or ends with a zero byte.
        if !name.is_null() && unsafe { *name } != 0 {
            // SAFETY: a name that ends with a zero byte; what is loaded already is not initialised
            // again.
            unsafe { libc::dlopen(name, libc::RTLD_LAZY | libc::RTLD_NOLOAD | libc::RTLD_NODELETE) };
        }
    }
}

/// The same on Windows, where a library that has thread-locals to destroy is unloaded all the same.
#[cfg(all(windows, not(any(miri, feature = "portable"))))]
pub(crate) fn stay_loaded(address: usize) {
    use windows_sys::Win32::System::LibraryLoader::{
        GET_MODULE_HANDLE_EX_FLAG_FROM_ADDRESS, GET_MODULE_HANDLE_EX_FLAG_PIN, GetModuleHandleExW,
    };

    use crate::sync::keeping_errno;

    static ANCHOR: u8 = 0;
    super::imp::find_calls();
    let flags = GET_MODULE_HANDLE_EX_FLAG_FROM_ADDRESS | GET_MODULE_HANDLE_EX_FLAG_PIN;
    for address in [(&raw const ANCHOR).addr(), address] {
        let mut module = core::ptr::null_mut();
        let place = core::ptr::without_provenance(address);
        // SAFETY: writes one handle to a live one; the address is only searched for.
        keeping_errno(|| unsafe { GetModuleHandleExW(flags, place, &raw mut module) });
    }
}

/// Elsewhere a library that has thread-locals to destroy is not unloaded, or none is.
#[cfg(not(any(
    all(target_os = "linux", target_env = "gnu", not(target_feature = "crt-static"), not(miri)),
    all(windows, not(any(miri, feature = "portable")))
)))]
pub(crate) fn stay_loaded(_: usize) {}

/// Whether the process is ending, and its other threads have been ended wherever they were, with whatever lock they held.
/// Windows then calls what a library wants to do for its last thread.
#[cfg(all(windows, not(miri)))]
pub(crate) fn is_ending() -> bool {
    #[cfg_attr(not(target_arch = "x86"), link(name = "ntdll", kind = "raw-dylib"))]
    #[cfg_attr(target_arch = "x86", link(name = "ntdll", kind = "raw-dylib", import_name_type = "undecorated"))]
    unsafe extern "system" {
        fn RtlDllShutdownInProgress() -> u8;
    }
    // SAFETY: no preconditions.
    unsafe { RtlDllShutdownInProgress() != 0 }
}

/// Elsewhere nothing is called then.
#[cfg(not(any(unix, all(windows, not(miri)))))]
pub(crate) fn is_ending() -> bool {
    false
}
