//! What several test programs share: child processes, readings of memory, slots with recognisable contents, random numbers.

#![allow(dead_code, reason = "each test program uses a part")]

pub(crate) mod child;
pub(crate) mod doors;
#[cfg(target_os = "linux")]
pub(crate) mod forbid;
pub(crate) mod memory;
pub(crate) mod pattern;
pub(crate) mod random;
