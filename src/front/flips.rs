//! What becomes of a family when a bit of a slab's tag or header is flipped: every bit, each in a process of its own.
//!
//! Tags and headers stand apart from slots, so only a wild write reaches them, and nothing verifies all of a header. A wrong tag is found; of the
//! rest the test prints what happened, for `DESIGN.md`.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use super::Family;
use crate::header::{Directory, SlabHeader, UNIT_COUNT, side_table};

crate::family! {
    struct Plain;
    struct Watched { checks: Checked }
    struct Guarded { checks: Hardened }
}

const SLOT: usize = 64;
const HEADER_BITS: usize = size_of::<SlabHeader>() * 8;
const OVERLAP: i32 = 2;
const ASSERTION: i32 = 3;

fn allocate<F: Family>(count: usize) -> Vec<usize> {
    (0..count).map(|_| F::malloc(SLOT).expose_provenance()).collect()
}

fn free<F: Family>(slots: impl Iterator<Item = usize>) {
    for slot in slots {
        // SAFETY: allocated with this size, and given up.
        unsafe { F::free(core::ptr::with_exposed_provenance_mut(slot), SLOT) };
    }
}

fn overlap(live: &[usize]) -> bool {
    let mut live = live.to_vec();
    live.sort_unstable();
    live.windows(2).any(|two| two[1] - two[0] < SLOT)
}

/// Frees, allocates and frees all, then again; says whether two live slots shared memory.
fn live_on<F: Family>(mut live: Vec<usize>) -> i32 {
    for _ in 0..3 {
        free::<F>(live.split_off(live.len() / 2).into_iter());
        F::trim();
        live.extend(allocate::<F>(3000));
        if overlap(&live) {
            return OVERLAP;
        }
    }
    free::<F>(live.into_iter());
    F::trim();
    0
}

fn flip(header: &'static SlabHeader, bit: usize) {
    let word = core::ptr::from_ref(header).cast_mut().cast::<u64>().wrapping_add(bit / 64);
    // SAFETY: a word of a header, in a process that has one thread, here and below.
    let old = unsafe { word.read_volatile() };
    // SAFETY: as above.
    unsafe { word.write_volatile(old ^ 1 << (bit % 64)) };
}

/// How a fork with something flipped ends.
fn fork_with(flip: impl FnOnce(), body: impl FnOnce() -> i32) -> ExitStatus {
    // SAFETY: the child has this thread only, and of the crate's locks none that it does not hold.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "the process can be forked");
    if child == 0 {
        // SAFETY: no handler is set.
        unsafe { libc::alarm(10) };
        flip();
        let code = body();
        // SAFETY: `_exit` has no preconditions.
        unsafe { libc::_exit(code) };
    }
    let mut status = 0;
    // SAFETY: writes one status to a live one.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    ExitStatus::from_raw(status)
}

fn outcome(status: ExitStatus) -> &'static str {
    match (status.code(), status.signal()) {
        (Some(0), _) => "no effect",
        (Some(OVERLAP), _) => "overlap",
        (Some(ASSERTION), _) => "assertion",
        (_, Some(libc::SIGABRT)) => "reported",
        (_, Some(libc::SIGSEGV | libc::SIGBUS)) => "SIGSEGV",
        (_, Some(libc::SIGALRM)) => "hangs",
        _ => "other",
    }
}

/// A slab with live, free and fresh slots, each of whose header's bits is flipped in a fork.
fn flip_all<F: Family>() {
    let slots = allocate::<F>(1000);
    let (live, freed): (Vec<usize>, Vec<usize>) = slots.iter().partition(|&&slot| slot / SLOT % 3 != 0);
    free::<F>(freed.into_iter());
    F::trim();
    let directory = Directory::of(F::SLAB_BYTES.trailing_zeros());
    for bit in 0..u32::BITS {
        let flipped = directory.tag(live[0]) ^ 1 << bit;
        // SAFETY: the slab's own tag, in a process that has one thread.
        let flip = || unsafe { directory.set_tag(live[0], flipped) };
        let found = outcome(fork_with(flip, || live_on::<F>(live.clone())));
        assert_eq!(found, "reported", "{}, bit {bit} of the tag", F::NAME);
    }
    let header = directory.slab(live[0]).expect("a live slot lies in a slab");
    let mut counts = BTreeMap::<&str, usize>::new();
    for bit in 0..HEADER_BITS {
        let found = outcome(fork_with(|| flip(header, bit), || live_on::<F>(live.clone())));
        assert!(found != "overlap" || !F::CHECKS.keeps_states(), "{}, bit {bit}: {found}", F::NAME);
        *counts.entry(found).or_default() += 1;
    }
    println!("{}: {counts:?}", F::NAME);
    assert_eq!(live_on::<F>(live), 0, "the header itself is as it was");
}

#[test]
fn a_flipped_bit_of_a_tag_is_reported() {
    const NAME: &str = "front::flips::a_flipped_bit_of_a_tag_is_reported";
    let Some(output) = crate::child::run(NAME) else {
        let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: reads one `rlimit`; a process that ends so leaves no core file then.
        unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const none) };
        // What an assertion finds under a lock would wait for that lock when it unwinds.
        std::panic::set_hook(Box::new(|panic| {
            println!("{panic}");
            // SAFETY: `_exit` has no preconditions.
            unsafe { libc::_exit(ASSERTION) }
        }));
        flip_all::<Plain>();
        flip_all::<Watched>();
        flip_all::<Guarded>();
        return;
    };
    let out = String::from_utf8_lossy(&output.stdout);
    println!("{out}");
    assert!(output.status.success(), "{}: {out}", output.status);
}

/// A slab with free slots of which a wild write takes all bits: where they stand in the header,
/// where they stand in the side table, and where only the header knows that there are some. It has
/// fewer than it counts then, and is told by its address.
#[test]
fn a_slab_with_fewer_free_slots_than_it_counts_is_told() {
    const NAME: &str = "front::flips::a_slab_with_fewer_free_slots_than_it_counts_is_told";
    const PLACE: &str = "FAMILY_ALLOC_TEST_PLACE";
    if let Ok(place) = std::env::var(PLACE) {
        let in_header = place == "header";
        let slots = allocate::<Plain>(if in_header { 20 } else { 1000 });
        let header = Directory::of(Plain::SLAB_BYTES.trailing_zeros()).slab(slots[0]).expect("a live slot");
        free::<Plain>(slots.into_iter().skip(1).step_by(2));
        Plain::trim();
        assert_eq!(header.side_ready.get(), !in_header);
        if place == "side table" {
            assert_ne!(header.free[0].get(), 0, "some groups have bits");
            let (memory, shift) = (header.memory(), Plain::SLAB_BYTES.trailing_zeros());
            let unit = (memory.addr() >> shift) % UNIT_COUNT;
            let region = memory.map_addr(|address| address & !((UNIT_COUNT << shift) - 1));
            let words = region.wrapping_add(side_table(shift, unit).start).cast::<[u64; 16]>();
            // SAFETY: where the bits of a thousand slots stand, in a process that has one thread.
            unsafe { words.write_volatile([0; 16]) };
        } else {
            header.free.iter().for_each(|word| word.set(0));
        }
        let slab = header.memory().addr();
        // On a line of its own, whatever the harness has begun.
        println!("\nfamily_alloc: write after free of {slab:#x} ({SLOT}-byte class, family {})", Plain::NAME);
        allocate::<Plain>(2000);
        return;
    }
    for place in ["header", "groups", "side table"] {
        let mut program = std::process::Command::new(std::env::current_exe().expect("this program"));
        program.args(["--exact", NAME, "--nocapture", "--test-threads=1"]).env(PLACE, place);
        let output = program.output().expect("it starts again");
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let expected =
            out.lines().find(|line| line.starts_with("family_alloc: ")).unwrap_or_else(|| panic!("{out}{err}"));
        assert!(err.lines().any(|line| line == expected), "{place}: {expected}\n{err}");
        assert_eq!(output.status.signal(), Some(libc::SIGABRT), "{place}");
    }
}
