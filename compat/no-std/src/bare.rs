//! No board: where a boot loader would begin, and what it would give. Linked and never run.

use core::ptr::NonNull;

/// As aligned as a region of the slabs that a family has by default.
#[repr(align(4194304))]
struct Memory(#[allow(dead_code, reason = "only its address is used")] [u8; 32 << 20]);
static mut MEMORY: Memory = Memory([0; 32 << 20]);

pub(crate) fn memory() -> NonNull<[u8]> {
    let start = NonNull::new((&raw mut MEMORY).cast::<u8>()).unwrap_or(NonNull::dangling());
    NonNull::slice_from_raw_parts(start, size_of::<Memory>())
}

#[unsafe(no_mangle)]
extern "C" fn _start() -> ! {
    end(crate::run())
}

pub(crate) fn end(_: bool) -> ! {
    loop {
        core::hint::spin_loop();
    }
}
