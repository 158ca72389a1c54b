//! `family!`: declares families as zero-sized types with their statics, thread-locals and trait impls. Beside it `unsize_box!`.

/// Declares one or more families: zero-sized types that implement [`Family`](crate::Family), the allocator traits of the
/// enabled features and [`GlobalAlloc`](core::alloc::GlobalAlloc).
///
/// ```
/// use family_alloc::{family, Family};
///
/// family! {
///     /// Everything that dies with a session.
///     pub struct Session;
///
///     /// Few and short-lived: small slabs.
///     struct Scratch { slab_bytes: 64 * 1024 }
/// }
///
/// assert_eq!(Scratch::SLAB_BYTES, 65536);
/// assert_eq!(size_of::<Session>(), 0);
/// ```
///
/// Options, in braces, in any order:
///
/// | option | default | meaning |
/// | --- | --- | --- |
/// | `slab_bytes` | `2 << 20` | bytes of a slab, a power of two from 64 KiB to 2 MiB. A region of address space is 64 of them, and what is larger than half a slab is mapped singly. Smaller slabs suit many small families; the default has the least metadata and uses huge pages |
/// | `checks` | `Default` | a variant of [`Checks`](crate::Checks): what is verified when memory comes back |
///
/// A value that is not allowed is refused when the crate is compiled:
///
/// ```compile_fail
/// family_alloc::family! { struct Odd { slab_bytes: 100_000 } }
/// ```
///
/// A `#[cfg]` goes on the whole invocation, not on a family in it.
///
/// The types are `Copy`, `Clone`, `Default`, `Debug`, `PartialEq`, `Eq`, `Hash`, `Send` and `Sync`.
#[macro_export]
macro_rules! family {
    () => {};
    ($(#[$attribute:meta])* $visibility:vis struct $name:ident; $($rest:tt)*) => {
        $crate::__family! { [$(#[$attribute])*] [$visibility] $name }
        $crate::family! { $($rest)* }
    };
    ($(#[$attribute:meta])* $visibility:vis struct $name:ident { $($option:ident : $value:expr),* $(,)? } $($rest:tt)*) => {
        $crate::__family! { [$(#[$attribute])*] [$visibility] $name $($option $value,)* }
        $crate::family! { $($rest)* }
    };
}

/// One family, its options parsed.
#[doc(hidden)]
#[macro_export]
macro_rules! __family {
    ([$(#[$attribute:meta])*] [$visibility:vis] $name:ident $($option:ident $value:expr,)*) => {
        $(#[$attribute])*
        #[derive(
            ::core::clone::Clone, ::core::marker::Copy, ::core::default::Default, ::core::fmt::Debug,
            ::core::cmp::PartialEq, ::core::cmp::Eq, ::core::hash::Hash,
        )]
        $visibility struct $name;

        const _: () = {
            const __FAMILY_OPTIONS: $crate::__private::Options = {
                #[allow(unused_imports, reason = "not every family names its checks")]
                use $crate::Checks::*;
                #[allow(unused_mut, reason = "not every family has options")]
                let mut options = $crate::__private::Options::DEFAULT;
                $(options.$option = $value;)*
                options.verified()
            };

            static __FAMILY_CORE: $crate::__private::FamilyCore =
                $crate::__private::FamilyCore::new(::core::stringify!($name), __FAMILY_OPTIONS.slab_bytes, __FAMILY_OPTIONS.checks)
                    .declared_at(<$name as $crate::Family>::PATH);

            // SAFETY: the same static and the same thread-local at every call, declared here and reached from nowhere else;
            // the thread-local has no destructor, so its address is good until the thread ends.
            unsafe impl $crate::Family for $name {
                const NAME: &'static ::core::primitive::str = ::core::stringify!($name);
                const PATH: &'static ::core::primitive::str =
                    ::core::concat!(::core::module_path!(), "::", ::core::stringify!($name));
                const SLAB_BYTES: ::core::primitive::usize = __FAMILY_OPTIONS.slab_bytes;
                const CHECKS: $crate::Checks = __FAMILY_OPTIONS.checks;

                #[inline(always)]
                fn __core() -> &'static $crate::__private::FamilyCore {
                    &__FAMILY_CORE
                }

                #[inline(always)]
                fn __slot() -> *const $crate::__private::CacheSlot {
                    $crate::__private::thread_local! {
                        static SLOT: $crate::__private::CacheSlot = const { $crate::__private::CacheSlot::new() };
                    }
                    SLOT.with(::core::ptr::from_ref)
                }
            }
        };

        $crate::__impl_global_alloc!($name);
        $crate::__impl_allocators!($name);
    };
}

/// Turns a [`Box<T, A>`](crate::Box) into a box of a trait object or of a slice, which the compiler does by itself for the
/// standard library's `Box` only. The type that is wanted is said where the result goes to.
///
/// ```
/// use family_alloc::{Box, family, unsize_box};
///
/// family! { struct Handlers; }
///
/// let handler: Box<dyn Fn(u32) -> u32, Handlers> = unsize_box!(Box::new_in(|n| n + 1, Handlers));
/// assert_eq!(handler(1), 2);
/// let numbers: Box<[u8], Handlers> = unsize_box!(Box::new_in([1, 2, 3], Handlers));
/// assert_eq!(numbers.len(), 3);
/// ```
///
/// Only what the compiler can coerce can be the result:
///
/// ```compile_fail
/// let wrong: family_alloc::Box<u64> = family_alloc::unsize_box!(family_alloc::Box::new(1_u32));
/// ```
#[cfg(feature = "allocator-api2-02")]
#[macro_export]
#[cfg_attr(family_alloc_core_allocator_unstable, allow_internal_unstable(allocator_api))]
macro_rules! unsize_box {
    ($boxed:expr $(,)?) => {{
        let (pointer, allocator) = $crate::Box::into_raw_with_allocator($boxed);
        // A coercion, no cast: the compiler adds what the unsized type needs, and nothing else.
        let pointer: *mut _ = pointer;
        // SAFETY: the pointer of a box that was taken apart just now, coerced at most, and its allocator.
        unsafe { $crate::Box::from_raw_in(pointer, allocator) }
    }};
}

/// The options of one `family!` declaration.
#[doc(hidden)]
#[derive(Clone, Copy)]
pub struct Options {
    pub slab_bytes: usize,
    pub checks: crate::Checks,
}

impl Options {
    pub const DEFAULT: Self = Self { slab_bytes: 2 << 20, checks: crate::Checks::Default };

    /// The options themselves, if they are allowed; otherwise compilation ends with the reason.
    #[must_use]
    pub const fn verified(self) -> Self {
        assert!(self.slab_bytes.is_power_of_two(), "family!: `slab_bytes` must be a power of two");
        assert!(
            self.slab_bytes >= 64 << 10 && self.slab_bytes <= 2 << 20,
            "family!: `slab_bytes` must be from 64 KiB (65536) to 2 MiB (2097152)"
        );
        self
    }
}
