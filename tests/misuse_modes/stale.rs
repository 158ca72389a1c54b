//! How often a stale free hits: its slot has been handed out again, and no mode can tell it from the free of whoever has it now.

use family_alloc::Family;

use crate::common::random::Random;
use crate::{Guarded, Plain, Watched};

/// Allocations that a thread at work has.
const HELD: usize = 200;
/// Allocations between the free and the stale one.
const BETWEEN: [usize; 4] = [1, 16, 100, 1000];

fn free<F: Family>(address: usize, size: usize) {
    // SAFETY: allocated with this size, and given up.
    unsafe { F::free(std::ptr::with_exposed_provenance_mut(address), size) };
}

fn allocate<F: Family>(size: usize) -> usize {
    F::malloc(size).expose_provenance()
}

/// Of a hundred slots that are freed, how many are among the next so many that are handed out?
fn hits<F: Family>(size: usize, between: usize) -> f64 {
    let long = if std::env::var_os("FAMILY_ALLOC_TEST_LONG").is_some() { 10 } else { 1 };
    let tries = long * (10_000 / between).clamp(100, 2_000);
    let mut random = Random::new(between as u64);
    let mut held: Vec<usize> = (0..HELD).map(|_| allocate::<F>(size)).collect();
    let mut hit_count = 0;
    for _ in 0..tries {
        let stale = held.swap_remove(random.below(HELD));
        free::<F>(stale, size);
        let next: Vec<usize> = (0..between).map(|_| allocate::<F>(size)).collect();
        hit_count += usize::from(next.contains(&stale));
        next.into_iter().for_each(|address| free::<F>(address, size));
        held.push(allocate::<F>(size));
    }
    held.into_iter().for_each(|address| free::<F>(address, size));
    100.0 * hit_count as f64 / tries as f64
}

/// The figures stand in `SECURITY.md`.
#[test]
fn a_stale_free_hits_as_often_as_the_page_says() {
    for size in [64, 4096, 65_536] {
        for between in BETWEEN {
            let [plain, watched, guarded] =
                [hits::<Plain>(size, between), hits::<Watched>(size, between), hits::<Guarded>(size, between)];
            println!(
                "{size} B, {between} between: default {plain:.0} %, checked {watched:.0} %, hardened {guarded:.1} %"
            );
            assert_eq!((plain, watched), (100.0, 100.0), "the last one freed is the next one handed out");
            // The quarantine is a quarter of the magazine.
            assert!(guarded < 10.0 || between > 1 || size > 4096, "{guarded} % of the next are the last");
        }
    }
}
