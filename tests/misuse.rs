//! Wrong frees end the process at the call, with one line that names the pointer, the size, the class and the family.
//!
//! Each case is a child process that prints the line it expects, then misuses a family; the parent compares that line with
//! what stood on standard error. Every case goes through each of the three doors by which memory comes back.

mod common;

use std::alloc::Layout;
use std::ptr::NonNull;

use allocator_api2::alloc::Allocator;
use common::child::{self, expect};
use common::doors::layout;
use family_alloc::{Family, family};

family! {
    struct Right;
    struct Other;
    struct Small { slab_bytes: 64 * 1024 }
    struct Untouched;
    struct Raw { checks: Unchecked }
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

const NOBODY: &str = "no family has allocated it";

fn slot_of(size: usize, family: &str) -> String {
    format!("it belongs to the {size}-byte class of family {family}")
}

fn part_of_large(bytes: usize, address: usize, family: &str) -> String {
    format!("it lies in the large allocation of {bytes} bytes at {address:#x} of family {family}")
}

/// Whether pages can be moved.
const HAS_PAGES: bool = cfg!(all(unix, not(any(miri, feature = "portable"))));

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
        misuse::<Right>(door, allocate::<Right>(64), layout(64, 1 << 62), &slot_of(64, "Right"));
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
    ("wild", |door| foreign(door, 0x0123_4567_89c0)),
    ("wild, not canonical", |door| foreign(door, 0x8000_0123_4567_89c0)),
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
        if HAS_PAGES {
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
        misuse::<Right>(door, address, bytes(3 * MIB), NOBODY);
    }),
    ("large twice, released in between", |door| {
        let address = allocate::<Right>(3 * MIB);
        door.free::<Right>(address, bytes(3 * MIB));
        Right::trim();
        misuse::<Right>(door, address, bytes(3 * MIB), NOBODY);
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
