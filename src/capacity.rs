//! How much of each class the caches hold: the sizes of magazines, batches, depots and fresh ranges.
//!
//! A magazine begins with room for a few slots and doubles each time it is full or empty, up to
//! [`magazine_slots`] and as long as all magazines of the thread together stay within its budget
//! (`cache_bytes` of the family at most). Half of its room is a batch, which it exchanges with its
//! bin, so that a thread at the edge does not go to the bin every time. The depot keeps slots that
//! pass from one thread to another. All of these are bounded by count and by bytes.

#![forbid(unsafe_code)]

use crate::checks::Checks;
use crate::size_class::{COUNT_MAX, Classes, NATURAL_COUNT, SPACED_COUNT, SizeClass};

/// Slow calls of a thread in one family, within [`CALM_MILLISECONDS`], before it gets a cache.
pub(crate) const EARNING_CALLS: u32 = 64;
/// A thread that exchanges less often than [`CALM_EXCHANGES`] times in so long has become calm.
pub(crate) const CALM_MILLISECONDS: u32 = 1000;
pub(crate) const CALM_EXCHANGES: u32 = 16;
/// What a cache may hold at first, in bytes of slots. It doubles with every [`EARNING_EXCHANGES`].
pub(crate) const FIRST_BYTES: usize = 16 << 10;
pub(crate) const EARNING_EXCHANGES: u32 = 64;
/// Where a magazine may not become longer an idle one is shortened for it, but only every so many times: it is looked for in
/// all classes, of which there may be a hundred, and each that is in use is to be exchanged meanwhile. With 16 a mixed load
/// in a spaced family shortened in turn what it had just lengthened.
pub(crate) const REFUSED_EXCHANGES: u32 = 64;
/// What the cache of a calm thread may hold.
pub(crate) const CALM_BYTES: usize = 64 << 10;
/// What a cache may hold, where the family does not say: `cache_bytes`.
pub(crate) const CACHE_BYTES: usize = 256 << 10;
/// The same where classes are spaced: five times as many of them share it.
const SPACED_CACHE_BYTES: usize = 1 << 20;

/// Slots in a magazine, at most, and of which it holds more than [`MANY_SLOTS`] only as long as they are no more bytes: what an
/// exchange costs beside its slots is so spread over many of the small ones.
pub(crate) const MAGAZINE_SLOTS: usize = 1024;
const MANY_SLOTS: usize = 256;
const MANY_BYTES: usize = 32 << 10;
/// Slots in a hardened magazine, at most: each exchange fills and compares what it brings.
const HARDENED_SLOTS: usize = 128;
/// A magazine holds at most one part in so many of what the cache may hold.
const MAGAZINE_PART: usize = 2;
/// A magazine that may hold so much need not grow for a thread that is served by it alone.
const GROWN_BYTES: usize = 64 << 10;
/// From here on a thread caches nothing: a lock costs less than what such slots keep.
const UNCACHED_FROM_BYTES: usize = 64 << 10;
/// Bytes of slots in a hardened magazine, at most, where that leaves at least two: what waits in
/// quarantine. From [`UNCACHED_FROM_BYTES`] on they are guarded and hold no memory.
const HARDENED_BYTES: usize = 256 << 10;
/// Bytes of slots in a new magazine, at most, where that leaves at least one.
const FIRST_MAGAZINE_BYTES: usize = 2 << 10;
const FIRST_MAGAZINE_SLOTS: usize = 8;
const STOCKED_SLOTS: usize = 32;
/// Slots in a depot, at most, and their bytes.
const DEPOT_SLOTS: usize = 2048;
const DEPOT_BYTES: usize = 1 << 20;
/// Slots that have to come at once to go to the depot: a single one is of a thread without a cache.
pub(crate) const DEPOT_LEAST_SLOTS: usize = 2;
/// Slots that come back one after another, without one taken, before the depot is emptied into its
/// slabs.
pub(crate) const SURPLUS_SLOTS: u32 = 4096;
/// A cache line: a fresh range is no less.
pub(crate) const LINE_BYTES: usize = 64;
/// Bytes of a fresh range for a magazine that has grown: at least, where a batch is smaller; at
/// most, where a slot is not larger.
const FRESH_BYTES: core::ops::RangeInclusive<usize> = 4 << 10..=64 << 10;

/// Empty slabs that a bin keeps for a second.
pub(crate) const KEPT_SLABS: usize = 1;
/// Pieces of pages that wait for a thread's caches when another has ended, at most.
pub(crate) const WARM_PIECES: usize = 64;

const fn clamp(value: usize, least: usize, most: usize) -> usize {
    if value < least {
        least
    } else if value > most {
        most
    } else {
        value
    }
}

/// What a cache of these classes may hold, where the family does not say.
pub(crate) const fn cache_bytes(classes: Classes) -> usize {
    match classes {
        Classes::Natural => CACHE_BYTES,
        Classes::Spaced => SPACED_CACHE_BYTES,
    }
}

/// Slots that a magazine of this class holds at most, whatever the thread's cache may hold.
#[inline]
const fn most_slots(class: SizeClass) -> usize {
    clamp(class.slots_in(MANY_BYTES), MANY_SLOTS, MAGAZINE_SLOTS)
}

/// Whether a magazine that may hold so many slots need not grow for a thread that is served by it alone.
#[inline]
pub(crate) const fn is_grown(class: SizeClass, capacity: usize) -> bool {
    capacity >= MANY_SLOTS || capacity > 0 && (capacity + 1) * class.slot_bytes() > GROWN_BYTES
}

/// Slots that a thread's magazine of this class holds at most; 0 where none is cached.
#[inline]
pub(crate) const fn magazine_slots(class: SizeClass, checks: Checks, cache_bytes: usize) -> usize {
    if checks.is_hardened() {
        return clamp(class.slots_in(HARDENED_BYTES), 2, HARDENED_SLOTS);
    }
    if class.slot_bytes() >= UNCACHED_FROM_BYTES {
        return 0;
    }
    clamp(class.slots_in(cache_bytes / MAGAZINE_PART), 2, most_slots(class))
}

/// Slots that a magazine holds when its thread first exchanges, of at most `most`. What waits in a
/// hardened family's quarantine has to be enough from the start.
pub(crate) const fn first_slots(class: SizeClass, checks: Checks, most: usize) -> usize {
    if checks.is_hardened() {
        return most;
    }
    clamp(clamp(class.slots_in(FIRST_MAGAZINE_BYTES), 1, FIRST_MAGAZINE_SLOTS), 0, most)
}

/// Slots that a magazine with room for so many exchanges with its bin at once.
pub(crate) const fn batch_slots(capacity: usize) -> usize {
    clamp(capacity / 2, 1, MAGAZINE_SLOTS)
}

/// Slots of a fresh range that go into a magazine at once: so few that they hardly ever come back unused.
pub(crate) const fn stocked_slots(capacity: usize) -> usize {
    clamp(capacity / 4, 0, STOCKED_SLOTS)
}

/// Slots at the bottom of a magazine that a hardened family keeps back.
#[inline(always)]
pub(crate) const fn quarantine_slots(class: SizeClass) -> usize {
    magazine_slots(class, Checks::Hardened, CACHE_BYTES) / 4
}

/// Slots that a bin's depot keeps. Those that threads do not cache come alone, and so stay out of it, but for guarded ones, which
/// hold no memory.
pub(crate) const fn depot_slots(class: SizeClass) -> usize {
    clamp(class.slots_in(DEPOT_BYTES), 1, DEPOT_SLOTS)
}

/// Never-used slots that a thread takes at once, to hand them out in address order without a lock:
/// a batch, and more of small ones once the magazine is as large as it gets.
pub(crate) const fn fresh_slots(class: SizeClass, capacity: usize, most: usize) -> usize {
    let batch = batch_slots(capacity) * class.slot_bytes();
    let least = if capacity < most { LINE_BYTES } else { *FRESH_BYTES.start() };
    clamp(class.slots_in(clamp(batch, least, *FRESH_BYTES.end())), 1, usize::MAX)
}

/// Where the depot of a class begins in the array of its family, in slots.
pub(crate) fn depot_start(class: SizeClass) -> usize {
    match class.classes() {
        Classes::Natural => NATURAL_STARTS[class.index()],
        Classes::Spaced => SPACED_STARTS[class.index()],
    }
}

static NATURAL_STARTS: [usize; COUNT_MAX] = depot_starts(Classes::Natural, NATURAL_COUNT);
static SPACED_STARTS: [usize; COUNT_MAX] = depot_starts(Classes::Spaced, SPACED_COUNT);

const fn depot_starts(classes: Classes, count: usize) -> [usize; COUNT_MAX] {
    let mut starts = [0; COUNT_MAX];
    let mut index = 1;
    while index < count {
        starts[index] = starts[index - 1] + depot_slots(classes.class(index - 1));
        index += 1;
    }
    starts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_is_cached_within_its_bounds() {
        for class in [Classes::Natural, Classes::Spaced].into_iter().flat_map(|classes| classes.all(2 << 20)) {
            let slot_bytes = class.slot_bytes();
            for cache_bytes in [16 << 10, CACHE_BYTES, 16 << 20] {
                let most = magazine_slots(class, Checks::Default, cache_bytes);
                assert_eq!(most == 0, slot_bytes >= 64 << 10, "{class:?}");
                assert!(most <= 2 || most * slot_bytes <= cache_bytes / MAGAZINE_PART, "{class:?}");
                let first = first_slots(class, Checks::Default, most);
                assert!(first <= most && (first <= 1 || first * slot_bytes <= 2048), "{class:?}");
                let fresh = fresh_slots(class, most, most);
                assert!(fresh == 1 || fresh * slot_bytes <= 64 << 10, "{class:?}");
                assert!(fresh_slots(class, first, most) * slot_bytes <= 64 << 10 || fresh == 1);
            }
            assert!(depot_slots(class) * slot_bytes <= DEPOT_BYTES, "{class:?}");
            let hardened = magazine_slots(class, Checks::Hardened, CACHE_BYTES);
            assert!(hardened >= 2 && quarantine_slots(class) * 4 <= hardened, "{class:?}");
            if class.index() > 0 {
                let before = class.classes().class(class.index() - 1);
                assert_eq!(depot_start(class), depot_start(before) + depot_slots(before));
            }
        }
    }
}
