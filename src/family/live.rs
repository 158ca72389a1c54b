//! The figure that is cheap to read: live bytes, without a lock.

#![forbid(unsafe_code)]

use super::FamilyCore;
use crate::magazine::Cache;
use crate::sync::Relaxed;

impl FamilyCore {
    /// Bytes that clients hold, as far as the threads have noted it; what the owner of `cache` has not noted yet is
    /// noted now. `cache` is the calling thread's cache of this family, or the empty one.
    pub(crate) fn live_bytes(&self, cache: &Cache) -> usize {
        for class in self.all_classes() {
            // Nothing is ever written to the empty cache, which all threads share: it has nothing to note.
            if cache.magazine(class).allocated_since_noted(class) != 0 {
                self.note_live(cache, class);
                cache.magazine(class).note(class);
            }
        }
        self.noted_live_bytes()
    }

    /// Bytes that clients hold, as far as the threads have noted it.
    pub(crate) fn noted_live_bytes(&self) -> usize {
        // Relaxed: a counter that publishes nothing. It is negative for a moment where a thread has noted its frees
        // before another has noted the allocations.
        usize::try_from(self.live_bytes_seen.now.load(Relaxed) as isize).unwrap_or(0)
    }
}
