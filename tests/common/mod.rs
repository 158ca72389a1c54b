//! What several test programs share: child processes, readings of memory, slots with recognisable contents, a shadow model of
//! families with steps to run beside it, threads that make calls for others, random numbers. The fuzz targets use it as well.

#![allow(dead_code, reason = "each test program uses a part")]

pub(crate) mod child;
pub(crate) mod doors;
#[cfg(target_os = "linux")]
pub(crate) mod forbid;
pub(crate) mod memory;
pub(crate) mod pattern;
pub(crate) mod random;
pub(crate) mod shadow;
pub(crate) mod steps;
pub(crate) mod worker;
