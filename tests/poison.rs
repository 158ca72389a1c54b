//! What a sanitizer is told is free, in a program that has the functions of its run-time library itself, and keeps a list.

#![cfg(all(target_os = "linux", target_arch = "x86_64", not(any(miri, feature = "portable"))))]

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard};

use family_alloc::{Family, family};

/// Poison is told for so many bytes at once.
const GRAIN: usize = 8;

static POISONED: Mutex<BTreeSet<usize>> = Mutex::new(BTreeSet::new());

fn poisoned() -> MutexGuard<'static, BTreeSet<usize>> {
    POISONED.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn grains(start: usize, bytes: usize) -> impl Iterator<Item = usize> {
    (start / GRAIN..(start + bytes).div_ceil(GRAIN)).map(|grain| grain * GRAIN)
}

#[unsafe(no_mangle)]
extern "C" fn __asan_address_is_poisoned(address: *const u8) -> i32 {
    i32::from(poisoned().contains(&(address.addr() / GRAIN * GRAIN)))
}

#[unsafe(no_mangle)]
extern "C" fn __asan_poison_memory_region(start: *const u8, bytes: usize) {
    poisoned().extend(grains(start.addr(), bytes));
}

#[unsafe(no_mangle)]
extern "C" fn __asan_unpoison_memory_region(start: *const u8, bytes: usize) {
    let mut poisoned = poisoned();
    for grain in grains(start.addr(), bytes) {
        poisoned.remove(&grain);
    }
}

family! {
    struct Spaced { classes: Spaced }
    struct Twice { slab_bytes: 1024 * 1024 }
}

fn free<F: Family>(slot: usize, size: usize) {
    // SAFETY: the tests free what they have allocated with this size, once.
    unsafe { F::free(core::ptr::with_exposed_provenance_mut(slot), size) };
}

/// Slots of odd lengths do not begin at multiples of their length, where a slab leaves out pages before the first.
#[test]
fn what_is_live_is_not_poisoned_beside_what_is_free() {
    for size in [24, 40, 72, 104, 112, 176] {
        let slots: Vec<usize> = (0..100).map(|_| Spaced::malloc(size).expose_provenance()).collect();
        slots.iter().step_by(2).for_each(|&slot| free::<Spaced>(slot, size));
        for (number, &slot) in slots.iter().enumerate() {
            let told = grains(slot, size).filter(|grain| poisoned().contains(grain)).count();
            let expected = if number % 2 == 0 { size / GRAIN } else { 0 };
            assert_eq!(told, expected, "slot {number} of {size} bytes");
        }
    }
}

/// The end of a slab of very short slots holds bits of the engine's, and may have been slots before.
#[test]
fn the_bits_of_a_slab_are_not_poisoned() {
    let unit = |slot: usize| slot & !(Twice::SLAB_BYTES - 1);
    let long: Vec<usize> = (0..4).map(|_| Twice::malloc(Twice::SLAB_BYTES / 2).expose_provenance()).collect();
    long.iter().for_each(|&slot| free::<Twice>(slot, Twice::SLAB_BYTES / 2));
    let short: Vec<usize> = (0..1000).map(|_| Twice::malloc(8).expose_provenance()).collect();
    let slab = unit(short[0]);
    assert!(long.iter().any(|&slot| unit(slot) == slab), "the slab was another before");
    short.iter().for_each(|&slot| free::<Twice>(slot, 8));
    // An eighth of a byte for each slot.
    let bits = Twice::SLAB_BYTES / 8 / 8;
    let told = grains(slab + Twice::SLAB_BYTES - bits, bits).filter(|grain| poisoned().contains(grain)).count();
    assert_eq!(told, 0, "the engine reads and writes there");
}
