//! A library with a copy of the crate of its own, for `tests/process/library.rs` to build and load.

use family_alloc::{Family, families, family};

family! {
    struct Plugin;
    struct PluginSmall { slab_bytes: 64 * 1024 }
    struct PluginChecked { checks: Checked }
    struct PluginHardened { checks: Hardened }
}

/// Calls `$function::<F>($argument…)` for the family with this number.
macro_rules! with_family {
    ($number:expr, $function:ident($($argument:expr),*)) => {
        match $number {
            0 => $function::<Plugin>($($argument),*),
            1 => $function::<PluginSmall>($($argument),*),
            2 => $function::<PluginChecked>($($argument),*),
            _ => $function::<PluginHardened>($($argument),*),
        }
    };
}

fn allocate<F: Family>(size: usize) -> *mut u8 {
    F::malloc(size)
}

fn free<F: Family>(pointer: *mut u8, size: usize) {
    // SAFETY: the loader's contract: from `plugin_allocate` with this size, or a misuse that must be found.
    unsafe { F::free(pointer, size) };
}

#[unsafe(no_mangle)]
extern "C" fn plugin_allocate(family: u32, size: usize) -> *mut u8 {
    with_family!(family, allocate(size))
}

#[unsafe(no_mangle)]
extern "C" fn plugin_free(family: u32, pointer: *mut u8, size: usize) {
    with_family!(family, free(pointer, size));
}

/// Allocates and frees in every way that the engine knows, in every family.
#[unsafe(no_mangle)]
extern "C" fn plugin_use() {
    for family in 0..4 {
        for size in [1, 24, 1000, 8192, 1 << 20, 3 << 20] {
            for _ in 0..if size < 8192 { 200 } else { 2 } {
                let pointer = plugin_allocate(family, size);
                assert!(!pointer.is_null(), "no memory for {size} bytes");
                plugin_free(family, pointer, size);
            }
        }
    }
}

/// Live allocations of all families of this copy, caches that threads have, and the number of its families.
#[unsafe(no_mangle)]
extern "C" fn plugin_counts(counts: &mut [usize; 3]) {
    *counts = [0; 3];
    for stats in families().map(|family| family.stats()) {
        counts[0] += stats.live_allocations;
        counts[1] += stats.thread_caches;
        counts[2] += 1;
    }
}
