//! Huge pages where memory is dense, and nowhere else: what the system is told of a family's slabs, and what that costs.
//!
//! The system's setting `always` is imitated where a test asks for it: this program's own `mprotect` and `mmap` then advise what the
//! kernel would treat so by itself.

#![cfg(all(target_os = "linux", not(any(miri, feature = "portable"))))]

mod common;

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use common::child;
use common::memory::resident_bytes;
use family_alloc::{Family, HugePages, family};
use libc::{c_int, c_void, off_t, size_t};

const MIB: usize = 1 << 20;
const HUGE: usize = 2 * MIB;
/// Longer than it takes, on a machine that is busy with other work as well.
const PATIENCE: Duration = Duration::from_secs(60);

family! {
    struct Adaptive { slab_bytes: 2 << 20 }
    struct Always { huge_pages: Always, slab_bytes: 2 << 20 }
    struct Never { huge_pages: Never, slab_bytes: 2 << 20 }
    struct ShortNever { huge_pages: Never, slab_bytes: 64 * 1024 }
    struct Watched { checks: Checked, slab_bytes: 2 << 20 }
    struct Peak { slab_bytes: 2 << 20 }
}

static ALWAYS: AtomicBool = AtomicBool::new(false);

/// # Safety
/// As the system's.
#[unsafe(no_mangle)]
unsafe extern "C" fn mprotect(start: *mut c_void, bytes: size_t, protection: c_int) -> c_int {
    // SAFETY: the same contract.
    let result = unsafe { libc::syscall(libc::SYS_mprotect, start, bytes, protection) };
    if result == 0 && protection & libc::PROT_WRITE != 0 && bytes >= HUGE && ALWAYS.load(Relaxed) {
        // SAFETY: a hint.
        unsafe { libc::madvise(start, bytes, libc::MADV_HUGEPAGE) };
    }
    c_int::try_from(result).expect("zero or minus one")
}

/// # Safety
/// As the system's.
#[unsafe(no_mangle)]
unsafe extern "C" fn mmap(
    start: *mut c_void,
    bytes: size_t,
    protection: c_int,
    flags: c_int,
    file: c_int,
    offset: off_t,
) -> *mut c_void {
    #[cfg(target_pointer_width = "64")]
    let (call, offset) = (libc::SYS_mmap, offset);
    // In pages of 4 KiB.
    #[cfg(target_pointer_width = "32")]
    let (call, offset) = (libc::SYS_mmap2, offset >> 12);
    // SAFETY: the same contract.
    let result = unsafe { libc::syscall(call, start, bytes, protection, flags, file, offset) };
    // Of 32 bits the highest may be set.
    let address = std::ptr::with_exposed_provenance_mut(usize::from_ne_bytes(result.to_ne_bytes()));
    let is_memory = result != -1 && flags & libc::MAP_ANONYMOUS != 0 && protection & libc::PROT_WRITE != 0;
    if is_memory && bytes >= HUGE && ALWAYS.load(Relaxed) {
        // SAFETY: a hint.
        unsafe { libc::madvise(address, bytes, libc::MADV_HUGEPAGE) };
    }
    address
}

/// A slot of each class from 4 bytes up, of which one byte is written.
fn one_of_each<F: Family>() -> Vec<(usize, usize)> {
    let largest = F::SLAB_BYTES.trailing_zeros() - 1;
    let one = |shift| {
        let memory = F::malloc(1_usize << shift);
        // SAFETY: a live slot.
        unsafe { memory.write(1) };
        (memory.expose_provenance(), 1_usize << shift)
    };
    (2..=largest).map(one).collect()
}

fn free_all<F: Family>(slots: impl IntoIterator<Item = (usize, usize)>) {
    for (address, bytes) in slots {
        // SAFETY: a live slot of that length.
        unsafe { F::free(std::ptr::with_exposed_provenance_mut(address), bytes) };
    }
}

fn grown(body: impl FnOnce()) -> usize {
    // The first reading touches pages itself.
    resident_bytes();
    let before = resident_bytes();
    body();
    resident_bytes() - before
}

#[test]
fn one_slot_of_each_class_costs_pages() {
    child::isolated("one_slot_of_each_class_costs_pages", || {
        let mut slots = Vec::with_capacity(100);
        let bytes = grown(|| slots = one_of_each::<Adaptive>());
        println!("{} KiB for a slot of each of {} classes", bytes >> 10, slots.len());
        assert!(bytes < MIB, "{bytes} bytes");
        assert_eq!(Adaptive::stats().huge_bytes, 0);
    });
}

#[test]
fn one_slot_of_each_class_costs_pages_also_where_huge_pages_are_the_rule() {
    child::isolated("one_slot_of_each_class_costs_pages_also_where_huge_pages_are_the_rule", || {
        ALWAYS.store(true, Relaxed);
        let mut all = Vec::with_capacity(100);
        let bytes = grown(|| {
            all.push(one_of_each::<Adaptive>());
            all.push(one_of_each::<Never>());
            all.push(one_of_each::<Watched>());
        });
        println!("{} KiB for a slot of each class in three families", bytes >> 10);
        assert!(bytes < 3 * MIB, "{bytes} bytes");
        // A family that says so means it, also when it is dense.
        let slots: Vec<_> = (0..20).flat_map(|_| one_of_each::<ShortNever>()).collect();
        let dense: Vec<_> = (0..64).map(|_| Never::malloc(MIB).expose_provenance()).collect();
        let bytes = grown(|| {
            for &address in &dense {
                // SAFETY: a live slot.
                unsafe { std::ptr::with_exposed_provenance_mut::<u8>(address).write(1) };
            }
        });
        assert!(bytes < 2 * MIB, "{bytes} bytes for a byte in each of 64 slots");
        assert_eq!((Never::stats().huge_bytes, ShortNever::stats().huge_bytes), (0, 0));
        free_all::<ShortNever>(slots);
    });
}

/// What was dense and was given back is not dense when it is a small family's again.
#[test]
fn advice_does_not_outlive_a_peak() {
    child::isolated("advice_does_not_outlive_a_peak", || {
        for round in 0..3 {
            let slots: Vec<_> = (0..200 * MIB / 64).map(|_| (Peak::malloc(64).expose_provenance(), 64)).collect();
            let huge = Peak::stats().huge_bytes;
            assert!((190 * MIB..=200 * MIB).contains(&huge), "{huge} bytes are advised at the peak");
            free_all::<Peak>(slots);
            Peak::trim();
            let mut few = Vec::with_capacity(100);
            let bytes = grown(|| few = one_of_each::<Peak>());
            println!("round {round}: {} KiB for a slot of each class after a peak", bytes >> 10);
            assert!(bytes < MIB, "{bytes} bytes");
            assert_eq!(Peak::stats().huge_bytes, 0);
            free_all::<Peak>(few);
            Peak::trim();
        }
    });
}

/// How many slabs there are when memory goes back says nothing of how many there were when the last
/// one was opened.
#[test]
fn the_rest_of_a_huge_slab_goes_back_when_few_are_left() {
    /// Slots of eight slabs and a few of a ninth, of which only those are kept.
    fn peak_but_for_its_last<F: Family>(slots: &mut Vec<(usize, usize)>, slot_bytes: usize) {
        slots.extend((0..16 * MIB / slot_bytes + 50).map(|_| (F::malloc(slot_bytes).expose_provenance(), slot_bytes)));
        for &(address, _) in &*slots {
            // SAFETY: a live slot.
            unsafe { std::ptr::with_exposed_provenance_mut::<u8>(address).write(1) };
        }
        free_all::<F>(slots.drain(..slots.len() - 20));
    }
    child::isolated("the_rest_of_a_huge_slab_goes_back_when_few_are_left", || {
        let mut slots = Vec::with_capacity(MIB);
        slots.resize(MIB, (0, 0));
        slots.clear();
        let before = resident_bytes();
        let grown = || resident_bytes().saturating_sub(before);
        for slot_bytes in [32, 64, 1000, 9000] {
            peak_but_for_its_last::<Adaptive>(&mut slots, slot_bytes);
            Adaptive::trim();
            assert!(grown() < MIB, "{slot_bytes} bytes: {} bytes are left after `trim`", grown());
            free_all::<Adaptive>(slots.drain(..));
            Adaptive::trim();

            peak_but_for_its_last::<Peak>(&mut slots, slot_bytes);
            let begin = Instant::now();
            while grown() > MIB {
                assert!(begin.elapsed() < PATIENCE, "{slot_bytes} bytes: {} bytes are left that nobody needs", grown());
                std::thread::sleep(Duration::from_millis(20));
                free_all::<Peak>([(Peak::malloc(100_000).expose_provenance(), 100_000)]);
            }
            free_all::<Peak>(slots.drain(..));
            Peak::trim();
        }
    });
}

#[test]
fn the_option_says_from_which_slab_on() {
    child::isolated("the_option_says_from_which_slab_on", || {
        fn huge_slabs<F: Family>() -> Vec<usize> {
            let after_a_slab = |_| {
                assert!((0..64).all(|_| !F::malloc(32 << 10).is_null()));
                F::stats().huge_bytes / HUGE
            };
            (0..6).map(after_a_slab).collect()
        }
        assert_eq!(huge_slabs::<Adaptive>(), [0, 0, 0, 1, 2, 3]);
        assert_eq!(huge_slabs::<Always>(), [1, 2, 3, 4, 5, 6]);
        assert_eq!(huge_slabs::<Never>(), [0; 6]);
        assert_eq!((Adaptive::HUGE_PAGES, Never::HUGE_PAGES), (HugePages::Adaptive, HugePages::Never));
    });
}

/// Advice that changes from slab to slab splits mappings, but only as often as there are classes.
#[test]
fn mixed_advice_is_few_mappings() {
    child::isolated("mixed_advice_is_few_mappings", || {
        let count =
            || std::fs::read_to_string("/proc/self/maps").expect("the kernel lists our mappings").lines().count();
        let before = count();
        let mut random = 1_u64;
        let mut live = Vec::new();
        for round in 0..60_000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let bytes = 1_usize << (4 + (random >> 33) % 15);
            if bytes < 1 << 12 || round % 8 == 0 {
                live.push((Adaptive::malloc(bytes).expose_provenance(), bytes));
            }
            if round % 10_000 == 9_999 {
                let gone = live.split_off(live.len() / 3);
                free_all::<Adaptive>(gone);
                Adaptive::trim();
            }
        }
        let stats = Adaptive::stats();
        let more = count() - before;
        println!("{more} mappings for {} MiB of slabs", stats.slab_bytes / MIB);
        assert!(more <= 21 * 6 + stats.reserved_bytes / (64 * HUGE), "{more} mappings");
        free_all::<Adaptive>(live);
    });
}

fn page_faults() -> usize {
    // SAFETY: `rusage` is plain integers, for which zero is a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: a live `rusage`.
    assert_eq!(unsafe { libc::getrusage(libc::RUSAGE_SELF, &raw mut usage) }, 0);
    usage.ru_minflt as usize
}

/// Whether the system gives huge pages to whoever asks for them.
fn has_huge_pages() -> bool {
    let setting = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").unwrap_or_default();
    setting.contains("[madvise]") || setting.contains("[always]")
}

/// A long allocation that is filled takes huge pages; one of which little is used, or that has to read zero, does not.
#[test]
fn long_allocations_are_huge_where_they_are_filled() {
    child::isolated("long_allocations_are_huge_where_they_are_filled", || {
        let touch = |memory: *mut u8, bytes: usize, step: usize| {
            for offset in (0..bytes).step_by(step) {
                // SAFETY: inside a live allocation of so many bytes.
                unsafe { memory.wrapping_add(offset).write(1) };
            }
        };
        let front = grown(|| {
            for _ in 0..20 {
                let memory = Adaptive::malloc(16 * MIB);
                touch(memory, MIB / 4, 4096);
            }
        });
        assert!(front <= 20 * MIB / 2, "{front} bytes for the first quarter of a MiB of 20 allocations of 16 MiB");
        let sparse = grown(|| touch(Adaptive::calloc(32 * MIB), 32 * MIB, 2 * MIB));
        assert!(sparse <= MIB, "{sparse} bytes for a byte in every second MiB of 32 that read zero");
        for bytes in [16 * MIB, 40 * MIB] {
            let memory = Adaptive::malloc(bytes);
            let before = page_faults();
            touch(memory, bytes, 4096);
            let faults = page_faults() - before;
            println!("{faults} page faults for {} MiB", bytes / MIB);
            assert!(!has_huge_pages() || faults < bytes / 4096 / 2, "{faults} page faults for {bytes} bytes");
        }
    });
}

/// What a program gets, fills and gives back again and again is not taken from the system anew each time, also where it has to
/// read zero.
#[test]
fn zeroed_allocations_use_memory_again() {
    child::isolated("zeroed_allocations_use_memory_again", || {
        let round = |faults: usize| {
            let before = page_faults();
            let memory = Peak::calloc(5 * MIB);
            for offset in (0..5 * MIB).step_by(4096) {
                let place = memory.wrapping_add(offset);
                // SAFETY: inside a live allocation of so many bytes.
                assert_eq!(unsafe { place.read() }, 0, "at {offset}");
                // SAFETY: as above.
                unsafe { place.write(1) };
            }
            // SAFETY: allocated above with this size.
            unsafe { Peak::free(memory, 5 * MIB) };
            let seen = page_faults() - before;
            assert!(seen <= faults, "{seen} page faults");
        };
        round(4000);
        (0..5).for_each(|_| round(10));
    });
}

/// What the kernel has been told of the mapping that an address lies in: `hg` is advice for huge pages, `nh` against.
fn advice_at(address: usize) -> Option<&'static str> {
    let mappings = std::fs::read_to_string("/proc/self/smaps").expect("the kernel lists our mappings");
    let mut is_here = false;
    for line in mappings.lines() {
        let bounds = line.split_once(' ').and_then(|(bounds, _)| bounds.split_once('-'));
        let bound = |text| usize::from_str_radix(text, 16);
        if let Some((Ok(start), Ok(end))) = bounds.map(|(start, end)| (bound(start), bound(end))) {
            is_here = (start..end).contains(&address);
        } else if let Some(flags) = line.strip_prefix("VmFlags:").filter(|_| is_here) {
            let has = |flag| flags.split_whitespace().any(|there| there == flag);
            return if has("nh") { Some("nh") } else { has("hg").then_some("hg") };
        }
    }
    None
}

/// A family that is to have no huge pages has none for its large allocations either, however they came to be.
#[test]
fn large_allocations_keep_to_what_the_family_says() {
    child::isolated("large_allocations_keep_to_what_the_family_says", || {
        fn advised<F: Family>() -> Vec<Option<&'static str>> {
            let filled = [16 * MIB, 64 * MIB].map(|bytes| F::malloc(bytes).expose_provenance() + bytes / 2);
            let grown = [3 * MIB, 12 * MIB, 48 * MIB].map(|bytes| {
                let mut memory = F::malloc(MIB + MIB / 2);
                let mut length = MIB + MIB / 2;
                while length < bytes {
                    // SAFETY: live with this length.
                    memory = unsafe { F::remalloc(memory, length, length + MIB / 2) };
                    assert!(!memory.is_null());
                    length += MIB / 2;
                }
                memory.expose_provenance() + length / 2
            });
            filled.into_iter().chain(grown).map(advice_at).collect()
        }
        assert_eq!(advised::<Never>(), [Some("nh"); 5]);
        assert_eq!(advised::<Adaptive>(), [Some("hg"); 5]);
    });
}
