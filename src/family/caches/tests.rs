//! What idle classes hold, and who gets it.

use core::alloc::Layout;

use super::*;
use crate::front::{Handle, allocate, deallocate};

crate::family! { struct Crowded { classes: Spaced, cache_bytes: 64 * 1024 } }

fn in_turn(bytes: usize, count: usize) {
    let layout = Layout::from_size_align(bytes, 1).unwrap();
    let slots: Vec<_> = (0..count).map(|_| allocate(Crowded, layout).unwrap().cast::<u8>()).collect();
    for slot in slots {
        // SAFETY: allocated above with this layout, and not used.
        unsafe { deallocate(Crowded, slot, layout) };
    }
}

/// All that a cache may hold is with classes that were used once; the one that is used now gets what it needs of that.
#[test]
fn what_idle_classes_hold_goes_to_the_one_that_is_used() {
    std::thread::spawn(|| {
        (0..8).for_each(|_| (64..4096).step_by(64).for_each(|bytes| in_turn(bytes, 100)));
        let cache = ThreadCache::in_slot(Crowded.core().slot()).expect("a cache was earned");
        let (used, granted) = (cache.used_bytes.get(), cache.granted_bytes.get());
        assert!(granted == 64 << 10 && used > granted / 2, "{used} of {granted} bytes");
        let class = Crowded.core().class_of(Layout::from_size_align(100, 1).unwrap());
        let most = magazine_slots(class, Crowded.core().checks, Crowded.core().cache_bytes());
        let rounds = (1..100).find(|_| {
            in_turn(100, 1000);
            cache.cache.magazine(class).capacity() == most
        });
        assert!(rounds.is_some_and(|rounds| rounds <= 20), "{rounds:?} rounds to {most} slots");
        assert!(cache.used_bytes.get() <= cache.granted_bytes.get());
    })
    .join()
    .unwrap();
}
