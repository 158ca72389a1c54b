//! Layer 0: the definitions of the `Allocator` trait that this crate is built with, and the one bound that
//! implies them all.
//!
//! A *world* is one definition of the trait: `allocator_api2` 0.2, 0.3 and 0.4, and core's own. Each is
//! switched on by a feature. [`Worlds`] is the supertrait of [`Family`](crate::Family), so that a generic
//! function needs no second bound, whatever is switched on:
//!
//! ```text
//! Family ── Worlds ─┬─ GlobalAlloc
//!                   ├─ World02 ── allocator_api2 0.2's Allocator, or nothing
//!                   ├─ World03 ── 0.3's, or nothing
//!                   ├─ World04 ── 0.4's, or nothing
//!                   └─ WorldCore ── core's, or nothing
//! ```
//!
//! Every step is implemented for all types that have what stands to its right, and for no other.
//! `allocator-api2/nightly` makes 0.2's trait core's: then two of the bounds are the same, which is one bound.

#![forbid(unsafe_code)]

use core::alloc::GlobalAlloc;

#[cfg(feature = "allocator-api2-02")]
pub use allocator_api2 as v02;
#[cfg(feature = "allocator-api2-03")]
pub use allocator_api2_03 as v03;
#[cfg(feature = "allocator-api2-04")]
pub use allocator_api2_04 as v04;

/// Everything that a family implements in this build: `GlobalAlloc` and the `Allocator` of each world.
pub trait Worlds: GlobalAlloc + World02 + World03 + World04 + WorldCore {}

impl<T: GlobalAlloc + World02 + World03 + World04 + WorldCore> Worlds for T {}

/// A trait that is the `Allocator` of a module, or that says nothing. A macro, because only a macro may name
/// core's trait where that is unstable.
#[cfg_attr(family_alloc_core_allocator_unstable, allow_internal_unstable(allocator_api))]
macro_rules! world {
    ($name:ident) => {
        #[doc(hidden)]
        pub trait $name {}
        impl<T> $name for T {}
    };
    ($name:ident, [$($module:tt)+]) => {
        #[doc(hidden)]
        pub trait $name: $($module)+::Allocator {}
        impl<T: $($module)+::Allocator> $name for T {}
    };
}

#[cfg(feature = "allocator-api2-02")]
world!(World02, [v02::alloc]);
#[cfg(not(feature = "allocator-api2-02"))]
world!(World02);

#[cfg(feature = "allocator-api2-03")]
world!(World03, [v03::alloc]);
#[cfg(not(feature = "allocator-api2-03"))]
world!(World03);

#[cfg(feature = "allocator-api2-04")]
world!(World04, [v04::alloc]);
#[cfg(not(feature = "allocator-api2-04"))]
world!(World04);

#[cfg(family_alloc_core_allocator)]
world!(WorldCore, [::core::alloc]);
#[cfg(not(family_alloc_core_allocator))]
world!(WorldCore);
