//! A system that takes advice it does not know for a hint, and says that all is well: qemu's user mode is one. What it says of guards must
//! not be believed.
//!
//! A program of its own, because it stands between the crate and the C library's `madvise`.

#![cfg(target_os = "linux")]

use std::ffi::{c_int, c_void};

use family_alloc::{Family, family};

/// The C library's, but for advice that Linux 4.14 did not know.
#[unsafe(no_mangle)]
extern "C" fn madvise(start: *mut c_void, bytes: usize, advice: c_int) -> c_int {
    if advice > libc::MADV_KEEPONFORK && advice != libc::MADV_HWPOISON {
        return 0;
    }
    // SAFETY: the call as it was meant.
    let done = unsafe { libc::syscall(libc::SYS_madvise, start, bytes, advice) };
    c_int::try_from(done).unwrap_or(-1)
}

/// What such a system gives back is looked at: pages go, and what comes again reads zero.
#[test]
#[cfg_attr(feature = "portable", ignore = "this backend gives no pages back")]
fn what_goes_back_is_known_to() {
    family! { struct Given { slab_bytes: 64 << 10 } }
    let bytes = 1000;
    let slots: Vec<*mut u8> = (0..1000).map(|_| Given::malloc(bytes)).collect();
    for &slot in &slots {
        // SAFETY: allocated above.
        unsafe { slot.write_bytes(0xAA, bytes) };
    }
    for slot in slots {
        // SAFETY: allocated above with this size.
        unsafe { Given::free(slot, bytes) };
    }
    assert!(Given::trim() >= 900_000, "the system has taken it");
    for _ in 0..1000 {
        let zeroed = Given::calloc(bytes);
        // SAFETY: allocated just now, and zero.
        assert!(unsafe { std::slice::from_raw_parts(zeroed, bytes) }.iter().all(|&byte| byte == 0));
    }
}

#[test]
fn what_is_no_guard_is_not_taken_for_zero() {
    family! { struct Guarded { checks: Hardened } }
    for bytes in [64 << 10, 1 << 20, 5 << 20] {
        for round in 0..20 {
            let used = Guarded::malloc(bytes);
            assert!(!used.is_null(), "memory");
            // SAFETY: allocated above.
            unsafe { used.write_bytes(0xAA, bytes) };
            // SAFETY: allocated above with this size.
            unsafe { Guarded::free(used, bytes) };
            let zeroed = Guarded::calloc(bytes);
            assert!(!zeroed.is_null(), "memory");
            // SAFETY: allocated above, and zero.
            let contents = unsafe { std::slice::from_raw_parts(zeroed, bytes) };
            assert!(contents.iter().all(|&byte| byte == 0), "{bytes} bytes, round {round}");
            // SAFETY: allocated above with this size.
            unsafe { Guarded::free(zeroed, bytes) };
        }
    }
}
