//! The collections of `allocator_api2` 0.2, 0.3 and 0.4 over one family.
#![cfg(all(feature = "allocator-api2-02", feature = "allocator-api2-03", feature = "allocator-api2-04"))]
#![cfg(not(feature = "nightly-02"))]

use std::mem;
use std::ptr::NonNull;

use allocator_api2_02 as v02;
use allocator_api2_03 as v03;
use allocator_api2_04 as v04;
use compat_worlds::Second;
use family_alloc::{Family, FamilyAlloc, family};

/// Fills, grows, shrinks and drops a vector and a box of the world `$world`, in a family of its own.
macro_rules! collections {
    ($test:ident, $world:ident) => {
        #[test]
        fn $test() {
            family! { struct Own; }

            let mut numbers = $world::vec::Vec::new_in(Own);
            assert_eq!(Own::stats().live_allocations, 0, "an empty vector has no memory");
            numbers.extend(0..10_000_u32);
            assert_eq!(Own::stats().live_allocations, 1);
            assert!(Own::stats().live_bytes >= 10_000 * size_of::<u32>());
            numbers.truncate(10);
            numbers.shrink_to_fit();
            assert!(Own::stats().live_bytes < 10_000 * size_of::<u32>());
            assert!(numbers.iter().copied().eq(0..10));

            let boxed = $world::boxed::Box::new_in([7_u64; 32], Own);
            assert_eq!(Own::stats().live_allocations, 2);
            assert_eq!(*boxed, [7; 32]);

            drop(numbers);
            drop(boxed);
            assert_eq!(Own::stats().live_allocations, 0);
            assert_eq!(Own::stats().live_bytes, 0);
        }
    };
}

/// `F: Family` is the one bound that a library writes, whatever is switched on.
#[test]
fn one_bound_is_enough_in_every_world() {
    type Vectors<F> = (v02::vec::Vec<u32, F>, v03::vec::Vec<u32, F>, v04::vec::Vec<u32, F>);

    fn vectors<F: Family>() -> Vectors<F> {
        let mut vectors = (
            v02::vec::Vec::new_in(F::default()),
            v03::vec::Vec::new_in(F::default()),
            v04::vec::Vec::new_in(F::default()),
        );
        vectors.0.push(2);
        vectors.1.push(3);
        vectors.2.push(4);
        vectors
    }

    family! { struct Own; }

    let vectors = vectors::<Own>();
    assert_eq!((vectors.0[0], vectors.1[0], vectors.2[0]), (2, 3, 4));
    assert_eq!(Own::stats().live_allocations, 3);
    drop(vectors);
    assert_eq!(Own::live_bytes(), 0);
}

/// What this crate exports again is what it implements the traits of.
#[test]
fn the_exported_crates_are_those_of_the_worlds() {
    fn same<T>(_: T, _: T) {}
    same(family_alloc::Vec::<u8>::new(), v02::vec::Vec::new());
    same(family_alloc::allocator_api2::vec::Vec::<u8>::new(), v02::vec::Vec::new());
    same(family_alloc::allocator_api2_03::vec::Vec::<u8>::new(), v03::vec::Vec::new());
    same(family_alloc::allocator_api2_04::vec::Vec::<u8>::new(), v04::vec::Vec::new());
}

collections!(collections_of_02, v02);
collections!(collections_of_03, v03);
collections!(collections_of_04, v04);

/// Grows with zeros and changes the alignment through the trait itself, by reference as well.
macro_rules! methods {
    ($test:ident, $world:ident) => {
        #[test]
        fn $test() {
            use std::alloc::Layout;

            use $world::alloc::Allocator;

            family! { struct Own; }

            let small = Layout::from_size_align(24, 8).unwrap();
            let large = Layout::from_size_align(5000, 64).unwrap();
            let slot = (&Own).allocate_zeroed(small).unwrap();
            assert!(slot.len() >= 24);
            let start: NonNull<u8> = slot.cast();
            // SAFETY: the slot is allocated, and all of it may be written.
            unsafe { start.write_bytes(0xA5, 24) };
            // SAFETY: `start` is allocated by the family with `small`, which is not larger than `large`.
            let slot = unsafe { Own.grow_zeroed(start, small, large) }.unwrap();
            // SAFETY: what was written is kept and all the rest is zero, so that every byte is initialised.
            let bytes = unsafe { slot.as_ref() };
            assert!(bytes.len() >= 5000);
            assert_eq!(bytes.as_ptr().addr() % 64, 0);
            assert_eq!(bytes[..24], [0xA5; 24]);
            assert!(bytes[24..].iter().all(|&byte| byte == 0));
            // SAFETY: the pointer is allocated by the family with `large`, which is not smaller than `small`.
            let slot = unsafe { Own.shrink(slot.cast(), large, small) }.unwrap();
            // SAFETY: the first 24 bytes are kept.
            assert_eq!(unsafe { slot.cast::<[u8; 24]>().read() }, [0xA5; 24]);
            // SAFETY: the pointer is allocated by the family with `small`.
            unsafe { Own.deallocate(slot.cast(), small) };
            assert_eq!(Own::stats().live_allocations, 0);

            let nothing = Own.allocate(Layout::from_size_align(0, 4096).unwrap()).unwrap();
            assert_eq!(nothing.cast::<u8>().addr().get() % 4096, 0);
            assert_eq!(Own::stats().live_allocations, 0, "nothing costs nothing");
            assert_eq!(
                Own.allocate(Layout::from_size_align(isize::MAX as usize, 1).unwrap()),
                Err($world::alloc::AllocError)
            );
        }
    };
}

methods!(methods_of_02, v02);
methods!(methods_of_03, v03);
methods!(methods_of_04, v04);

#[test]
fn a_vector_keeps_its_size() {
    assert_eq!(size_of::<v02::vec::Vec<u32, FamilyAlloc>>(), 3 * size_of::<usize>());
    assert_eq!(size_of::<v03::vec::Vec<u32, FamilyAlloc>>(), 3 * size_of::<usize>());
    assert_eq!(size_of::<v04::vec::Vec<u32, FamilyAlloc>>(), 3 * size_of::<usize>());
    assert_eq!(size_of::<v02::boxed::Box<u32, FamilyAlloc>>(), size_of::<usize>());
}

#[test]
fn the_worlds_share_the_family() {
    let before = Second::stats().live_allocations;
    let three = (
        v02::vec::Vec::<u8, _>::with_capacity_in(100, Second),
        v03::vec::Vec::<u8, _>::with_capacity_in(100, Second),
        v04::vec::Vec::<u8, _>::with_capacity_in(100, Second),
    );
    assert_eq!(Second::stats().live_allocations, before + 3);
    mem::drop(three);
    assert_eq!(Second::stats().live_allocations, before);
}
