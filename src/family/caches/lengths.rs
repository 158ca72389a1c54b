//! How many slots each magazine of a thread's cache may hold: more where slots are exchanged, within what the cache is granted.

#![forbid(unsafe_code)]

use super::ThreadCache;
use crate::capacity::{EARNING_EXCHANGES, MAGAZINE_SLOTS, REFUSED_EXCHANGES, first_slots, magazine_slots};
use crate::magazine::Magazine;
use crate::size_class::SizeClass;

impl ThreadCache {
    /// Lets a magazine hold twice as many slots, or its first.
    pub(super) fn lengthen(&self, magazine: &Magazine, class: SizeClass) {
        let capacity = magazine.capacity();
        if capacity == MAGAZINE_SLOTS {
            return;
        }
        let checks = self.family.checks;
        let most = magazine_slots(class, checks, self.family.cache_bytes());
        if capacity == most {
            return;
        }
        let wanted = match capacity {
            0 => self.first_or_before(magazine, class, most),
            _ => most.min(2 * capacity),
        };
        let more = (wanted - capacity) * class.slot_bytes();
        if (checks.is_hardened() || self.admits(class, more)) && self.has_array(class, wanted) {
            magazine.set_capacity(self.cache.tally(), wanted);
            self.used_bytes.set(self.used_bytes.get() + more);
        }
    }

    /// How many slots a magazine holds at first. An array that is there already is one that the thread has earned with the heap
    /// before: all of it, if that is granted, so that the next heap comes by with one exchange.
    fn first_or_before(&self, magazine: &Magazine, class: SizeClass, most: usize) -> usize {
        let first = first_slots(class, self.family.checks, most);
        let granted = class.slots_in(self.granted_bytes.get().saturating_sub(self.used_bytes.get()));
        first.max(most.min(magazine.places()).min(granted))
    }

    /// Whether the magazines may have room for so many bytes more: in what is granted, in what is earned now, or in what another
    /// class does not use.
    fn admits(&self, class: SizeClass, bytes: usize) -> bool {
        let fits = || self.used_bytes.get() + bytes <= self.granted_bytes.get();
        if fits() {
            return true;
        }
        let granted = self.granted_bytes.get();
        if self.exchanges.get() >= EARNING_EXCHANGES && granted < self.family.cache_bytes() {
            self.exchanges.set(0);
            self.granted_bytes.set(self.family.cache_bytes().min(2 * granted));
        } else if self.refused.replace(self.refused.get().wrapping_add(1)) % REFUSED_EXCHANGES == 0 {
            self.shorten_an_idle_one(class);
        }
        fits()
    }

    /// Halves the largest magazine whose class has not been exchanged since this was last tried;
    /// for a class that has nothing also one that has: two classes may have all between them.
    fn shorten_an_idle_one(&self, but: SizeClass) {
        let bytes = |class: &SizeClass| self.cache.magazine(*class).capacity() * class.slot_bytes();
        let has_nothing = self.cache.magazine(but).capacity() == 0;
        let is_idle =
            |class: &SizeClass| *class != but && (!self.cache.magazine(*class).take_exchanged() || has_nothing);
        if let Some(class) =
            self.family.all_classes().filter(|class| bytes(class) > 0).filter(is_idle).max_by_key(bytes)
        {
            self.shorten(class, self.cache.magazine(class).capacity() / 2);
        }
    }

    /// Lets a magazine hold only so many slots; what it holds beyond goes to its bin.
    pub(super) fn shorten(&self, class: SizeClass, capacity: usize) {
        let magazine = self.cache.magazine(class);
        let stored = magazine.stored_slots();
        if stored > capacity {
            self.family.note_live(self.cache, class);
            self.family.flush_stored(self.cache, class, stored - capacity);
            magazine.note(class);
        }
        self.used_bytes.set(self.used_bytes.get() - (magazine.capacity() - capacity) * class.slot_bytes());
        magazine.set_capacity(self.cache.tally(), capacity);
    }
}
