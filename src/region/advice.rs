//! What the system has been told of a unit's pages: whether they are to be huge.

use core::ptr::NonNull;

use super::UnitPool;
use crate::header::SlabHeader;
use crate::huge_pages::Pages;
use crate::os;

impl UnitPool {
    /// Tells the system of a unit's pages, if it has been told otherwise. What holds memory does not become huge by advice, but what was
    /// to be huge must not be any more: it would become huge again wherever it is given back in part.
    pub(super) fn advise(&self, header: &SlabHeader, memory: NonNull<u8>, pages: Pages, zeroed: bool) {
        if header.advice.get() == pages as u8 {
            return;
        }
        match pages {
            // SAFETY: the unit is committed and was given to nobody yet, here and below.
            Pages::Huge if zeroed => unsafe { os::advise_huge(memory, self.unit_bytes()) },
            // SAFETY: as above.
            Pages::Small => unsafe { os::advise_small(memory, self.unit_bytes()) },
            Pages::Huge | Pages::AsTheSystemLikes => return,
        }
        header.advice.set(pages as u8);
    }

    /// Tells the system that a slab must not become a huge page again: pages of it have gone back.
    pub(crate) fn keep_small(&mut self, header: &SlabHeader) {
        if header.advice.get() != Pages::Small as u8 {
            self.huge_count -= usize::from(header.advice.get() == Pages::Huge as u8);
            header.advice.set(Pages::Small as u8);
            let memory = NonNull::new(header.memory()).unwrap_or(NonNull::dangling());
            // SAFETY: a slab of the family's, and so committed.
            unsafe { os::advise_small(memory, self.unit_bytes()) };
        }
    }
}
