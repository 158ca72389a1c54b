//! Giving memory that is not live back to the system: pages of free slots in slabs that are used otherwise, and free units.
//!
//! | when | what |
//! | --- | --- |
//! | `trim` | all of it |
//! | housekeeping | what nobody has needed for a second: of a bin as many slots as were idle all the time, units that were free all the time |
//!
//! Slabs are gone through from the end of the bin's list, where those are that have been free longest; those that were looked at stand in front, and
//! are soon taken from: their free slots are now on pages that are used anyhow. A slab of which half or seven eighths are used is
//! left alone by housekeeping. No system call is made under a lock but for the bits of full slabs on `trim`, and no lock is held for longer than a few microseconds.

use core::ptr::NonNull;

use crate::bin::{Bin, DepotMemory, Found, Twice};
use crate::checks::Checks;
use crate::os;
use crate::region::{self, UnitPool};
use crate::slab::{Geometry, give_side_tables_back};
use crate::sync::Lock;

/// Bytes of slabs whose pages one call of housekeeping looks through, over all bins of a family: a few hundred microseconds.
/// And as how many slabs they are, short ones or long ones.
const SLAB_BYTES_AT_ONCE: usize = 16 << 20;
const SLABS_AT_ONCE: core::ops::RangeInclusive<usize> = 8..=64;
/// How often one call of housekeeping looks for such slabs.
const LOOKS_AT_ONCE: u32 = 64;
/// How long one call goes on with slabs of very small slots, which take a millisecond each.
const MILLISECONDS_AT_ONCE: u64 = 1;

/// What one call of housekeeping may still do.
pub(crate) struct Effort {
    slabs: usize,
    looks: u32,
    began: u64,
    has_worked: bool,
}

impl Effort {
    /// For a family with slabs of this length; `now` is [`os::milliseconds`].
    pub(crate) fn new(unit_shift: u32, now: u64) -> Self {
        let slabs = (SLAB_BYTES_AT_ONCE >> unit_shift).clamp(*SLABS_AT_ONCE.start(), *SLABS_AT_ONCE.end());
        Self { slabs, looks: LOOKS_AT_ONCE, began: now, has_worked: false }
    }

    /// Whether it is used up, so that there may be more to do at once.
    pub(crate) fn is_used_up(&self) -> bool {
        self.slabs == 0 || self.looks == 0 || self.has_worked && os::milliseconds() > self.began + MILLISECONDS_AT_ONCE
    }

    /// Counts a slab that is worked on.
    fn work(&mut self) {
        self.slabs -= 1;
        self.has_worked = true;
    }
}

/// Gives all memory of a bin's free slots back; returns its bytes.
pub(crate) fn trim_bin(bin: &Bin, geometry: &Geometry<'_>, depot: DepotMemory) -> Result<usize, Twice> {
    bin.trim(geometry, depot)?;
    give_depot_back(bin, geometry, depot, false);
    let mut left = bin.counts(geometry).slab_count;
    let bytes = give_pages_back(bin, geometry, || bin.claim(geometry, Some(&mut left)));
    give_tail_back(bin, geometry, true)?;
    bin.give_words_back(geometry);
    Ok(bytes)
}

/// Gives memory of slots back that nobody has needed for a second, as long as the effort allows.
pub(crate) fn purge_unneeded(
    bin: &Bin,
    geometry: &Geometry<'_>,
    depot: DepotMemory,
    now: u64,
    effort: &mut Effort,
) -> Result<(), Twice> {
    bin.look(geometry, depot, now)?;
    give_depot_back(bin, geometry, depot, true);
    give_tail_back(bin, geometry, false)?;
    give_pages_back(bin, geometry, || {
        if effort.is_used_up() {
            return Found::End;
        }
        let found = bin.claim(geometry, None);
        // A family of many classes has as many bins where there is nothing to do: these are none of its looks.
        effort.looks -= u32::from(!matches!(found, Found::End));
        if matches!(found, Found::Claim(_)) {
            effort.work();
        }
        found
    });
    Ok(())
}

/// Gives back what is wholly free of the slots that are claimed, until there is an end; returns its bytes.
fn give_pages_back(bin: &Bin, geometry: &Geometry<'_>, mut next: impl FnMut() -> Found) -> usize {
    if !geometry.gives_pages_back() {
        return 0;
    }
    let mut pages = 0;
    loop {
        match next() {
            Found::End => return pages * os::page_bytes(),
            Found::Nothing => {}
            Found::Claim(mut claim) => {
                geometry.give_pages_back(&mut claim);
                pages += bin.settle(geometry, &claim);
            }
        }
    }
}

/// Gives the pages of an empty depot back, with `quiet` only if nobody has asked for slots lately.
fn give_depot_back(bin: &Bin, geometry: &Geometry<'_>, depot: DepotMemory, quiet: bool) {
    if depot.0.is_null() || !bin.take_depot(quiet) {
        return;
    }
    if let Some((memory, bytes)) = depot.pages(geometry.class, false) {
        // SAFETY: the depot's own memory, in which nobody reads or writes before it is returned.
        unsafe { os::purge(memory, bytes) };
    }
    bin.return_depot();
}

/// Gives the memory of the part of the current slab back that was never handed out: its unit was another slab before, or is a huge page.
fn give_tail_back(bin: &Bin, geometry: &Geometry<'_>, any: bool) -> Result<(), Twice> {
    let Some(range) = bin.take_tail(geometry, any) else { return Ok(()) };
    let page = os::page_bytes();
    let (first, end) = (range.start.next_multiple_of(page), range.end & !(page - 1));
    // The region's provenance is exposed where the region is claimed.
    if let Some(memory) = NonNull::new(core::ptr::with_exposed_provenance_mut(first)).filter(|_| first < end) {
        // SAFETY: committed with the slab, as far as it is; slots that were claimed and that nobody has had since the slab was opened.
        // Should the system refuse, it is as it was.
        unsafe { os::purge(memory, end - first) };
    }
    bin.give_tail(geometry, range)
}

/// Gives the memory of all free units back; returns the bytes of the units.
pub(crate) fn trim_units(pool: &Lock<UnitPool>, unit_shift: u32, checks: Checks, now: u64) -> usize {
    region::purge_all(pool, now, |unit| give_side_tables(unit, unit_shift, checks))
}

/// Gives the memory of a few units back that have been free for long; whether there were any.
pub(crate) fn purge_aged_units(pool: &Lock<UnitPool>, unit_shift: u32, checks: Checks, now: u64) -> bool {
    region::purge_aged(pool, now, |unit| give_side_tables(unit, unit_shift, checks))
}

fn give_side_tables(unit: usize, unit_shift: u32, checks: Checks) {
    if checks.keeps_states() {
        // SAFETY: a unit on its way to the system, which nobody can take; it was a slab, so its region has states.
        unsafe { give_side_tables_back(unit, unit_shift) };
    } else {
        // SAFETY: as above.
        unsafe { region::give_side_back(unit, unit_shift) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capacity::depot_slots;
    use crate::huge_pages::HugePages;
    use crate::size_class::SizeClass;

    #[test]
    fn a_depot_takes_nothing_while_its_pages_leave() {
        let pool = Lock::new(UnitPool::new(16));
        let class = SizeClass::natural(6);
        let geometry = Geometry { huge_pages: HugePages::Adaptive, ..Geometry::plain(class, 16, &pool) };
        let mut places = vec![0_usize; depot_slots(class)];
        let (bin, depot) = (Bin::new(), DepotMemory(places.as_mut_ptr()));
        let take = || -> Vec<usize> {
            let none = DepotMemory(core::ptr::null_mut());
            (0..64).map(|_| bin.take_one(&geometry, none).unwrap().unwrap().0).collect()
        };
        // SAFETY: slots that `take` took, and that nobody uses.
        let give = |slots: &[usize]| unsafe { bin.give(&geometry, depot, slots) }.unwrap();
        let in_depot = || bin.counts(&geometry).depot_slots;
        let (first, second, third) = (take(), take(), take());
        assert!(!bin.take_depot(false), "nothing was in it");
        give(&first);
        assert_eq!((in_depot(), bin.take_depot(false)), (64, false), "it holds slots");
        bin.trim(&geometry, depot).unwrap();
        assert_eq!((bin.take_depot(false), bin.take_depot(false)), (true, false), "one gives them back");
        give(&second);
        assert_eq!(in_depot(), 0);
        bin.return_depot();
        give(&third);
        assert_eq!((in_depot(), bin.counts(&geometry).out_slots), (64, 0));
        bin.trim(&geometry, depot).unwrap();
    }

    #[test]
    #[cfg_attr(target_family = "wasm", ignore = "there are no huge pages")]
    fn what_is_left_of_a_slab_in_use_stays_until_a_second_look_finds_it_unused() {
        const HUGE_SHIFT: u32 = 21;
        let pool = Lock::new(UnitPool::new(HUGE_SHIFT));
        let plain = Geometry::plain(SizeClass::natural(6), HUGE_SHIFT, &pool);
        let geometry = Geometry { huge_pages: HugePages::Always, ..plain };
        const NONE: DepotMemory = DepotMemory(core::ptr::null_mut());
        let bin = Bin::new();
        let fresh = || bin.take_one(&geometry, NONE).unwrap().unwrap().0;
        let look_at = |seconds: u64| {
            bin.look(&geometry, NONE, seconds * 1000).unwrap();
            let rest = bin.take_tail(&geometry, false);
            let bytes = rest.as_ref().map_or(0, ExactSizeIterator::len);
            if let Some(rest) = rest {
                bin.give_tail(&geometry, rest).unwrap();
            }
            bytes
        };
        let mut slots = vec![fresh()];
        assert_eq!(look_at(1), 0, "it was taken from a moment ago");
        slots.push(fresh());
        assert_eq!(look_at(2), 0, "it was taken from since the first look");
        assert_eq!(look_at(3), bin.counts(&geometry).free_slots * 64);
        assert_eq!(look_at(4), 0, "it holds no memory any more");
        // SAFETY: taken above, and not used.
        unsafe { bin.give(&geometry, NONE, &slots) }.unwrap();
        bin.trim(&geometry, NONE).unwrap();
    }

    #[test]
    #[cfg_attr(miri, ignore = "many rounds")]
    fn the_rest_of_a_slab_is_waited_for_when_all_is_forgotten() {
        let pool = Lock::new(UnitPool::new(21));
        let class = SizeClass::natural(6);
        let geometry = Geometry { huge_pages: HugePages::Always, ..Geometry::plain(class, 21, &pool) };
        const NONE: DepotMemory = DepotMemory(core::ptr::null_mut());
        let (bin, rounds_left) = (Bin::new(), std::sync::atomic::AtomicU32::new(500_000));
        let one_less = || rounds_left.fetch_sub(1, std::sync::atomic::Ordering::Relaxed) > 1;
        let all_went_well = std::thread::scope(|scope| {
            let housekeeper = scope.spawn(|| {
                while rounds_left.load(std::sync::atomic::Ordering::Relaxed) > 0 {
                    if let Some(range) = bin.take_tail(&geometry, true) {
                        bin.give_tail(&geometry, range).unwrap();
                    }
                }
            });
            let mut went_well = true;
            while one_less() {
                let _slots = [(); 2].map(|()| bin.take_one(&geometry, NONE).unwrap().unwrap().0);
                let out_slots = loop {
                    // SAFETY: nobody uses a slot, and the slabs are closed next.
                    match unsafe { bin.forget_slabs() } {
                        Some(out_slots) => break out_slots,
                        None => std::thread::yield_now(),
                    }
                };
                went_well &= out_slots == 2;
                if !went_well {
                    rounds_left.store(0, std::sync::atomic::Ordering::Relaxed);
                    break;
                }
                // SAFETY: forgotten just now.
                unsafe { geometry.close_all(usize::MAX) };
            }
            housekeeper.join().is_ok() && went_well
        });
        assert!(all_went_well, "what was on its way back was taken for what clients have");
    }

    /// What stood beside the slots goes with them.
    #[test]
    #[cfg(all(target_os = "linux", not(any(miri, loom, feature = "portable"))))]
    fn side_tables_of_free_units_go_back() {
        use crate::header::{UNIT_COUNT, side_table};

        let pool = Lock::new(UnitPool::new(21));
        let class = SizeClass::natural(6);
        let geometry = Geometry::plain(class, 21, &pool);
        const NONE: DepotMemory = DepotMemory(core::ptr::null_mut());
        let bin = Bin::new();
        let slots: Vec<usize> = (0..1024).map(|_| bin.take_one(&geometry, NONE).unwrap().unwrap().0).collect();
        let (region, unit) = (slots[0] & !((UNIT_COUNT << 21) - 1), (slots[0] >> 21) % UNIT_COUNT);
        let table = side_table(21, unit);
        if table.len() < os::page_bytes() {
            // It shares its page with other units' tables, or with headers.
            return;
        }
        let page = core::ptr::with_exposed_provenance_mut::<u8>(region + table.start);
        let is_resident = || {
            let mut resident = 0_u8;
            // SAFETY: asks for one page, and writes one byte to a live one.
            assert_eq!(unsafe { libc::mincore(page.cast(), os::page_bytes(), &raw mut resident) }, 0);
            resident & 1 != 0
        };
        assert!(!is_resident(), "nothing has come back");
        // SAFETY: taken above, and not used, here and below.
        unsafe { bin.give(&geometry, NONE, &slots[200..]) }.unwrap();
        assert!(is_resident(), "bits are in the side table");
        // SAFETY: as above.
        unsafe { bin.give(&geometry, NONE, &slots[..200]) }.unwrap();
        bin.trim(&geometry, NONE).unwrap();
        assert_eq!(trim_units(&pool, 21, Checks::Default, os::milliseconds()), 2 << 20);
        assert!(!is_resident(), "it went with its unit");
    }

    /// Where slots have states those of purged pages stay in the list, and others take them like
    /// all that are free. So a page can be purged of which all slots are claimed again, with their
    /// neighbours on the pages beside: they are nobody else's meanwhile (P3).
    #[test]
    #[cfg(all(unix, feature = "std", not(any(miri, loom, feature = "portable"))))]
    fn purged_slots_that_are_claimed_are_not_handed_out() {
        // Two slots have a part on the second page: they begin on the first, and end on the third.
        let wanted = os::page_bytes() / 4 * 3;
        let class = crate::size_class::Classes::Spaced
            .all(2 << 20)
            .find(|class| class.slot_bytes() == wanted)
            .expect("a class");
        let pool = Lock::new(UnitPool::new(21).with_states(true));
        let plain = Geometry::plain(class, 21, &pool);
        let geometry = Geometry { checks: Checks::Checked, huge_pages: HugePages::Adaptive, ..plain };
        const NONE: DepotMemory = DepotMemory(core::ptr::null_mut());
        let bin = Bin::new();
        let take = || bin.take_one(&geometry, NONE).unwrap().unwrap().0;
        let slots: [usize; 5] = core::array::from_fn(|_| take());
        let claim = |freed: &[usize]| {
            // SAFETY: taken above, and not used.
            unsafe { bin.give(&geometry, NONE, freed) }.unwrap();
            let Found::Claim(mut claim) = bin.claim(&geometry, Some(&mut 1)) else { panic!("a page is free") };
            geometry.give_pages_back(&mut claim);
            claim
        };
        assert_eq!(bin.settle(&geometry, &claim(&slots[1..3])), 1);
        let claimed = claim(&[slots[0], slots[3]]);
        assert_eq!(claimed.slots, 4, "all that are free");
        let other = take();
        assert!(!slots.contains(&other), "{other:x} of {slots:x?} is claimed");
        assert_eq!(bin.settle(&geometry, &claimed), 2);
        let mut again: [usize; 4] = core::array::from_fn(|_| take());
        again.sort_unstable();
        assert_eq!(again, slots[..4]);
        assert_eq!((bin.counts(&geometry).out_slots, bin.counts(&geometry).purged_slots), (6, 0));
    }

    /// A fork takes no thread with it but one: what others had claimed nobody settles in the child.
    #[test]
    #[cfg(all(unix, not(any(miri, loom))))]
    fn a_child_forgets_also_what_others_had_claimed() {
        // A slab of sixteen pages.
        let unit_shift = crate::os::page_bytes().trailing_zeros() + 4;
        let count = 1 << (unit_shift - 6);
        let pool = Lock::new(UnitPool::new(unit_shift));
        let class = SizeClass::natural(6);
        let geometry = Geometry { huge_pages: HugePages::Adaptive, ..Geometry::plain(class, unit_shift, &pool) };
        const NONE: DepotMemory = DepotMemory(core::ptr::null_mut());
        let bin = Bin::new();
        let slots: Vec<usize> = (0..count).map(|_| bin.take_one(&geometry, NONE).unwrap().unwrap().0).collect();
        // SAFETY: taken above, and not used.
        unsafe { bin.give(&geometry, NONE, &slots[..count / 2]) }.unwrap();
        let found = bin.claim(&geometry, Some(&mut 1));
        assert!(matches!(found, Found::Claim(_)), "half of the slab is free");
        // SAFETY: nobody uses a slot, here and below.
        assert_eq!(unsafe { bin.forget_slabs() }, None, "somebody is at work on some");
        bin.begin_child();
        // SAFETY: as above.
        assert_eq!(unsafe { bin.forget_slabs() }, Some(count / 2));
        // SAFETY: forgotten just now.
        unsafe { geometry.close_all(usize::MAX) };
    }
}
