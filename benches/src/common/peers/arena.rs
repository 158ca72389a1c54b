//! `bumpalo`, the lower bound: it allocates by moving a pointer and frees everything at once.
//!
//! It is not `Sync`, so it takes part in single-threaded workloads only, where the process has one arena.

use std::alloc::Layout;
use std::cell::UnsafeCell;
use std::mem::MaybeUninit;
use std::ptr::NonNull;

use allocator_api2::alloc::Allocator;
use bumpalo::Bump;

use crate::subject::{In, Subject};

/// The arena of the process.
struct Arena(UnsafeCell<MaybeUninit<Bump>>);

// SAFETY: only workloads of one thread are run with it (`Name::frees`).
unsafe impl Sync for Arena {}

static ARENA: Arena = Arena(UnsafeCell::new(MaybeUninit::uninit()));

impl Arena {
    #[inline(always)]
    fn get(&self) -> &Bump {
        // SAFETY: no `&mut` exists outside `start` and `reset`, which hold none when they return.
        let slot = unsafe { &*self.0.get() };
        // SAFETY: `Subject::start` has written it before anything is allocated.
        unsafe { slot.assume_init_ref() }
    }
}

/// The arena as a subject.
#[derive(Clone, Copy)]
pub(crate) struct Bumpalo;

impl Subject for Bumpalo {
    type Collections = In<Self>;

    fn collections() -> In<Self> {
        In(Self)
    }

    #[inline(always)]
    unsafe fn alloc(layout: Layout) -> *mut u8 {
        match ARENA.get().try_alloc_layout(layout) {
            Ok(ptr) => ptr.as_ptr(),
            Err(_) => std::ptr::null_mut(),
        }
    }

    #[inline(always)]
    unsafe fn alloc_zeroed(layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the contract.
        let ptr = unsafe { Self::alloc(layout) };
        if !ptr.is_null() {
            // SAFETY: `ptr` is an allocation of that many bytes.
            unsafe { ptr.write_bytes(0, layout.size()) };
        }
        ptr
    }

    #[inline(always)]
    unsafe fn dealloc(ptr: *mut u8, layout: Layout) {
        // SAFETY: an allocated pointer is not null.
        let ptr = unsafe { NonNull::new_unchecked(ptr) };
        // SAFETY: the caller's pointer and layout. Only the newest allocation is taken back.
        unsafe { ARENA.get().deallocate(ptr, layout) }
    }

    #[inline(always)]
    unsafe fn realloc(ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: an allocated pointer is not null.
        let ptr = unsafe { NonNull::new_unchecked(ptr) };
        // SAFETY: the size stays below `isize::MAX` in every workload and the alignment was legal before.
        let new = unsafe { Layout::from_size_align_unchecked(new_size, layout.align()) };
        let moved = if new_size >= layout.size() {
            // SAFETY: the caller's pointer and layout, and the new size is no smaller.
            unsafe { ARENA.get().grow(ptr, layout, new) }
        } else {
            // SAFETY: the caller's pointer and layout, and the new size is no larger.
            unsafe { ARENA.get().shrink(ptr, layout, new) }
        };
        moved.map_or(std::ptr::null_mut(), |slice| slice.as_ptr().cast())
    }

    fn start() {
        // SAFETY: called once, before the first allocation, so that nobody reads it.
        let slot = unsafe { &mut *ARENA.0.get() };
        slot.write(Bump::new());
    }

    fn reset() {
        // SAFETY: called when nothing is allocated, by the only thread.
        let slot = unsafe { &mut *ARENA.0.get() };
        // SAFETY: `start` has written it.
        unsafe { slot.assume_init_mut() }.reset();
    }
}
