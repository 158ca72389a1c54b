//! Random bits. No cancellation point is passed on the way: the caller may have a lock, which a
//! thread that ends here would keep.

/// 64 random bits from the system; weak ones where it has none to give.
#[cfg(all(any(target_os = "linux", target_os = "android"), not(miri)))]
pub(crate) fn random() -> u64 {
    use crate::sync::keeping_errno;

    let mut bits = 0_u64;
    let place = &raw mut bits;
    // The C library's `getrandom` is a cancellation point, the call itself is not.
    // SAFETY: the call writes at most eight bytes to a live `u64`.
    let given = keeping_errno(|| unsafe {
        libc::syscall(libc::SYS_getrandom, place.cast::<u8>(), size_of::<u64>(), libc::GRND_NONBLOCK)
    });
    if given == 8 {
        bits
    } else {
        super::milliseconds().wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ (&raw const bits).addr() as u64
    }
}

/// 64 random bits from the system, which always has some.
#[cfg(all(windows, feature = "std", not(miri)))]
pub(crate) fn random() -> u64 {
    let mut bits = [0; size_of::<u64>()];
    // SAFETY: the call writes that many bytes to a live array.
    unsafe { windows_sys::Win32::Security::Cryptography::ProcessPrng(bits.as_mut_ptr(), bits.len()) };
    u64::from_ne_bytes(bits)
}

/// Bits that differ from call to call and from process to process: from `std`, which asks the
/// system once a thread.
#[cfg(all(feature = "std", not(all(any(target_os = "linux", target_os = "android", windows), not(miri)))))]
pub(crate) fn random() -> u64 {
    use core::hash::{BuildHasher, Hasher};

    let bits = 0_u8;
    let mut hasher = std::hash::RandomState::new().build_hasher();
    hasher.write_usize((&raw const bits).addr());
    #[cfg(any(
        target_os = "macos",
        target_os = "freebsd",
        target_os = "netbsd",
        target_os = "openbsd",
        target_os = "illumos",
        target_os = "solaris"
    ))]
    #[cfg(not(miri))]
    {
        let mut own = 0_u64;
        // SAFETY: `getentropy` writes eight bytes to a live `u64`. Should it fail, the rest has to
        // do.
        unsafe { libc::getentropy((&raw mut own).cast(), size_of::<u64>()) };
        hasher.write_u64(own);
    }
    // The child of a fork has its parent's `RandomState`.
    #[cfg(unix)]
    hasher.write_u32(std::process::id());
    hasher.finish() ^ super::milliseconds()
}

/// Bits that differ from call to call, and no more than that: nobody is known who has random ones.
#[cfg(all(not(feature = "std"), not(all(any(target_os = "linux", target_os = "android"), not(miri)))))]
pub(crate) fn random() -> u64 {
    use crate::sync::{AtomicUsize, Relaxed};

    static CALLS: AtomicUsize = AtomicUsize::new(0);
    // Relaxed: a number that publishes nothing.
    let call = CALLS.fetch_add(1, Relaxed) as u64;
    let place = (&raw const call).addr() as u64;
    let mut bits = (call + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ place.rotate_left(32) ^ super::milliseconds();
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    bits ^ (bits >> 31)
}
