//! Any layout that fits frees, every alignment holds, and a size of zero costs nothing.

mod common;

use std::alloc::{GlobalAlloc, Layout};
use std::ptr::NonNull;

use allocator_api2::alloc::Allocator;
use common::doors::{Doors, Resize, is_aligned, layout};
use common::pattern;
use common::random::Random;
use family_alloc::{Family, family};

const MOST: usize = 64 << 10;

/// Every power of two from 1 to `most`.
fn alignments(most: usize) -> impl Iterator<Item = usize> {
    (0..=most.ilog2()).map(|shift| 1 << shift)
}

/// Allocates with one size and frees with another of the same class, checking everything that a layout promises.
#[inline]
fn allocate_and_free<F: Family>(allocate: Layout, free: impl FnOnce(NonNull<[u8]>) -> usize) {
    let family = F::default();
    let memory = Allocator::allocate(&family, allocate).unwrap_or_else(|_| panic!("{allocate:?} is refused"));
    assert!(memory.len() >= allocate.size(), "{allocate:?} got {} bytes", memory.len());
    assert!(is_aligned(memory.addr().get(), Doors::of::<F>().promised_align(allocate)), "{allocate:?} got {memory:p}");
    let fitting = layout(free(memory), allocate.align());
    // SAFETY: allocated above, and a size from the requested to the returned one fits.
    unsafe { Allocator::deallocate(&family, memory.cast(), fitting) };
}

fn every_layout_to_64_kib<F: Family>() {
    let (doors, mut random) = (Doors::of::<F>(), Random::new(1));
    for align in alignments(MOST) {
        for size in 1..=MOST {
            let requested = layout(size, align);
            allocate_and_free::<F>(requested, |memory| memory.len());
            // The slot's size gives back the class that every size in it has; so this frees with every fitting size.
            let whole = layout(doors.occupied(requested), align);
            allocate_and_free::<F>(whole, |_| size);
            if size % 8 == 0 {
                allocate_and_free::<F>(requested, |memory| random.between(size, memory.len()));
            }
        }
    }
    let stats = F::stats();
    assert_eq!((stats.live_allocations, stats.live_bytes), (0, 0), "{stats}");
}

#[test]
fn any_fitting_layout_frees_up_to_64_kib() {
    family! { struct Every; }
    every_layout_to_64_kib::<Every>();
}

#[test]
fn any_fitting_layout_frees_up_to_64_kib_with_small_slabs() {
    family! { struct EverySmall { slab_bytes: 64 * 1024 } }
    every_layout_to_64_kib::<EverySmall>();
}

#[test]
fn any_fitting_layout_frees_at_random_sizes_above() {
    family! { struct Above; struct AboveSmall { slab_bytes: 128 * 1024 } struct AboveSpaced { classes: Spaced } }
    let mut random = Random::new(2);
    for _ in 0..5000 {
        let size = random.size(64 << 20);
        let requested = layout(size, 1 << random.below(24));
        allocate_and_free::<Above>(requested, |memory| random.between(size, memory.len()));
        allocate_and_free::<AboveSmall>(requested, |memory| random.between(size, memory.len()));
        allocate_and_free::<AboveSpaced>(requested, |memory| random.between(size, memory.len()));
    }
    for stats in [Above::stats(), AboveSmall::stats(), AboveSpaced::stats()] {
        assert_eq!((stats.live_allocations, stats.live_bytes), (0, 0), "{stats}");
    }
}

#[test]
fn alignments_far_above_a_page_hold() {
    family! { struct Aligned; struct AlignedSmall { slab_bytes: 64 * 1024 } struct AlignedSpaced { classes: Spaced } }
    for doors in [Doors::of::<Aligned>(), Doors::of::<AlignedSmall>(), Doors::of::<AlignedSpaced>()] {
        for align in alignments(64 << 20).filter(|&align| align >= 4096) {
            for size in [1, align / 2 - 1, align / 2 + 1, align, align + 1, 3 * align] {
                let requested = layout(size, align);
                // Two at once, so that the second cannot have the place where the first happened to be aligned.
                let pair = [(); 2].map(|()| (doors.allocate)(requested).expect("there is address space for this"));
                for memory in pair {
                    assert!(is_aligned(memory.addr().get(), align), "{requested:?} got {memory:p}");
                    assert_eq!(memory.len(), doors.occupied(requested), "{requested:?}");
                }
                for memory in pair {
                    // SAFETY: allocated above with this layout.
                    unsafe { (doors.deallocate)(memory.cast(), requested) };
                }
            }
        }
        assert_eq!((doors.stats)().live_allocations, 0);
    }
}

/// Resizes from every layout to every other, by each call that the sizes allow.
#[test]
fn resizing_from_any_layout_to_any_other_keeps_the_contents() {
    family! { struct Resized; struct ResizedSmall { slab_bytes: 64 * 1024 } struct ResizedSpaced { classes: Spaced } }
    let sizes = [1, 3, 64, 100, 4096, 5000, 40_000, 1 << 20, 3 << 20];
    let layouts: Vec<Layout> =
        sizes.into_iter().flat_map(|size| [1, 64, 4096, 1 << 16, 4 << 20].map(|align| layout(size, align))).collect();
    for doors in [Doors::of::<Resized>(), Doors::of::<ResizedSmall>(), Doors::of::<ResizedSpaced>()] {
        for (&old, &new) in layouts.iter().flat_map(|old| layouts.iter().map(move |new| (old, new))) {
            if new.size() >= old.size() {
                resize(doors, old, new, doors.grow);
                let grown_zeroed = resize(doors, old, new, doors.grow_zeroed);
                assert!(grown_zeroed, "{}: {old:?} to {new:?}: not zero to the end", doors.name);
            }
            if new.size() <= old.size() {
                resize(doors, old, new, doors.shrink);
            }
        }
        assert_eq!((doors.stats)().live_allocations, 0);
    }
}

/// Allocates, resizes by `call`, checks and frees; returns whether all behind the old size is zero.
fn resize(doors: Doors, old: Layout, new: Layout, call: Resize) -> bool {
    let memory = (doors.allocate)(old).expect("memory");
    pattern::fill(NonNull::slice_from_raw_parts(memory.cast(), old.size()), old.size());
    // SAFETY: allocated above with `old`; the sizes are in the order that the call wants.
    let resized = unsafe { call(memory.cast(), old, new) }.expect("memory");
    assert!(
        is_aligned(resized.addr().get(), doors.promised_align(new)),
        "{}: {old:?} to {new:?}: {resized:p}",
        doors.name
    );
    assert_eq!(resized.len(), doors.occupied(new), "{}: {old:?} to {new:?}", doors.name);
    assert!(pattern::holds(resized.cast(), old.size().min(new.size()), old.size()), "{old:?} to {new:?}: contents");
    let zero_behind = new.size() >= old.size() && pattern::is_zero_from(resized, old.size());
    // All of it can be written to.
    pattern::fill(NonNull::slice_from_raw_parts(resized.cast(), new.size()), 1);
    // SAFETY: what the call above returned, with the layout that it was asked for.
    unsafe { (doors.deallocate)(resized.cast(), new) };
    zero_behind
}

#[test]
fn a_size_of_zero_is_aligned_and_costs_nothing() {
    family! { struct Nothing; }
    let doors = Doors::of::<Nothing>();
    for align in alignments(1 << (usize::BITS - 2)) {
        let empty = layout(0, align);
        for memory in [(doors.allocate)(empty), (doors.allocate_zeroed)(empty)] {
            let memory = memory.expect("nothing can always be had");
            assert!(is_aligned(memory.addr().get(), align));
            assert_eq!(memory.len(), 0);
            // SAFETY: allocated above with this layout.
            unsafe { (doors.deallocate)(memory.cast(), empty) };
        }
    }
    assert_eq!(Nothing::stats().reserved_bytes, 0, "no address space was needed");
    assert!(family_alloc::families().all(|family| family.name() != "Nothing"), "it has not been used");
}

#[test]
fn a_size_of_zero_grows_and_shrinks_like_any_other() {
    family! { struct ToNothing; }
    let doors = Doors::of::<ToNothing>();
    for (size, align) in [(1, 1), (100, 64), (8192, 8), (3 << 20, 8)] {
        let (empty, full) = (layout(0, 16), layout(size, align));
        let memory = (doors.allocate)(empty).expect("nothing can always be had");
        // SAFETY: an allocation of size zero grows.
        let grown = unsafe { (doors.grow_zeroed)(memory.cast(), empty, full) }.expect("memory");
        assert!(grown.len() >= size && pattern::is_zero_from(grown, 0));
        // SAFETY: what the call above returned shrinks.
        let shrunk = unsafe { (doors.shrink)(grown.cast(), full, empty) }.expect("nothing can always be had");
        assert_eq!((shrunk.len(), shrunk.addr().get() % 16, ToNothing::stats().live_allocations), (0, 0, 0));
        // SAFETY: an allocation of size zero grows.
        let grown = unsafe { (doors.grow)(shrunk.cast(), empty, full) }.expect("memory");
        // SAFETY: what the call above returned, with its layout.
        unsafe { (doors.deallocate)(grown.cast(), full) };
        assert_eq!(ToNothing::stats().live_allocations, 0);
    }
}

#[test]
fn the_global_door_takes_every_layout_too() {
    family! { struct Door; }
    let mut random = Random::new(3);
    for _ in 0..4000 {
        let old = layout(random.size(4 << 20), 1 << random.below(16));
        let zeroed = random.below(2) == 0;
        // SAFETY: the layout's size is not zero.
        let memory = if zeroed { unsafe { Door.alloc_zeroed(old) } } else { unsafe { Door.alloc(old) } };
        let memory = NonNull::new(memory).expect("memory");
        assert!(is_aligned(memory.addr().get(), Doors::of::<Door>().promised_align(old)), "{old:?}");
        let slice = NonNull::slice_from_raw_parts(memory, old.size());
        assert!(!zeroed || pattern::is_zero_from(slice, 0), "{old:?}");
        pattern::fill(slice, 7);
        let new_size = random.size(4 << 20);
        // SAFETY: allocated above with this layout; the new size is not zero and far from overflow.
        let memory = NonNull::new(unsafe { Door.realloc(memory.as_ptr(), old, new_size) }).expect("memory");
        let new = layout(new_size, old.align());
        assert!(is_aligned(memory.addr().get(), Doors::of::<Door>().promised_align(new)), "{old:?} to {new:?}");
        assert!(pattern::holds(memory, new_size.min(old.size()), 7), "{old:?} to {new:?}");
        // SAFETY: reallocated to this layout.
        unsafe { Door.dealloc(memory.as_ptr(), new) };
    }
    assert_eq!(Door::stats().live_allocations, 0);
}
