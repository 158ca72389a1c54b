//! What several test programs share: child processes, readings of memory, slots with recognisable contents, a shadow model of
//! families with steps to run beside it, threads that make calls for others, random numbers. The fuzz targets use it as well.

#![allow(dead_code, reason = "each test program uses a part")]

pub(crate) mod child;
pub(crate) mod doors;
#[cfg(target_os = "linux")]
pub(crate) mod forbid;
pub(crate) mod heaps;
pub(crate) mod memory;
pub(crate) mod pattern;
pub(crate) mod random;
pub(crate) mod shadow;
pub(crate) mod steps;
pub(crate) mod worker;

/// So many repetitions, or fewer where each takes far longer: under Miri a three hundredth of them, under an emulator the
/// part that `FAMILY_ALLOC_TEST_SHORT` says, 20 for a twentieth.
pub(crate) fn times(count: usize) -> usize {
    count.div_ceil(if cfg!(miri) { 300 } else { short_part() })
}

fn short_part() -> usize {
    std::env::var("FAMILY_ALLOC_TEST_SHORT").ok().and_then(|part| part.parse().ok()).unwrap_or(1).max(1)
}
