#![cfg_attr(not(any(feature = "std", test)), no_std)]
#![cfg_attr(
    not(feature = "std"),
    allow(dead_code, unused_imports, reason = "what only threads' caches and scopes use")
)]
#![cfg_attr(family_alloc_core_allocator_unstable, feature(allow_internal_unstable), allow(internal_features))]
// The first definition of a link counts: on this page these lead to the items, in the file to the published pages.
//! [`family!`]: crate::family!
//! [`unsize_box!`]: crate::unsize_box!
//! [`Family`]: crate::Family
//! [`Stats`]: crate::Stats
//! [`Heap`]: crate::Heap
//! [`LocalHeap`]: crate::LocalHeap
//! [`Housekeeper`]: https://docs.rs/family-alloc/latest/family_alloc/struct.Housekeeper.html
//! [`Family::set_limit`]: crate::Family::set_limit
//! [`Heap::outside`]: crate::Heap::outside
//! [`Scoped`]: crate::Scoped
//! [`Enter`]: crate::Enter
//! [`ScopeLayer`]: https://docs.rs/family-alloc/latest/family_alloc/struct.ScopeLayer.html
//! [`spawn_in_scope`]: crate::spawn_in_scope
//! [`set_wait_hook`]: crate::set_wait_hook
//! [`carry_scope`]: crate::carry_scope
//! [`set_limit_handler`]: crate::set_limit_handler
//! [`families()`]: crate::families
//! [recipes]: crate::recipes
//!
#![doc = include_str!("../README.md")]

#[cfg(not(all(target_has_atomic = "8", target_has_atomic = "32", target_has_atomic = "ptr")))]
compile_error! {
    "family-alloc needs atomics of 8 and 32 bits and of pointers, with compare-and-swap, which this target has not (of 64 bits it needs none)"
}
#[cfg(target_pointer_width = "16")]
compile_error! { "family-alloc needs addresses of 32 or 64 bits" }

// The order of the modules is the table *Layers* in `DESIGN.md`: a module imports from lower layers only.

mod allocator;
mod bin;
mod capacity;
mod checks;
#[cfg(all(test, feature = "std"))]
mod child;
mod depot;
mod family;
mod fatal;
mod fault;
mod front;
mod global;
mod header;
mod heap;
#[cfg(feature = "std")]
mod housekeeper;
mod huge_pages;
mod large;
mod local;
mod macros;
mod magazine;
mod marks;
mod os;
mod purge;
mod region;
#[cfg(feature = "std")]
mod scope;
mod size_class;
mod slab;
mod states;
mod stats;
mod sync;
mod thread;
mod thread_pages;
mod tiny;
mod waiting;
mod worlds;

#[cfg(feature = "allocator-api2-02")]
#[doc(no_inline)]
pub use allocator_api2::{self, boxed::Box, vec::Vec};
#[cfg(feature = "allocator-api2-03")]
#[doc(no_inline)]
pub use allocator_api2_03;
#[cfg(feature = "allocator-api2-04")]
#[doc(no_inline)]
pub use allocator_api2_04;
pub use checks::Checks;
pub use family::{
    Families, FamilyRef, LimitCrossing, LimitHandler, LimitRefusal, families, last_refusal, set_limit_handler,
};
pub use fault::{Fault, FaultHandler, FaultKind, set_fault_handler};
pub use front::Family;
pub use heap::{Heap, HeapBuilder, HeapError, Parent};
#[cfg(feature = "std")]
pub use housekeeper::Housekeeper;
pub use huge_pages::HugePages;
pub use local::{LocalHeap, LocalHeapBuilder};
pub use os::give_memory;
#[cfg(feature = "std")]
pub use scope::{Enter, Entered, InHeap, InHeapFuture, Scoped, carry_scope, current_scope, spawn_in_scope};
#[cfg(feature = "tracing")]
pub use scope::{OutsideScopes, ScopeLayer};
pub use size_class::Classes;
pub use stats::{ClassStats, ClassTable, LocalStats, Stats, StatsChange};
pub use sync::set_wait_hook;

family! {
    /// The crate's own family, for code that needs just one.
    ///
    /// ```
    /// use family_alloc::{Family, FamilyAlloc, Vec};
    ///
    /// let mut v = Vec::new_in(FamilyAlloc);
    /// v.extend(0..100);
    /// assert_eq!(FamilyAlloc::stats().live_allocations, 1);
    /// ```
    pub struct FamilyAlloc;
}

#[doc = include_str!("../docs/recipes.md")]
pub mod recipes {}

/// What the macros use. Not public: anything in here may change at any time.
#[doc(hidden)]
pub mod __private {
    pub use crate::allocator::names as worlds;
    pub use crate::bin::Bin;
    pub use crate::family::FamilyCore;
    #[cfg(not(feature = "std"))]
    pub use crate::family::slot_of_none;
    pub use crate::front::{Engine, Handle};
    pub use crate::front::{allocate_exact, allocate_zeroed_exact, deallocate_exact, resize_exact};
    pub use crate::global::{reallocate, slot_start};
    pub use crate::macros::Options;
    pub use crate::magazine::CacheSlot;
    #[cfg(feature = "_faults")]
    pub use crate::{family::reserved_bytes_of_all, os::faults};
    #[cfg(feature = "std")]
    pub use std::thread_local;
}
