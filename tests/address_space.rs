//! Address space is a resource: families take little of it, shrink to what a limit leaves, and stay out of the way of a program that
//! dumps its memory or locks it.

#![cfg(all(target_os = "linux", not(any(miri, feature = "portable"))))]

mod common;

use std::alloc::{GlobalAlloc, System};
use std::process::Command;

use common::child::{self, set_limit};
use common::doors::layout;
use common::memory::mapped_bytes;
use family_alloc::{Family, families, family};

const MIB: usize = 1 << 20;
const LIMIT: usize = 512 * MIB;

macro_rules! forty {
    ($($name:ident)*) => {
        family! { $(struct $name;)* }
        static FORTY: &[&(dyn GlobalAlloc + Sync)] = &[$(&$name),*];
        static FORTY_TRAITS: &[fn() -> usize] = &[$(|| $name::stats().reserved_bytes),*];
    };
}
forty! {
    F01 F02 F03 F04 F05 F06 F07 F08 F09 F10 F11 F12 F13 F14 F15 F16 F17 F18 F19 F20
    F21 F22 F23 F24 F25 F26 F27 F28 F29 F30 F31 F32 F33 F34 F35 F36 F37 F38 F39 F40
}

family! {
    struct Plain { slab_bytes: 2 << 20 }
    struct Short { slab_bytes: 64 * 1024 }
    struct Watched { checks: Checked, slab_bytes: 2 << 20 }
    struct Guarded { checks: Hardened, slab_bytes: 2 << 20 }
    struct Late { slab_bytes: 2 << 20 }
}

fn allocate(from: &dyn GlobalAlloc, bytes: usize) -> bool {
    // SAFETY: the size is not zero.
    unsafe { !from.alloc(layout(bytes, 8)).is_null() }
}

/// A slot from each, then all that a program may want besides: what did not work, if anything?
fn live_under_a_limit(allocators: &[&(dyn GlobalAlloc + Sync)], late: bool) -> Vec<&'static str> {
    if !late {
        set_limit(libc::RLIMIT_AS, LIMIT as u64);
    }
    let mut missing = Vec::new();
    let mut want = |what, is_there: bool| {
        if !is_there {
            missing.push(what);
        }
    };
    want("slots", allocators.iter().all(|from| allocate(*from, 64)));
    let first = mapped_bytes();
    if late {
        set_limit(libc::RLIMIT_AS, LIMIT as u64);
    }
    want("large", allocators[..4].iter().all(|from| allocate(*from, 8 * MIB)));
    want("objects", (0..200 * MIB / 1000).all(|_| allocate(allocators[0], 1000)));
    want("a thread", std::thread::Builder::new().spawn(|| ()).is_ok_and(|thread| thread.join().is_ok()));
    want("a program", Command::new("true").status().is_ok_and(|status| status.success()));
    println!("{} MiB with the first slots, {} at the end", first / MIB, mapped_bytes() / MIB);
    missing
}

fn forty_families_live(test: &str, late: bool) {
    child::isolated(test, || {
        let missing = live_under_a_limit(FORTY, late);
        assert!(missing.is_empty(), "{missing:?}");
        let others: usize = FORTY_TRAITS[1..].iter().map(|reserved| reserved()).sum();
        assert!(others <= 39 * 4 * MIB, "{} MiB are reserved for 39 slots", others / MIB);
    });
}

#[test]
fn forty_families_live_under_a_limit() {
    forty_families_live("forty_families_live_under_a_limit", false);
}

/// Nobody knew of the limit when the families were first used.
#[test]
fn forty_families_live_under_a_limit_that_is_set_later() {
    forty_families_live("forty_families_live_under_a_limit_that_is_set_later", true);
}

/// What is asked of families is not more than the system's allocator can do.
#[test]
fn the_system_lives_under_that_limit() {
    child::isolated("the_system_lives_under_that_limit", || {
        let system: &(dyn GlobalAlloc + Sync) = &System;
        assert!(live_under_a_limit(&[system; 40], false).is_empty());
    });
}

/// A little of eleven classes in each of twenty families.
#[test]
fn many_classes_fit_under_a_limit() {
    child::isolated("many_classes_fit_under_a_limit", || {
        set_limit(libc::RLIMIT_AS, 1_000_000 << 10);
        for (number, family) in FORTY[..20].iter().enumerate() {
            for shift in 3..14 {
                assert!(allocate(*family, 1 << shift), "family {number}, {} bytes", 1 << shift);
            }
        }
        println!("{} families, {} MiB of address space", families().count(), mapped_bytes() / MIB);
    });
}

/// A family that needs more gets it, and does not take much more than that.
#[test]
fn reservations_follow_what_is_used() {
    child::isolated("reservations_follow_what_is_used", || {
        for limited in [false, true] {
            if limited {
                // Where addresses have 32 bits, 4 GiB are no limit.
                set_limit(libc::RLIMIT_AS, if usize::BITS < 64 { 3 << 30 } else { 4 << 30 });
            }
            let (family, stats): (&dyn GlobalAlloc, fn() -> _) =
                if limited { (&Plain, Plain::stats) } else { (&Late, Late::stats) };
            for slabs in 1..300 {
                assert!(allocate(family, MIB) && allocate(family, MIB));
                let (used, reserved) = (slabs * Plain::SLAB_BYTES, stats().reserved_bytes);
                // A unit 0 for each region, and what is reserved ahead.
                let side = used.div_ceil(63 * Plain::SLAB_BYTES) * Plain::SLAB_BYTES;
                let ahead = if limited { (used + side) / 8 + 2 * Plain::SLAB_BYTES } else { used + side };
                assert!(
                    (used + side..=used + 2 * side + ahead).contains(&reserved),
                    "{used} used, {reserved} reserved"
                );
            }
        }
    });
}

/// One of this process's mappings.
struct Mapping {
    start: usize,
    end: usize,
    flags: String,
    name: String,
}

fn mappings() -> Vec<Mapping> {
    let text = std::fs::read_to_string("/proc/self/smaps").expect("the kernel lists our mappings");
    let mut all = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let first = words.next().unwrap_or_default();
        if let Some((start, end)) = first.split_once('-').filter(|_| !first.ends_with(':')) {
            let number = |hexadecimal| usize::from_str_radix(hexadecimal, 16).expect("an address");
            let name = words.skip(4).collect::<Vec<_>>().join(" ");
            all.push(Mapping { start: number(start), end: number(end), flags: String::new(), name });
        } else if let (Some(flags), Some(last)) = (line.strip_prefix("VmFlags:"), all.last_mut()) {
            last.flags = format!("{flags} ");
        }
    }
    all
}

/// Bytes that a dump holds which leaves out what the process asked to leave out, and nothing else.
fn dumped_bytes() -> usize {
    let dumped = mappings().into_iter().filter(|mapping| !mapping.flags.contains(" dd "));
    dumped.map(|mapping| mapping.end - mapping.start).sum()
}

#[test]
fn what_is_reserved_is_in_no_dump_and_slabs_are() {
    child::isolated("what_is_reserved_is_in_no_dump_and_slabs_are", || {
        let before = dumped_bytes();
        let families: [&dyn GlobalAlloc; 4] = [&Plain, &Short, &Watched, &Guarded];
        let mut slots = Vec::new();
        for family in families {
            // SAFETY: the size is not zero.
            slots.extend([10, 1000].map(|bytes| unsafe { family.alloc(layout(bytes, 8)) }.addr()));
        }
        let more = dumped_bytes() - before;
        println!("{} KiB more are dumped", more >> 10);
        // Two slabs of four families, unit 0 of two, and what caches and depots are mapped.
        assert!(more <= (3 * 2 + 1) * Plain::SLAB_BYTES + 4 * MIB, "{} MiB are dumped", more / MIB);
        for mapping in mappings().iter().filter(|mapping| mapping.flags.contains(" dd ")) {
            assert!(!slots.iter().any(|slot| (mapping.start..mapping.end).contains(slot)), "slots are dumped");
        }
    });
}

/// A slot in the unit that was a slab of a class before whose slots begin with it. This one's begin behind some pages.
fn in_the_place_of_another<F: Family>() -> usize {
    let long = F::malloc(8192);
    // SAFETY: allocated just now with this size.
    unsafe { F::free(long, 8192) };
    F::trim();
    let short = F::malloc(100).addr();
    assert_eq!(long.addr() / F::SLAB_BYTES, short / F::SLAB_BYTES, "the same unit");
    short
}

#[test]
fn a_slab_that_was_another_before_is_dumped() {
    child::isolated("a_slab_that_was_another_before_is_dumped", || {
        family! { struct A; struct B; struct C; struct D; struct E; struct F; }
        let slots: [fn() -> usize; 6] = [
            in_the_place_of_another::<A>,
            in_the_place_of_another::<B>,
            in_the_place_of_another::<C>,
            in_the_place_of_another::<D>,
            in_the_place_of_another::<E>,
            in_the_place_of_another::<F>,
        ];
        let slots = slots.map(|slot| slot());
        for mapping in mappings().iter().filter(|mapping| mapping.flags.contains(" dd ")) {
            assert!(!slots.iter().any(|slot| (mapping.start..mapping.end).contains(slot)), "slots are not dumped");
        }
    });
}

/// Kernels that can name mappings show whose they are; the others are not disturbed by being asked.
#[test]
fn mappings_are_named_where_the_kernel_can() {
    child::isolated("mappings_are_named_where_the_kernel_can", || {
        let page = Plain::malloc(100).addr();
        let name = c"name";
        // SAFETY: names a mapping of the family's for a moment, or is refused.
        let can = unsafe { libc::prctl(0x5356_4d61, 0, page & !0xFFF, 4096_usize, name.as_ptr()) } == 0;
        let slot = Short::malloc(100).addr();
        let mapping = mappings().into_iter().find(|mapping| (mapping.start..mapping.end).contains(&slot));
        let mapping = mapping.expect("a slot is mapped");
        println!("named {:?}", mapping.name);
        assert_eq!(mapping.name, if can { "[anon:family-alloc: Short]" } else { "" });
    });
}

/// All memory that comes is locked, under the usual limit: tables and what is reserved ahead become less, and are not what fills it.
#[test]
fn families_work_where_memory_is_locked_under_a_limit() {
    child::isolated("families_work_where_memory_is_locked_under_a_limit", || {
        set_limit(libc::RLIMIT_MEMLOCK, (8 * MIB) as u64);
        // SAFETY: asks who runs this.
        if unsafe { libc::geteuid() } == 0 {
            // SAFETY: gives up what would lift the limit; nobody else runs here.
            assert_eq!(unsafe { libc::setresuid(65534, 65534, 65534) }, 0);
        }
        // SAFETY: locks what this process maps from now on.
        assert_eq!(unsafe { libc::mlockall(libc::MCL_FUTURE) }, 0);
        for bytes in [16, 100, 1000, 10_000, 30_000] {
            let slot = Short::malloc(bytes);
            assert!(!slot.is_null(), "{bytes} bytes");
            // SAFETY: a live slot.
            unsafe { slot.write_bytes(7, bytes) };
        }
        // A slab of 2 MiB is locked as a whole, and so is what is before it.
        assert!(!Plain::malloc(100).is_null());
        println!("{} KiB mapped", mapped_bytes() >> 10);
        let stack = std::thread::Builder::new().stack_size(256 << 10).spawn(|| Short::malloc(100).addr());
        assert!(stack.is_ok_and(|thread| thread.join().is_ok_and(|slot| slot != 0)), "a thread works as well");
    });
}
