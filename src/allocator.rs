//! Layer 10: the `Allocator` traits, one impl of each enabled world for every family.
//!
//! A *world* is one definition of the trait; `worlds` names them. Families are declared in other crates, where our
//! features cannot be seen; so the choice is made here, by which of two definitions a macro has, and `family!` calls [`__impl_allocators!`](crate::__impl_allocators) knowing nothing of it.
//!
//! ```text
//! family! ── __impl_allocators! ─┬─ __impl_allocator_api2_02! ─┐
//!                                ├─ __impl_allocator_api2_03! ─┼─ __impl_allocator! ── crate::__private
//!                                ├─ __impl_allocator_api2_04! ─┤
//!                                └─ __impl_allocator_core! ────┘
//! ```
//!
//! Two of the worlds may be one: `allocator-api2/nightly`, which any crate of the build may switch on, turns the trait
//! of 0.2 into core's. `meaning_02` finds that out, and the impl of 0.2 is then none.
//!
//! Where core's trait is unstable, `build.rs` sets `family_alloc_core_allocator_unstable`, and the macros may name the
//! trait in crates that have not opened the feature gate: whoever declares a family need not know who switched it on.
//!
//! The impls hold no code of their own: layouts, zero sizes and failures are the engine's.

/// The worlds, by the names that the macros use.
#[doc(hidden)]
pub mod names {
    pub use crate::worlds::*;

    #[cfg(all(feature = "allocator-api2-02", family_alloc_core_allocator))]
    pub use super::meaning_02::{Asks02, Found, LayoutErr};
}

/// Whether 0.2's trait is one of its own, asked where core's trait is implemented as well.
///
/// The answer hangs on one name. Core's module `alloc` has kept `LayoutErr`, deprecated since 1.52; `allocator_api2`
/// never had it. So in a block that imports all of 0.2's `alloc`, the name means core's type if that *is* core's
/// module, and else the type of that name out here.
///
/// The impls of both worlds are bound to the answer. 0.2's wants it to be [`LayoutErr`]: where it is not, the compiler
/// sees that the bound cannot hold and that there is nothing to overlap with core's. Core's wants it to be [`Found`],
/// which it always is; that keeps core's out of the way while the compiler checks the other impl, *assuming* the bound
/// that cannot hold. Two more things are as they are because the compiler asks for them: the bound is on the family,
/// since only of its own types does a crate know what they will never implement, and it has a lifetime, since without
/// one a bound that cannot hold is an error.
#[cfg(all(feature = "allocator-api2-02", family_alloc_core_allocator))]
mod meaning_02 {
    /// The answer where 0.2 has a trait of its own.
    pub enum LayoutErr {}

    /// Implemented by all types, with the answer of this build.
    pub trait Asks02<'any> {
        /// [`LayoutErr`] or core's type.
        type LayoutErr;
    }

    const _: () = {
        #[allow(unused_imports, reason = "whether there is anything to import is the question")]
        use allocator_api2::alloc::*;

        #[allow(deprecated, reason = "the deprecated name is the one that only core has")]
        impl<Family> Asks02<'_> for Family {
            type LayoutErr = LayoutErr;
        }
    };

    /// The answer of this build.
    pub type Found = <() as Asks02<'static>>::LayoutErr;
}

/// Implements for the family `$family`, with lifetimes in brackets before it if it has some, the `Allocator` of every world that
/// this crate was built with.
#[doc(hidden)]
#[macro_export]
macro_rules! __impl_allocators {
    ($family:ident) => {
        $crate::__impl_allocators!([] $family);
    };
    ($generics:tt $family:ty) => {
        $crate::__impl_allocator_api2_02!($generics $family);
        $crate::__impl_allocator_api2_03!($generics $family);
        $crate::__impl_allocator_api2_04!($generics $family);
        $crate::__impl_allocator_core!($generics $family);
    };
}

#[cfg(all(feature = "allocator-api2-02", not(family_alloc_core_allocator)))]
#[doc(hidden)]
#[macro_export]
#[cfg_attr(family_alloc_core_allocator_unstable, allow_internal_unstable(allocator_api))]
macro_rules! __impl_allocator_api2_02 {
    ($generics:tt $family:ty) => {
        $crate::__impl_allocator!($generics $family, [$crate::__private::worlds::v02::alloc]);
    };
}

#[cfg(all(feature = "allocator-api2-02", family_alloc_core_allocator))]
#[doc(hidden)]
#[macro_export]
#[cfg_attr(family_alloc_core_allocator_unstable, allow_internal_unstable(allocator_api))]
macro_rules! __impl_allocator_api2_02 {
    ($generics:tt $family:ty) => {
        $crate::__impl_allocator!(
            $generics $family,
            [$crate::__private::worlds::v02::alloc]
            where for<'any> $family:
                $crate::__private::worlds::Asks02<'any, LayoutErr = $crate::__private::worlds::LayoutErr>
        );
    };
}

#[cfg(not(feature = "allocator-api2-02"))]
#[doc(hidden)]
#[macro_export]
macro_rules! __impl_allocator_api2_02 {
    ($generics:tt $family:ty) => {};
}

#[cfg(feature = "allocator-api2-03")]
#[doc(hidden)]
#[macro_export]
macro_rules! __impl_allocator_api2_03 {
    ($generics:tt $family:ty) => {
        $crate::__impl_allocator!($generics $family, [$crate::__private::worlds::v03::alloc]);
    };
}

#[cfg(not(feature = "allocator-api2-03"))]
#[doc(hidden)]
#[macro_export]
macro_rules! __impl_allocator_api2_03 {
    ($generics:tt $family:ty) => {};
}

#[cfg(feature = "allocator-api2-04")]
#[doc(hidden)]
#[macro_export]
macro_rules! __impl_allocator_api2_04 {
    ($generics:tt $family:ty) => {
        $crate::__impl_allocator!($generics $family, [$crate::__private::worlds::v04::alloc]);
    };
}

#[cfg(not(feature = "allocator-api2-04"))]
#[doc(hidden)]
#[macro_export]
macro_rules! __impl_allocator_api2_04 {
    ($generics:tt $family:ty) => {};
}

#[cfg(all(family_alloc_core_allocator, feature = "allocator-api2-02"))]
#[doc(hidden)]
#[macro_export]
#[cfg_attr(family_alloc_core_allocator_unstable, allow_internal_unstable(allocator_api))]
macro_rules! __impl_allocator_core {
    ($generics:tt $family:ty) => {
        $crate::__impl_allocator!(
            $generics $family,
            [::core::alloc]
            where for<'any> $family:
                $crate::__private::worlds::Asks02<'any, LayoutErr = $crate::__private::worlds::Found>
        );
    };
}

#[cfg(all(family_alloc_core_allocator, not(feature = "allocator-api2-02")))]
#[doc(hidden)]
#[macro_export]
#[cfg_attr(family_alloc_core_allocator_unstable, allow_internal_unstable(allocator_api))]
macro_rules! __impl_allocator_core {
    ($generics:tt $family:ty) => {
        $crate::__impl_allocator!($generics $family, [::core::alloc]);
    };
}

#[cfg(not(family_alloc_core_allocator))]
#[doc(hidden)]
#[macro_export]
macro_rules! __impl_allocator_core {
    ($generics:tt $family:ty) => {};
}

/// Implements the `Allocator` of the module `$world` for `$family`, under the where clause `$bound` if there is one.
#[doc(hidden)]
#[macro_export]
#[cfg_attr(family_alloc_core_allocator_unstable, allow_internal_unstable(allocator_api))]
macro_rules! __impl_allocator {
    ([$($generics:tt)*] $family:ty, [$($world:tt)+] $($bound:tt)*) => {
        // SAFETY: a family lives as long as the process and has no state in its values: every copy is the same
        // allocator, and what one hands out stays allocated until it comes back through any of them.
        unsafe impl<$($generics)*> $($world)+::Allocator for $family $($bound)* {
            #[inline(always)]
            fn allocate(
                &self,
                layout: ::core::alloc::Layout,
            ) -> ::core::result::Result<::core::ptr::NonNull<[u8]>, $($world)+::AllocError> {
                $crate::__private::Engine::allocate(self, layout).ok_or($($world)+::AllocError)
            }

            #[inline(always)]
            fn allocate_zeroed(
                &self,
                layout: ::core::alloc::Layout,
            ) -> ::core::result::Result<::core::ptr::NonNull<[u8]>, $($world)+::AllocError> {
                $crate::__private::Engine::allocate_zeroed(self, layout).ok_or($($world)+::AllocError)
            }

            #[inline(always)]
            unsafe fn deallocate(&self, ptr: ::core::ptr::NonNull<u8>, layout: ::core::alloc::Layout) {
                // SAFETY: the caller's promise is the one asked for here: `ptr` is allocated by this family, `layout`
                // fits it.
                unsafe { $crate::__private::Engine::deallocate(self, ptr, layout) }
            }

            #[inline(always)]
            unsafe fn grow(
                &self,
                ptr: ::core::ptr::NonNull<u8>,
                old_layout: ::core::alloc::Layout,
                new_layout: ::core::alloc::Layout,
            ) -> ::core::result::Result<::core::ptr::NonNull<[u8]>, $($world)+::AllocError> {
                // SAFETY: as in `deallocate`, and the caller promises that the new size is not below the old one.
                unsafe { $crate::__private::Engine::grow(self, ptr, old_layout, new_layout) }.ok_or($($world)+::AllocError)
            }

            #[inline(always)]
            unsafe fn grow_zeroed(
                &self,
                ptr: ::core::ptr::NonNull<u8>,
                old_layout: ::core::alloc::Layout,
                new_layout: ::core::alloc::Layout,
            ) -> ::core::result::Result<::core::ptr::NonNull<[u8]>, $($world)+::AllocError> {
                // SAFETY: as in `grow`.
                unsafe { $crate::__private::Engine::grow_zeroed(self, ptr, old_layout, new_layout) }
                    .ok_or($($world)+::AllocError)
            }

            #[inline(always)]
            unsafe fn shrink(
                &self,
                ptr: ::core::ptr::NonNull<u8>,
                old_layout: ::core::alloc::Layout,
                new_layout: ::core::alloc::Layout,
            ) -> ::core::result::Result<::core::ptr::NonNull<[u8]>, $($world)+::AllocError> {
                // SAFETY: as in `deallocate`, and the caller promises that the new size is not above the old one.
                unsafe { $crate::__private::Engine::shrink(self, ptr, old_layout, new_layout) }
                    .ok_or($($world)+::AllocError)
            }
        }
    };
}
