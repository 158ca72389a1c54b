//! The arenas that are measured, behind one trait.

use std::alloc::Layout;
use std::fmt;
use std::ptr::NonNull;

use allocator_api2::alloc::Allocator;
use bump_scope::Bump as BumpScope;
use bumpalo::Bump;
use family_alloc::LocalHeap;

/// An arena, made and dropped by value, and reset.
pub(crate) trait Subject: Sized {
    fn new() -> Self;

    /// For collections.
    type Collections<'arena>: Allocator + Copy
    where
        Self: 'arena;

    fn collections(&self) -> Self::Collections<'_>;

    fn reset(&mut self);

    #[inline(always)]
    fn alloc(&self, layout: Layout) -> NonNull<u8> {
        match self.collections().allocate(layout) {
            Ok(memory) => memory.cast(),
            Err(_) => std::process::abort(),
        }
    }

    /// # Safety
    /// Allocated here with this layout, and not used any more.
    #[inline(always)]
    unsafe fn dealloc(&self, ptr: NonNull<u8>, layout: Layout) {
        // SAFETY: the same contract.
        unsafe { self.collections().deallocate(ptr, layout) };
    }
}

/// Arenas whose collections borrow them as they are.
macro_rules! lent_as_they_are {
    ($($arena:ty),*) => {$(
        impl Subject for $arena {
            type Collections<'arena> = &'arena Self;

            #[inline(always)]
            fn new() -> Self {
                Self::new()
            }

            #[inline(always)]
            fn collections(&self) -> &Self {
                self
            }

            fn reset(&mut self) {
                self.reset();
            }
        }
    )*};
}

lent_as_they_are!(LocalHeap, Bump, BumpScope);

/// Blink, whose chunks come from the system's allocator.
pub(crate) struct Blink(blink_alloc::BlinkAlloc);

impl Subject for Blink {
    type Collections<'arena> = &'arena blink_alloc::BlinkAlloc;

    #[inline(always)]
    fn new() -> Self {
        Self(blink_alloc::BlinkAlloc::new())
    }

    #[inline(always)]
    fn collections(&self) -> &blink_alloc::BlinkAlloc {
        &self.0
    }

    fn reset(&mut self) {
        self.0.reset();
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Name {
    Ours,
    Bumpalo,
    BumpScope,
    Blink,
}

pub(crate) const ALL: [Name; 4] = [Name::Ours, Name::Bumpalo, Name::BumpScope, Name::Blink];

impl Name {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Ours => "LocalHeap",
            Self::Bumpalo => "bumpalo",
            Self::BumpScope => "bump-scope",
            Self::Blink => "blink-alloc",
        }
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        ALL.into_iter().find(|name| name.as_str() == text)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Calls a function that is generic over the arena.
macro_rules! with_arena {
    ($name:expr, $function:ident($($argument:expr),*)) => {
        match $name {
            $crate::peers::Name::Ours => $function::<family_alloc::LocalHeap>($($argument),*),
            $crate::peers::Name::Bumpalo => $function::<bumpalo::Bump>($($argument),*),
            $crate::peers::Name::BumpScope => $function::<bump_scope::Bump>($($argument),*),
            $crate::peers::Name::Blink => $function::<$crate::peers::Blink>($($argument),*),
        }
    };
}
pub(crate) use with_arena;
