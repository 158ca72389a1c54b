//! The system's bound on the number of mappings: we stay far below it, and we live with it when others do not.

#![cfg(all(target_os = "linux", not(miri)))]

mod common;

use std::alloc::Layout;
use std::ptr::NonNull;

use common::child;
use common::doors::{Doors, layout};
use common::forbid;
use common::memory::{has_guards, mapped_bytes, page_bytes};
use common::pattern;
use family_alloc::{Family, family};

const MIB: usize = 1 << 20;
const GIB: usize = 1 << 30;

family! {
    struct Wide { slab_bytes: 2 << 20 }
    struct Touched { slab_bytes: 64 * 1024 }
    struct Noted { checks: Checked, slab_bytes: 2 << 20 }
    struct Crowded { slab_bytes: 64 * 1024 }
    struct Blobs { slab_bytes: 64 * 1024 }
    struct Fenced { checks: Hardened, slab_bytes: 64 * 1024 }
}

fn mapping_count() -> usize {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("the kernel lists our mappings");
    maps.lines().count()
}

/// Nothing is freed here: freeing writes links, and in a hundred gibibytes of huge pages that is too much.
#[test]
#[cfg_attr(miri, ignore = "no process can be started there")]
#[cfg_attr(feature = "portable", ignore = "this backend maps nothing itself")]
#[cfg_attr(not(target_pointer_width = "64"), ignore = "there is not so much address space")]
fn a_hundred_gibibytes_are_few_mappings() {
    child::isolated("a_hundred_gibibytes_are_few_mappings", || {
        let before = mapping_count();
        while Wide::stats().reserved_bytes / GIB < 100 {
            (0..1000).for_each(|_| assert!(!Wide::malloc(MIB).is_null()));
        }
        let count = mapping_count();
        println!("{} GiB reserved: {count} mappings, {before} before", Wide::stats().reserved_bytes / GIB);
        assert!(count <= 1000, "{count} mappings");
    });
}

/// Small slabs make small regions, so many of them; and touched mappings do not merge as easily as untouched ones.
#[test]
#[cfg_attr(miri, ignore = "no process can be started there")]
#[cfg_attr(feature = "portable", ignore = "this backend maps nothing itself")]
fn a_touched_region_is_at_most_one_mapping() {
    const SLOT_BYTES: usize = 32 << 10;
    child::isolated("a_touched_region_is_at_most_one_mapping", || {
        let before = mapping_count();
        while Touched::stats().reserved_bytes < GIB {
            for _ in 0..100 {
                let slot = Touched::malloc(SLOT_BYTES);
                assert!(!slot.is_null());
                // SAFETY: the first byte of a live slot.
                unsafe { slot.write(1) };
            }
        }
        let (count, regions) = (mapping_count(), Touched::stats().reserved_bytes / (64 * Touched::SLAB_BYTES));
        println!("{regions} regions: {count} mappings, {before} before");
        assert!(count - before <= regions + 20, "{} mappings for {regions} regions", count - before);
    });
}

/// Three thousand live large allocations, with a page before and behind each that may not be touched: how many mappings are these?
fn fenced_mappings() -> usize {
    const COUNT: usize = 3000;
    let doors = Doors::of::<Fenced>();
    let before = mapping_count();
    let memory: Vec<_> = (0..COUNT).map(|_| (doors.allocate)(layout(40 << 10, 1)).expect("memory")).collect();
    // SAFETY: the first byte of a live allocation.
    memory.iter().for_each(|memory| unsafe { memory.cast::<u8>().write(1) });
    let count = mapping_count() - before;
    for memory in memory {
        // SAFETY: allocated above with this layout, freed once.
        unsafe { (doors.deallocate)(memory.cast(), layout(40 << 10, 1)) };
    }
    (doors.trim)();
    let left = mapping_count().saturating_sub(before);
    println!("{COUNT} fenced allocations: {count} mappings, {left} when they are freed");
    assert!(left <= 20, "{left} mappings are left");
    count
}

#[test]
#[cfg_attr(miri, ignore = "no process can be started there")]
#[cfg_attr(feature = "portable", ignore = "this backend maps nothing itself")]
fn guards_cost_no_mappings() {
    child::isolated("guards_cost_no_mappings", || {
        let count = fenced_mappings();
        assert!(!has_guards() || count <= 20, "{count} mappings");
    });
}

/// Then a fence splits a mapping, and only so many allocations have fences.
#[test]
#[cfg_attr(miri, ignore = "no process can be started there")]
#[cfg_attr(feature = "portable", ignore = "this backend maps nothing itself")]
fn without_guards_a_thousand_allocations_are_fenced() {
    const FENCED_COUNT: usize = 1000;
    child::isolated("without_guards_a_thousand_allocations_are_fenced", || {
        forbid::guards();
        let count = fenced_mappings();
        assert!((FENCED_COUNT..=2 * FENCED_COUNT + 20).contains(&count), "{count} mappings");
    });
}

/// What slots are too short for shares mappings too, also where every second of it is free, and all of it can be used again.
#[test]
#[cfg_attr(feature = "portable", ignore = "this backend maps nothing itself")]
fn large_allocations_share_mappings() {
    const COUNT: usize = 100_000;
    child::isolated("large_allocations_share_mappings", || {
        let doors = Doors::of::<Blobs>();
        let free = |memory: NonNull<[u8]>| {
            // SAFETY: allocated below with this layout, freed once.
            unsafe { (doors.deallocate)(memory.cast(), layout(40_000, 8)) };
        };
        let allocate = || {
            let memory = (doors.allocate)(layout(40_000, 8)).expect("memory");
            // SAFETY: the first byte of a live allocation.
            unsafe { memory.cast::<u8>().write(1) };
            memory
        };
        let (before, space) = (mapping_count(), mapped_bytes());
        let mut live: Vec<_> = (0..COUNT).map(|_| allocate()).collect();
        let full = (mapping_count() - before, mapped_bytes());
        let mut index = 0;
        live.retain(|&memory| {
            index += 1;
            let stays = index % 2 == 0;
            if !stays {
                free(memory);
            }
            stays
        });
        (doors.trim)();
        let half = mapping_count() - before;
        live.extend((0..COUNT / 2).map(|_| allocate()));
        assert!(mapped_bytes() <= full.1, "the halves that were free serve again");
        live.into_iter().for_each(free);
        (doors.trim)();
        let left = mapped_bytes().saturating_sub(space);
        println!("{} mappings for {COUNT}, {half} for half of them; {} MiB are left", full.0, left / MIB);
        // A mapping for each range, of 32 MiB where addresses are short: 123 of them hold 3.8 GiB.
        let most = if usize::BITS < 64 { 150 } else { 100 };
        assert!(full.0 <= most && half <= most, "{} and {half} mappings", full.0);
        // A range is kept, and the tables of slots' headers.
        let stats = (doors.stats)();
        assert!(left <= stats.reserved_bytes + 300 * MIB + (4 << 30), "{left} bytes");
        assert_eq!((stats.live_bytes, stats.kept_bytes), (0, 0), "{stats}");
    });
}

/// Bytes of the mappings that are charged for all they may ever hold (`ac` among the flags), whatever is touched.
fn charged_bytes() -> usize {
    let text = std::fs::read_to_string("/proc/self/smaps").expect("the kernel lists our mappings");
    let mut sum = 0;
    let mut bytes = 0;
    for line in text.lines() {
        if let Some(size) = line.strip_prefix("Size:") {
            let kibibytes = size.trim().strip_suffix(" kB").and_then(|number| number.parse::<usize>().ok());
            bytes = kibibytes.expect("a number of KiB") << 10;
        }
        if line.strip_prefix("VmFlags:").is_some_and(|flags| flags.split_whitespace().any(|flag| flag == "ac")) {
            sum += bytes;
        }
    }
    sum
}

/// Where a process may only be promised what there is (`vm.overcommit_memory = 2`), address space must cost nothing.
#[test]
#[cfg_attr(miri, ignore = "no process can be started there")]
#[cfg_attr(feature = "portable", ignore = "this backend maps nothing itself")]
fn reserved_space_has_no_commit_charge() {
    child::isolated("reserved_space_has_no_commit_charge", || {
        let families = [Doors::of::<Wide>(), Doors::of::<Touched>(), Doors::of::<Noted>(), Doors::of::<Fenced>()];
        let (charged, mapped) = (charged_bytes(), mapped_bytes());
        assert!(charged > 0 && charged < mapped, "the kernel says what is charged: {charged} of {mapped} bytes");
        for doors in families {
            let slot = (doors.allocate)(layout(64, 1)).expect("memory");
            pattern::fill(slot, 1);
        }
        let more = (charged_bytes().saturating_sub(charged), mapped_bytes() - mapped);
        println!("{} KiB of {} MiB of new mappings are charged", more.0 >> 10, more.1 / MIB);
        let least = if usize::BITS < 64 { 16 * MIB } else { 64 * MIB };
        assert!(more.1 >= least, "tables and regions are reserved");
        // Where all that may be written is charged, that is a slab of each, the states of two, and the caches.
        assert!(more.0 <= 40 * MIB, "{} bytes are charged", more.0);
    });
}

/// Address space cut into so many mappings that the system grants no more.
struct Hog {
    start: *mut libc::c_void,
    bytes: usize,
}

impl Hog {
    fn new() -> Self {
        let page = page_bytes();
        let bytes = 200_000 * page;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: new address space.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), bytes, libc::PROT_NONE, flags, -1, 0) };
        assert_ne!(start, libc::MAP_FAILED);
        // Every other page, so that no two can be one mapping.
        let refused = (0..bytes).step_by(2 * page).any(|offset| {
            // SAFETY: a page of the mapping above, which nobody uses.
            unsafe { libc::mprotect(start.wrapping_byte_add(offset), page, libc::PROT_READ) != 0 }
        });
        assert!(refused, "the system bounds the number of mappings");
        Self { start, bytes }
    }

    /// Gives some mappings back: two for each page.
    fn spare(&self, pages: usize) {
        for page in (1..=pages).map(|number| self.start.wrapping_byte_add(2 * number * page_bytes())) {
            // SAFETY: a page of the mapping, which nobody uses.
            assert_eq!(unsafe { libc::mprotect(page, page_bytes(), libc::PROT_NONE) }, 0);
        }
    }
}

impl Drop for Hog {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`, used by nobody.
        assert_eq!(unsafe { libc::munmap(self.start, self.bytes) }, 0);
    }
}

/// Allocates one of each kind, or not; what is there must hold its contents.
fn use_all_kinds(held: &mut Vec<(NonNull<[u8]>, Layout)>) -> usize {
    let doors = Doors::of::<Crowded>();
    let mut refused = 0;
    for round in 0..40 {
        // The last is a mapping of its own.
        let sizes = [48, 5000, 32 << 10, 40 << 10, 100 << 10, MIB + round * 4096, 33 * MIB];
        for size in sizes.into_iter().take(if round % 20 == 0 { 7 } else { 6 }) {
            match (doors.allocate_zeroed)(layout(size, 1)) {
                Some(memory) => {
                    assert!(pattern::is_zero_from(memory, 0));
                    pattern::fill(memory, size);
                    held.push((memory, layout(size, 1)));
                }
                None => refused += 1,
            }
        }
    }
    refused
}

fn free_all(held: Vec<(NonNull<[u8]>, Layout)>) {
    for (memory, layout) in held {
        assert!(pattern::holds(memory.cast(), memory.len(), layout.size()));
        // SAFETY: allocated by `use_all_kinds` with this layout, freed once.
        unsafe { (Doors::of::<Crowded>().deallocate)(memory.cast(), layout) };
    }
}

/// The bound is met, so `mmap`, `mprotect` and `munmap` fail.
#[test]
#[cfg_attr(miri, ignore = "no process can be started there")]
#[cfg_attr(feature = "portable", ignore = "this backend maps nothing itself")]
fn where_there_are_no_mappings_left_allocations_fail_and_nothing_else() {
    child::isolated("where_there_are_no_mappings_left_allocations_fail_and_nothing_else", || {
        let mut held = Vec::new();
        assert_eq!(use_all_kinds(&mut held), 0);
        let mut while_crowded = Vec::with_capacity(1000);
        let hog = Hog::new();
        let refused = use_all_kinds(&mut while_crowded);
        // Freed out of order, so that mappings would have to be split. Sorted in place: `System` is refused as well.
        held.sort_unstable_by_key(|(memory, _)| memory.addr().get().wrapping_mul(0x9E37_79B9_7F4A_7C15_u64 as usize));
        free_all(held);
        Crowded::trim();
        drop(hog);
        free_all(while_crowded);
        let mut held = Vec::new();
        assert_eq!(use_all_kinds(&mut held), 0, "everything works again");
        free_all(held);
        Crowded::trim();
        let stats = Crowded::stats();
        assert_eq!((stats.live_allocations, stats.kept_bytes), (0, 0), "{stats}");
        println!("{refused} allocations refused");
        assert!(refused > 0, "the bound was felt");
    });
}

/// Growth that has to move needs a mapping or two: refused or granted, no space is left behind.
#[test]
#[cfg_attr(feature = "portable", ignore = "this backend maps nothing itself")]
fn growth_where_hardly_any_mappings_are_left_leaves_no_space_behind() {
    const NAME: &str = "growth_where_hardly_any_mappings_are_left_leaves_no_space_behind";
    let Some(case) = child::case() else {
        let granted = |pages: usize| child::assert_passed(NAME, &pages.to_string()).contains("granted: true");
        assert!(granted(3), "six mappings are enough");
        (0..3).for_each(|pages| println!("{pages} pages: {}", granted(pages)));
        return;
    };
    let doors = Doors::of::<Wide>();
    let (small, large) = (layout(3 * MIB, 1), layout(GIB, 1));
    let memory = (doors.allocate)(small).expect("memory");
    pattern::fill(memory, 5);
    let before = mapped_bytes();
    let hog = Hog::new();
    hog.spare(case.parse().expect("a number"));
    // SAFETY: allocated above with this layout; a refusal leaves it as it was.
    let grow = || unsafe { (doors.grow)(memory.cast(), small, large) };
    let granted = (0..20).find_map(|_| grow());
    drop(hog);
    println!("granted: {}", granted.is_some());
    let (memory, layout) = granted.map_or((memory, small), |memory| (memory, large));
    assert!(pattern::holds(memory.cast(), 3 * MIB, 5));
    // Where it was copied, what it was copied from is kept.
    let (more, most) = (mapped_bytes() - before, if layout == large { large.size() } else { 0 });
    assert!(more <= most + MIB, "{more} bytes of address space more");
    // SAFETY: as it was resized.
    unsafe { (doors.deallocate)(memory.cast(), layout) };
}
