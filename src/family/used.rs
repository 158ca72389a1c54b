//! Which classes of a family may have slabs: spares a look at the bins of all others when a heap ends or a family is reset.

#![forbid(unsafe_code)]

use crate::size_class::SizeClass;
use crate::sync::{AtomicU8, Relaxed};

/// A bit for four neighbouring classes, set before the first slab of one is opened. Of spaced classes more share it. A heap's
/// core has no room for more bits.
pub(super) struct UsedClasses(AtomicU8);

fn bit(class: SizeClass) -> u8 {
    1 << (class.index() / 4 % u8::BITS as usize)
}

impl UsedClasses {
    pub(super) const fn new() -> Self {
        Self(AtomicU8::new(0))
    }

    /// Notes that slots of a class are taken.
    #[inline(always)]
    pub(super) fn note(&self, class: SizeClass) {
        // Relaxed, here and below: who asks has the family to itself, so whoever took a slot has let it go since, or by
        // contract is in no call of it. Most often the bit is set, and the line stays with all who look.
        if self.0.load(Relaxed) & bit(class) == 0 {
            self.0.fetch_or(bit(class), Relaxed);
        }
    }

    /// Whether slots of a class may have been taken since all were last [forgotten](Self::forget).
    pub(super) fn may_have(&self, class: SizeClass) -> bool {
        self.0.load(Relaxed) & bit(class) != 0
    }

    /// Notes that no class has slabs any more, for who has the family to itself.
    pub(super) fn forget(&self) {
        self.0.store(0, Relaxed);
    }
}
