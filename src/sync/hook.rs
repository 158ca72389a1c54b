//! How a thread that waits lets others go on: by the standard library, else by a function of the program's.

#[cfg(not(feature = "std"))]
use super::{Acquire, AtomicPtr, Release};

/// What is called while one waits.
#[cfg(not(feature = "std"))]
static HOOK: AtomicPtr<()> = AtomicPtr::new(core::ptr::null_mut());

/// Sets what is called again and again by who waits for one of this crate's locks, in builds without the feature `std`:
/// a function that lets other tasks run, one of which holds the lock. Without one the processor spins. With `std` threads
/// wait by the system's means, and the function is never called.
///
/// It must return, and must not call into this crate.
///
/// ```
/// fn let_others_run() { /* the scheduler's `yield` */ }
///
/// family_alloc::set_wait_hook(let_others_run);
/// ```
pub fn set_wait_hook(hook: fn()) {
    #[cfg(feature = "std")]
    let _ = hook;
    // Release: publishes what the hook relies on to who calls it (`let_others_work`).
    #[cfg(not(feature = "std"))]
    HOOK.store(hook as *mut (), Release);
}

/// Lets other threads go on, for who waits for what they do.
#[cfg(feature = "std")]
pub(crate) fn let_others_work() {
    std::thread::yield_now();
}

/// Lets other tasks go on, as far as it is known how.
#[cfg(not(feature = "std"))]
pub(crate) fn let_others_work() {
    core::hint::spin_loop();
    // Acquire: pairs with the Release in `set_wait_hook`.
    let hook = HOOK.load(Acquire);
    if !hook.is_null() {
        // SAFETY: only `set_wait_hook` stores here, and only such functions.
        let hook = unsafe { core::mem::transmute::<*mut (), fn()>(hook) };
        hook();
    }
}
