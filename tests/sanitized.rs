//! What AddressSanitizer and LeakSanitizer say of programs that use families: run by `.ci/sanitizers
//! address`, in a build in which both are there. Each program runs in a process of its own, because
//! a report ends it.

#![cfg(all(target_os = "linux", not(any(miri, feature = "portable"))))]

mod common;

use std::hint::black_box;
use std::process::Output;
use std::ptr::NonNull;
use std::sync::Mutex;

use common::child;
use common::doors::{Doors, layout};
use common::random::Random;
use family_alloc::{Family, Vec, family};

family! {
    struct Default;
    struct Unchecked { checks: Unchecked }
    struct Checked { checks: Checked }
    struct Hardened { checks: Hardened }
    struct Narrow { slab_bytes: 64 * 1024 }
    struct Spaced { classes: Spaced }
}

const FAMILIES: [Doors; 6] = [
    Doors::of::<Default>(),
    Doors::of::<Unchecked>(),
    Doors::of::<Checked>(),
    Doors::of::<Hardened>(),
    Doors::of::<Narrow>(),
    Doors::of::<Spaced>(),
];

/// Slots, runs of pages, and what is mapped singly.
const SIZES: [usize; 7] = [8, 100, 3000, 70_000, 200_000, 5_000_000, 40 << 20];

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// One of the bytes of an allocation.
fn byte(memory: NonNull<u8>, index: usize) -> NonNull<u8> {
    memory.map_addr(|start| start.saturating_add(index))
}

fn family_and_size(case: &str) -> (Doors, usize) {
    let (name, size) = case.split_once(' ').expect("a family and a size");
    let family = FAMILIES.iter().find(|family| family.name == name).expect("a family of these");
    (*family, size.parse().expect("a number"))
}

/// Reads a byte of what was freed.
fn use_after_free(case: &str) {
    let (doors, size) = family_and_size(case);
    let allocate = || (doors.allocate)(layout(size, 1)).expect("memory").cast::<u8>();
    let _others: [NonNull<u8>; 3] = std::array::from_fn(|_| allocate());
    let memory = allocate();
    let last = byte(memory, size - 1);
    // SAFETY: the last byte of a live allocation.
    unsafe { last.write(1) };
    // SAFETY: allocated above with this layout.
    unsafe { (doors.deallocate)(memory, layout(size, 1)) };
    // SAFETY: not kept: this is what must be reported.
    black_box(unsafe { last.read_volatile() });
}

#[test]
#[ignore = "only AddressSanitizer tells: `.ci/sanitizers address`"]
fn a_use_after_free_is_reported() {
    const NAME: &str = "a_use_after_free_is_reported";
    if let Some(case) = child::case() {
        return use_after_free(&case);
    }
    for (family, size) in FAMILIES.iter().flat_map(|family| SIZES.map(|size| (family.name, size))) {
        let output = child::run(NAME, &format!("{family} {size}"));
        let text = text(&output);
        // What is mapped singly may be gone altogether.
        let is_told = text.contains("AddressSanitizer: use-after-poison")
            || family == Hardened::NAME && text.contains("AddressSanitizer: SEGV");
        assert!(!output.status.success() && is_told, "{family}, {size} bytes: {}\n{text}", output.status);
    }
}

/// Makes random calls, looking at the contents: nothing of it may be reported.
fn make_calls(doors: &Doors, seed: u64, calls: usize) {
    let mut random = Random::new(seed);
    let mut live: std::vec::Vec<(NonNull<u8>, usize)> = std::vec::Vec::new();
    let fill = |memory: NonNull<u8>, size: usize| {
        // SAFETY: inside a live allocation of that size, here and below.
        unsafe { memory.write_bytes(7, size.min(5000)) };
        // SAFETY: as above.
        unsafe { byte(memory, size - 1).write(7) };
    };
    for call in 0..calls {
        let most = [20, 300, 5000, 100_000, 3_000_000][random.below(if call % 50 == 0 { 5 } else { 3 })];
        let size = 1 + random.below(most);
        match random.below(4) {
            0 | 1 => {
                let memory = (doors.allocate_zeroed)(layout(size, 1)).expect("memory").cast::<u8>();
                // SAFETY: as above.
                assert_eq!(unsafe { byte(memory, size / 2).read() }, 0);
                fill(memory, size);
                live.push((memory, size));
            }
            _ if live.is_empty() => {}
            2 => {
                let index = random.below(live.len());
                let (memory, old) = live[index];
                let (from, to) = (layout(old, 1), layout(size, 1));
                let resized = if size >= old {
                    // SAFETY: live with the old layout, and the new one is no shorter.
                    unsafe { (doors.grow)(memory, from, to) }
                } else {
                    // SAFETY: live with the old layout, and the new one is no longer.
                    unsafe { (doors.shrink)(memory, from, to) }
                };
                live[index] = (resized.expect("memory").cast(), size);
                fill(live[index].0, size);
            }
            _ => {
                let (memory, size) = live.swap_remove(random.below(live.len()));
                // SAFETY: as above.
                assert_eq!(unsafe { memory.read() }, 7);
                // SAFETY: live with this layout.
                unsafe { (doors.deallocate)(memory, layout(size, 1)) };
            }
        }
        if call % 2000 == 0 {
            (doors.trim)();
        }
    }
    for (memory, size) in live {
        // SAFETY: live with this layout.
        unsafe { (doors.deallocate)(memory, layout(size, 1)) };
    }
}

/// Also without a sanitizer, as everything else here that is not reported.
#[test]
fn valid_calls_are_not_reported() {
    std::thread::scope(|scope| {
        for (seed, doors) in (1..).zip(FAMILIES) {
            scope.spawn(move || make_calls(&doors, seed, 50_000));
        }
    });
}

type Boxes<F> = Vec<Option<Box<[u64; 16]>>, F>;

/// Memory of the system's that only families reach: in a slot, a run, a mapping, and what these have grown into.
static REACHED: [Mutex<Boxes<Default>>; 5] = [const { Mutex::new(Vec::new_in(Default)) }; 5];
static GROWN: Mutex<Boxes<Default>> = Mutex::new(Vec::new_in(Default));
static FENCED: Mutex<Boxes<Hardened>> = Mutex::new(Vec::new_in(Hardened));

fn put<F: Family>(place: &Mutex<Boxes<F>>, capacity: usize) {
    let mut place = place.lock().expect("nobody panics");
    place.reserve_exact(capacity);
    place.resize_with(capacity, || None);
    *place.last_mut().expect("a place") = Some(Box::new([1; 16]));
}

/// Boxes that nobody reaches.
#[inline(never)]
fn lose() {
    for _ in 0..100 {
        black_box(Box::leak(Box::new([2_u64; 16])));
    }
}

#[test]
#[ignore = "only LeakSanitizer tells: `.ci/sanitizers address`"]
fn what_only_families_reach_is_no_leak() {
    const NAME: &str = "what_only_families_reach_is_no_leak";
    if let Some(case) = child::case() {
        let run = move || {
            for (place, bytes) in REACHED.iter().zip([64, 4000, 300_000, 5_000_000, 40 << 20]) {
                put(place, bytes / 8);
            }
            // Where it is a mapping, which is moved and made longer; before that a run, before that slots.
            for shift in 6..28 {
                put(&GROWN, 1 << (shift - 3));
            }
            for size in [100, 100_000, 5_000_000] {
                put(&FENCED, size / 8);
            }
            // What was mapped singly and is freed is no root any more.
            drop(Vec::<u8, Default>::with_capacity_in(50 << 20, Default));
            Default::trim();
            if case == "lost" {
                lose();
            }
        };
        // Its stack is gone when leaks are looked for.
        std::thread::spawn(run).join().expect("nothing panics");
        return;
    }
    let reached = child::run(NAME, "reached");
    assert!(reached.status.success(), "{}", text(&reached));
    let lost = child::run(NAME, "lost");
    let text = text(&lost);
    assert!(!lost.status.success() && text.contains("12800 byte(s) leaked in 100 allocation(s)"), "{text}");
}

/// The same under valgrind, where it is installed.
#[test]
#[cfg(all(feature = "valgrind", any(target_arch = "x86_64", target_arch = "aarch64")))]
fn valgrind_reports_a_use_after_free_and_nothing_else() {
    const NAME: &str = "valgrind_reports_a_use_after_free_and_nothing_else";
    match child::case().as_deref() {
        Some("valid") => {
            for doors in FAMILIES {
                make_calls(&doors, 1, 5000);
            }
            return;
        }
        Some(case) => return use_after_free(case),
        None => {}
    }
    if std::process::Command::new("valgrind").arg("--version").output().is_err() {
        println!("skipped: there is no valgrind");
        return;
    }
    // SAFETY: no other test of this program reads or writes the environment while this one runs.
    unsafe { std::env::set_var("FAMILY_ALLOC_TEST_RUNNER", "valgrind --quiet --error-exitcode=66") };
    let valid = child::run(NAME, "valid");
    assert!(valid.status.success() && !text(&valid).contains("Invalid"), "{}", text(&valid));
    let every_family = FAMILIES.iter().map(|family| (family.name, 100));
    for (family, size) in every_family.chain(SIZES.map(|size| (Default::NAME, size))) {
        let output = child::run(NAME, &format!("{family} {size}"));
        assert!(text(&output).contains("Invalid read of size 1"), "{family}, {size} bytes:\n{}", text(&output));
    }
}
