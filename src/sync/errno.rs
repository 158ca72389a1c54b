//! The C library's `errno`, or Windows' last error, which a free is expected to leave as it was.

#[cfg(any(
    target_os = "linux",
    target_os = "android",
    target_vendor = "apple",
    target_os = "freebsd",
    target_os = "netbsd",
    target_os = "openbsd",
    target_os = "illumos",
    target_os = "solaris"
))]
mod imp {
    /// Calls the system; `errno` is afterwards what it was.
    pub(crate) fn keeping_errno<T>(call: impl FnOnce() -> T) -> T {
        let errno = errno();
        // SAFETY: the thread's own `errno`.
        let before = unsafe { *errno };
        let result = call();
        // SAFETY: as above.
        unsafe { *errno = before };
        result
    }

    fn errno() -> *mut libc::c_int {
        #[cfg(any(target_os = "android", target_os = "netbsd", target_os = "openbsd"))]
        // SAFETY: no preconditions; the result is good as long as the thread.
        let errno = unsafe { libc::__errno() };
        #[cfg(target_os = "linux")]
        // SAFETY: as above.
        let errno = unsafe { libc::__errno_location() };
        #[cfg(any(target_vendor = "apple", target_os = "freebsd"))]
        // SAFETY: as above.
        let errno = unsafe { libc::__error() };
        #[cfg(any(target_os = "illumos", target_os = "solaris"))]
        // SAFETY: as above.
        let errno = unsafe { libc::___errno() };
        errno
    }
}

#[cfg(windows)]
mod imp {
    use windows_sys::Win32::Foundation::{GetLastError, SetLastError};

    /// Calls the system; the thread's last error is afterwards what it was.
    pub(crate) fn keeping_errno<T>(call: impl FnOnce() -> T) -> T {
        // SAFETY: no preconditions.
        let before = unsafe { GetLastError() };
        let result = call();
        // SAFETY: as above.
        unsafe { SetLastError(before) };
        result
    }
}

/// Where it is not known how to write to `errno` it changes.
#[cfg(not(any(
    windows,
    target_os = "linux",
    target_os = "android",
    target_vendor = "apple",
    target_os = "freebsd",
    target_os = "netbsd",
    target_os = "openbsd",
    target_os = "illumos",
    target_os = "solaris"
)))]
mod imp {
    /// Calls the system.
    pub(crate) fn keeping_errno<T>(call: impl FnOnce() -> T) -> T {
        call()
    }
}

pub(crate) use imp::keeping_errno;
