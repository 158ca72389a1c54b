//! What is allocated together lies together, also where everything was freed at random.

mod common;

use std::alloc::Layout;
use std::ptr::NonNull;

use allocator_api2::alloc::Allocator;
use common::random::Random;
use family_alloc::{Family, family};

// In shorter slabs it does not pay to put the list in order.
family! { struct Nodes { slab_bytes: 2 << 20 } }

/// Allocates `count` slots; how many of them lie right behind or right before the one allocated just before.
fn allocate(count: usize, layout: Layout) -> (Vec<NonNull<u8>>, usize) {
    let slots: Vec<NonNull<u8>> = (0..count).map(|_| Nodes.allocate(layout).unwrap().cast()).collect();
    let neighbours =
        slots.windows(2).filter(|pair| pair[0].addr().get().abs_diff(pair[1].addr().get()) == layout.size()).count();
    (slots, neighbours)
}

fn free(slots: impl IntoIterator<Item = NonNull<u8>>, layout: Layout) {
    for slot in slots {
        // SAFETY: every slot was allocated with this layout and is freed once.
        unsafe { Nodes.deallocate(slot, layout) };
    }
}

#[test]
fn slots_freed_at_random_are_handed_out_in_address_order() {
    let mut random = Random::new(7);
    for size in [8, 16, 64, 256, 1024] {
        let layout = Layout::from_size_align(size, size).unwrap();
        let count = (32 << 20) / size.max(64);
        let (mut slots, _) = allocate(count, layout);
        for place in (1..count).rev() {
            slots.swap(place, random.below(place + 1));
        }
        // Some stay, so that no slab becomes empty.
        let kept = slots.split_off(count - count / 100);
        let freed = slots.len();
        free(slots, layout);
        let (slots, neighbours) = allocate(freed, layout);
        // What the thread and the depot hold comes first, as it was freed; each slot that stayed parts two others.
        assert!(neighbours > freed * 9 / 10, "{size}: {neighbours} of {freed} lie beside the one before");
        free(slots.into_iter().chain(kept), layout);
        assert_eq!(Nodes::stats().live_bytes, 0);
    }
}
