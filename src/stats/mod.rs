//! What a family tells about itself: numbers at one moment, and how they print.

#![forbid(unsafe_code)]

mod classes;
mod local;

use core::fmt::{self, Write};

pub use classes::{ClassStats, ClassTable};
pub use local::LocalStats;

use crate::size_class::{Classes, SizeClass};

/// What a family holds at one moment; see [`Family::stats`](crate::Family::stats).
///
/// Bytes are those of whole slots, and of whole pages for allocations above the largest slot: an allocation of 33 bytes
/// occupies 64. What clients hold (`live_…`) is exact when no thread is in the middle of a call, and a recent value
/// otherwise.
///
/// # What is memory, what is address space
///
/// Memory that a program has not touched yet costs nothing: the system hands out pages when they are first written. So
/// the resident memory of a family lies between two bounds.
///
/// | figure | resident |
/// | --- | --- |
/// | [`live_bytes`](Self::live_bytes) | the pages that clients have touched |
/// | [`cached_bytes`](Self::cached_bytes), [`depot_bytes`](Self::depot_bytes) | all but slots that were never used |
/// | [`free_bytes`](Self::free_bytes) | what was used before; the rest of a slab was never touched |
/// | [`kept_bytes`](Self::kept_bytes) | what was used before |
/// | [`slab_bytes`](Self::slab_bytes) + [`large_bytes`](Self::large_bytes) + `kept_bytes` | at most this |
/// | [`reserved_bytes`](Self::reserved_bytes) | address space: no memory by itself |
///
/// # Example
///
/// ```
/// use family_alloc::{Family, Vec, family};
///
/// family! { struct Session; }
///
/// let before = Session::stats();
/// let mut v = Vec::with_capacity_in(100, Session);
/// v.push(1_u32);
/// let stats = Session::stats();
/// assert_eq!((stats.live_allocations, stats.live_bytes), (1, 512));
/// assert_eq!(stats.since(&before).live_bytes, 512);
/// println!("{stats}");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// The family's name.
    pub name: &'static str,
    /// The path of the family's type, as [`FamilyRef::path`](crate::FamilyRef::path).
    pub path: &'static str,
    /// The family's number, as [`FamilyRef::id`](crate::FamilyRef::id); 0 while it has not been used.
    pub id: u32,
    /// Allocations that clients hold now.
    pub live_allocations: usize,
    /// Bytes of the slots and mappings that clients hold now.
    pub live_bytes: usize,
    /// Allocations since the family was first used, by all threads, also those that have ended; the
    /// frees of these are `total_frees`. Exact when no thread is in the middle of a call; then the
    /// difference of the two is `live_allocations`. Otherwise it may be one too many for each
    /// thread that is in the middle of a free, and what is allocated and freed while this is read
    /// may be missing. It is never less than `total_frees`.
    ///
    /// A resize counts as nothing where the allocation stays in its class, or is a large one that is made longer or
    /// shorter, also if the system moves it. Where another takes its place it counts as an allocation and a free: from
    /// class to class, between slots and large allocations, and of large ones in hardened families. Calls for no bytes
    /// do not count. A child of a `fork` goes on from what its parent had counted.
    pub total_allocations: u64,
    /// Frees since the family was first used. Exact when no thread is in the middle of a call; never goes back.
    pub total_frees: u64,
    /// The largest `live_allocations` seen: whenever a thread's cache and its bin exchanged slots, and whenever this was
    /// read. So it is never below `live_allocations`, but what a thread allocates and frees between two exchanges (at
    /// most 256 slots or 256 KiB of a class) is seen late or not at all: the peak may be too low by that for the thread
    /// that looks, and too high by what each other thread has freed meanwhile. It costs the calls nothing.
    pub peak_live_allocations: usize,
    /// The largest `live_bytes` seen, at the same moments.
    pub peak_live_bytes: usize,
    /// Address space reserved for slabs and what is known of them, in bytes: what slabs occupy, and what the family may still fill with
    /// slabs without asking for more. It is kept until the process ends, and costs no memory by itself.
    pub reserved_bytes: usize,
    /// Bytes of the slabs that the system is advised to back with huge pages; see [`HugePages`](crate::HugePages).
    pub huge_bytes: usize,
    /// Bytes of the slabs that belong to a size class now: live, cached, in depots and free. Of these the pages that
    /// were touched are memory.
    pub slab_bytes: usize,
    /// Bytes of free slots in slabs, never used ones included. They serve the next allocations of their class, but for the little that
    /// [`ClassStats::free_slots`] says.
    pub free_bytes: usize,
    /// Bytes of free slots on their way from thread to thread.
    pub depot_bytes: usize,
    /// Bytes of memory that belongs to no class and is kept for reuse: emptied slabs and freed large allocations that have
    /// not been given back yet. Of these the pages that were touched are memory. What a hardened family keeps guarded
    /// holds none and is not counted.
    pub kept_bytes: usize,
    /// Free slots that thread caches hold.
    pub cached_slots: usize,
    /// Bytes of the free slots that thread caches hold. Slots never used yet are among them, and in hardened families
    /// guarded ones: they occupy no memory.
    pub cached_bytes: usize,
    /// Threads that have a cache of this family now.
    pub thread_caches: usize,
    /// Live allocations above the largest slot, and up to sixteen that have grown past 16 KiB and go on growing
    /// there.
    pub large_allocations: usize,
    /// Bytes of these, in whole pages. Those that were touched are memory.
    pub large_bytes: usize,
    /// Whether this is a heap without handles, in which something is live still: see
    /// [`FamilyRef::is_orphan`](crate::FamilyRef::is_orphan).
    pub is_orphan: bool,
    /// How the lengths of slots are spaced.
    pub spacing: Classes,
    /// The size classes, smallest first.
    pub classes: ClassTable,
}

/// How much more or less a family holds than it did; from [`Stats::since`]. Negative: less. The fields are those of
/// [`Stats`].
///
/// ```
/// use family_alloc::{Family, Vec, family};
///
/// family! { struct Request; }
///
/// let before = Request::stats();
/// let v = Vec::<u8, _>::with_capacity_in(1000, Request);
/// let change = Request::stats().since(&before);
/// assert_eq!((change.live_allocations, change.live_bytes), (1, 1024));
/// assert!(change.to_string().starts_with("family Request: +1 allocation, +1.0 KiB live"));
/// # drop(v);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StatsChange {
    /// The family's name.
    pub name: &'static str,
    /// Allocations that clients hold.
    pub live_allocations: isize,
    /// Bytes of the slots and mappings that clients hold.
    pub live_bytes: isize,
    /// Allocations that were made in between.
    pub total_allocations: i64,
    /// Frees in between.
    pub total_frees: i64,
    /// Address space reserved for slabs, in bytes.
    pub reserved_bytes: isize,
    /// Bytes of the slabs that belong to a size class.
    pub slab_bytes: isize,
    /// Bytes of free slots in slabs.
    pub free_bytes: isize,
    /// Bytes of free slots on their way from thread to thread.
    pub depot_bytes: isize,
    /// Bytes of memory that is kept for reuse.
    pub kept_bytes: isize,
    /// Bytes of the free slots that thread caches hold.
    pub cached_bytes: isize,
    /// Live allocations above the largest slot.
    pub large_allocations: isize,
    /// Bytes of the mappings of these.
    pub large_bytes: isize,
}

impl Stats {
    pub(crate) fn new(
        name: &'static str,
        path: &'static str,
        id: u32,
        spacing: Classes,
        classes: impl Iterator<Item = SizeClass>,
    ) -> Self {
        Self {
            name,
            path,
            id,
            live_allocations: 0,
            live_bytes: 0,
            total_allocations: 0,
            total_frees: 0,
            peak_live_allocations: 0,
            peak_live_bytes: 0,
            reserved_bytes: 0,
            huge_bytes: 0,
            slab_bytes: 0,
            free_bytes: 0,
            depot_bytes: 0,
            kept_bytes: 0,
            cached_slots: 0,
            cached_bytes: 0,
            thread_caches: 0,
            large_allocations: 0,
            large_bytes: 0,
            is_orphan: false,
            spacing,
            classes: ClassTable::new(spacing, classes),
        }
    }

    /// How much more or less the family holds than `earlier` says, which is of the same family. Peaks and classes are
    /// left out.
    ///
    /// ```
    /// use family_alloc::{Box, Family, family};
    ///
    /// family! { struct Request; }
    ///
    /// let boxed = Box::new_in([0_u8; 100], Request);
    /// let before = Request::stats();
    /// drop(boxed);
    /// let change = Request::stats().since(&before);
    /// assert_eq!((change.live_allocations, change.live_bytes), (-1, -128));
    /// ```
    #[must_use]
    pub fn since(&self, earlier: &Self) -> StatsChange {
        let change = |figure: fn(&Self) -> usize| figure(self).wrapping_sub(figure(earlier)) as isize;
        StatsChange {
            name: self.name,
            live_allocations: change(|stats| stats.live_allocations),
            live_bytes: change(|stats| stats.live_bytes),
            total_allocations: self.total_allocations.wrapping_sub(earlier.total_allocations) as i64,
            total_frees: self.total_frees.wrapping_sub(earlier.total_frees) as i64,
            reserved_bytes: change(|stats| stats.reserved_bytes),
            slab_bytes: change(|stats| stats.slab_bytes),
            free_bytes: change(|stats| stats.free_bytes),
            depot_bytes: change(|stats| stats.depot_bytes),
            kept_bytes: change(|stats| stats.kept_bytes),
            cached_bytes: change(|stats| stats.cached_bytes),
            large_allocations: change(|stats| stats.large_allocations),
            large_bytes: change(|stats| stats.large_bytes),
        }
    }
}

/// A number of bytes with a binary unit: `640 B`, `12.5 KiB`, `3.0 MiB`.
struct Bytes(usize);

impl fmt::Display for Bytes {
    #[allow(clippy::cast_precision_loss)] // three digits are shown
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut value = self.0 as f64;
        let mut unit = "B";
        for larger in ["KiB", "MiB", "GiB", "TiB"] {
            if value < 1024.0 {
                break;
            }
            value /= 1024.0;
            unit = larger;
        }
        let mut text = Text { bytes: [0; 32], len: 0 };
        match unit {
            "B" => write!(text, "{} B", self.0)?,
            _ => write!(text, "{value:.1} {unit}")?,
        }
        f.pad(core::str::from_utf8(&text.bytes[..text.len]).unwrap_or_default())
    }
}

/// A short text, to be padded as a whole.
struct Text {
    bytes: [u8; 32],
    len: usize,
}

impl Write for Text {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        let place = self.bytes.get_mut(self.len..self.len + part.len()).ok_or(fmt::Error)?;
        place.copy_from_slice(part.as_bytes());
        self.len += part.len();
        Ok(())
    }
}

/// The same with a sign, `+640 B`; zero without one.
struct SignedBytes(isize);

impl fmt::Display for SignedBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = match self.0 {
            0 => "",
            1.. => "+",
            _ => "-",
        };
        write!(f, "{sign}{}", Bytes(self.0.unsigned_abs()))
    }
}

/// The word for so many of something, `1 allocation` or `2 allocations`.
fn plural(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}

/// Three lines of totals, then a table of the classes that have slabs. No line is longer than 100 columns, unless the
/// name is long.
impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "family {}{}: {} live in {} allocation{}, at most {} in {}",
            self.name,
            if self.is_orphan { " (orphan)" } else { "" },
            Bytes(self.live_bytes),
            self.live_allocations,
            plural(self.live_allocations),
            Bytes(self.peak_live_bytes),
            self.peak_live_allocations,
        )?;
        writeln!(
            f,
            "  address space: {} in slabs, {} in large mappings, {} kept for reuse",
            Bytes(self.slab_bytes),
            Bytes(self.large_bytes),
            Bytes(self.kept_bytes),
        )?;
        writeln!(
            f,
            "  of the slabs{}: {} free, {} cached by {} thread{}, {} in depots",
            if self.spacing == Classes::Spaced { " (spaced)" } else { "" },
            Bytes(self.free_bytes),
            Bytes(self.cached_bytes),
            self.thread_caches,
            plural(self.thread_caches),
            Bytes(self.depot_bytes),
        )?;
        if self.slab_bytes == 0 && self.large_allocations == 0 {
            return Ok(());
        }
        writeln!(
            f,
            "{:>9} {:>7} {:>12} {:>12} {:>9} {:>9} {:>12}",
            "slot", "slabs", "live", "live bytes", "cached", "depot", "free"
        )?;
        for class in self.classes.iter().filter(|class| class.slab_count > 0) {
            writeln!(
                f,
                "{:>9} {:>7} {:>12} {:>12} {:>9} {:>9} {:>12}",
                Bytes(class.slot_bytes),
                class.slab_count,
                class.live_slots,
                Bytes(class.live_slots * class.slot_bytes),
                class.cached_slots,
                class.depot_slots,
                class.free_slots,
            )?;
        }
        if self.large_allocations > 0 {
            writeln!(f, "{:>9} {:>7} {:>12} {:>12}", "large", "", self.large_allocations, Bytes(self.large_bytes))?;
        }
        Ok(())
    }
}

/// One line: what clients hold, then the figures that have changed.
impl fmt::Display for StatsChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.live_allocations > 0 { "+" } else { "" };
        let (count, ending) = (self.live_allocations, plural(self.live_allocations.unsigned_abs()));
        write!(f, "family {}: {sign}{count} allocation{ending}, {} live", self.name, SignedBytes(self.live_bytes))?;
        let rest = [
            ("in slabs", self.slab_bytes),
            ("in large mappings", self.large_bytes),
            ("cached by threads", self.cached_bytes),
            ("in depots", self.depot_bytes),
            ("free in slabs", self.free_bytes),
            ("kept for reuse", self.kept_bytes),
        ];
        for (name, bytes) in rest.into_iter().filter(|(_, bytes)| *bytes != 0) {
            write!(f, ", {} {name}", SignedBytes(bytes))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_session(spacing: Classes) -> Stats {
        Stats::new("Session", "app::Session", 1, spacing, spacing.all(2 << 20))
    }

    #[test]
    fn a_table_has_the_classes_that_there_are() {
        let lengths = |spacing| of_session(spacing).classes.iter().map(|class| class.slot_bytes).collect::<Vec<_>>();
        assert_eq!(lengths(Classes::Natural), (0..21).map(|shift| 1 << shift).collect::<Vec<_>>());
        let spaced = lengths(Classes::Spaced);
        assert_eq!((spaced.len(), spaced[0], spaced[15], spaced[16], spaced[103]), (104, 8, 128, 144, 256 << 10));
        assert!(of_session(Classes::Spaced).to_string().contains("  of the slabs (spaced): 0 B free, "));
    }

    #[test]
    fn bytes_print_with_the_unit_that_fits() {
        let shown = [0, 1023, 1024, 1536, 1 << 20, 3 << 30].map(|bytes| Bytes(bytes).to_string());
        assert_eq!(shown, ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "1.0 MiB", "3.0 GiB"]);
    }

    #[test]
    fn the_table_shows_classes_in_use_only() {
        let mut stats = of_session(Classes::Natural);
        assert_eq!(stats.to_string().lines().count(), 3, "no table where there is nothing: {stats}");
        let class = ClassStats { slot_bytes: 64, slab_count: 1, live_slots: 3, ..ClassStats::default() };
        stats.classes.set(SizeClass::natural(6), class);
        stats.slab_bytes = 2 << 20;
        let text = stats.to_string();
        assert!(text.starts_with("family Session: 0 B live in 0 allocations, at most 0 B in 0\n"), "{text}");
        assert!(text.contains("     64 B       1            3        192 B"), "{text}");
        assert_eq!(text.lines().count(), 5, "{text}");
    }

    #[test]
    fn one_of_something_is_no_plural_and_lines_are_short() {
        let mut stats = of_session(Classes::Spaced);
        (stats.live_allocations, stats.thread_caches, stats.large_allocations) = (1, 1, 1);
        let text = stats.to_string();
        assert!(text.contains("live in 1 allocation, at most") && text.contains("cached by 1 thread, "), "{text}");
        let most = usize::MAX >> 16;
        (stats.live_allocations, stats.live_bytes, stats.peak_live_allocations) = (most >> 7, most, most >> 7);
        (stats.peak_live_bytes, stats.slab_bytes, stats.large_bytes, stats.kept_bytes) = (most, most, most, most);
        (stats.free_bytes, stats.cached_bytes, stats.depot_bytes, stats.thread_caches) = (most, most, most, 1 << 20);
        let text = stats.to_string();
        assert!(text.lines().all(|line| line.len() <= 100), "{text}");
    }

    #[test]
    fn a_change_prints_what_has_changed() {
        let earlier = of_session(Classes::Natural);
        let mut later = earlier.clone();
        assert_eq!(later.since(&earlier).to_string(), "family Session: 0 allocations, 0 B live");
        (later.live_allocations, later.live_bytes, later.kept_bytes) = (1, 64, 2 << 20);
        let expected = "family Session: +1 allocation, +64 B live, +2.0 MiB kept for reuse";
        assert_eq!(later.since(&earlier).to_string(), expected);
        let expected = "family Session: -1 allocation, -64 B live, -2.0 MiB kept for reuse";
        assert_eq!(earlier.since(&later).to_string(), expected);
    }
}
