//! What valgrind is asked and told, with the feature `valgrind`: a sequence of instructions that does nothing anywhere else.
//!
//! ```text
//!   request, five arguments ──► rotations that add up to none, an exchange of a register with itself ──► valgrind's answer, or the default
//! ```

use core::ptr::NonNull;

use crate::sync::{AtomicU32, Relaxed};

const RUNNING_ON_VALGRIND: usize = 0x1001;
/// Memcheck's own begin here.
const MAKE_MEMORY_NO_ACCESS: usize = 0x4d43_0000;
const MAKE_MEMORY_DEFINED: usize = MAKE_MEMORY_NO_ACCESS + 2;

/// Asks valgrind; without it, or where its sequence is not known here, the answer is 0.
fn request(request: usize, first: usize, second: usize) -> usize {
    let arguments = [request, first, second, 0, 0, 0];
    let mut answer = 0_usize;
    #[cfg(all(target_arch = "x86_64", target_pointer_width = "64"))]
    // SAFETY: rotations by 128 bits together, and an exchange of a register with itself; valgrind reads the arguments.
    unsafe {
        core::arch::asm!(
            "rol rdi, 3",
            "rol rdi, 13",
            "rol rdi, 61",
            "rol rdi, 51",
            "xchg rbx, rbx",
            in("rax") arguments.as_ptr(),
            inout("rdx") answer,
            options(nostack),
        )
    };
    #[cfg(target_arch = "aarch64")]
    // SAFETY: as above.
    unsafe {
        core::arch::asm!(
            "ror x12, x12, #3",
            "ror x12, x12, #13",
            "ror x12, x12, #51",
            "ror x12, x12, #61",
            "orr x10, x10, x10",
            in("x4") arguments.as_ptr(),
            inout("x3") answer,
            options(nostack),
        )
    };
    core::hint::black_box(&arguments);
    answer = core::hint::black_box(answer);
    answer
}

/// Whether the process runs under valgrind.
pub(super) fn is_there() -> bool {
    const UNASKED: u32 = 0;
    const NO: u32 = 1;
    const YES: u32 = 2;
    static ANSWER: AtomicU32 = AtomicU32::new(UNASKED);
    // Relaxed: the answer is the same whoever asks.
    if ANSWER.load(Relaxed) == UNASKED {
        let answer = request(RUNNING_ON_VALGRIND, 0, 0) != 0;
        ANSWER.store(if answer { YES } else { NO }, Relaxed);
    }
    ANSWER.load(Relaxed) == YES
}

/// As [`poison`](super::poison).
pub(super) fn poison(start: NonNull<u8>, bytes: usize) {
    request(MAKE_MEMORY_NO_ACCESS, start.addr().get(), bytes);
}

/// As [`unpoison`](super::unpoison). What nobody has written yet is not found so: memory of the system's reads zero.
pub(super) fn unpoison(start: NonNull<u8>, bytes: usize) {
    request(MAKE_MEMORY_DEFINED, start.addr().get(), bytes);
}
