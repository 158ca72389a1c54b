//! The allocators that are measured, and which of them is which.

mod arena;
mod families;

use std::alloc::{GlobalAlloc, Layout};
use std::fmt;

use family_alloc::FamilyAlloc;

use crate::subject::{Door, In, Subject};
pub(crate) use arena::Bumpalo;

/// Declares a subject that forwards to a `GlobalAlloc`.
macro_rules! subject {
    ($(#[$doc:meta])* $name:ident = $allocator:expr, $collections:ty = $value:expr $(, $extra:item)?) => {
        $(#[$doc])*
        #[derive(Clone, Copy)]
        pub(crate) struct $name;

        impl Subject for $name {
            type Collections = $collections;

            #[inline(always)]
            fn collections() -> Self::Collections {
                $value
            }

            #[inline(always)]
            unsafe fn alloc(layout: Layout) -> *mut u8 {
                // SAFETY: the caller keeps `GlobalAlloc`'s contract.
                unsafe { $allocator.alloc(layout) }
            }

            #[inline(always)]
            unsafe fn alloc_zeroed(layout: Layout) -> *mut u8 {
                // SAFETY: the caller keeps `GlobalAlloc`'s contract.
                unsafe { $allocator.alloc_zeroed(layout) }
            }

            #[inline(always)]
            unsafe fn dealloc(ptr: *mut u8, layout: Layout) {
                // SAFETY: the caller keeps `GlobalAlloc`'s contract.
                unsafe { $allocator.dealloc(ptr, layout) }
            }

            #[inline(always)]
            unsafe fn realloc(ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
                // SAFETY: the caller keeps `GlobalAlloc`'s contract.
                unsafe { $allocator.realloc(ptr, layout, new_size) }
            }

            $($extra)?
        }
    };
}

subject! {
    /// family-alloc as its users have it: the crate's own family, default checks.
    Ours = FamilyAlloc, FamilyAlloc = FamilyAlloc,
    fn doors(count: usize) -> Vec<Door> {
        families::doors(count)
    }
}
subject! {
    /// The same engine in a family whose frees are not checked. Not a peer: measured only when asked for.
    OursUnchecked = families::Raw, families::Raw = families::Raw
}
subject! {
    /// The same engine in a family with spaced classes, which README advises for maps, nodes and text. No peer.
    OursSpaced = families::Spaced, families::Spaced = families::Spaced
}
subject! {
    /// The C library's allocator.
    System = std::alloc::System, In<Self> = In(Self)
}
subject! {
    /// mimalloc 3.
    Mimalloc = mimalloc::MiMalloc, In<Self> = In(Self)
}
subject! {
    /// jemalloc.
    Jemalloc = tikv_jemallocator::Jemalloc, In<Self> = In(Self)
}
subject! {
    /// snmalloc.
    Snmalloc = snmalloc_rs::SnMalloc, In<Self> = In(Self)
}
subject! {
    /// rpmalloc. Its crate has no `realloc`, so a grow is an allocate, a copy and a free.
    Rpmalloc = rpmalloc::RpMalloc, In<Self> = In(Self)
}
subject! {
    /// rusty_alloc, whose fast paths inline as ours do.
    RustyAlloc = rusty_alloc_api::RustyAlloc, In<Self> = In(Self)
}

/// smmalloc keeps its base address in the allocator itself, so that it has to be one static.
static SMMALLOC: smmalloc::Smalloc = smmalloc::Smalloc::new();
subject! {
    /// zooko's smalloc.
    Smmalloc = SMMALLOC, In<Self> = In(Self)
}

/// Names of the allocators on the command line and in the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Name {
    Ours,
    RustyAlloc,
    Mimalloc,
    Snmalloc,
    Jemalloc,
    Rpmalloc,
    Smmalloc,
    System,
    Bumpalo,
    OursSpaced,
    OursUnchecked,
}

/// Every allocator, in the order of the columns.
pub(crate) const ALL: [Name; 11] = [
    Name::Ours,
    Name::RustyAlloc,
    Name::Mimalloc,
    Name::Snmalloc,
    Name::Jemalloc,
    Name::Rpmalloc,
    Name::Smmalloc,
    Name::System,
    Name::Bumpalo,
    Name::OursSpaced,
    Name::OursUnchecked,
];

impl Name {
    /// The name on the command line and in the tables.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Ours => "family-alloc",
            Self::RustyAlloc => "rusty_alloc",
            Self::Mimalloc => "mimalloc",
            Self::Snmalloc => "snmalloc",
            Self::Jemalloc => "jemalloc",
            Self::Rpmalloc => "rpmalloc",
            Self::Smmalloc => "smmalloc",
            Self::System => "system",
            Self::Bumpalo => "bumpalo",
            Self::OursSpaced => "spaced",
            Self::OursUnchecked => "unchecked",
        }
    }

    /// The allocator of that name.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        ALL.into_iter().find(|name| name.as_str() == text)
    }

    /// Whether a ratio may be taken against it: neither ourselves nor the arena that cannot free.
    pub(crate) const fn is_peer(self) -> bool {
        !matches!(self, Self::Ours | Self::OursSpaced | Self::OursUnchecked | Self::Bumpalo)
    }

    /// Whether it is measured without being asked for.
    pub(crate) const fn is_default(self) -> bool {
        !matches!(self, Self::OursUnchecked)
    }

    /// Whether it can free single allocations from any thread.
    pub(crate) const fn frees(self) -> bool {
        !matches!(self, Self::Bumpalo)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Calls a function that is generic over [`Subject`] for the allocator of a name that is known at run time.
macro_rules! with_subject {
    ($name:expr, $function:ident $(::$path:ident)* ($($argument:expr),*)) => {
        match $name {
            $crate::peers::Name::Ours => $function$(::$path)*::<$crate::peers::Ours>($($argument),*),
            $crate::peers::Name::RustyAlloc => $function$(::$path)*::<$crate::peers::RustyAlloc>($($argument),*),
            $crate::peers::Name::Mimalloc => $function$(::$path)*::<$crate::peers::Mimalloc>($($argument),*),
            $crate::peers::Name::Snmalloc => $function$(::$path)*::<$crate::peers::Snmalloc>($($argument),*),
            $crate::peers::Name::Jemalloc => $function$(::$path)*::<$crate::peers::Jemalloc>($($argument),*),
            $crate::peers::Name::Rpmalloc => $function$(::$path)*::<$crate::peers::Rpmalloc>($($argument),*),
            $crate::peers::Name::Smmalloc => $function$(::$path)*::<$crate::peers::Smmalloc>($($argument),*),
            $crate::peers::Name::System => $function$(::$path)*::<$crate::peers::System>($($argument),*),
            $crate::peers::Name::Bumpalo => $function$(::$path)*::<$crate::peers::Bumpalo>($($argument),*),
            $crate::peers::Name::OursSpaced => $function$(::$path)*::<$crate::peers::OursSpaced>($($argument),*),
            $crate::peers::Name::OursUnchecked => $function$(::$path)*::<$crate::peers::OursUnchecked>($($argument),*),
        }
    };
}
pub(crate) use with_subject;

/// The mimalloc that is linked, to show that it is version 3.
pub(crate) fn mimalloc_version() -> String {
    // SAFETY: a function without arguments that returns a constant.
    let version = unsafe { libmimalloc_sys::mi_version() };
    format!("{}.{}.{}", version / 10_000, version / 100 % 100, version % 100)
}
