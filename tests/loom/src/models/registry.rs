//! The registry: families become known once, whole, and to everybody.

use std::collections::BTreeSet;

use crate::Family;
use crate::family::families;
use crate::sync::Sleep;
use crate::world::{One, QUARTER, Two, disown, explore, let_others_go_first, own, spawn};

/// A use of a family by a thread without a cache, which makes it known.
fn take<F: Family>() -> usize {
    let (slot, _) = F::__core().take_one(QUARTER).expect("there is memory");
    own(slot);
    slot
}

fn names() -> Vec<&'static str> {
    // More than there are families: a list that goes in a circle is found.
    families().take(5).map(|family| family.name()).collect()
}

/// Two families at once, and a walk over all meanwhile: it sees each at most once, and what was there before what it saw.
pub fn two_families_at_once() {
    explore(Sleep::Lightly, || {
        let walker = spawn(|| {
            let_others_go_first();
            names()
        });
        let one = spawn(take::<One>);
        take::<Two>();
        one.join();
        let seen = walker.join();
        assert_eq!(seen.len(), seen.iter().collect::<BTreeSet<_>>().len(), "{seen:?}");
        let all = names();
        assert_eq!(all.len(), 2, "{all:?}");
        assert!(all.ends_with(&seen), "{all:?} after {seen:?}: what was found first leads to the rest");
    });
}

/// Two threads make the same family known: it gets one number, and stands in the list once.
pub fn one_family_by_two_threads() {
    explore(Sleep::Lightly, || {
        let other = spawn(take::<One>);
        let slot = take::<One>();
        let others = other.join();
        assert_eq!(names(), ["One"]);
        assert!(One::__core().owns(slot, QUARTER) && One::__core().owns(others, QUARTER));
    });
}

/// Who finds the family known finds its depots as well, and with them what is in them.
pub fn depots_come_with_the_number() {
    explore(Sleep::Lightly, || {
        let other = spawn(|| {
            let slot = take::<One>();
            disown(slot);
            // SAFETY: taken above. A batch of the class is one slot, so it goes to the depot.
            unsafe { One::__core().give_one(QUARTER, slot) };
        });
        let slot = take::<One>();
        other.join();
        disown(slot);
        // SAFETY: taken above.
        unsafe { One::__core().give_one(QUARTER, slot) };
        assert_eq!(One::stats().live_allocations, 0);
    });
}
