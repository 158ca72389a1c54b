//! What is promised to read zero does, whatever the memory held before and whether or not the system took it back.

mod common;

use common::doors::{Doors, layout};
use common::pattern;
use family_alloc::family;

const MIB: usize = 1 << 20;

#[test]
fn growing_with_zeroes_to_where_another_allocation_was_clears_that() {
    family! { struct Grown; }
    let doors = Doors::of::<Grown>();
    // The second alignment cannot be had by moving pages, so the contents are copied to a mapping that was used before.
    for (old, new) in [(layout(3 * MIB, 1), layout(6 * MIB, 8 * MIB)), (layout(3 * MIB, 1), layout(6 * MIB, 1))] {
        let memory = (doors.allocate)(old).expect("memory");
        pattern::fill(memory, 1);
        let used_before: Vec<_> = (0..4).map(|_| (doors.allocate)(new).expect("memory")).collect();
        for memory in used_before {
            pattern::fill(memory, 2);
            // SAFETY: allocated above with this layout.
            unsafe { (doors.deallocate)(memory.cast(), new) };
        }
        // SAFETY: allocated above with `old`, and `new` is larger.
        let grown = unsafe { (doors.grow_zeroed)(memory.cast(), old, new) }.expect("memory");
        assert!(pattern::holds(grown.cast(), old.size(), 1), "{old:?} to {new:?}: the contents came along");
        assert!(pattern::is_zero_from(grown, old.size()), "{old:?} to {new:?}: the rest is zero");
        // SAFETY: grown to this layout.
        unsafe { (doors.deallocate)(grown.cast(), new) };
    }
}
