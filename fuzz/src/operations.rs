//! One thread, all families, the shadow model beside them.

use crate::common::doors::Doors;
use crate::common::shadow::check_counters;
use crate::common::steps::Holdings;
use crate::input::{ENDS, Input};

/// Runs the steps that the bytes say; panics if a promise is broken. Returns how many steps there were.
pub fn operations(data: &[u8]) -> usize {
    let mut input = Input::new(data);
    let mut holdings = Holdings::new(ENDS);
    let mut steps = 0;
    while let Ok(step) = input.step() {
        holdings.step(&step);
        steps += 1;
    }
    input.used().for_each(|doors| check_counters(doors, &holdings.live));
    free_all(&mut holdings);
    input.used().for_each(assert_gone);
    steps
}

/// Frees what is left, the oldest first, each with another size that fits.
pub(crate) fn free_all(holdings: &mut Holdings) {
    for (index, slot) in std::mem::take(&mut holdings.live).into_iter().enumerate() {
        holdings.model.remove(&slot);
        slot.deallocate(index as u8);
    }
}

/// Trims a family of which nobody holds anything: nothing may be left of it.
pub(crate) fn assert_gone(doors: &'static Doors) {
    (doors.trim)();
    let stats = (doors.stats)();
    let live = [stats.live_allocations, stats.live_bytes, stats.large_allocations, stats.large_bytes];
    assert_eq!(live, [0; 4], "{stats}");
    assert_eq!((stats.slab_bytes, stats.kept_bytes, stats.cached_slots), (0, 0, 0), "{stats}");
}
