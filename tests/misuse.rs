//! Wrong frees end the process at the call, with one line that names the pointer, the size, the class and the family.
//!
//! Each case is a child process that prints the line it expects, then misuses a family; the parent compares that line with
//! what stood on standard error. Every case goes through each of the three doors by which memory comes back.

mod common;

use std::alloc::Layout;
use std::ptr::NonNull;

use allocator_api2::alloc::Allocator;
use common::child::{self, expect};
use common::doors::{layout, slot_bytes, slots_of_slab};
use common::memory::page_bytes;
use family_alloc::{Checks, Family, family};

family! {
    struct Right { slab_bytes: 2 << 20 }
    struct Other { slab_bytes: 2 << 20 }
    struct Small { slab_bytes: 64 * 1024 }
    struct Untouched { slab_bytes: 2 << 20 }
    struct Raw { checks: Unchecked, slab_bytes: 2 << 20 }
    struct Foreign { checks: Unchecked, slab_bytes: 2 << 20 }
    struct Watched { checks: Checked }
    struct Guarded { checks: Hardened, slab_bytes: 64 * 1024 }
    struct Spaced { classes: Spaced, slab_bytes: 2 << 20 }
    struct WatchedSpaced { classes: Spaced, checks: Checked, slab_bytes: 2 << 20 }
    struct GuardedSpaced { classes: Spaced, checks: Hardened, slab_bytes: 128 * 1024 }
}

const MIB: usize = 1 << 20;

/// The calls by which memory comes back.
#[derive(Clone, Copy, Debug)]
enum Door {
    Allocator,
    Global,
    Free,
}

const DOORS: [Door; 3] = [Door::Allocator, Door::Global, Door::Free];

impl Door {
    fn free<F: Family>(self, address: usize, layout: Layout) {
        let pointer = std::ptr::with_exposed_provenance_mut::<u8>(address);
        match self {
            Self::Allocator => {
                let pointer = NonNull::new(pointer).expect("not null");
                // SAFETY: a case breaks the contract on purpose: the call must see that and end the process.
                unsafe { Allocator::deallocate(&F::default(), pointer, layout) }
            }
            // SAFETY: as above.
            Self::Global => unsafe { F::default().dealloc(pointer, layout) },
            // SAFETY: as above.
            Self::Free => unsafe { F::free(pointer, layout.size().max(layout.align())) },
        }
    }
}

fn bytes(size: usize) -> Layout {
    layout(size, 1)
}

fn allocate<F: Family>(size: usize) -> usize {
    let memory = F::malloc(size);
    assert!(!memory.is_null());
    memory.expose_provenance()
}

/// Announces the line that must follow, then frees wrongly.
fn misuse<F: Family>(door: Door, address: usize, wrong: Layout, truth: &str) {
    let need = wrong.size().max(wrong.align());
    // `free` has no alignment: it says the greater of the two.
    let size = if matches!(door, Door::Free) { need } else { wrong.size() };
    let class =
        if need > F::SLAB_BYTES / 2 { "large".to_owned() } else { format!("{}-byte class", need.next_power_of_two()) };
    expect(&format!("invalid free of {address:#x} (size {size}, {class}, family {}): {truth}", F::NAME));
    door.free::<F>(address, wrong);
}

fn misuse_of_length<F: Family>(door: Door, address: usize, wrong: usize, right: usize) {
    let name = F::NAME;
    expect(&format!(
        "wrong size at the free of {address:#x} (size {wrong}, large, family {name}): it was allocated with {right} bytes"
    ));
    door.free::<F>(address, bytes(wrong));
}

/// As [`misuse`], where what began at the address is free already.
fn misuse_of_freed<F: Family>(door: Door, address: usize, layout: Layout) {
    let size = layout.size();
    let class =
        if size > F::SLAB_BYTES / 2 { "large".to_owned() } else { format!("{}-byte class", size.next_power_of_two()) };
    expect(&format!("double free of {address:#x} (size {size}, {class}, family {})", F::NAME));
    door.free::<F>(address, layout);
}

const NOBODY: &str = "no family has allocated it";

fn slot_of(size: usize, family: &str) -> String {
    format!("it belongs to the {size}-byte class of family {family}")
}

fn part_of_large(bytes: usize, address: usize, family: &str) -> String {
    format!("it lies in the large allocation of {bytes} bytes at {address:#x} of family {family}")
}

/// Whether pages can be moved.
const HAS_PAGES: bool = cfg!(all(any(unix, windows), not(any(miri, feature = "portable"))));

/// Of what has grown to a size that a slot would hold, but where pages can be moved stands in a mapping.
fn part_of_grown(bytes: usize, address: usize, family: &str) -> String {
    if HAS_PAGES { part_of_large(bytes, address, family) } else { slot_of(bytes, family) }
}

fn grown<F: Family>(from: usize, to: usize) -> usize {
    let memory = F::malloc(from);
    // SAFETY: allocated above with this size.
    let memory = unsafe { F::remalloc(memory, from, to) };
    assert!(!memory.is_null());
    memory.expose_provenance()
}

static STATIC: u64 = 7;

/// Frees something that no family allocated, after the family has been used.
fn foreign(door: Door, address: usize) {
    allocate::<Right>(64);
    misuse::<Right>(door, address, bytes(64), NOBODY);
}

/// Another family of the name `Right`, which is not used by other cases.
mod other {
    family_alloc::family! { pub(crate) struct Right; }
}

/// Where two families in use have one name, the line tells them by their paths.
fn of_the_same_name(door: Door) {
    let (address, mine, theirs) = (allocate::<Right>(64), Right::PATH, other::Right::PATH);
    let _ = allocate::<other::Right>(64);
    let truth = slot_of(64, mine);
    expect(&format!("invalid free of {address:#x} (size 64, 64-byte class, family {theirs}): {truth}"));
    door.free::<other::Right>(address, bytes(64));
}

type Case = (&'static str, fn(Door));

const CASES: &[Case] = &[
    ("class above", |door| misuse::<Right>(door, allocate::<Right>(64), bytes(65), &slot_of(64, "Right"))),
    ("another family of the same name", of_the_same_name),
    ("class below", |door| misuse::<Right>(door, allocate::<Right>(64), bytes(32), &slot_of(64, "Right"))),
    ("least class", |door| misuse::<Right>(door, allocate::<Right>(1), bytes(2), &slot_of(1, "Right"))),
    ("largest class", |door| misuse::<Right>(door, allocate::<Right>(MIB), bytes(MIB / 2), &slot_of(MIB, "Right"))),
    ("alignment", |door| misuse::<Right>(door, allocate::<Right>(64), layout(64, 256), &slot_of(64, "Right"))),
    ("alignment of 2^62", |door| {
        misuse::<Right>(door, allocate::<Right>(64), layout(64, 1 << (usize::BITS - 2)), &slot_of(64, "Right"));
    }),
    ("class, small slabs", |door| misuse::<Small>(door, allocate::<Small>(64), bytes(65), &slot_of(64, "Small"))),
    ("family", |door| {
        allocate::<Right>(64);
        misuse::<Right>(door, allocate::<Other>(64), bytes(64), &slot_of(64, "Other"));
    }),
    ("family and class", |door| {
        allocate::<Right>(64);
        misuse::<Right>(door, allocate::<Other>(100), bytes(64), &slot_of(128, "Other"));
    }),
    ("family with smaller slabs", |door| {
        allocate::<Right>(64);
        misuse::<Right>(door, allocate::<Small>(64), bytes(64), &slot_of(64, "Small"));
    }),
    ("family with larger slabs", |door| {
        allocate::<Small>(64);
        misuse::<Small>(door, allocate::<Right>(64), bytes(64), &slot_of(64, "Right"));
    }),
    ("family never used", |door| misuse::<Untouched>(door, allocate::<Right>(64), bytes(64), &slot_of(64, "Right"))),
    ("nothing ever used", |door| misuse::<Untouched>(door, (&raw const STATIC).expose_provenance(), bytes(8), NOBODY)),
    ("slot of a checked family in an unchecked one, large", |door| {
        misuse::<Raw>(door, allocate::<Right>(64), bytes(3 * MIB), &slot_of(64, "Right"));
    }),
    ("stack", |door| {
        let local = 1_u64;
        foreign(door, (&raw const local).expose_provenance());
    }),
    ("static", |door| foreign(door, (&raw const STATIC).expose_provenance())),
    ("code", |door| foreign(door, (foreign as fn(Door, usize) as *const ()).addr())),
    ("heap of the system", |door| foreign(door, (&raw const *Box::leak(Box::new([0_u8; 64]))).expose_provenance())),
    ("the page of null", |door| foreign(door, 0x10)),
    ("wild", |door| foreign(door, 0x0123_4567_89c0_u64 as usize)),
    ("wild, not canonical", |door| foreign(door, 0x8000_0123_4567_89c0_u64 as usize)),
    ("wild, all bits", |door| foreign(door, usize::MAX - 63)),
    ("unit of the side tables", |door| {
        let region = allocate::<Right>(64) & !(64 * Right::SLAB_BYTES - 1);
        misuse::<Right>(door, region + 4096, bytes(64), NOBODY);
    }),
    ("slab of no class yet", |door| {
        let next_unit = allocate::<Right>(64) + Right::SLAB_BYTES;
        misuse::<Right>(door, next_unit, bytes(64), NOBODY);
    }),
    ("slot of a slab that was given back", |door| {
        let address = std::thread::spawn(|| {
            let address = allocate::<Right>(64);
            Door::Free.free::<Right>(address, bytes(64));
            Right::trim();
            address
        });
        misuse::<Right>(door, address.join().expect("the thread ends"), bytes(64), NOBODY);
    }),
    ("large as small", |door| {
        let address = allocate::<Right>(3 * MIB);
        misuse::<Right>(door, address, bytes(64), &part_of_large(3 * MIB, address, "Right"));
    }),
    ("small as large", |door| misuse::<Right>(door, allocate::<Right>(64), bytes(3 * MIB), &slot_of(64, "Right"))),
    ("large too long", |door| misuse_of_length::<Right>(door, allocate::<Right>(3 * MIB), 3 * MIB + 1, 3 * MIB)),
    ("large too short", |door| misuse_of_length::<Right>(door, allocate::<Right>(3 * MIB), 2 * MIB, 3 * MIB)),
    ("large too short, unchecked", |door| misuse_of_length::<Raw>(door, allocate::<Raw>(3 * MIB), 2 * MIB, 3 * MIB)),
    ("grown, with its class before", |door| {
        let address = grown::<Right>(40_000, 100_000);
        misuse::<Right>(door, address, bytes(40_000), &part_of_grown(131_072, address, "Right"));
    }),
    ("grown, freed as large", |door| {
        let address = grown::<Right>(16_000, 30_000);
        // What is shorter than a page stays in slots.
        if HAS_PAGES && page_bytes() <= 32_768 {
            misuse_of_length::<Right>(door, address, 3 * MIB, 32_768);
        } else {
            misuse::<Right>(door, address, bytes(3 * MIB), &slot_of(32_768, "Right"));
        }
    }),
    ("grown in its mapping, freed as large", |door| {
        let address = grown::<Right>(16_000, 30_000);
        // SAFETY: allocated with this size.
        let address = unsafe { Right::remalloc(std::ptr::with_exposed_provenance_mut(address), 30_000, 100_000) };
        if HAS_PAGES {
            misuse_of_length::<Right>(door, address.expose_provenance(), 3 * MIB, 131_072);
        } else {
            misuse::<Right>(door, address.expose_provenance(), bytes(3 * MIB), &slot_of(131_072, "Right"));
        }
    }),
    ("grown, of another family", |door| {
        let address = grown::<Other>(40_000, 100_000);
        allocate::<Right>(64);
        misuse::<Right>(door, address, bytes(100_000), &part_of_grown(131_072, address, "Other"));
    }),
    ("large twice", |door| {
        let address = allocate::<Right>(3 * MIB);
        door.free::<Right>(address, bytes(3 * MIB));
        misuse_of_freed::<Right>(door, address, bytes(3 * MIB));
    }),
    ("large twice, released in between", |door| {
        let address = allocate::<Right>(3 * MIB);
        door.free::<Right>(address, bytes(3 * MIB));
        Right::trim();
        misuse_of_freed::<Right>(door, address, bytes(3 * MIB));
    }),
    ("large twice, joined with others", |door| {
        let all = [(); 3].map(|()| allocate::<Right>(3 * MIB));
        all.iter().for_each(|&address| door.free::<Right>(address, bytes(3 * MIB)));
        misuse_of_freed::<Right>(door, all[1], bytes(3 * MIB));
    }),
    ("huge twice", |door| {
        let address = allocate::<Right>(100 * MIB);
        door.free::<Right>(address, bytes(100 * MIB));
        misuse_of_freed::<Right>(door, address, bytes(100 * MIB));
    }),
    ("huge twice, released in between", |door| {
        let address = allocate::<Right>(300 * MIB);
        door.free::<Right>(address, bytes(300 * MIB));
        Right::trim();
        misuse_of_freed::<Right>(door, address, bytes(300 * MIB));
    }),
    ("grown twice", |door| {
        let address = grown::<Right>(40_000, 100_000);
        door.free::<Right>(address, bytes(100_000));
        if HAS_PAGES {
            misuse_of_freed::<Right>(door, address, bytes(100_000));
        } else {
            misuse::<Right>(door, address, bytes(3 * MIB), &slot_of(131_072, "Right"));
        }
    }),
    ("large, a page inside", |door| {
        let address = allocate::<Right>(3 * MIB);
        misuse::<Right>(door, address + 8192, bytes(3 * MIB), &part_of_large(3 * MIB, address, "Right"));
    }),
    ("large, a byte inside", |door| {
        let address = allocate::<Right>(3 * MIB);
        misuse::<Right>(door, address + 1, bytes(3 * MIB), &part_of_large(3 * MIB, address, "Right"));
    }),
    ("large of another family", |door| {
        let address = allocate::<Other>(3 * MIB);
        allocate::<Right>(3 * MIB);
        misuse::<Right>(door, address, bytes(3 * MIB), &part_of_large(3 * MIB, address, "Other"));
    }),
    ("large, foreign", |door| misuse::<Right>(door, (&raw const STATIC).expose_provenance(), bytes(3 * MIB), NOBODY)),
    ("on a thread without a cache", |door| {
        let address = allocate::<Right>(64);
        let thread = std::thread::spawn(move || misuse::<Right>(door, address, bytes(65), &slot_of(64, "Right")));
        let _ = thread.join();
    }),
    ("with a full magazine", |door| {
        let slots: Vec<usize> = (0..128).map(|_| allocate::<Right>(64)).collect();
        slots.iter().for_each(|&address| door.free::<Right>(address, bytes(64)));
        misuse::<Right>(door, allocate::<Right>(32), bytes(64), &slot_of(32, "Right"));
    }),
];

/// Runs the cases in child processes, through every door.
fn assert_every_case_ends(test: &str, cases: &[Case]) {
    if let Some(case) = child::case() {
        child::leave_no_core();
        let (name, door) = case.split_once('/').expect("a case and a door");
        let (_, body) = cases.iter().find(|(known, _)| *known == name).expect("a known case");
        body(DOORS[door.parse::<usize>().expect("a number")]);
        println!("nothing has happened");
        return;
    }
    let names = cases.iter().flat_map(|(name, _)| (0..DOORS.len()).map(move |door| format!("{name}/{door}")));
    let failures: Vec<String> = names.filter_map(|case| child::wrong_end(test, &case)).collect();
    assert!(failures.is_empty(), "{} cases are not found:\n{}", failures.len(), failures.join("\n"));
}

#[test]
#[cfg_attr(miri, ignore = "no process can be started there")]
fn wrong_frees_end_the_process_with_one_line() {
    assert_every_case_ends("wrong_frees_end_the_process_with_one_line", CASES);
}

/// What resizing a large allocation from a wrong layout says.
const RESIZES: &[Case] = &[
    ("grow", |_| {
        let address = allocate::<Right>(3 * MIB);
        let pointer = NonNull::new(std::ptr::with_exposed_provenance_mut(address)).expect("not null");
        let line = format!("wrong size at the free of {address:#x} (size {}, large, family Right)", 2 * MIB);
        expect(&format!("{line}: it was allocated with {} bytes", 3 * MIB));
        // SAFETY: the contract is broken on purpose: the call must see that and end the process.
        let _ = unsafe { Right.grow(pointer, bytes(2 * MIB), bytes(4 * MIB)) };
    }),
    ("shrink", |_| {
        let address = allocate::<Other>(3 * MIB);
        let pointer = NonNull::new(std::ptr::with_exposed_provenance_mut(address)).expect("not null");
        let line = format!("invalid free of {address:#x} (size {}, large, family Right)", 3 * MIB);
        expect(&format!("{line}: {}", part_of_large(3 * MIB, address, "Other")));
        // SAFETY: as above.
        let _ = unsafe { Right.shrink(pointer, bytes(3 * MIB), bytes(2 * MIB)) };
    }),
];

#[test]
#[cfg_attr(miri, ignore = "no process can be started there")]
fn wrong_resizes_end_the_process_with_one_line() {
    assert_every_case_ends("wrong_resizes_end_the_process_with_one_line", RESIZES);
}

#[test]
fn another_size_of_the_same_class_is_no_misuse() {
    family! { struct Same; }
    for door in DOORS {
        for (allocated, freed) in [(33, 64), (64, 33), (4097, 8192), (3 * MIB - 1, 3 * MIB), (3 * MIB, 3 * MIB - 4095)]
        {
            door.free::<Same>(allocate::<Same>(allocated), bytes(freed));
        }
        door.free::<Same>(allocate::<Same>(64), layout(3, 64));
    }
    assert_eq!(Same::stats().live_allocations, 0);
}

/// A live allocation comes back with a size of 0, or as an old size of 0, through every call that
/// has one.
fn empty<F: Family>(door: Door, size: usize) {
    let address = allocate::<F>(size);
    let pointer = NonNull::new(std::ptr::with_exposed_provenance_mut::<u8>(address)).expect("not null");
    let truth = if size > F::SLAB_BYTES / 2 {
        part_of_large(size, address, F::NAME)
    } else {
        slot_of(slot_bytes(F::CLASSES, bytes(size), 16), F::NAME)
    };
    expect(&format!("invalid free of {address:#x} (size 0, 16-byte class, family {}): {truth}", F::NAME));
    match door {
        // SAFETY: a misuse that the call must see, here and below.
        Door::Allocator => unsafe { Allocator::deallocate(&F::default(), pointer, bytes(0)) },
        // SAFETY: as above.
        Door::Global => unsafe { F::default().dealloc(pointer.as_ptr(), bytes(0)) },
        // SAFETY: as above.
        Door::Free => unsafe { F::free(pointer.as_ptr(), 0) },
    }
}

/// The same where it is resized.
fn empty_resized(door: Door, address: usize) {
    let pointer = NonNull::new(std::ptr::with_exposed_provenance_mut::<u8>(address)).expect("not null");
    let truth = slot_of(128, "Watched");
    expect(&format!("invalid free of {address:#x} (size 0, 16-byte class, family Watched): {truth}"));
    match door {
        // SAFETY: a misuse that the call must see, here and below.
        Door::Allocator => assert!(unsafe { Watched.grow(pointer, bytes(0), bytes(64)) }.is_err()),
        // SAFETY: as above.
        Door::Global => assert!(unsafe { Watched.grow_zeroed(pointer, bytes(0), bytes(64)) }.is_err()),
        // SAFETY: as above.
        Door::Free => assert!(unsafe { Watched::remalloc(pointer.as_ptr(), 0, 64) }.is_null()),
    }
}

const EMPTY: &[Case] = &[
    ("checked, 1", |door| empty::<Watched>(door, 16)),
    ("checked, 100", |door| empty::<Watched>(door, 100)),
    ("checked, 1 MiB", |door| empty::<Watched>(door, MIB)),
    ("checked, 3 MiB", |door| empty::<Watched>(door, 3 * MIB)),
    ("hardened, 16", |door| empty::<Guarded>(door, 16)),
    ("hardened, 32 KiB", |door| empty::<Guarded>(door, 32 << 10)),
    ("hardened, 1 MiB", |door| empty::<Guarded>(door, MIB)),
    ("checked and spaced, 104", |door| empty::<WatchedSpaced>(door, 104)),
    ("checked and spaced, 3 MiB", |door| empty::<WatchedSpaced>(door, 3 * MIB)),
    ("hardened and spaced, 24", |door| empty::<GuardedSpaced>(door, 24)),
    ("resized", |door| empty_resized(door, allocate::<Watched>(100))),
    ("resized, zeroed", |_| {
        let address = allocate::<Watched>(100);
        let truth = slot_of(128, "Watched");
        expect(&format!("invalid free of {address:#x} (size 0, 16-byte class, family Watched): {truth}"));
        let pointer = std::ptr::with_exposed_provenance_mut(address);
        // SAFETY: as above.
        assert!(unsafe { Watched::recalloc(pointer, 0, 64) }.is_null());
    }),
];

#[test]
fn what_is_live_does_not_come_back_as_nothing() {
    assert_every_case_ends("what_is_live_does_not_come_back_as_nothing", EMPTY);
}

/// What is left over behind the last slot of a slab, freed as if it were one.
fn behind_the_last<F: Family>(door: Door, size: usize) {
    let slot = slot_bytes(F::CLASSES, bytes(size), 1);
    let slots = slots_of_slab(F::CLASSES, F::CHECKS, F::SLAB_BYTES, slot);
    assert_ne!(slots * slot, F::SLAB_BYTES, "something is left over");
    let behind = (allocate::<F>(size) & !(F::SLAB_BYTES - 1)) + slots * slot;
    let name = F::NAME;
    let (head, class) = (format!("invalid free of {behind:#x} ("), format!("{slot}-byte class, family {name})"));
    if F::CHECKS == Checks::Default {
        expect(&format!("{head}{class}: it is no slot; found when it went back to its slab"));
    } else {
        expect(&format!("{head}size {size}, {class}: {}", slot_of(slot, name)));
    }
    door.free::<F>(behind, bytes(size));
    F::trim();
}

const BEHIND: &[Case] = &[
    ("default, 24", |door| behind_the_last::<Spaced>(door, 24)),
    ("default, 5000", |door| behind_the_last::<Spaced>(door, 5000)),
    ("default, 9000", |door| behind_the_last::<Spaced>(door, 9000)),
    ("checked, 24", |door| behind_the_last::<WatchedSpaced>(door, 24)),
    ("checked, 9000", |door| behind_the_last::<WatchedSpaced>(door, 9000)),
    ("checked, 200 000", |door| behind_the_last::<WatchedSpaced>(door, 200_000)),
    ("hardened, 100", |door| behind_the_last::<GuardedSpaced>(door, 100)),
    ("hardened, 14 000", |door| behind_the_last::<GuardedSpaced>(door, 14_000)),
];

#[test]
#[cfg_attr(miri, ignore = "no process can be started there")]
fn what_is_left_over_in_a_slab_is_no_slot() {
    assert_every_case_ends("what_is_left_over_in_a_slab_is_no_slot", BEHIND);
}

#[test]
fn what_dangles_comes_back_as_nothing() {
    family! { struct Unused { checks: Checked } struct Empty { checks: Checked } struct EmptyGuarded { checks: Hardened } struct EmptySpaced { checks: Hardened, classes: Spaced } }
    fn come_back<F: Family>() {
        for shift in 0..30 {
            let nothing = layout(0, 1 << shift);
            let dangling: NonNull<u8> = Allocator::allocate(&F::default(), nothing).expect("nothing is there").cast();
            // SAFETY: what was allocated comes back, here and below.
            unsafe { Allocator::deallocate(&F::default(), dangling, nothing) };
            // SAFETY: as above.
            let grown =
                unsafe { Allocator::grow(&F::default(), dangling, nothing, layout(10, 1 << shift)) }.expect("memory");
            // SAFETY: as above.
            let shrunk = unsafe { Allocator::shrink(&F::default(), grown.cast(), layout(10, 1 << shift), nothing) }
                .expect("memory");
            // SAFETY: as above.
            unsafe { F::default().dealloc(shrunk.cast().as_ptr(), nothing) };
        }
        // A slice of nothing inside of what is live, and behind it.
        let live = allocate::<F>(64);
        for dangling in [live + 1, live + 32, live + 64] {
            let dangling = std::ptr::with_exposed_provenance_mut(dangling);
            // SAFETY: nothing comes back.
            unsafe { F::free(dangling, 0) };
        }
        // SAFETY: allocated above.
        unsafe { F::free(std::ptr::with_exposed_provenance_mut(live), 64) };
        // SAFETY: null does nothing.
        unsafe { F::free(std::ptr::null_mut(), 0) };
        assert_eq!(F::stats().live_allocations, 0);
    }
    let local = 0_u8;
    // SAFETY: nothing comes back to a family that has nothing.
    unsafe { Unused::free((&raw const local).cast_mut(), 0) };
    come_back::<Empty>();
    come_back::<EmptyGuarded>();
    come_back::<EmptySpaced>();
}

/// In debug builds what an unchecked family gets wrongly is told when it goes back to its slab; it
/// was a panic under a lock.
#[test]
#[cfg(debug_assertions)]
#[cfg_attr(miri, ignore = "no process can be started there")]
fn an_unchecked_family_says_in_debug_builds_what_is_no_slot_of_its_own() {
    const NAME: &str = "an_unchecked_family_says_in_debug_builds_what_is_no_slot_of_its_own";
    let Some(case) = child::case() else {
        let wrong = ["family", "class"].iter().flat_map(|kind| [1, 100, 5000].map(|count| format!("{kind} {count}")));
        for case in wrong {
            let said = child::assert_aborted(NAME, &case);
            let [line] = &said[..] else { panic!("{case}: {said:?}") };
            assert!(
                line.starts_with("family_alloc: invalid free of 0x")
                    && line.ends_with("found when it went back to its slab")
            );
        }
        return;
    };
    child::leave_no_core();
    let (kind, count) = case.split_once(' ').expect("two words");
    let slots: Vec<usize> = (0..count.parse().expect("a number")).map(|_| allocate::<Raw>(64)).collect();
    for slot in slots {
        let slot = std::ptr::with_exposed_provenance_mut(slot);
        match kind {
            // SAFETY: a misuse that is found at the latest when the slots leave the cache, here and
            // below.
            "family" => unsafe { Foreign::free(slot, 64) },
            // SAFETY: as above.
            _ => unsafe { Raw::free(slot, 16) },
        }
    }
    Foreign::trim();
    Raw::trim();
}
