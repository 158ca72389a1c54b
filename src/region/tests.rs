//! The units of one family: which is taken, when they go back, and what is reserved for them.

use super::*;
use crate::header::STATE_UNIT_COUNT;

/// All of a unit of 64 KiB, usable: where that is counted, as much is as its slab has handed out.
fn whole(unit: &Unit) -> &'static mut [u8] {
    let memory = NonNull::new(unit.header.memory()).unwrap();
    assert!(!os::DECOMMITS || commit_up_to(unit.header, memory, 1 << 16, 1 << 16));
    // SAFETY: committed memory of 64 KiB, which the test has.
    unsafe { core::slice::from_raw_parts_mut(memory.as_ptr(), 1 << 16) }
}

fn address(unit: &Unit) -> usize {
    unit.header.memory().addr()
}

#[test]
fn a_dirty_unit_is_taken_before_a_clean_one_of_another_region() {
    let mut pool = UnitPool::new(16);
    let units: Vec<Unit> = (0..64).map(|_| pool.take(Pages::Small).unwrap()).collect();
    // The first region is full until this unit comes back; then a clean unit of the second is made the first choice.
    pool.give(units[5].header, 0);
    let full = pool.with_room.unwrap();
    let second = full.next_with_room.replace(None).unwrap();
    second.next_with_room.set(Some(full));
    pool.with_room = Some(second);
    let taken = pool.take(Pages::Small).unwrap();
    assert_eq!(address(&taken), address(&units[5]));
    assert_eq!((pool.dirty_count, taken.zeroed), (0, false));
    let next = pool.take(Pages::Small).unwrap();
    assert!(next.zeroed && address(&next) == address(&units[63]) + (1 << 16), "the others are still there, in order");
}

/// With the first of two regions full, all of the second's committed units out, and the first's back and clean.
#[test]
#[cfg_attr(any(miri, feature = "portable", target_family = "wasm"), ignore = "this backend gives no pages back")]
fn committed_units_serve_where_no_more_can_be_committed() {
    let lock = Lock::new(UnitPool::new(16));
    let mut pool = lock.lock();
    let units: Vec<Unit> = (0..70).map(|_| pool.take(Pages::Small).unwrap()).collect();
    units[..63].iter().for_each(|unit| pool.give(unit.header, 0));
    drop(pool);
    assert_eq!(purge_all(&lock, 0, |_| ()), 63 << 16);
    let mut pool = lock.lock();
    let first = pool.with_room.unwrap();
    let second = first.next_with_room.replace(None).unwrap();
    second.next_with_room.set(Some(first));
    pool.with_room = Some(second);
    let region = pool.bring_committed_to_front().unwrap().region;
    assert!(core::ptr::eq(region, first) && core::ptr::eq(pool.with_room.unwrap(), first));
    assert!(core::ptr::eq(first.next_with_room.get().unwrap(), second) && second.next_with_room.get().is_none());
    assert_eq!(address(&pool.take(Pages::Small).unwrap()), address(&units[0]));
}

#[test]
fn units_come_in_address_order_and_dirty_ones_first() {
    let mut pool = UnitPool::new(16);
    let units: Vec<Unit> = (0..130).map(|_| pool.take(Pages::Small).unwrap()).collect();
    assert_eq!(pool.reserved_bytes, 3 * (UNIT_COUNT << 16));
    for pair in units[..63].windows(2) {
        assert_eq!(address(&pair[0]) + (1 << 16), address(&pair[1]));
    }
    assert!(units.iter().all(|unit| unit.zeroed));
    pool.give(units[7].header, 0);
    let again = pool.take(Pages::Small).unwrap();
    assert_eq!(address(&again), address(&units[7]));
    assert!(!again.zeroed, "an unpurged unit is not known to be zero");
}

#[test]
#[cfg_attr(any(miri, feature = "portable", target_family = "wasm"), ignore = "this backend gives no pages back")]
fn units_on_their_way_to_the_system_are_nobodys() {
    let lock = Lock::new(UnitPool::new(16));
    let units: Vec<Unit> = (0..63).map(|_| lock.lock().take(Pages::Small).unwrap()).collect();
    units[..9].iter().for_each(|unit| lock.lock().give(unit.header, 0));
    let seen = core::cell::Cell::new(0);
    let also = |_| {
        seen.set(seen.get() + 1);
        if seen.get() == 1 {
            let other = lock.lock().take(Pages::Small).unwrap();
            assert_eq!(address(&other), address(&units[8]), "the one that is not of the batch");
        } else if seen.get() == 8 {
            let other = lock.lock().take(Pages::Small).unwrap();
            assert_ne!(address(&other) >> 22, address(&units[0]) >> 22, "the region is full");
        }
    };
    assert_eq!(purge_all(&lock, 0, also), 8 << 16);
    assert_eq!((seen.get(), lock.lock().dirty_count), (8, 0));
    let taken: Vec<usize> = (0..8).map(|_| address(&lock.lock().take(Pages::Small).unwrap())).collect();
    assert_eq!(taken, units[..8].iter().map(address).collect::<Vec<_>>(), "they are there again, first choice");
}

#[test]
fn states_take_the_first_units() {
    let mut pool = UnitPool::new(16).with_states(true);
    let units: Vec<Unit> = (0..57).map(|_| pool.take(Pages::Small).unwrap()).collect();
    assert_eq!(pool.reserved_bytes, 2 * (UNIT_COUNT << 16));
    assert_eq!((address(&units[0]) >> 16) % UNIT_COUNT, STATE_UNIT_COUNT);
    let last = units[0].header.memory().wrapping_sub(1);
    // SAFETY: the last byte of the last side unit, committed with the first slab.
    unsafe { last.write(1) };
}

#[test]
#[cfg_attr(any(miri, feature = "portable", target_family = "wasm"), ignore = "this backend gives no pages back")]
fn purged_units_read_zero_and_wait_their_time() {
    let pool = Lock::new(UnitPool::new(16));
    let unit = pool.lock().take(Pages::Small).unwrap();
    whole(&unit).fill(0xAB);
    pool.lock().give(unit.header, 10);
    assert!(!purge_aged(&pool, 10 + PURGE_AFTER_MILLISECONDS - 1, |_| ()), "too young");
    assert_eq!(pool.lock().dirty_count, 1);
    assert!(purge_aged(&pool, 10 + PURGE_AFTER_MILLISECONDS, |_| ()));
    assert_eq!(pool.lock().dirty_count, 0);
    let again = pool.lock().take(Pages::Small).unwrap();
    assert_eq!(address(&again), address(&unit));
    assert!(again.zeroed);
    assert!(whole(&again).iter().all(|&byte| byte == 0));
}
