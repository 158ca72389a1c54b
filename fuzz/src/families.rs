//! The families that the targets use, and their doors.

use family_alloc::family;

use crate::common::doors::Doors;

family! {
    struct Plain;
    struct Small { slab_bytes: 64 * 1024 }
    struct Raw { checks: Unchecked }
    struct RawSmall { checks: Unchecked, slab_bytes: 64 * 1024 }
    struct Watched { checks: Checked }
    struct WatchedSmall { checks: Checked, slab_bytes: 64 * 1024 }
    struct Guarded { checks: Hardened }
    struct GuardedSmall { checks: Hardened, slab_bytes: 128 * 1024 }
}

/// The number of families; each has two doors in [`DOORS`], so many places apart.
pub(crate) const FAMILIES: usize = 8;

/// `Allocator` and `GlobalAlloc` of every family. The second half of each are those that find every misuse.
pub(crate) static DOORS: [Doors; 2 * FAMILIES] = [
    Doors::of::<Raw>(),
    Doors::of::<RawSmall>(),
    Doors::of::<Plain>(),
    Doors::of::<Small>(),
    Doors::of::<Watched>(),
    Doors::of::<WatchedSmall>(),
    Doors::of::<Guarded>(),
    Doors::of::<GuardedSmall>(),
    Doors::exact::<Raw>(),
    Doors::exact::<RawSmall>(),
    Doors::exact::<Plain>(),
    Doors::exact::<Small>(),
    Doors::exact::<Watched>(),
    Doors::exact::<WatchedSmall>(),
    Doors::exact::<Guarded>(),
    Doors::exact::<GuardedSmall>(),
];
