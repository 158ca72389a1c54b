//! Signals of the calling thread, and of those that it starts.

/// Does something while the calling thread takes no signals: a thread that it starts then takes none as long as it lives.
#[cfg(all(unix, not(miri)))]
pub(crate) fn without_signals<T>(work: impl FnOnce() -> T) -> T {
    /// Takes the signals again that were taken before, also after a panic.
    struct Before(libc::sigset_t);

    impl Drop for Before {
        fn drop(&mut self) {
            // SAFETY: a set that the system has filled in, and nowhere to store what is there now.
            unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.0, core::ptr::null_mut()) };
        }
    }

    let (mut all, mut before) = (core::mem::MaybeUninit::uninit(), core::mem::MaybeUninit::uninit());
    // SAFETY: fills in the whole set.
    unsafe { libc::sigfillset(all.as_mut_ptr()) };
    // SAFETY: a set that was filled in, and room for another.
    let failed = unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr()) };
    // SAFETY: filled in where the call has not failed.
    let _before = (failed == 0).then(|| Before(unsafe { before.assume_init() }));
    work()
}

/// There are none, or Miri knows none.
#[cfg(not(all(unix, not(miri))))]
pub(crate) fn without_signals<T>(work: impl FnOnce() -> T) -> T {
    work()
}
