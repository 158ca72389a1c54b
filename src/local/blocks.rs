//! The blocks of a local heap: what is too long or too strictly aligned for its arena, each an allocation of the source.
//!
//! ```text
//!   │ what the client has, to a multiple of 8 │ footer: neighbours, layout │
//! ```
//!
//! The footer stands behind, so that a block is aligned as the source's slot or mapping is.

use core::alloc::Layout;
use core::ptr::NonNull;

use super::source::Supply;
use crate::sync::Cell;

/// The end of a block.
#[derive(Clone, Copy)]
struct Footer {
    before: Option<NonNull<Footer>>,
    behind: Option<NonNull<Footer>>,
    start: NonNull<u8>,
    /// The source's layout, with the footer.
    layout: Layout,
}

pub(super) struct Blocks {
    first: Cell<Option<NonNull<Footer>>>,
    count: Cell<usize>,
    bytes: Cell<usize>,
}

// SAFETY: the blocks belong to the heap, and whoever has that may use them from any thread.
unsafe impl Send for Blocks {}

/// A block's layout in the source, and where its footer stands. `None`: more than any object may have.
fn with_footer(layout: Layout) -> Option<(Layout, usize)> {
    let (whole, offset) = layout.extend(Layout::new::<Footer>()).ok()?;
    // The footer's place is a multiple of 8 behind any size that the block may come back with.
    Some((whole, offset))
}

/// The footer of the block at an address. Blocks are exposed when they are taken; a client's pointer is only trusted for its address.
///
/// # Safety
/// A block of the heap has its footer at that offset.
unsafe fn footer_at(start: NonNull<u8>, offset: usize) -> NonNull<Footer> {
    let footer = core::ptr::with_exposed_provenance_mut(start.addr().get() + offset);
    // SAFETY: it lies inside a block, so not at 0.
    unsafe { NonNull::new_unchecked(footer) }
}

impl Blocks {
    pub(super) const fn new() -> Self {
        Self { first: Cell::new(None), count: Cell::new(0), bytes: Cell::new(0) }
    }

    /// How many blocks there are, and of how many bytes together.
    pub(super) fn live(&self) -> (usize, usize) {
        (self.count.get(), self.bytes.get())
    }

    /// A block for a layout of at least one byte. `None`: out of memory.
    #[cold]
    #[inline(never)]
    pub(super) fn allocate(&self, supply: &Supply, layout: Layout, want_zero: bool) -> Option<NonNull<[u8]>> {
        let (whole, offset) = with_footer(layout)?;
        let start = supply.take(whole, want_zero)?;
        // SAFETY: just taken, and long enough for a footer at that place.
        unsafe { self.link(start, offset, whole) };
        Some(NonNull::slice_from_raw_parts(start, offset))
    }

    /// # Safety
    /// `start` is taken from the source with that layout, which has a footer at that offset, and is in no list.
    unsafe fn link(&self, start: NonNull<u8>, offset: usize, layout: Layout) {
        start.as_ptr().expose_provenance();
        // SAFETY: inside, as the caller promises.
        let footer = unsafe { footer_at(start, offset) };
        let behind = self.first.replace(Some(footer));
        // SAFETY: room for a footer, aligned to it.
        unsafe { footer.write(Footer { before: None, behind, start, layout }) };
        if let Some(mut behind) = behind {
            // SAFETY: A1: the footer of a block in the list, which nobody else refers to.
            unsafe { behind.as_mut() }.before = Some(footer);
        }
        self.count.set(self.count.get() + 1);
        self.bytes.set(self.bytes.get() + offset);
    }

    /// Takes a block out of the list; returns where it begins, and its layout in the source.
    ///
    /// # Safety
    /// A block in the list, with its footer at that offset.
    unsafe fn unlink(&self, start: NonNull<u8>, offset: usize) -> (NonNull<u8>, Layout) {
        // SAFETY: the same contract.
        let footer = unsafe { footer_at(start, offset) };
        // SAFETY: A1: written by `link`.
        let Footer { before, behind, start, layout } = unsafe { footer.read() };
        match before {
            // SAFETY: A1: the footer of a block in the list, which nobody else refers to.
            Some(mut before) => unsafe { before.as_mut() }.behind = behind,
            None => self.first.set(behind),
        }
        if let Some(mut behind) = behind {
            // SAFETY: as above.
            unsafe { behind.as_mut() }.before = before;
        }
        self.count.set(self.count.get() - 1);
        self.bytes.set(self.bytes.get() - offset);
        (start, layout)
    }

    /// Gives a block back.
    ///
    /// # Safety
    /// A live block that this layout fits, which nobody uses any more.
    #[cold]
    #[inline(never)]
    pub(super) unsafe fn deallocate(&self, supply: &Supply, ptr: NonNull<u8>, layout: Layout) {
        let Some((_, offset)) = with_footer(layout) else { return };
        // SAFETY: the same contract.
        let (start, whole) = unsafe { self.unlink(ptr, offset) };
        // SAFETY: A1: taken with that layout, and now in no list.
        unsafe { supply.give(start, whole) };
    }

    /// Makes a block fit another layout, where it is or elsewhere; what fits both stays. `None`: out of memory, it is as it was.
    ///
    /// # Safety
    /// A live block that the layout `old` fits.
    #[cold]
    #[inline(never)]
    pub(super) unsafe fn resize(
        &self,
        supply: &Supply,
        ptr: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Option<NonNull<[u8]>> {
        let ((_, old_offset), (new_whole, offset)) = (with_footer(old)?, with_footer(new)?);
        // SAFETY: the same contract.
        let (old_start, old_whole) = unsafe { self.unlink(ptr, old_offset) };
        // SAFETY: A1: taken with that layout.
        let Some(start) = (unsafe { supply.resize(old_start, old_whole, new_whole) }) else {
            // SAFETY: A1: it is as it was, and in no list.
            unsafe { self.link(old_start, old_offset, old_whole) };
            return None;
        };
        // SAFETY: just taken with that layout.
        unsafe { self.link(start, offset, new_whole) };
        Some(NonNull::slice_from_raw_parts(start, offset))
    }

    /// Gives all blocks back.
    pub(super) fn reset(&self, supply: &Supply) {
        self.count.set(0);
        self.bytes.set(0);
        let mut next = self.first.take();
        while let Some(footer) = next {
            // SAFETY: A1: written by `link`.
            let Footer { behind, start, layout, .. } = unsafe { footer.read() };
            next = behind;
            // SAFETY: A1: taken with that layout, and in no list any more.
            unsafe { supply.give(start, layout) };
        }
    }
}
