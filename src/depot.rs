//! Where the depot of one bin is in memory: one after another the depots of a family, each as long as its class needs.

use core::ptr::NonNull;

use crate::capacity::depot_slots;
use crate::os;
use crate::size_class::SizeClass;

/// The depot's place in memory: room for `depot_slots` slots, owned by one bin.
#[derive(Clone, Copy)]
pub(crate) struct DepotMemory(pub(crate) *mut usize);

impl DepotMemory {
    /// The pages that a depot stands on: those that it has for itself, or also those that it shares with its neighbours.
    pub(crate) fn pages(self, class: SizeClass, with_shared: bool) -> Option<(NonNull<u8>, usize)> {
        let (page, bytes) = (os::page_bytes(), depot_slots(class) * size_of::<usize>());
        let (start, end) = (self.0.addr(), self.0.addr() + bytes);
        let (first, end) = if with_shared {
            (start & !(page - 1), end.next_multiple_of(page))
        } else {
            (start.next_multiple_of(page), end & !(page - 1))
        };
        let memory = NonNull::new(self.0.with_addr(first).cast::<u8>());
        memory.filter(|_| first < end).map(|memory| (memory, end - first))
    }

    /// Makes it usable, whose pages went to the system or were never there; `false`: the system refuses.
    #[inline(always)]
    pub(crate) fn recommit(self, class: SizeClass) -> bool {
        // SAFETY: the family's own, in whole pages; what neighbours have in them stays.
        let recommit = |(memory, bytes)| unsafe { os::recommit(memory, bytes) };
        !os::DECOMMITS || self.pages(class, true).is_some_and(recommit)
    }
}
