//! How a thread waits for a word to change: on a futex where the system has one, else by giving the processor away.

pub(super) use imp::{sleep_while, wake_one};

/// How often a thread looks again before it sleeps: about a microsecond, longer than any lock here is held without a system call.
pub(super) const SPINS: u32 = 100;

#[cfg(all(any(target_os = "linux", target_os = "android"), not(miri)))]
mod imp {
    use crate::sync::AtomicU32;

    /// Sleeps while the word still holds `value`; may return early.
    pub(in crate::sync) fn sleep_while(word: &AtomicU32, value: u32) {
        let forever = core::ptr::null::<libc::timespec>();
        futex(word, libc::FUTEX_WAIT, value, forever);
    }

    pub(in crate::sync) fn wake_one(word: &AtomicU32) {
        futex(word, libc::FUTEX_WAKE, 1, core::ptr::null());
    }

    /// A free is not expected to change `errno`, and waiting does.
    fn futex(word: &AtomicU32, operation: libc::c_int, value: u32, timeout: *const libc::timespec) {
        let errno = errno();
        // SAFETY: the thread's own `errno`.
        let before = unsafe { *errno };
        // SAFETY: FUTEX_WAIT reads the word, which outlives the call because `word` borrows it, and a null timeout means none;
        // FUTEX_WAKE only uses its address as a key.
        unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), operation | libc::FUTEX_PRIVATE_FLAG, value, timeout) };
        // SAFETY: as above.
        unsafe { *errno = before };
    }

    fn errno() -> *mut libc::c_int {
        #[cfg(target_os = "android")]
        // SAFETY: no preconditions; the result is good as long as the thread.
        let errno = unsafe { libc::__errno() };
        #[cfg(not(target_os = "android"))]
        // SAFETY: as above.
        let errno = unsafe { libc::__errno_location() };
        errno
    }
}

#[cfg(not(all(any(target_os = "linux", target_os = "android"), not(miri))))]
mod imp {
    use crate::sync::AtomicU32;

    /// Gives the processor to another thread; the caller looks again.
    pub(in crate::sync) fn sleep_while(_word: &AtomicU32, _value: u32) {
        std::thread::yield_now();
    }

    pub(in crate::sync) fn wake_one(_word: &AtomicU32) {}
}
