//! A board with a Cortex-M4, MPS2+ AN386: where it begins, its memory, and how it tells the emulator that it has ended.

use core::arch::{asm, global_asm};
use core::ptr::NonNull;

// The table that the processor reads when it is switched on: the stack, and where to begin. `.bss` is zero in the emulator.
global_asm!(
    ".section .vectors, \"a\"",
    ".word 0x20400000",
    ".word begin",
    ".word fault",
    ".word fault",
    ".word fault",
    ".word fault",
    ".word fault",
    ".text",
);

/// 16 MiB of RAM that the program has no other use for.
pub(crate) fn memory() -> NonNull<[u8]> {
    let start = NonNull::new(core::ptr::with_exposed_provenance_mut(0x2100_0000)).unwrap_or(NonNull::dangling());
    NonNull::slice_from_raw_parts(start, 16 << 20)
}

#[unsafe(no_mangle)]
extern "C" fn begin() -> ! {
    end(crate::run())
}

#[unsafe(no_mangle)]
extern "C" fn fault() -> ! {
    end(false)
}

/// Ends the emulator (`SYS_EXIT` of semihosting), which returns 0 if all went well.
pub(crate) fn end(well: bool) -> ! {
    const SYS_EXIT: u32 = 0x18;
    let reason: u32 = if well { 0x20026 } else { 0x20023 };
    loop {
        // SAFETY: what the emulator does with it is said above.
        unsafe { asm!("bkpt 0xab", in("r0") SYS_EXIT, in("r1") reason) };
    }
}
