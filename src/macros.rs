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
/// | `slab_bytes` | `2 << 20`, where addresses have 32 bits `128 << 10`, on WebAssembly and without the feature `std` `64 << 10` | bytes of a slab, a power of two from 64 KiB to 2 MiB. Address space is taken in such pieces, up to 64 side by side, and what is larger than half a slab (an eighth where classes are spaced) is a large allocation, in whole pages. Smaller slabs suit many small families; the default has the least metadata and uses huge pages |
/// | `cache_bytes` | `256 << 10`, of spaced classes `1 << 20` | bytes of free slots that a thread may keep of the family, at most, from 16 KiB to 64 MiB. A thread earns them by exchanging slots: it begins with none, and one that calls only now and then keeps 64 KiB. More spares busy threads locks |
/// | `checks` | `Default` | a variant of [`Checks`](crate::Checks): what is verified when memory comes back |
/// | `huge_pages` | `Adaptive` | a variant of [`HugePages`](crate::HugePages): whether slabs use huge pages |
/// | `classes` | `Natural` | a variant of [`Classes`](crate::Classes): whether lengths of slots are powers of two, with the alignment that comes of it, or spaced more closely, with less left over |
/// | `limit` | none | the most bytes that live and cached slots and mappings may be together, with those of [heaps](crate::Heap) whose parent the family is; [`set_limit`](crate::Family::set_limit) changes it |
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

/// One family whose options are parsed, one after another: bytes of a slab, bytes of a cache, checks,
/// huge pages, classes, limit.
#[doc(hidden)]
#[macro_export]
macro_rules! __family_options {
    ($family:tt ;) => { $crate::__family! { $family [] [] [] [] [] [] } };
    ($family:tt { $($options:tt)* }) => { $crate::__family_options! { @of $family [] [] [] [] [] [] $($options)* } };

    (@of $family:tt $slab:tt $cache:tt $checks:tt $huge:tt $classes:tt $limit:tt) => {
        $crate::__family! { $family $slab $cache $checks $huge $classes $limit }
    };
    (@of $family:tt [] $cache:tt $checks:tt $huge:tt $classes:tt $limit:tt slab_bytes: $value:expr $(, $($rest:tt)*)?) => {
        $crate::__family_options! { @of $family [$value] $cache $checks $huge $classes $limit $($($rest)*)? }
    };
    (@of $family:tt $slab:tt [] $checks:tt $huge:tt $classes:tt $limit:tt cache_bytes: $value:expr $(, $($rest:tt)*)?) => {
        $crate::__family_options! { @of $family $slab [$value] $checks $huge $classes $limit $($($rest)*)? }
    };
    (@of $family:tt $slab:tt $cache:tt [] $huge:tt $classes:tt $limit:tt checks: Unchecked $(, $($rest:tt)*)?) => {
        $crate::__family_options! { @of $family $slab $cache [$crate::Checks::Unchecked] $huge $classes $limit $($($rest)*)? }
    };
    (@of $family:tt $slab:tt $cache:tt [] $huge:tt $classes:tt $limit:tt checks: Default $(, $($rest:tt)*)?) => {
        $crate::__family_options! { @of $family $slab $cache [$crate::Checks::Default] $huge $classes $limit $($($rest)*)? }
    };
    (@of $family:tt $slab:tt $cache:tt [] $huge:tt $classes:tt $limit:tt checks: Checked $(, $($rest:tt)*)?) => {
        $crate::__family_options! { @of $family $slab $cache [$crate::Checks::Checked] $huge $classes $limit $($($rest)*)? }
    };
    (@of $family:tt $slab:tt $cache:tt [] $huge:tt $classes:tt $limit:tt checks: Hardened $(, $($rest:tt)*)?) => {
        $crate::__family_options! { @of $family $slab $cache [$crate::Checks::Hardened] $huge $classes $limit $($($rest)*)? }
    };
    (@of $family:tt $slab:tt $cache:tt [] $huge:tt $classes:tt $limit:tt checks: $unknown:ident $(, $($rest:tt)*)?) => {
        ::core::compile_error! {
            ::core::concat!("family!: `checks: ", ::core::stringify!($unknown), "`: it is Unchecked, Default, Checked or Hardened; a constant goes in braces: `{ ", ::core::stringify!($unknown), " }`")
        }
        $crate::__family! { $family [] [] [] [] [] [] }
    };
    (@of $family:tt $slab:tt $cache:tt [] $huge:tt $classes:tt $limit:tt checks: $value:expr $(, $($rest:tt)*)?) => {
        $crate::__family_options! { @of $family $slab $cache [$value] $huge $classes $limit $($($rest)*)? }
    };
    (@of $family:tt $slab:tt $cache:tt $checks:tt [] $classes:tt $limit:tt huge_pages: Never $(, $($rest:tt)*)?) => {
        $crate::__family_options! { @of $family $slab $cache $checks [$crate::HugePages::Never] $classes $limit $($($rest)*)? }
    };
    (@of $family:tt $slab:tt $cache:tt $checks:tt [] $classes:tt $limit:tt huge_pages: Adaptive $(, $($rest:tt)*)?) => {
        $crate::__family_options! { @of $family $slab $cache $checks [$crate::HugePages::Adaptive] $classes $limit $($($rest)*)? }
    };
    (@of $family:tt $slab:tt $cache:tt $checks:tt [] $classes:tt $limit:tt huge_pages: Always $(, $($rest:tt)*)?) => {
        $crate::__family_options! { @of $family $slab $cache $checks [$crate::HugePages::Always] $classes $limit $($($rest)*)? }
    };
    (@of $family:tt $slab:tt $cache:tt $checks:tt [] $classes:tt $limit:tt huge_pages: $unknown:ident $(, $($rest:tt)*)?) => {
        ::core::compile_error! {
            ::core::concat!("family!: `huge_pages: ", ::core::stringify!($unknown), "`: it is Never, Adaptive or Always; a constant goes in braces: `{ ", ::core::stringify!($unknown), " }`")
        }
        $crate::__family! { $family [] [] [] [] [] [] }
    };
    (@of $family:tt $slab:tt $cache:tt $checks:tt [] $classes:tt $limit:tt huge_pages: $value:expr $(, $($rest:tt)*)?) => {
        $crate::__family_options! { @of $family $slab $cache $checks [$value] $classes $limit $($($rest)*)? }
    };
    (@of $family:tt $slab:tt $cache:tt $checks:tt $huge:tt [] $limit:tt classes: Natural $(, $($rest:tt)*)?) => {
        $crate::__family_options! { @of $family $slab $cache $checks $huge [$crate::Classes::Natural] $limit $($($rest)*)? }
    };
    (@of $family:tt $slab:tt $cache:tt $checks:tt $huge:tt [] $limit:tt classes: Spaced $(, $($rest:tt)*)?) => {
        $crate::__family_options! { @of $family $slab $cache $checks $huge [$crate::Classes::Spaced] $limit $($($rest)*)? }
    };
    (@of $family:tt $slab:tt $cache:tt $checks:tt $huge:tt [] $limit:tt classes: $unknown:ident $(, $($rest:tt)*)?) => {
        ::core::compile_error! {
            ::core::concat!("family!: `classes: ", ::core::stringify!($unknown), "`: it is Natural or Spaced; a constant goes in braces: `{ ", ::core::stringify!($unknown), " }`")
        }
        $crate::__family! { $family [] [] [] [] [] [] }
    };
    (@of $family:tt $slab:tt $cache:tt $checks:tt $huge:tt [] $limit:tt classes: $value:expr $(, $($rest:tt)*)?) => {
        $crate::__family_options! { @of $family $slab $cache $checks $huge [$value] $limit $($($rest)*)? }
    };
    (@of $family:tt $slab:tt $cache:tt $checks:tt $huge:tt $classes:tt [] limit: $value:expr $(, $($rest:tt)*)?) => {
        $crate::__family_options! { @of $family $slab $cache $checks $huge $classes [$value] $($($rest)*)? }
    };
    (@of $family:tt $slab:tt $cache:tt $checks:tt $huge:tt $classes:tt $limit:tt slab_bytes: $($rest:tt)*) => {
        ::core::compile_error! { "family!: `slab_bytes` is given twice for one family" }
        $crate::__family! { $family [] [] [] [] [] [] }
    };
    (@of $family:tt $slab:tt $cache:tt $checks:tt $huge:tt $classes:tt $limit:tt cache_bytes: $($rest:tt)*) => {
        ::core::compile_error! { "family!: `cache_bytes` is given twice for one family" }
        $crate::__family! { $family [] [] [] [] [] [] }
    };
    (@of $family:tt $slab:tt $cache:tt $checks:tt $huge:tt $classes:tt $limit:tt checks: $($rest:tt)*) => {
        ::core::compile_error! { "family!: `checks` is given twice for one family" }
        $crate::__family! { $family [] [] [] [] [] [] }
    };
    (@of $family:tt $slab:tt $cache:tt $checks:tt $huge:tt $classes:tt $limit:tt huge_pages: $($rest:tt)*) => {
        ::core::compile_error! { "family!: `huge_pages` is given twice for one family" }
        $crate::__family! { $family [] [] [] [] [] [] }
    };
    (@of $family:tt $slab:tt $cache:tt $checks:tt $huge:tt $classes:tt $limit:tt classes: $($rest:tt)*) => {
        ::core::compile_error! { "family!: `classes` is given twice for one family" }
        $crate::__family! { $family [] [] [] [] [] [] }
    };
    (@of $family:tt $slab:tt $cache:tt $checks:tt $huge:tt $classes:tt $limit:tt limit: $($rest:tt)*) => {
        ::core::compile_error! { "family!: `limit` is given twice for one family" }
        $crate::__family! { $family [] [] [] [] [] [] }
    };
    (@of $family:tt $slab:tt $cache:tt $checks:tt $huge:tt $classes:tt $limit:tt $option:ident $($rest:tt)*) => {
        ::core::compile_error! {
            ::core::concat!("family!: `", ::core::stringify!($option), "` is no option: there are `slab_bytes: …`, `cache_bytes: …`, `checks: …`, `huge_pages: …`, `classes: …` and `limit: …`")
        }
        $crate::__family! { $family [] [] [] [] [] [] }
    };
    (@of $family:tt $slab:tt $cache:tt $checks:tt $huge:tt $classes:tt $limit:tt $($rest:tt)*) => {
        ::core::compile_error! { "family!: options are `slab_bytes: …`, `cache_bytes: …`, `checks: …`, `huge_pages: …`, `classes: …` and `limit: …`, with a comma between" }
        $crate::__family! { $family [] [] [] [] [] [] }
    };
}

/// Finds the calling thread's slot of a family.
#[cfg(feature = "std")]
#[doc(hidden)]
#[macro_export]
macro_rules! __family_slot {
    () => {{
        $crate::__private::thread_local! {
            static SLOT: $crate::__private::CacheSlot = const { $crate::__private::CacheSlot::new() };
        }
        SLOT.with(::core::ptr::from_ref)
    }};
}

/// Finds the slot of everybody: no thread has a cache.
#[cfg(not(feature = "std"))]
#[doc(hidden)]
#[macro_export]
macro_rules! __family_slot {
    () => {
        $crate::__private::slot_of_none()
    };
}

/// One family, its options parsed.
#[doc(hidden)]
#[macro_export]
macro_rules! __family {
    ({ [$(#[$($attribute:tt)*])*] [$visibility:vis] $name:ident } [$($slab_bytes:expr)?] [$($cache_bytes:expr)?] [$($checks:expr)?] [$($huge_pages:expr)?] [$($classes:expr)?] [$($limit:expr)?]) => {
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
                #[allow(unused_imports, reason = "as above")]
                use $crate::HugePages::*;
                #[allow(unused_imports, reason = "as above")]
                use $crate::Classes::*;
                #[allow(unused_mut, reason = "not every family has options")]
                let mut options = $crate::__private::Options::DEFAULT;
                $(options.slab_bytes = $slab_bytes;)?
                $(options.cache_bytes = ::core::option::Option::Some($cache_bytes);)?
                $(options.checks = $checks;)?
                $(options.huge_pages = $huge_pages;)?
                $(options.classes = $classes;)?
                $(options.limit = $limit;)?
                options.verified()
            };

            static __FAMILY_BINS: [$crate::__private::Bin; __FAMILY_OPTIONS.more_bins()] =
                $crate::__private::Bin::several();

            static __FAMILY_CORE: $crate::__private::FamilyCore =
                $crate::__private::FamilyCore::new(
                    ::core::stringify!($name),
                    __FAMILY_OPTIONS.slab_bytes,
                    __FAMILY_OPTIONS.checks,
                    <$name as $crate::Family>::__slot,
                )
                .declared_at(<$name as $crate::Family>::PATH)
                .with_cache_bytes(__FAMILY_OPTIONS.cache_bytes())
                .with_huge_pages(__FAMILY_OPTIONS.huge_pages)
                .with_classes(__FAMILY_OPTIONS.classes, &__FAMILY_BINS)
                .with_limit(__FAMILY_OPTIONS.limit);

            // SAFETY: the same static and the same thread-local at every call, declared here and reached from nowhere else;
            // the thread-local has no destructor, so its address is good until the thread ends.
            unsafe impl $crate::Family for $name {
                const NAME: &'static ::core::primitive::str = ::core::stringify!($name);
                const PATH: &'static ::core::primitive::str =
                    ::core::concat!(::core::module_path!(), "::", ::core::stringify!($name));
                const SLAB_BYTES: ::core::primitive::usize = __FAMILY_OPTIONS.slab_bytes;
                const CHECKS: $crate::Checks = __FAMILY_OPTIONS.checks;
                const HUGE_PAGES: $crate::HugePages = __FAMILY_OPTIONS.huge_pages;
                const CLASSES: $crate::Classes = __FAMILY_OPTIONS.classes;

                #[inline(always)]
                fn __core() -> &'static $crate::__private::FamilyCore {
                    &__FAMILY_CORE
                }

                #[inline(always)]
                fn __slot() -> *const $crate::__private::CacheSlot {
                    $crate::__family_slot! {}
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
    /// What the classes suggest, if it is not said.
    pub cache_bytes: Option<usize>,
    pub huge_pages: crate::HugePages,
    pub classes: crate::Classes,
    pub limit: usize,
}

impl Options {
    pub const DEFAULT: Self = Self {
        slab_bytes: crate::header::DEFAULT_UNIT_BYTES,
        checks: crate::Checks::Default,
        cache_bytes: None,
        huge_pages: crate::HugePages::Adaptive,
        classes: crate::Classes::Natural,
        limit: usize::MAX,
    };

    /// Bins that are declared beside the family.
    #[must_use]
    pub const fn more_bins(self) -> usize {
        crate::family::FamilyCore::more_bins(self.classes, self.slab_bytes)
    }

    /// What a thread's cache may hold.
    #[must_use]
    pub const fn cache_bytes(self) -> usize {
        match self.cache_bytes {
            Some(bytes) => bytes,
            None => crate::capacity::cache_bytes(self.classes),
        }
    }

    /// The options themselves, if they are allowed; otherwise compilation ends with the reason.
    #[must_use]
    pub const fn verified(self) -> Self {
        assert!(self.slab_bytes.is_power_of_two(), "family!: `slab_bytes` must be a power of two");
        assert!(
            self.slab_bytes >= 64 << 10 && self.slab_bytes <= 2 << 20,
            "family!: `slab_bytes` must be from 64 KiB (65536) to 2 MiB (2097152)"
        );
        assert!(
            self.cache_bytes() >= 16 << 10 && self.cache_bytes() <= 64 << 20,
            "family!: `cache_bytes` must be from 16 KiB (16384) to 64 MiB (67108864)"
        );
        self
    }
}
