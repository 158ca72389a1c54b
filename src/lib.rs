#![cfg_attr(family_alloc_core_allocator_unstable, feature(allow_internal_unstable), allow(internal_features))]
#![doc = include_str!("../README.md")]
//!
//! # Layers
//!
//! A module imports from lower layers only; `tests/tidy` keeps this table true.
//!
//! | layer | module | owns |
//! | --- | --- | --- |
//! | 0 | `sync` | the only door to atomics, cells, thread-locals and locks |
//! | 0 | `fatal` | the one line before the end |
//! | 0 | `checks` | what a family verifies |
//! | 0 | `huge_pages` | whether a family's slabs use huge pages |
//! | 0 | `size_class` | a layout's class, a class's slot |
//! | 1 | `os` | what is asked of the system |
//! | 1 | `capacity` | how much of each class the caches hold |
//! | 1 | `trunk` | the free list of slots of four bytes and more |
//! | 1 | `stats` | a family's numbers and how they print |
//! | 1 | `waiting` | whether anything may have to go back to the system |
//! | 2 | `fault` | what is known of a misuse, and its report |
//! | 2 | `marks` | the marks behind allocations of hardened families, and their keys |
//! | 2 | `header` | the tag and the header of any address |
//! | 2 | `thread_pages` | the pages that a thread's caches stand in |
//! | 3 | `region` | a family's units: free, dirty, purged |
//! | 3 | `states` | what each slot of a checked family is |
//! | 3 | `tiny` | the free lists of the 1-byte and 2-byte classes |
//! | 4 | `slab` | one unit cut into slots |
//! | 4 | `large` | allocations above the largest slot: runs of pages, single mappings |
//! | 5 | `bin` | what all threads share of one (family, class) |
//! | 6 | `purge` | what goes back to the system, and when |
//! | 6 | `magazine` | what one thread holds of one family |
//! | 7 | `family` | what all threads share of one family; the registry |
//! | 8 | `thread` | a thread's caches, from first use to thread exit |
//! | 9 | `heap` | every branch on size; the calls |
//! | 10 | `allocator` | the `Allocator` traits |
//! | 10 | `global` | `GlobalAlloc` |
//! | 10 | `macros` | `family!` |

mod allocator;
mod bin;
mod capacity;
mod checks;
mod family;
mod fatal;
mod fault;
mod global;
mod header;
mod heap;
mod huge_pages;
mod large;
mod macros;
mod magazine;
mod marks;
mod os;
mod purge;
mod region;
mod size_class;
mod slab;
mod states;
mod stats;
mod sync;
mod thread;
mod thread_pages;
mod tiny;
mod trunk;
mod waiting;

pub use checks::Checks;
pub use family::{Families, FamilyRef, families};
pub use fault::{Fault, FaultHandler, FaultKind, set_fault_handler};
pub use heap::Family;
pub use huge_pages::HugePages;
pub use stats::{ClassStats, Stats};

family! {
    /// The crate's own family, for code that needs just one: `Vec::new_in(FamilyAlloc)`.
    pub struct FamilyAlloc;
}

/// What the macros use. Not public: anything in here may change at any time.
#[doc(hidden)]
pub mod __private {
    pub use crate::allocator::worlds;
    pub use crate::family::FamilyCore;
    pub use crate::global::{reallocate, slot_start};
    pub use crate::heap::{allocate, allocate_zeroed, deallocate, grow, grow_zeroed, shrink};
    pub use crate::heap::{allocate_exact, allocate_zeroed_exact, deallocate_exact, resize_exact};
    pub use crate::macros::Options;
    pub use crate::magazine::CacheSlot;
    #[cfg(feature = "faults")]
    pub use crate::os::faults;
    pub use std::thread_local;
}
