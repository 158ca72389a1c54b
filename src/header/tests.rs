//! Tags and headers of regions: any address can be looked up, and finds its own.

use super::*;

#[test]
fn any_address_can_be_looked_up() {
    let directory = Directory::of(21);
    let region = directory.reserve_region(8).unwrap();
    let base = region.memory.get().addr();
    assert_eq!(base % (UNIT_COUNT << 21), 0);
    // SAFETY: the region claimed above.
    assert!(core::ptr::eq(unsafe { directory.region(base + (5 << 21) + 17) }, region));
    let wild = [
        0,
        1,
        4096,
        usize::MAX,
        usize::MAX / 2,
        usize::MAX / 4 + 1,
        base,
        base + (1 << 21),
        (&raw const region).addr(),
    ];
    for address in wild {
        assert!(directory.slab(address).is_none(), "{address:#x}");
        assert_eq!(View::CLOSED.tag(address, 21), 0);
    }
    let unit = base + (5 << 21);
    // SAFETY: a unit of the region, which no other test has, here and below.
    unsafe { directory.set_tag(unit, 77) };
    assert_eq!(directory.tag(unit + 12345), 77);
    assert_eq!(directory.tag(base + (6 << 21)), 0);
    let header = directory.slab(unit + 12345).unwrap();
    // SAFETY: as above.
    assert!(core::ptr::eq(header, unsafe { directory.header(unit) }));
    // What has the same tag has the same header, wherever it would lie.
    let far = unit.wrapping_add(directory.stretch_mask().wrapping_add(1));
    assert!(core::ptr::eq(directory.slab(far).unwrap(), header));
    assert!(directory.tells_apart(unit) && (far == unit || !directory.tells_apart(far)));
    // SAFETY: as above.
    unsafe { directory.set_tag(unit, 0) };
    assert!(directory.slab(unit).is_none());
}

#[test]
#[cfg_attr(any(miri, feature = "portable"), ignore = "`System` finds few aligned regions in one stretch")]
fn all_regions_lie_in_one_stretch_and_apart() {
    let directory = Directory::of(20);
    let mut entries = std::collections::HashSet::new();
    for count in [2, 64, 3, 9, 64, 2] {
        let region = directory.reserve_region(count).unwrap().memory.get().addr();
        assert_eq!(region % (UNIT_COUNT << 20), 0);
        for unit in 0..UNIT_COUNT {
            let address = region + (unit << 20);
            assert!(directory.tells_apart(address));
            assert!(entries.insert(directory.view().entry(address, 20)), "two units share a tag");
        }
    }
}
