//! A clock for how long memory has been free: coarse, cheap, and it never goes back.

/// What the clock says instead of the time, for a test that needs the same each time; 0: the time.
#[cfg(all(test, unix))]
pub(crate) static PRETENDED: core::sync::atomic::AtomicU64 = core::sync::atomic::AtomicU64::new(0);

/// Milliseconds since some moment of the past; the resolution is a few milliseconds.
#[cfg(unix)]
pub(crate) fn milliseconds() -> u64 {
    #[cfg(test)]
    match PRETENDED.load(core::sync::atomic::Ordering::Relaxed) {
        0 => {}
        pretended => return pretended,
    }
    #[cfg(any(target_os = "linux", target_os = "android"))]
    const CLOCK: libc::clockid_t = libc::CLOCK_MONOTONIC_COARSE;
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    const CLOCK: libc::clockid_t = libc::CLOCK_MONOTONIC;
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `clock_gettime` writes one `timespec` to a live one.
    unsafe { libc::clock_gettime(CLOCK, &raw mut now) };
    #[allow(clippy::unnecessary_cast, clippy::cast_sign_loss)]
    // 32 bits on some targets; a monotonic clock is not negative
    let milliseconds = now.tv_sec as u64 * 1000 + now.tv_nsec as u64 / 1_000_000;
    milliseconds
}

/// Milliseconds since the system began; the resolution is ten to sixteen milliseconds.
#[cfg(all(windows, feature = "std", not(miri)))]
pub(crate) fn milliseconds() -> u64 {
    // SAFETY: no preconditions.
    unsafe { windows_sys::Win32::System::SystemInformation::GetTickCount64() }
}

/// Milliseconds since the first call.
#[cfg(not(any(
    unix,
    not(feature = "std"),
    all(windows, not(miri)),
    all(target_family = "wasm", target_os = "unknown")
)))]
pub(crate) fn milliseconds() -> u64 {
    use std::time::Instant;

    static FIRST: crate::sync::Lock<Option<Instant>> = crate::sync::Lock::new(None);
    let first = *FIRST.lock().get_or_insert_with(Instant::now);
    u64::try_from(first.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// There is no clock: nothing ages, and what is free goes back by `trim` and where more is kept than there is room for.
#[cfg(all(not(unix), any(not(feature = "std"), all(target_family = "wasm", target_os = "unknown"))))]
pub(crate) fn milliseconds() -> u64 {
    0
}
