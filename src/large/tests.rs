//! Large allocations of one family, beside a model of what is live.

use super::kept::{KEPT_BYTES, PIECE_COUNT};
use super::set::SPARE_BYTES;
use super::*;

const MIB: usize = 1 << 20;

fn larges() -> Larges {
    Larges::new(false, 32 << 10)
}

fn layout(bytes: usize, align: usize) -> Layout {
    Layout::from_size_align(bytes, align).unwrap()
}

fn large(set: &Larges, bytes: usize) -> Large {
    set.allocate(layout(bytes, 1), false, 0).unwrap()
}

fn free_at(set: &Larges, large: Large, now: u64) -> Result<(), Mismatch> {
    // SAFETY: the tests free what is live and not used, or what must be refused.
    unsafe { set.deallocate(large.memory, large.bytes, now) }
}

fn free(set: &Larges, large: Large) {
    free_at(set, large, 0).unwrap();
}

fn grow(set: &Larges, old: Large, bytes: usize, want_zero: bool) -> Large {
    // SAFETY: live and not used at its old place.
    unsafe { set.resize(old.memory, old.bytes, (bytes, 1, want_zero), 0) }.unwrap().unwrap()
}

fn contents<'a>(large: Large) -> &'a mut [u8] {
    // SAFETY: live; the tests use one slice after the other.
    unsafe { core::slice::from_raw_parts_mut(large.memory.as_ptr(), large.bytes) }
}

fn counted(set: &Larges) -> (usize, usize) {
    let figures = set.figures();
    (figures.count, figures.bytes)
}

fn kept(set: &Larges) -> usize {
    set.figures().kept_bytes
}

#[test]
fn all_of_many_are_found_and_none_that_is_gone() {
    const COUNT: usize = if cfg!(miri) { 60 } else { 2000 };
    let set = larges();
    let mut live: Vec<Large> = (0..COUNT).map(|_| large(&set, 40_000)).collect();
    let bytes = live[0].bytes;
    assert_eq!(counted(&set), (COUNT, COUNT * bytes));
    for round in 0..3 {
        let gone: Vec<Large> = live.iter().skip(round).step_by(3).copied().collect();
        live.retain(|large| !gone.iter().any(|gone| gone.memory == large.memory));
        for large in gone {
            free(&set, large);
            assert_eq!(free_at(&set, large, 0), Err(Mismatch::Freed));
        }
        for &large in &live {
            assert_eq!(free_at(&set, Large { bytes: 4096, ..large }, 0), Err(Mismatch::Length(bytes)));
        }
    }
    live.into_iter().for_each(|large| free(&set, large));
    assert_eq!(counted(&set), (0, 0));
    let kept_bytes = kept(&set);
    let least = (PIECE_COUNT * bytes).min(KEPT_BYTES);
    assert!((least..=COUNT * bytes).contains(&kept_bytes), "{kept_bytes} bytes are kept");
    assert_eq!((set.release_kept(None), kept(&set)), (kept_bytes, 0));
}

#[test]
fn a_second_free_is_told_until_the_memory_is_handed_out_again() {
    let set = larges();
    // Two of the second lie in one range, however short ranges are: what a range knew goes when it is
    // released.
    for bytes in [40_000, 3 * MIB / 2, 50 * MIB] {
        let [first, second] = [(); 2].map(|()| large(&set, bytes));
        free(&set, first);
        assert_eq!(free_at(&set, first, 0), Err(Mismatch::Freed), "{bytes}");
        free(&set, second);
        for twice in [first, second] {
            assert_eq!(free_at(&set, twice, 0), Err(Mismatch::Freed), "{bytes}, joined");
        }
        set.release_kept(None);
        assert_eq!(free_at(&set, first, 0), Err(Mismatch::Freed), "{bytes}, given back");
        // What was never the start of one is unknown.
        let inner = Large { memory: first.memory.map_addr(|address| address.saturating_add(4096)), ..first };
        assert_eq!(free_at(&set, inner, 0), Err(Mismatch::Unknown), "{bytes}");
    }
    if set.has_runs() {
        let [first, _behind] = [(); 2].map(|()| large(&set, 64 << 10));
        free(&set, first);
        let again = large(&set, 64 << 10);
        assert_eq!(again.memory, first.memory);
        free(&set, again);
    }
}

#[test]
#[cfg_attr(target_family = "wasm", ignore = "this backend clears what it hands out again, to anybody")]
fn only_memory_that_reads_zero_serves_who_wants_it() {
    let set = larges();
    for bytes in [3 * MIB, 50 * MIB] {
        let first = large(&set, bytes);
        contents(first)[..].fill(1);
        free(&set, first);
        let zero = set.allocate(layout(bytes, 1), true, 0).unwrap();
        // A run that was used is cleared; a single mapping is a new one, which may be where the first was if that was not kept.
        let is_same = zero.memory == first.memory;
        assert!(is_same == (set.has_runs() && bytes <= RUN_BYTES_MAX) || KEPT_BYTES == 0);
        let step = if cfg!(miri) { 5000 } else { 1 };
        assert!(contents(zero).iter().step_by(step).all(|&byte| byte == 0));
        // L3: the longer one is gone by now.
        if bytes <= SPARE_BYTES.min(KEPT_BYTES) && !is_same {
            let again = large(&set, bytes);
            assert!(again.memory == first.memory);
            free(&set, again);
        }
        free(&set, zero);
        set.release_kept(None);
    }
}

#[test]
#[cfg_attr(
    any(miri, feature = "portable", windows, target_family = "wasm"),
    ignore = "this backend takes whole mappings only"
)]
fn parts_of_what_is_free_serve_and_are_joined_again() {
    for unit in [MIB, 12 * MIB] {
        let set = larges();
        let whole = large(&set, 16 * unit);
        free(&set, whole);
        let parts = [4, 3, 6].map(|count| large(&set, count * unit));
        let offsets = parts.map(|part| part.memory.addr().get() - whole.memory.addr().get());
        assert_eq!(offsets, [0, 4 * unit, 7 * unit]);
        assert_eq!((counted(&set).1, kept(&set)), (13 * unit, 3 * unit));
        for index in [0, 2, 1] {
            free(&set, parts[index]);
        }
        let again = large(&set, 16 * unit);
        assert_eq!(again.memory, whole.memory, "three parts and the rest are one piece again");
        free(&set, again);
        set.release_kept(None);
        assert_eq!(kept(&set), 0);
    }
}

#[test]
#[cfg_attr(any(miri, feature = "portable", target_family = "wasm"), ignore = "this backend takes whole mappings only")]
fn growth_takes_what_is_free_behind() {
    let set = larges();
    let whole = large(&set, 16 * MIB);
    contents(whole).fill(3);
    free(&set, whole);
    let head = large(&set, 2 * MIB);
    let longer = grow(&set, head, 8 * MIB, false);
    assert_eq!((longer.memory, kept(&set)), (whole.memory, 8 * MIB), "no page was asked for");
    contents(longer).fill(1);
    // What is free behind it is not zero: it has to move.
    let zeroed = grow(&set, longer, 12 * MIB, true);
    assert!(contents(zeroed)[..8 * MIB].iter().all(|&byte| byte == 1));
    assert!(contents(zeroed)[8 * MIB..].iter().all(|&byte| byte == 0));
    // Beyond what runs grow to it takes pages that can be moved.
    let bytes = if os::TAKES_PARTS { 100 * MIB } else { 24 * MIB };
    let longest = grow(&set, zeroed, bytes, false);
    assert!(contents(longest)[..8 * MIB].iter().all(|&byte| byte == 1));
    assert_eq!(counted(&set), (1, bytes));
    free(&set, longest);
    set.release_kept(None);
    assert_eq!((counted(&set), kept(&set)), ((0, 0), 0));
}

#[test]
#[cfg_attr(any(miri, feature = "portable", target_family = "wasm"), ignore = "this backend takes whole mappings only")]
fn what_grows_is_left_room_behind() {
    let set = larges();
    let mut grown = set.allocate_grown(64 << 10, 0).unwrap();
    let place = grown.memory;
    let mut others = Vec::new();
    for shift in 17..=21 {
        others.push(large(&set, 100_000));
        grown = grow(&set, grown, 1 << shift, false);
        assert_eq!(grown.memory, place, "in place to {} bytes", 1 << shift);
    }
    others.into_iter().for_each(|other| free(&set, other));
    free(&set, grown);
    set.release_kept(None);
}

#[test]
#[cfg_attr(any(miri, feature = "portable", target_family = "wasm"), ignore = "this backend takes whole mappings only")]
fn what_is_free_is_never_more_than_was_live() {
    let set = larges();
    // Zeroed memory is never dirty, and ever longer allocations fit into nothing that is free.
    for count in 1..60 {
        let zeroed = set.allocate(layout(count * MIB, 1), true, 0).unwrap();
        free(&set, zeroed);
        let large = large(&set, count * MIB + 4096);
        free(&set, large);
        assert!(kept(&set) <= count * MIB + 4096 + SPARE_BYTES, "{} bytes", kept(&set));
    }
    set.release_kept(None);
}

#[test]
#[cfg_attr(
    any(miri, feature = "portable", windows, target_family = "wasm"),
    ignore = "this backend takes whole mappings only"
)]
fn only_the_part_of_a_mapping_beyond_what_was_live_goes_back() {
    let set = larges();
    for bytes in [60 * MIB, 200 * MIB] {
        free(&set, large(&set, bytes));
        // Zeroed, so it is not taken from what is free.
        let zeroed = set.allocate(layout(10 * MIB, 1), true, 0).unwrap();
        assert_eq!((counted(&set).1, kept(&set)), (10 * MIB, bytes - 10 * MIB + SPARE_BYTES));
        free(&set, zeroed);
        set.release_spare();
    }
}

#[test]
#[cfg_attr(any(miri, feature = "portable", target_family = "wasm"), ignore = "this backend gives no memory back")]
fn what_was_free_for_long_goes_back() {
    let set = larges();
    let [first, second] = [3 * MIB, 40 * MIB].map(|bytes| large(&set, bytes));
    free_at(&set, first, 5000).unwrap();
    free_at(&set, second, 5500).unwrap();
    assert_eq!(set.release_kept(Some(5999)), 0);
    assert_eq!(set.release_kept(Some(6000)), 3 * MIB);
    assert_eq!((set.release_kept(Some(6500)), kept(&set)), (40 * MIB, 0));
}

#[test]
#[cfg_attr(any(miri, feature = "portable", target_family = "wasm"), ignore = "this backend has no ranges")]
fn ranges_without_runs_are_released_but_for_one() {
    let set = larges();
    let live: Vec<Large> = (0..40).map(|_| large(&set, 30 * MIB)).collect();
    let generation = set.set.lock().runs.generation;
    assert!(generation >= 5, "{generation} ranges for 1200 MiB");
    live.into_iter().for_each(|large| free(&set, large));
    set.release_kept(None);
    // One serves the next, and there is no second.
    (0..8).for_each(|_| free(&set, large(&set, 30 * MIB)));
    assert_eq!(set.set.lock().runs.generation, generation);
    assert!(set.release_spare());
    assert!(!set.release_spare(), "nothing is left");
}

/// Two threads with everything that asks the system for space or gives some back, among many runs.
#[test]
#[cfg(all(unix, not(any(miri, loom))))]
#[cfg_attr(feature = "portable", ignore = "this backend calls an allocator")]
fn no_lock_is_held_during_calls_to_the_system() {
    use crate::sync::held;

    let set = larges();
    let many: Vec<Large> = (0..20_000).map(|_| large(&set, 40_000)).collect();
    let work = |seed: usize| {
        for round in seed..seed + 5 {
            let huge = large(&set, (100 + round) * MIB);
            contents(huge).chunks_mut(4096).for_each(|page| page[0] = 1);
            let mut grown = set.allocate_grown(64 << 10, os::milliseconds()).unwrap();
            for shift in 17..28 {
                let other = large(&set, 3 * MIB);
                grown = grow(&set, grown, 1 << shift, round % 2 == 0);
                free(&set, other);
            }
            free_at(&set, huge, os::milliseconds()).unwrap();
            free(&set, grown);
            set.release_kept((round % 3 > 0).then(os::milliseconds));
        }
    };
    let places = held::watch(|| {
        std::thread::scope(|scope| {
            for seed in [0, 7] {
                scope.spawn(move || work(seed));
            }
        });
        many.into_iter().for_each(|large| free_at(&set, large, os::milliseconds()).unwrap());
        set.release_kept(None);
    });
    let is_here = |((file, _), _): &&((&str, u32), held::Held)| file.contains("large");
    let (place, longest) = places.iter().find(is_here).expect("locks were taken");
    println!("held for {} ns at most, taken at {place:?}", longest.busy);
    // 100 µs is what is wanted, of a build with optimisations on a quiet machine.
    assert!(longest.busy < 1_000_000, "{place:?}: {longest:?}");
}

/// What a model knows of a live allocation.
struct Known {
    large: Large,
    byte: u8,
}

impl Known {
    fn verify(&self, bytes: usize) {
        let contents = contents(self.large);
        // The first and last byte of each page are written.
        let ends = (0..bytes).step_by(4096).chain((4095..bytes).step_by(4096));
        ends.for_each(|at| assert_eq!(contents[at], self.byte));
    }

    fn write(&self) {
        let contents = contents(self.large);
        let ends = (0..contents.len()).step_by(4096).chain((4095..contents.len()).step_by(4096));
        ends.for_each(|at| contents[at] = self.byte);
    }
}

#[test]
#[cfg_attr(miri, ignore = "too slow there")]
fn random_calls_beside_a_model() {
    for seed in 1..=3_u64 {
        let set = larges();
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mut random = |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 16) as usize % below
        };
        let mut live: Vec<Known> = Vec::new();
        let mut now = 1_000_000;
        for step in 0..2000 {
            now += random(20) as u64;
            let bytes = match random(40) {
                0 => random(60 * MIB),
                1..8 => random(3 * MIB),
                _ => random(200_000),
            } + 33_000;
            let want_zero = random(3) == 0;
            match random(10) {
                0..4 if live.len() < 60 => {
                    let align = 1 << [0, 0, 0, 12, 16, 21, 23][random(7)];
                    let is_grown = random(8) == 0;
                    let large = if is_grown {
                        set.allocate_grown((32 << 10).max(os::page_bytes()), now)
                    } else {
                        set.allocate(layout(bytes, align), want_zero, now)
                    };
                    let Some(large) = large else { continue };
                    let known = Known { large, byte: step as u8 | 1 };
                    assert!(os::is_aligned(large.memory, 4096));
                    // What has grown out of its slot is neither zero nor aligned to more.
                    if want_zero && !is_grown {
                        assert!(os::is_aligned(large.memory, align));
                        Known { large, byte: 0 }.verify(large.bytes);
                    }
                    known.write();
                    live.push(known);
                }
                4..7 if !live.is_empty() => {
                    let index = random(live.len());
                    let known = &mut live[index];
                    known.verify(known.large.bytes);
                    let old = known.large;
                    let bytes = mapped_bytes(layout(bytes, 1)).unwrap();
                    // SAFETY: live and not used at its old place.
                    let resized = unsafe { set.resize(old.memory, old.bytes, (bytes, 1, want_zero), now) }.unwrap();
                    let Some(resized) = resized else { continue };
                    known.large = resized;
                    known.verify(old.bytes.min(bytes));
                    if want_zero && bytes > old.bytes {
                        let more = &contents(resized)[old.bytes..];
                        assert!(more.iter().step_by(4096).chain(more.last()).all(|&byte| byte == 0));
                    }
                    known.write();
                }
                7 if random(4) == 0 => {
                    set.release_kept((random(3) > 0).then_some(now));
                }
                _ if !live.is_empty() => {
                    let known = live.swap_remove(random(live.len()));
                    known.verify(known.large.bytes);
                    let wrong = Large { bytes: known.large.bytes + 4096, ..known.large };
                    assert_eq!(free_at(&set, wrong, now), Err(Mismatch::Length(known.large.bytes)));
                    free_at(&set, known.large, now).unwrap();
                    assert_eq!(free_at(&set, known.large, now), Err(Mismatch::Freed));
                }
                _ => {}
            }
            let sum = live.iter().map(|known| known.large.bytes).sum();
            assert_eq!(counted(&set), (live.len(), sum));
        }
        for known in live {
            known.verify(known.large.bytes);
            free_at(&set, known.large, now).unwrap();
        }
        set.release_kept(None);
        assert_eq!(counted(&set), (0, 0));
        assert!(kept(&set) == 0 || !os::TAKES_PARTS);
        set.release_spare();
    }
}

#[test]
#[cfg_attr(
    any(miri, feature = "portable", target_family = "wasm"),
    ignore = "these backends put few of them at a multiple of 4 MiB"
)]
fn what_grows_where_it_happens_to_be_aligned_keeps_that() {
    const ALIGN: usize = 4 * MIB;
    let set = larges();
    // Each is in the way of the one before it.
    let live: Vec<Large> = (0..32).map(|_| large(&set, 2 * MIB)).collect();
    let (aligned, others): (Vec<Large>, Vec<Large>) =
        live.into_iter().partition(|large| os::is_aligned(large.memory, ALIGN));
    assert!(aligned.len() >= 4, "every second one");
    let mut grown = Vec::new();
    // Mappings of 6 MiB side by side do not all begin at multiples of 4.
    for old in aligned {
        // SAFETY: live and not used at its old place.
        let new = unsafe { set.resize(old.memory, old.bytes, (6 * MIB, ALIGN, false), 0) }.unwrap().unwrap_or(old);
        assert!(os::is_aligned(new.memory, ALIGN), "{:p} of {} bytes", new.memory, new.bytes);
        grown.push(new);
    }
    grown.into_iter().chain(others).for_each(|large| free(&set, large));
}
