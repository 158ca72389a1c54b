//! What every workload does with memory: get it, touch it.

use std::alloc::Layout;

use crate::subject::Subject;

/// The layout of `size` bytes that most programs would have: aligned to a word if it holds whole words.
pub(crate) const fn layout(size: usize) -> Layout {
    let align = if size.is_multiple_of(8) { 8 } else { 1 };
    match Layout::from_size_align(size, align) {
        Ok(layout) => layout,
        Err(_) => panic!("no workload is that large"),
    }
}

/// Allocates, and ends the workload if there is no memory: every program has to look.
///
/// # Safety
/// - `layout.size()` is not 0.
#[inline(always)]
pub(crate) unsafe fn obtain<S: Subject>(layout: Layout) -> *mut u8 {
    // SAFETY: the caller's layout.
    let ptr = unsafe { S::alloc(layout) };
    if ptr.is_null() {
        out_of_memory();
    }
    ptr
}

/// Ends the process so that its parent can say why.
#[cold]
#[inline(never)]
pub(crate) fn out_of_memory() -> ! {
    eprintln!("no memory");
    std::process::exit(3)
}

/// Writes to an allocation: its first bytes, and the first of every further page.
///
/// # Safety
/// - `ptr` is an allocation of `size` bytes, at least one, aligned as [`layout`] has it.
#[inline(always)]
pub(crate) unsafe fn touch(ptr: *mut u8, size: usize) {
    if size.is_multiple_of(8) {
        // SAFETY: at least eight bytes, aligned to eight.
        unsafe { ptr.cast::<usize>().write_volatile(size) };
    } else {
        // SAFETY: at least one byte.
        unsafe { ptr.write_volatile(1) };
    }
    let mut offset = 4096;
    while offset < size {
        // SAFETY: inside the allocation.
        let page = unsafe { ptr.add(offset) };
        // SAFETY: inside the allocation.
        unsafe { page.write_volatile(1) };
        offset += 4096;
    }
}

/// Reads what [`touch`] wrote first.
///
/// # Safety
/// - `ptr` is a live allocation that has been touched.
#[inline(always)]
pub(crate) unsafe fn look(ptr: *mut u8) -> usize {
    // SAFETY: at least one byte, written before.
    usize::from(unsafe { ptr.read_volatile() })
}
