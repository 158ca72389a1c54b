//! How a thread waits for a word to change: on a futex or an address where the system has such, else by giving the processor away.

pub(super) use imp::{sleep_while, wake_one};

/// Gives the processor to another thread, which has something to finish. Who has done so in vain many times, sleeps: it may have a
/// priority from which it gives way to no thread with a lower one.
pub(crate) fn give_way(times: u32) {
    #[cfg(feature = "std")]
    if times >= SPINS {
        let nap = || std::thread::sleep(core::time::Duration::from_micros(20));
        #[cfg(all(any(unix, windows), not(miri)))]
        super::keeping_errno(nap);
        #[cfg(not(all(any(unix, windows), not(miri))))]
        nap();
        return;
    }
    let _ = times;
    super::let_others_work();
}

/// How often a thread looks again before it sleeps: about a microsecond. Most holders are done by then: they exchange a batch. Who puts a
/// slab's list in order, empties a depot or asks the system for something takes longer.
pub(super) const SPINS: u32 = 100;

#[cfg(all(any(target_os = "linux", target_os = "android"), not(miri)))]
mod imp {
    use crate::sync::{AtomicU32, keeping_errno};

    /// Sleeps while the word still holds `value`; may return early.
    pub(in crate::sync) fn sleep_while(word: &AtomicU32, value: u32) {
        let forever = core::ptr::null::<libc::timespec>();
        futex(word, libc::FUTEX_WAIT, value, forever);
    }

    pub(in crate::sync) fn wake_one(word: &AtomicU32) {
        futex(word, libc::FUTEX_WAKE, 1, core::ptr::null());
    }

    fn futex(word: &AtomicU32, operation: libc::c_int, value: u32, timeout: *const libc::timespec) {
        // SAFETY: FUTEX_WAIT reads the word, which outlives the call because `word` borrows it, and a null timeout means none;
        // FUTEX_WAKE only uses its address as a key.
        keeping_errno(|| unsafe {
            libc::syscall(libc::SYS_futex, word.as_ptr(), operation | libc::FUTEX_PRIVATE_FLAG, value, timeout)
        });
    }
}

#[cfg(all(windows, not(miri)))]
mod imp {
    use windows_sys::Win32::System::Threading::{INFINITE, WaitOnAddress, WakeByAddressSingle};

    use crate::sync::{AtomicU32, keeping_errno};

    /// Sleeps while the word still holds `value`; may return early.
    pub(in crate::sync) fn sleep_while(word: &AtomicU32, value: u32) {
        let (place, value) = (word.as_ptr().cast_const().cast(), (&raw const value).cast());
        // SAFETY: reads the word, which outlives the call because `word` borrows it, and a live number of that length.
        keeping_errno(|| unsafe { WaitOnAddress(place, value, size_of::<u32>(), INFINITE) });
    }

    pub(in crate::sync) fn wake_one(word: &AtomicU32) {
        // SAFETY: the address is a key only.
        keeping_errno(|| unsafe { WakeByAddressSingle(word.as_ptr().cast_const().cast()) });
    }
}

#[cfg(not(all(any(target_os = "linux", target_os = "android", windows), not(miri))))]
mod imp {
    use crate::sync::AtomicU32;

    /// Gives the processor to another thread; the caller looks again.
    pub(in crate::sync) fn sleep_while(_word: &AtomicU32, _value: u32) {
        crate::sync::let_others_work();
    }

    pub(in crate::sync) fn wake_one(_word: &AtomicU32) {}
}
