//! What the run-time libraries of sanitizers are told, where the process has one: AddressSanitizer which memory is free,
//! LeakSanitizer where pointers may be that keep others' memory reachable. With the feature `valgrind` that is told like the first.
//!
//! The libraries' functions are weak symbols: where the program is linked without them, or an object with this code is loaded
//! into one that is, their addresses are null, and nothing is done here. So there is nothing to configure. They take locks of their
//! own, which a `fork` takes before it takes ours: [`add_root`] and [`remove_root`] are called with no lock held.

use core::ptr::NonNull;

use crate::sync::{AtomicU32, Relaxed};

/// Functions that return the address of another, which the process may have; else null.
macro_rules! weak {
    ($(fn $function:ident = $name:literal;)*) => {
        $(
            #[inline]
            fn $function() -> *const () {
                let address = core::ptr::null();
                #[cfg(all(
                    any(target_os = "linux", target_os = "android"),
                    target_arch = "x86_64",
                    target_pointer_width = "64",
                    not(any(miri, feature = "portable"))
                ))]
                let address = {
                    let mut address: *const () = address;
                    // SAFETY: reads the word that the loader has written for the symbol.
                    unsafe {
                        core::arch::asm!(
                            concat!(".weak ", $name),
                            concat!("mov {}, qword ptr [rip + ", $name, "@GOTPCREL]"),
                            inout(reg) address,
                            options(pure, readonly, nostack, preserves_flags),
                        )
                    };
                    address
                };
                #[cfg(all(
                    any(target_os = "linux", target_os = "android"),
                    target_arch = "aarch64",
                    target_pointer_width = "64",
                    not(any(miri, feature = "portable"))
                ))]
                let address = {
                    let mut address: *const () = address;
                    // SAFETY: as above.
                    unsafe {
                        core::arch::asm!(
                            concat!(".weak ", $name),
                            concat!("adrp {0}, :got:", $name),
                            concat!("ldr {0}, [{0}, :got_lo12:", $name, "]"),
                            inout(reg) address,
                            options(pure, readonly, nostack, preserves_flags),
                        )
                    };
                    address
                };
                address
            }
        )*
    };
}

weak! {
    fn asan_address_is_poisoned = "__asan_address_is_poisoned";
    fn asan_poison = "__asan_poison_memory_region";
    fn asan_unpoison = "__asan_unpoison_memory_region";
    fn lsan_register = "__lsan_register_root_region";
    fn lsan_unregister = "__lsan_unregister_root_region";
}

/// What is told of a range. `asan_interface.h` and `lsan_interface.h` of the sanitizers declare it.
type OfARange = unsafe extern "C" fn(*const u8, usize);
type OfAnAddress = unsafe extern "C" fn(*const u8) -> i32;

/// Valgrind, where it is not to be told of anything.
#[cfg(not(all(feature = "valgrind", unix, not(any(miri, feature = "portable")))))]
mod valgrind {
    use core::ptr::NonNull;

    pub(super) const fn is_there() -> bool {
        false
    }
    pub(super) fn poison(_: NonNull<u8>, _: usize) {}
    pub(super) fn unpoison(_: NonNull<u8>, _: usize) {}
}
#[cfg(all(feature = "valgrind", unix, not(any(miri, feature = "portable"))))]
use super::valgrind;

/// Whether free memory is poisoned: AddressSanitizer is there and lets itself be told, or valgrind is.
#[inline]
pub(crate) fn poisons() -> bool {
    const UNASKED: u32 = 0;
    const NO: u32 = 1;
    const YES: u32 = 2;
    static ANSWER: AtomicU32 = AtomicU32::new(UNASKED);
    // Relaxed: the answer is the same whoever asks.
    match ANSWER.load(Relaxed) {
        UNASKED => {
            let answer = valgrind::is_there() || try_to_poison();
            ANSWER.store(if answer { YES } else { NO }, Relaxed);
            answer
        }
        answer => answer == YES,
    }
}

#[cold]
fn try_to_poison() -> bool {
    // SAFETY: null, or the address of a function of this type.
    let is_poisoned = unsafe { core::mem::transmute::<*const (), Option<OfAnAddress>>(asan_address_is_poisoned()) };
    let Some(is_poisoned) = is_poisoned else { return false };
    // On the stack, so that threads that ask at once each have their own.
    let mut probe = [0_u64; 4];
    let (probe, bytes) = (NonNull::from(&mut probe).cast::<u8>(), size_of_val(&probe));
    // SAFETY: a variable of this call, which nothing reads or writes.
    unsafe { tell(asan_poison(), probe, bytes) };
    // SAFETY: it only looks whether the address is poisoned.
    let answer = unsafe { is_poisoned(probe.as_ptr()) } != 0;
    // SAFETY: as above.
    unsafe { unpoison(probe, bytes) };
    answer
}

/// # Safety
/// `function` is null, or the address of one that may be told of the range.
unsafe fn tell(function: *const (), start: NonNull<u8>, bytes: usize) {
    // SAFETY: the same contract.
    let function = unsafe { core::mem::transmute::<*const (), Option<OfARange>>(function) };
    if let Some(function) = function {
        // SAFETY: the same contract.
        unsafe { function(start.as_ptr(), bytes) };
    }
}

/// Has an access to free memory reported until [`unpoison`], where it [`poisons`].
///
/// # Safety
/// The range is the caller's, begins at a multiple of 8 and is a multiple of 8 long.
pub(crate) unsafe fn poison(start: NonNull<u8>, bytes: usize) {
    if !poisons() {
        return;
    }
    if valgrind::is_there() {
        return valgrind::poison(start, bytes);
    }
    // SAFETY: nobody has a use for what is there.
    unsafe { tell(asan_poison(), start, bytes) };
}

/// Takes that back, in part or as a whole; does nothing to what is not poisoned.
///
/// # Safety
/// The range is the caller's.
pub(crate) unsafe fn unpoison(start: NonNull<u8>, bytes: usize) {
    if valgrind::is_there() {
        return valgrind::unpoison(start, bytes);
    }
    // SAFETY: accesses are allowed again.
    unsafe { tell(asan_unpoison(), start, bytes) };
}

/// Clears memory that is poisoned, and stays so.
///
/// # Safety
/// As for [`poison`], and the range may be written to.
pub(crate) unsafe fn clear_free(start: NonNull<u8>, bytes: usize) {
    // SAFETY: the same contract, here and below.
    unsafe { unpoison(start, bytes) };
    // SAFETY: as above.
    unsafe { start.write_bytes(0, bytes) };
    // SAFETY: as above.
    unsafe { poison(start, bytes) };
}

/// Whether LeakSanitizer is there. It reads all of a root that can be read according to the list of mappings: there must be no
/// guards in it.
#[inline]
pub(crate) fn scans() -> bool {
    !lsan_register().is_null()
}

/// Says that pointers may be in a range, as far as it can be read. Called with no lock held.
///
/// # Safety
/// The range is the caller's.
pub(crate) unsafe fn add_root(start: NonNull<u8>, bytes: usize) {
    // SAFETY: the range is only noted; what is read of it later is what is mapped then.
    unsafe { tell(lsan_register(), start, bytes) };
}

/// Takes that back. Called with no lock held.
///
/// # Safety
/// [`add_root`] was called with the same range, once more often than this.
pub(crate) unsafe fn remove_root(start: NonNull<u8>, bytes: usize) {
    // SAFETY: a range that the function knows; for any other it would end the process.
    unsafe { tell(lsan_unregister(), start, bytes) };
}
