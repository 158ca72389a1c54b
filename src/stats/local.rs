//! What a local heap tells about itself.

#![forbid(unsafe_code)]

use core::fmt;

use super::{Bytes, plural};

/// What a [`LocalHeap`](crate::LocalHeap) holds at one moment; from [`LocalHeap::stats`](crate::LocalHeap::stats).
///
/// Bytes are those of whole slots: an allocation of 33 bytes occupies 40. Blocks are as long as what was asked for, rounded up to
/// a multiple of 8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LocalStats {
    /// The heap's name.
    pub name: &'static str,
    /// Allocations that clients hold now.
    pub live_allocations: usize,
    /// Bytes of their slots and blocks.
    pub live_bytes: usize,
    /// How many of them are longer than 4 KiB or aligned to more than 16.
    pub large_allocations: usize,
    /// Bytes of these.
    pub large_bytes: usize,
    /// Bytes that the heap has from its family: chunks, free slots in them, and blocks. Of these the pages that
    /// were touched are memory.
    pub held_bytes: usize,
}

impl fmt::Display for LocalStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "local heap {}: {} live in {} allocation{}, {} held",
            self.name,
            Bytes(self.live_bytes),
            self.live_allocations,
            plural(self.live_allocations),
            Bytes(self.held_bytes),
        )
    }
}
