//! The arenas that are measured, behind one trait.

use std::alloc::Layout;
use std::fmt;
use std::ptr::NonNull;

use allocator_api2::alloc::{AllocError, Allocator};
use allocator_api2_04::alloc as newer;
use bump_scope::Bump as BumpScope;
use bumpalo::Bump;
use family_alloc::{Heap, LocalHeap};
use libmimalloc_sys as mi;

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

lent_as_they_are!(LocalHeap, Bump, BumpScope, multitude::Arena);

/// An arena of the newer trait, for collections of the older one.
pub(crate) struct Newer<'arena, A>(&'arena A);

impl<A> Clone for Newer<'_, A> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<A> Copy for Newer<'_, A> {}

// SAFETY: each call is the arena's own, whose trait promises the same.
unsafe impl<A: newer::Allocator> Allocator for Newer<'_, A> {
    #[inline(always)]
    fn allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        self.0.allocate(layout).map_err(|_| AllocError)
    }

    #[inline(always)]
    fn allocate_zeroed(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        self.0.allocate_zeroed(layout).map_err(|_| AllocError)
    }

    #[inline(always)]
    unsafe fn deallocate(&self, ptr: NonNull<u8>, layout: Layout) {
        // SAFETY: the same contract, here and below.
        unsafe { self.0.deallocate(ptr, layout) };
    }

    #[inline(always)]
    unsafe fn grow(&self, ptr: NonNull<u8>, old: Layout, new: Layout) -> Result<NonNull<[u8]>, AllocError> {
        // SAFETY: as above.
        unsafe { self.0.grow(ptr, old, new) }.map_err(|_| AllocError)
    }

    #[inline(always)]
    unsafe fn grow_zeroed(&self, ptr: NonNull<u8>, old: Layout, new: Layout) -> Result<NonNull<[u8]>, AllocError> {
        // SAFETY: as above.
        unsafe { self.0.grow_zeroed(ptr, old, new) }.map_err(|_| AllocError)
    }

    #[inline(always)]
    unsafe fn shrink(&self, ptr: NonNull<u8>, old: Layout, new: Layout) -> Result<NonNull<[u8]>, AllocError> {
        // SAFETY: as above.
        unsafe { self.0.shrink(ptr, old, new) }.map_err(|_| AllocError)
    }
}

/// Arenas of the newer trait.
macro_rules! newer {
    ($($name:ident, $arena:ty;)*) => {$(
        pub(crate) struct $name($arena);

        impl Subject for $name {
            type Collections<'arena> = Newer<'arena, $arena>;

            #[inline(always)]
            fn new() -> Self {
                Self(<$arena>::new())
            }

            #[inline(always)]
            fn collections(&self) -> Newer<'_, $arena> {
                Newer(&self.0)
            }

            fn reset(&mut self) {
                self.0.reset();
            }
        }
    )*};
}

newer! {
    Blink, blink_alloc::BlinkAlloc;
    Stumpalo, stumpalo::Arena;
}

/// A heap of ours, of which all is freed before it is dropped.
pub(crate) struct Whole(Heap);

impl Subject for Whole {
    type Collections<'arena> = &'arena Heap;

    #[inline(always)]
    fn new() -> Self {
        Self(Heap::new("request").unwrap_or_else(|_| std::process::abort()))
    }

    #[inline(always)]
    fn collections(&self) -> &Heap {
        &self.0
    }

    fn reset(&mut self) {
        // SAFETY: borrowed mutably, so nothing that borrows it is left, and only this thread has it.
        unsafe { self.0.reset() };
    }
}

impl Drop for Whole {
    fn drop(&mut self) {
        self.reset();
    }
}

/// A heap of mimalloc's.
pub(crate) struct MiHeap(NonNull<mi::mi_heap_t>);

// SAFETY: what mimalloc's heap hands out, which it has until it is freed or the heap is destroyed: then nothing borrows it.
unsafe impl Allocator for &MiHeap {
    #[inline(always)]
    fn allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        // SAFETY: a heap that lives.
        let memory = unsafe { mi::mi_heap_malloc_aligned(self.0.as_ptr(), layout.size(), layout.align()) };
        let memory = NonNull::new(memory.cast::<u8>()).ok_or(AllocError)?;
        Ok(NonNull::slice_from_raw_parts(memory, layout.size()))
    }

    #[inline(always)]
    unsafe fn deallocate(&self, ptr: NonNull<u8>, _layout: Layout) {
        // SAFETY: allocated by mimalloc.
        unsafe { mi::mi_free(ptr.as_ptr().cast()) };
    }
}

impl Subject for MiHeap {
    type Collections<'arena> = &'arena Self;

    #[inline(always)]
    fn new() -> Self {
        // SAFETY: mimalloc makes heaps for any thread.
        let heap = NonNull::new(unsafe { mi::mi_heap_new() });
        Self(heap.unwrap_or_else(|| std::process::abort()))
    }

    #[inline(always)]
    fn collections(&self) -> &Self {
        self
    }

    fn reset(&mut self) {
        *self = Self::new();
    }
}

impl Drop for MiHeap {
    fn drop(&mut self) {
        // SAFETY: this thread's, and nothing that borrows it is left.
        unsafe { mi::mi_heap_destroy(self.0.as_ptr()) };
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Name {
    Ours,
    Bumpalo,
    BumpScope,
    Blink,
    Stumpalo,
    Multitude,
    Heap,
    MiHeap,
}

pub(crate) const ALL: [Name; 8] = [
    Name::Ours,
    Name::Bumpalo,
    Name::BumpScope,
    Name::Blink,
    Name::Stumpalo,
    Name::Multitude,
    Name::Heap,
    Name::MiHeap,
];

impl Name {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Ours => "LocalHeap",
            Self::Bumpalo => "bumpalo",
            Self::BumpScope => "bump-scope",
            Self::Blink => "blink-alloc",
            Self::Stumpalo => "stumpalo",
            Self::Multitude => "multitude",
            Self::Heap => "Heap",
            Self::MiHeap => "mi_heap",
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
            $crate::peers::Name::Stumpalo => $function::<$crate::peers::Stumpalo>($($argument),*),
            $crate::peers::Name::Multitude => $function::<multitude::Arena>($($argument),*),
            $crate::peers::Name::Heap => $function::<$crate::peers::Whole>($($argument),*),
            $crate::peers::Name::MiHeap => $function::<$crate::peers::MiHeap>($($argument),*),
        }
    };
}
pub(crate) use with_arena;
