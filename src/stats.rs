//! What a family tells about itself: numbers at one moment, and how they print.

#![forbid(unsafe_code)]

use core::fmt;

use crate::size_class::CLASS_COUNT;

/// What a family holds at one moment; see [`Family::stats`](crate::Family::stats).
///
/// Bytes are those of whole slots (and whole pages for allocations above the largest slot): what an allocation of 33 bytes occupies is 64.
/// `live_…` is exact when no thread is in the middle of a call, and a recent value otherwise.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Stats {
    /// The family's name.
    pub name: &'static str,
    /// Allocations that clients hold now.
    pub live_allocations: usize,
    /// Bytes of the slots and mappings that clients hold now.
    pub live_bytes: usize,
    /// The largest `live_allocations` seen: whenever a thread's cache and its bin exchanged slots, and whenever this was read. So it
    /// is never below `live_allocations`, but what a thread allocates and frees between two exchanges (at most 128 slots or 256 KiB of a
    /// class) is seen late or not at all: the peak may be too low by that for the thread that looks, and too high by what each other
    /// thread has freed meanwhile. It costs the calls nothing.
    pub peak_live_allocations: usize,
    /// The largest `live_bytes` seen, at the same moments.
    pub peak_live_bytes: usize,
    /// Address space reserved for slabs and what is known of them, in bytes: what slabs occupy, and what the family may still fill with
    /// slabs without asking for more. It is kept until the process ends, and costs no memory by itself.
    pub reserved_bytes: usize,
    /// Bytes of the slabs that the system is advised to back with huge pages; see [`HugePages`](crate::HugePages).
    pub huge_bytes: usize,
    /// Bytes of the slabs that belong to a size class now.
    pub slab_bytes: usize,
    /// Bytes of memory that is free and kept for reuse: emptied slabs and freed large allocations that have not been given back yet. Of
    /// these the pages that were touched are memory. What a hardened family keeps guarded holds none and is not counted.
    pub kept_bytes: usize,
    /// Free slots that thread caches hold.
    pub cached_slots: usize,
    /// Bytes of the free slots that thread caches hold. Slots never used yet are among them, and in hardened families guarded ones:
    /// they occupy no memory.
    pub cached_bytes: usize,
    /// Threads that have a cache of this family now.
    pub thread_caches: usize,
    /// Live allocations above the largest slot, and up to sixteen that have grown past 16 KiB and go on growing there.
    pub large_allocations: usize,
    /// Bytes of these, in whole pages.
    pub large_bytes: usize,
    /// The size classes, smallest first.
    pub classes: [ClassStats; CLASS_COUNT],
}

/// What a family holds of one size class at one moment.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct ClassStats {
    /// Bytes of a slot of this class.
    pub slot_bytes: usize,
    /// Slabs of this class.
    pub slab_count: usize,
    /// Slots that clients hold.
    pub live_slots: usize,
    /// Free slots that thread caches hold.
    pub cached_slots: usize,
    /// Free slots on their way from thread to thread.
    pub depot_slots: usize,
    /// Free slots in slabs, never used ones included.
    pub free_slots: usize,
    /// Those of `free_slots` that were used before and whose pages may hold memory.
    pub idle_slots: usize,
    /// Those of `free_slots` whose pages were given back to the system.
    pub purged_slots: usize,
}

impl Stats {
    pub(crate) fn new(name: &'static str) -> Self {
        Self {
            name,
            live_allocations: 0,
            live_bytes: 0,
            peak_live_allocations: 0,
            peak_live_bytes: 0,
            reserved_bytes: 0,
            huge_bytes: 0,
            slab_bytes: 0,
            kept_bytes: 0,
            cached_slots: 0,
            cached_bytes: 0,
            thread_caches: 0,
            large_allocations: 0,
            large_bytes: 0,
            classes: [ClassStats::default(); CLASS_COUNT],
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
        if unit == "B" {
            f.pad(&format_args!("{} B", self.0).to_string())
        } else {
            f.pad(&format!("{value:.1} {unit}"))
        }
    }
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "family {}: {} live in {} allocations (peak {} in {}), {} in slabs, {} large, {} cached by {} threads, {} kept",
            self.name,
            Bytes(self.live_bytes),
            self.live_allocations,
            Bytes(self.peak_live_bytes),
            self.peak_live_allocations,
            Bytes(self.slab_bytes),
            Bytes(self.large_bytes),
            Bytes(self.cached_bytes),
            self.thread_caches,
            Bytes(self.kept_bytes),
        )?;
        writeln!(
            f,
            "{:>9} {:>7} {:>12} {:>12} {:>9} {:>9} {:>12}",
            "slot", "slabs", "live", "live bytes", "cached", "depot", "free"
        )?;
        for class in self.classes.iter().filter(|class| class.slab_count > 0) {
            writeln!(
                f,
                "{:>9} {:>7} {:>12} {:>12} {:>9} {:>9} {:>12}",
                Bytes(class.slot_bytes).to_string(),
                class.slab_count,
                class.live_slots,
                Bytes(class.live_slots * class.slot_bytes).to_string(),
                class.cached_slots,
                class.depot_slots,
                class.free_slots,
            )?;
        }
        if self.large_allocations > 0 {
            writeln!(
                f,
                "{:>9} {:>7} {:>12} {:>12}",
                "large",
                "",
                self.large_allocations,
                Bytes(self.large_bytes).to_string()
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_print_with_the_unit_that_fits() {
        let shown = [0, 1023, 1024, 1536, 1 << 20, 5 << 30].map(|bytes| Bytes(bytes).to_string());
        assert_eq!(shown, ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "1.0 MiB", "5.0 GiB"]);
    }

    #[test]
    fn the_table_shows_classes_in_use_only() {
        let mut stats = Stats::new("Session");
        stats.classes[6] = ClassStats { slot_bytes: 64, slab_count: 1, live_slots: 3, ..ClassStats::default() };
        let text = stats.to_string();
        assert!(text.starts_with("family Session: 0 B live in 0 allocations"), "{text}");
        assert!(text.contains("     64 B       1            3        192 B"), "{text}");
        assert_eq!(text.lines().count(), 3, "{text}");
    }
}
