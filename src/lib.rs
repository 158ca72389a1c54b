//! Memory in families: allocators for one part of a program at a time.

mod allocator;
mod bin;
mod capacity;
mod checks;
mod family;
mod fatal;
mod global;
mod header;
mod heap;
mod large;
mod macros;
mod magazine;
mod os;
mod region;
mod size_class;
mod slab;
mod stats;
mod sync;
mod thread;
mod tiny;
mod trunk;

pub use checks::Checks;
pub use family::{Families, FamilyRef, families};
pub use heap::Family;
pub use stats::{ClassStats, Stats};

family! {
    /// The crate's own family, for `Vec::new_in(FamilyAlloc)` as written.
    pub struct FamilyAlloc;
}

/// What the macros use. Not public: anything in here may change at any time.
#[doc(hidden)]
pub mod __private {
    pub use crate::allocator::worlds;
    pub use crate::family::FamilyCore;
    pub use crate::global::{reallocate, slot_start};
    pub use crate::heap::{allocate, allocate_zeroed, deallocate, grow, grow_zeroed, shrink};
    pub use crate::macros::Options;
    pub use crate::thread::CacheSlot;
}
