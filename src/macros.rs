//! `family!`: declares families as zero-sized types with their statics, thread-locals and trait impls.

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
/// Values may be constant expressions; one that is a single name goes in braces, as in `checks: {
/// MODE }`. What is not allowed is refused when the crate is compiled, and so is an option that is
/// given twice:
///
/// ```compile_fail
/// family_alloc::family! { struct Odd { slab_bytes: 100_000 } }
/// ```
///
/// ```compile_fail
/// family_alloc::family! { struct Twice { checks: Hardened, checks: Unchecked } }
/// ```
///
/// A `#[cfg]` goes on the whole invocation, not on a family in it.
///
/// The types are `Copy`, `Clone`, `Default`, `Debug`, `PartialEq`, `Eq`, `Hash`, `Send` and `Sync`.
#[macro_export]
macro_rules! family {
    // Each family's end, `;` or `{ … }`, is one token tree: so all are parsed at once, however many
    // there are.
    ($($(#[$($attribute:tt)*])* $visibility:vis struct $name:ident $options:tt)*) => {
        $(
            $($crate::__family_attribute! { $($attribute)* })*
            $crate::__family_options! { { [$(#[$($attribute)*])*] [$visibility] $name } $options }
        )*
    };
    ($($unexpected:tt)*) => {
        ::core::compile_error! {
            "family!: expected `struct Name;` or `struct Name { slab_bytes: …, checks: … }`, each with attributes and a visibility if need be; \
             what a macro has taken as an `item` cannot be looked into: let it take `$($family:tt)*`"
        }
    };
}

/// Says what is wrong with an attribute that would lead to errors hard to understand.
#[doc(hidden)]
#[macro_export]
macro_rules! __family_attribute {
    (derive($($part:tt)*)) => { $($crate::__family_attribute! { @derive $part })* };
    (@derive Clone) => { $crate::__family_attribute! { @is_derived "Clone" } };
    (@derive Copy) => { $crate::__family_attribute! { @is_derived "Copy" } };
    (@derive Default) => { $crate::__family_attribute! { @is_derived "Default" } };
    (@derive Debug) => { $crate::__family_attribute! { @is_derived "Debug" } };
    (@derive PartialEq) => { $crate::__family_attribute! { @is_derived "PartialEq" } };
    (@derive Eq) => { $crate::__family_attribute! { @is_derived "Eq" } };
    (@derive Hash) => { $crate::__family_attribute! { @is_derived "Hash" } };
    (@is_derived $name:literal) => {
        ::core::compile_error! {
            ::core::concat!("family!: a family is `", $name, "` already: take it out of the `#[derive]`; all are Clone, Copy, Default, Debug, PartialEq, Eq and Hash")
        }
    };
    (cfg $($condition:tt)*) => {
        ::core::compile_error! { "family!: a `#[cfg]` goes on the whole `family! { … }`, not on a family in it" }
    };
    ($($other:tt)*) => {};
}

/// One family whose options are parsed, one after another: how many bytes, and what is checked.
#[doc(hidden)]
#[macro_export]
macro_rules! __family_options {
    ($family:tt ;) => { $crate::__family! { $family [] [] } };
    ($family:tt { $($options:tt)* }) => { $crate::__family_options! { @of $family [] [] $($options)* } };

    (@of $family:tt $bytes:tt $checks:tt) => { $crate::__family! { $family $bytes $checks } };
    (@of $family:tt [] $checks:tt slab_bytes: $value:expr $(, $($rest:tt)*)?) => {
        $crate::__family_options! { @of $family [$value] $checks $($($rest)*)? }
    };
    (@of $family:tt $bytes:tt [] checks: Unchecked $(, $($rest:tt)*)?) => {
        $crate::__family_options! { @of $family $bytes [$crate::Checks::Unchecked] $($($rest)*)? }
    };
    (@of $family:tt $bytes:tt [] checks: Default $(, $($rest:tt)*)?) => {
        $crate::__family_options! { @of $family $bytes [$crate::Checks::Default] $($($rest)*)? }
    };
    (@of $family:tt $bytes:tt [] checks: Checked $(, $($rest:tt)*)?) => {
        $crate::__family_options! { @of $family $bytes [$crate::Checks::Checked] $($($rest)*)? }
    };
    (@of $family:tt $bytes:tt [] checks: Hardened $(, $($rest:tt)*)?) => {
        $crate::__family_options! { @of $family $bytes [$crate::Checks::Hardened] $($($rest)*)? }
    };
    (@of $family:tt $bytes:tt [] checks: $unknown:ident $(, $($rest:tt)*)?) => {
        ::core::compile_error! {
            ::core::concat!("family!: `checks: ", ::core::stringify!($unknown), "`: it is Unchecked, Default, Checked or Hardened; a constant goes in braces: `{ ", ::core::stringify!($unknown), " }`")
        }
        $crate::__family! { $family [] [] }
    };
    (@of $family:tt $bytes:tt [] checks: $value:expr $(, $($rest:tt)*)?) => {
        $crate::__family_options! { @of $family $bytes [$value] $($($rest)*)? }
    };
    (@of $family:tt $bytes:tt $checks:tt slab_bytes: $($rest:tt)*) => {
        ::core::compile_error! { "family!: `slab_bytes` is given twice for one family" }
        $crate::__family! { $family [] [] }
    };
    (@of $family:tt $bytes:tt $checks:tt checks: $($rest:tt)*) => {
        ::core::compile_error! { "family!: `checks` is given twice for one family" }
        $crate::__family! { $family [] [] }
    };
    (@of $family:tt $bytes:tt $checks:tt $option:ident $($rest:tt)*) => {
        ::core::compile_error! {
            ::core::concat!("family!: `", ::core::stringify!($option), "` is no option: there are `slab_bytes: …` and `checks: …`")
        }
        $crate::__family! { $family [] [] }
    };
    (@of $family:tt $bytes:tt $checks:tt $($rest:tt)*) => {
        ::core::compile_error! { "family!: options are `slab_bytes: …` and `checks: …`, with a comma between" }
        $crate::__family! { $family [] [] }
    };
}

/// One family, its options parsed.
#[doc(hidden)]
#[macro_export]
macro_rules! __family {
    ({ [$(#[$($attribute:tt)*])*] [$visibility:vis] $name:ident } [$($slab_bytes:expr)?] [$($checks:expr)?]) => {
        $(#[$($attribute)*])*
        #[derive(
            ::core::clone::Clone, ::core::marker::Copy, ::core::default::Default, ::core::fmt::Debug,
            ::core::cmp::PartialEq, ::core::cmp::Eq, ::core::hash::Hash,
        )]
        $visibility struct $name;

        const _: () = {
            #[allow(unused_braces, reason = "a constant is given in braces")]
            const __FAMILY_OPTIONS: $crate::__private::Options = {
                #[allow(unused_imports, reason = "not every family names its checks")]
                use $crate::Checks::*;
                #[allow(unused_mut, reason = "not every family has options")]
                let mut options = $crate::__private::Options::DEFAULT;
                $(options.slab_bytes = $slab_bytes;)?
                $(options.checks = $checks;)?
                options.verified()
            };

            static __FAMILY_CORE: $crate::__private::FamilyCore =
                $crate::__private::FamilyCore::new(::core::stringify!($name), __FAMILY_OPTIONS.slab_bytes, __FAMILY_OPTIONS.checks);

            // SAFETY: the same static and the same thread-local at every call, declared here and reached from nowhere else;
            // the thread-local has no destructor, so its address is good until the thread ends.
            unsafe impl $crate::Family for $name {
                const NAME: &'static ::core::primitive::str = ::core::stringify!($name);
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
