//! More memory on WebAssembly: `memory.grow`. It never goes back; others grow the same memory beside us.

#![forbid(unsafe_code)]

use core::arch::wasm32::{memory_grow, memory_size};
use core::ptr::NonNull;

/// What the memory grows by.
const STEP_BYTES: usize = 64 << 10;
/// What is left unused at the end of the address space, so that what ends there has an end.
const LAST_BYTES: usize = 4096;

/// Where the memory ends now.
pub(super) fn end() -> Option<usize> {
    memory_size::<0>().checked_mul(STEP_BYTES)
}

/// So many bytes or more: where they begin, and how many they are.
pub(super) fn grow(bytes: usize) -> Option<(NonNull<u8>, usize)> {
    let steps = bytes.div_ceil(STEP_BYTES);
    let before = memory_grow::<0>(steps);
    if before == usize::MAX {
        return None;
    }
    let start = before.checked_mul(STEP_BYTES)?;
    let end = start.checked_add(steps * STEP_BYTES).unwrap_or(start.wrapping_add(steps * STEP_BYTES - LAST_BYTES));
    let memory = NonNull::new(core::ptr::with_exposed_provenance_mut(start))?;
    Some((memory, end - start))
}
