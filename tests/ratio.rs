//! Bytes of memory per byte of slots, with a class full, measured in touched pages: slabs, headers, side tables, everything.
//!
//! A process of its own for each class. A family's first region is filled up for no other purpose than that thread cache,
//! depot, stack and code are there. Then the next region, 63 slabs, is filled with slots of the class, and every page of every
//! slot is written. What the process has grown by is held against the bytes of
//! those slots, twice: as filled, and after every other slot was freed and allocated again, which is
//! when free lists need their side tables.
//!
//! Of large allocations forty are measured, in a range of the length that ranges have in the end, after
//! as many were there that nobody wrote to. Those have touched the pages of records that stand apart:
//! 32 bytes for each allocation, so that a page serves 128 of them, and a bit for each page of memory.

#![cfg(any(target_os = "linux", windows))]

mod common;

use common::child;
use common::doors::{bits_of_slab, slots_of_slab};
use common::memory::{page_bytes, resident};
use family_alloc::{Checks, Classes, Family, family};

family! {
    struct Full { slab_bytes: 2 << 20 }
    struct Watched { checks: Checked, slab_bytes: 2 << 20 }
    struct Spaced { classes: Spaced, slab_bytes: 2 << 20 }
}

const SLAB_BYTES: usize = Full::SLAB_BYTES;
const REGION_BYTES: usize = 64 * SLAB_BYTES;
const MAX_SLOT_BYTES: usize = 1 << 20;
const MAX_SPACED_BYTES: usize = 256 << 10;
/// From here on one slab has too few slots to fill magazine and depot.
const FEW_SLOTS_FROM_BYTES: usize = 4096;
/// Of these, so often are some freed and allocated until the thread has earned all that its cache will hold.
const ROUNDS: usize = 4;
/// So many regions are measured at most.
const REGIONS: usize = 4;
/// Larger than a slot may be.
const LARGE_BYTES: usize = 3 << 20;
const LARGE_COUNT: usize = 40;
/// Of a range of large allocations, where the family has others.
const RANGE_BYTES: usize = 256 << 20;

/// The published bound of a class, and ours when it is fresh and when it was used again: all hold.
fn bounds(slot_bytes: usize) -> (f64, f64, f64) {
    // Where addresses are short a range has 32 MiB, room for ten. All but one are released when nothing is in them, so of forty
    // thirty come into new ones, whose records touch two pages each: 24 KiB of 120 MiB.
    let large = if usize::BITS < 64 { 1.0002 } else { 1.0 };
    let published = match slot_bytes {
        1 => 1.024,
        2 => 1.00023,
        4 => 1.000_034,
        8 => 1.000_038,
        16 => 1.000_045_8,
        32 | 64 => 1.000_06,
        128 => 1.0001,
        256 => 1.000_24,
        512 => 1.0005,
        1024 => 1.001,
        2048 => 1.002,
        4096 => 1.004,
        8192 => 1.008,
        // Published as 1, where we have a header page for 126 MiB: nothing is attached to an allocation.
        16_384..=MAX_SLOT_BYTES => 1.000_032,
        _ => large,
    };
    let fresh = match slot_bytes {
        1 => 1.006,
        2 => 1.000_12,
        // Of its slabs a thirty-second is kept for bits.
        4 => 1.000_033,
        8..=MAX_SLOT_BYTES => 1.000_032,
        _ => large,
    };
    let again = match slot_bytes {
        // The bits of free slots that share pages do not go back: 64 of as many bits as a slab has slots, in whole pages of a
        // region of 126 MiB.
        512..=8192 => fresh + (64 * SLAB_BYTES / slot_bytes / 8).next_multiple_of(4096) as f64 / (126 << 20) as f64,
        _ => fresh,
    };
    (published, fresh, again)
}

/// Writes to every page of an allocation.
fn touch(memory: *mut u8, bytes: usize) {
    for offset in (0..bytes).step_by(page_bytes().min(4096)) {
        // SAFETY: inside an allocation of `bytes` that the caller holds.
        let place = unsafe { memory.add(offset) };
        // SAFETY: as above.
        unsafe { place.write(1) };
    }
}

/// Slabs of a region before the first that has slots.
fn side_units<F: Family>() -> usize {
    if matches!(F::CHECKS, Checks::Checked | Checks::Hardened) { 8 } else { 1 }
}

/// Bytes of a region's slabs.
fn full_bytes<F: Family>() -> usize {
    REGION_BYTES - side_units::<F>() * SLAB_BYTES
}

/// The slots of a class in some slabs of a region, as they came.
struct Filled {
    bytes: usize,
    slots_bytes: usize,
    /// Where the first slot of each slab is, and how many it has. Some slabs leave pages out before the first.
    slabs: [(usize, usize); 64],
    count: usize,
}

impl Filled {
    /// With the first slot of the first slab.
    fn begin<F: Family>(bytes: usize) -> Self {
        let first = begin_region::<F>(bytes);
        let mut filled = Self { bytes, slots_bytes: 0, slabs: [(0, 0); 64], count: 0 };
        filled.add_slab::<F>(first);
        filled
    }

    fn add_slab<F: Family>(&mut self, first: usize) {
        let left_out = first % SLAB_BYTES;
        assert!(left_out < SLAB_BYTES / 8, "{first:#x} is no slab's first slot");
        let most = slots_of_slab(F::CLASSES, F::CHECKS, SLAB_BYTES, self.bytes);
        let room = SLAB_BYTES - left_out - bits_of_slab(F::CHECKS, SLAB_BYTES, self.bytes);
        self.slabs[self.count] = (first, most.min(room / self.bytes));
        self.slots_bytes += self.slabs[self.count].1 * self.bytes;
        self.count += 1;
    }

    /// Allocates the fresh slots of so many slabs, checking that they are consecutive, and writes to all their pages.
    fn fill<F: Family>(&mut self, slabs: usize) {
        loop {
            let (first, slots) = self.slabs[self.count - 1];
            for slot in 1..slots {
                let memory = allocate::<F>(self.bytes);
                let expected = first + slot * self.bytes;
                assert_eq!(memory.expose_provenance(), expected, "consecutive fresh slots are consecutive addresses");
                touch(memory, self.bytes);
            }
            if self.count == slabs {
                return;
            }
            let memory = allocate::<F>(self.bytes);
            let next = memory.expose_provenance();
            assert_eq!(next / SLAB_BYTES, first / SLAB_BYTES + 1, "the next slab is the one behind it");
            touch(memory, self.bytes);
            self.add_slab::<F>(next);
        }
    }

    /// Frees and allocates every other slot.
    fn fill_again<F: Family>(&self) {
        let every_other = || {
            let slabs = self.slabs[..self.count].iter();
            slabs.flat_map(|&(first, slots)| (0..slots).map(move |slot| first + slot * self.bytes)).step_by(2)
        };
        every_other().for_each(|address| free::<F>(address, self.bytes));
        for _ in every_other() {
            touch(allocate::<F>(self.bytes), self.bytes);
        }
    }
}

fn largest_slot<F: Family>() -> usize {
    if F::CLASSES == Classes::Spaced { MAX_SPACED_BYTES } else { MAX_SLOT_BYTES }
}

fn allocate<F: Family>(bytes: usize) -> *mut u8 {
    let memory = F::malloc(bytes);
    assert!(!memory.is_null(), "out of memory");
    memory
}

fn free<F: Family>(address: usize, bytes: usize) {
    // SAFETY: the caller holds an allocation of that many bytes at that address.
    unsafe { F::free(std::ptr::with_exposed_provenance_mut(address), bytes) };
}

/// The growth of this process since a reading, as a ratio; after what is free went back, which nothing of the slots is.
fn ratio<F: Family>(before: usize, bytes: usize) -> f64 {
    F::trim();
    (resident().all - before) as f64 / bytes as f64
}

/// Fills regions with a class until one costs at most `most`; returns its ratio when fresh and when used again.
fn measure_class<F: Family>(bytes: usize, most: f64) -> (f64, f64) {
    let full_bytes = full_bytes::<F>();
    // In the first region enough slots to fill magazine and depot, fresh and used again as the measured ones will be…
    let used_bytes = if bytes < FEW_SLOTS_FROM_BYTES { SLAB_BYTES } else { full_bytes };
    let mut first = Filled::begin::<F>(bytes);
    first.fill::<F>(used_bytes / SLAB_BYTES);
    let rounds = if bytes < FEW_SLOTS_FROM_BYTES { 1 } else { ROUNDS };
    (0..rounds).for_each(|_| first.fill_again::<F>());
    // … and the rest of it, untouched.
    for _ in 0..(full_bytes - used_bytes) / largest_slot::<F>() {
        allocate::<F>(largest_slot::<F>());
    }
    // The bins of all classes, once for a family.
    let _ = F::stats();
    let region = || {
        let before = settled::<F>();
        let mut filled = Filled::begin::<F>(bytes);
        filled.fill::<F>(full_bytes / SLAB_BYTES);
        let fresh = ratio::<F>(before, filled.slots_bytes);
        filled.fill_again::<F>();
        (fresh, ratio::<F>(before, filled.slots_bytes))
    };
    // A page of tags serves sixteen regions, and now and then a page is touched that is the program's own. So where one region
    // costs more than `most`, the next is measured.
    let mut least = (f64::MAX, f64::MAX);
    for _ in 0..REGIONS {
        let (fresh, again) = region();
        least = (least.0.min(fresh), least.1.min(again));
        if least.0.max(least.1) <= most {
            break;
        }
    }
    least
}

/// Allocates the first slot of a region.
fn begin_region<F: Family>(bytes: usize) -> usize {
    let first = allocate::<F>(bytes);
    touch(first, bytes);
    let start = first.expose_provenance();
    let left_out = (start % REGION_BYTES).checked_sub(side_units::<F>() * SLAB_BYTES);
    assert!(left_out.is_some_and(|bytes| bytes < SLAB_BYTES / 8), "the slot begins the first slab of a region");
    start
}

/// A reading, after the first ones, which touch pages themselves, and after whatever of the stack will be needed.
fn settled<F: Family>() -> usize {
    F::trim();
    std::hint::black_box([1_u8; 128 << 10]);
    (0..3).for_each(|_| assert!(resident().all > 0));
    resident().all
}

/// The same for large allocations, once as many have been in the range that they come into.
fn measure_large(bytes: usize) -> (f64, f64) {
    let fill = |addresses: &mut [usize]| {
        for address in addresses {
            let memory = allocate::<Full>(bytes);
            touch(memory, bytes);
            *address = memory.expose_provenance();
        }
    };
    // The first ranges are shorter, each as long as all before it together: filled up, untouched.
    for _ in 0..RANGE_BYTES / bytes {
        allocate::<Full>(bytes);
    }
    let mut addresses = [0; LARGE_COUNT];
    addresses.iter_mut().for_each(|address| *address = allocate::<Full>(bytes).expose_provenance());
    addresses.iter().for_each(|&address| free::<Full>(address, bytes));
    let before = settled::<Full>();
    fill(&mut addresses);
    let fresh = ratio::<Full>(before, LARGE_COUNT * bytes);
    addresses.iter().for_each(|&address| free::<Full>(address, bytes));
    fill(&mut addresses);
    (fresh, ratio::<Full>(before, LARGE_COUNT * bytes))
}

#[test]
#[cfg_attr(any(miri, feature = "portable"), ignore = "pages are measured, and this backend has none of its own")]
fn a_full_class_has_as_little_metadata_as_promised() {
    const NAME: &str = "a_full_class_has_as_little_metadata_as_promised";
    if let Some(case) = child::case() {
        let bytes: usize = case.parse().expect("a number of bytes");
        let (_, _, ours) = bounds(bytes);
        let (fresh, again) =
            if bytes > MAX_SLOT_BYTES { measure_large(bytes) } else { measure_class::<Full>(bytes, ours) };
        println!("\nratio {fresh} {again}");
        return;
    }
    let mut cases: Vec<usize> = (0..=20).map(|shift| 1 << shift).collect();
    cases.push(LARGE_BYTES);
    let measured = measure_all(NAME, &cases);
    println!("{:>8} {:>12} {:>12} {:>12} {:>12}", "slot", "fresh", "used again", "ours", "published");
    for (bytes, (fresh, again)) in cases.iter().zip(&measured) {
        let (published, _, ours) = bounds(*bytes);
        println!("{bytes:>8} {fresh:>12.8} {again:>12.8} {ours:>12.8} {published:>12.8}");
    }
    for (bytes, (fresh, again)) in cases.iter().zip(&measured) {
        let (published, ours, ours_again) = bounds(*bytes);
        assert!(*fresh >= 1.0 && *again >= 1.0, "slots of {bytes} bytes: less than every page was touched");
        assert!(
            *fresh <= ours && *fresh <= published,
            "slots of {bytes} bytes: {fresh}, at most {ours} and {published}"
        );
        let most = ours_again.min(published);
        assert!(*again <= most, "slots of {bytes} bytes, used again: {again}, at most {most}");
    }
}

/// What is left over at the end of a slab is metadata too: so much as a page of it may be touched. As little as is published for
/// the next power of two.
#[test]
#[cfg_attr(any(miri, feature = "portable"), ignore = "pages are measured, and this backend has none of its own")]
fn spaced_classes_have_as_little_metadata_as_the_next_power_of_two() {
    const NAME: &str = "spaced_classes_have_as_little_metadata_as_the_next_power_of_two";
    if let Some(case) = child::case() {
        let bytes = case.parse().expect("a number of bytes");
        let (fresh, again) = measure_class::<Spaced>(bytes, spaced_bound(bytes));
        println!("\nratio {fresh} {again}");
        return;
    }
    let cases = [24, 48, 72, 144, 960, 1792, 5120, 9216, 13_312, 28_672, 81_920, 245_760];
    let measured = measure_all(NAME, &cases);
    for (&bytes, (fresh, again)) in cases.iter().zip(&measured) {
        println!("{bytes:>8} {fresh:>12.8} {again:>12.8}, at most {:>12.8}", spaced_bound(bytes));
    }
    for (&bytes, (fresh, again)) in cases.iter().zip(&measured) {
        assert!(*fresh >= 1.0 && *again >= 1.0, "slots of {bytes} bytes: less than every page was touched");
        let most = fresh.max(*again);
        assert!(most <= spaced_bound(bytes), "slots of {bytes} bytes: {most}, at most {}", spaced_bound(bytes));
    }
}

/// The published bound of the next power of two. Of long slots a slab may hold a sixteenth less, with the same header; those of 8 to
/// 16 KiB, whose next power is published as 1, have their free slots' bits in a page more of the region.
fn spaced_bound(bytes: usize) -> f64 {
    let bound = bounds(bytes.next_power_of_two()).0;
    match bytes {
        0..8192 => bound,
        8192..16_384 => 1.0 + (bound - 1.0) * 2.0,
        _ => 1.0 + (bound - 1.0) * 16.0 / 15.0,
    }
}

/// A byte and a bit for each slot, but no less than a page for a slab's bytes and one for its bits.
fn states_bound(bytes: usize) -> f64 {
    let page = page_bytes() as f64 / SLAB_BYTES as f64;
    1.000_3 + page.max(1.0 / bytes as f64) + page.max(0.125 / bytes as f64)
}

#[test]
#[cfg_attr(any(miri, feature = "portable"), ignore = "pages are measured, and this backend has none of its own")]
fn states_cost_as_little_as_promised() {
    const NAME: &str = "states_cost_as_little_as_promised";
    if let Some(case) = child::case() {
        let bytes = case.parse().expect("a number of bytes");
        let (fresh, again) = measure_class::<Watched>(bytes, states_bound(bytes));
        println!("\nratio {fresh} {again}");
        return;
    }
    let cases = [16, 64, 256, 1024, 4096];
    for (&bytes, (fresh, again)) in cases.iter().zip(measure_all(NAME, &cases)) {
        let most = states_bound(bytes);
        println!("{bytes:>8} {fresh:>12.8} {again:>12.8}, at most {most:>12.8}");
        assert!(fresh.max(again) <= most, "slots of {bytes} bytes: {fresh}, {again}, at most {most}");
    }
}

/// Measures all cases, each in a child process, two at once.
fn measure_all(test: &str, cases: &[usize]) -> Vec<(f64, f64)> {
    let one = |bytes: &usize| {
        let out = child::assert_passed(test, &bytes.to_string());
        let line = out.lines().find_map(|line| line.strip_prefix("ratio ")).expect("the child prints its figures");
        let figures: Vec<f64> = line.split(' ').map(|figure| figure.parse().expect("a number")).collect();
        (figures[0], figures[1])
    };
    let (even, odd) = std::thread::scope(|scope| {
        let half =
            |parity: usize| scope.spawn(move || cases.iter().skip(parity).step_by(2).map(one).collect::<Vec<_>>());
        let halves = [half(0), half(1)];
        let [even, odd] = halves.map(|half| half.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        (even, odd)
    });
    (0..cases.len()).map(|index| if index % 2 == 0 { even[index / 2] } else { odd[index / 2] }).collect()
}
