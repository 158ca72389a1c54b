//! A shadow model of families: a map of live ranges, and calls that check at once what they promise.

use std::alloc::Layout;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::{Mutex, PoisonError};

use super::doors::{Doors, is_aligned, layout, slots_of_slab};
use super::pattern;

/// The least slab: no two families may ever have slots in the same so many bytes.
const UNIT_BYTES: usize = 64 << 10;
/// So many allocations of at least this length may stand in mappings though slots would hold them: they have grown there.
const GROWN_COUNT: usize = 16;
const GROWN_FROM_BYTES: usize = 32 << 10;

/// A live allocation: the doors it came through, what was asked for, what came, and the seed of its contents.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slot {
    pub(crate) doors: &'static Doors,
    pub(crate) layout: Layout,
    /// What the client may use.
    pub(crate) memory: NonNull<[u8]>,
    pub(crate) seed: usize,
    /// Of longer contents only the first and the last so many bytes are written and looked at.
    ends: usize,
}

// SAFETY: an allocation may be used and freed on any thread; the tests hand each to one thread at a time.
unsafe impl Send for Slot {}

impl Slot {
    pub(crate) fn allocate(doors: &'static Doors, layout: Layout, zeroed: bool, contents: (usize, usize)) -> Self {
        let (seed, ends) = contents;
        let memory = if zeroed { (doors.allocate_zeroed)(layout) } else { (doors.allocate)(layout) };
        let memory = memory.unwrap_or_else(|| panic!("{layout:?} of {doors:?} is refused"));
        let slot = Self { doors, layout, memory, seed, ends };
        assert!(!zeroed || slot.is_zero_from(0), "{slot:?}: not zero to the end");
        slot.fill();
        slot
    }

    pub(crate) fn start(&self) -> usize {
        self.memory.addr().get()
    }

    /// The addresses that it occupies, whatever of them the client may use.
    pub(crate) fn range(&self) -> Range<usize> {
        self.start()..self.start() + self.doors.occupied(self.layout)
    }

    /// The parts of the first `len` bytes that are written and looked at.
    fn parts(&self, len: usize) -> [Range<usize>; 2] {
        let whole = self.memory.len();
        let (first, last) =
            if whole <= self.ends.saturating_mul(2) { (whole, whole) } else { (self.ends, whole - self.ends) };
        [0..first.min(len), last.min(len)..len]
    }

    fn fill(&self) {
        self.parts(self.memory.len()).into_iter().for_each(|part| pattern::fill_part(self.memory, part, self.seed));
    }

    fn is_zero_from(&self, from: usize) -> bool {
        let parts = self.parts(self.memory.len()).into_iter();
        parts.map(|part| part.start.max(from).min(part.end)..part.end).all(|part| pattern::is_zero(self.memory, part))
    }

    /// Fails if the contents are not what they were.
    #[track_caller]
    pub(crate) fn verify(&self) {
        for part in self.parts(self.memory.len()) {
            assert!(pattern::holds_part(self.memory, part, self.seed), "{self:?}: the contents have changed");
        }
    }

    /// A layout that fits: some size between the requested one and the whole, if the doors allow that.
    pub(crate) fn fitting(&self, fraction: u8) -> Layout {
        let slack = self.memory.len() - self.layout.size();
        layout(self.layout.size() + slack * usize::from(fraction) / 255, self.layout.align())
    }

    pub(crate) fn deallocate(&self, fraction: u8) {
        self.verify();
        // SAFETY: a live slot with a layout that fits; its owner gives it up.
        unsafe { (self.doors.deallocate)(self.memory.cast(), self.fitting(fraction)) };
    }

    /// What its doors can make of a layout when they resize this slot.
    fn possible(&self, new: Layout) -> Layout {
        if self.doors.is_exact { layout(new.size().max(1), self.layout.align()) } else { new }
    }

    /// Grows or shrinks as the sizes have it, and checks that the contents came along.
    #[must_use]
    pub(crate) fn resize(&self, fraction: u8, new: Layout, zeroed: bool) -> Self {
        let (doors, old, new) = (self.doors, self.fitting(fraction), self.possible(new));
        self.verify();
        let grows = new.size() >= old.size();
        let zeroed = zeroed && grows && !doors.is_exact;
        let call = match (grows, zeroed) {
            (true, true) => doors.grow_zeroed,
            (true, false) => doors.grow,
            (false, _) => doors.shrink,
        };
        // SAFETY: a live slot with a layout that fits, the sizes in the order that the call wants; the owner gives it up.
        let memory = unsafe { call(self.memory.cast(), old, new) };
        let memory = memory.unwrap_or_else(|| panic!("{self:?} to {new:?} is refused"));
        for part in self.parts(old.size().min(new.size())) {
            let came_along = pattern::holds_part(memory, part, self.seed);
            assert!(came_along, "{self:?} to {new:?}: the contents did not come along");
        }
        let resized = Self { layout: new, memory, ..*self };
        assert!(!zeroed || resized.is_zero_from(old.size()), "{self:?} to {new:?}: not zero to the end");
        resized.fill();
        resized
    }
}

/// Which family each unit of address space has belonged to since it was first seen; slabs are never given up.
static UNITS: Mutex<Option<HashMap<usize, &'static str>>> = Mutex::new(None);

/// The live ranges of all families, by address.
#[derive(Default)]
pub(crate) struct Model {
    ranges: BTreeMap<usize, usize>,
}

impl Model {
    /// Checks what a new slot promises, and adds it.
    pub(crate) fn insert(&mut self, slot: &Slot) {
        let Range { start, end } = slot.range();
        let doors = slot.doors;
        assert!(is_aligned(start, doors.promised_align(slot.layout)), "{slot:?}: alignment");
        assert_eq!(slot.memory.len(), doors.usable(slot.layout), "{slot:?}: not the whole slot");
        if slot.layout.size() == 0 {
            return;
        }
        if let Some((&other, &other_end)) = self.ranges.range(..end).next_back() {
            assert!(other_end <= start, "{slot:?} overlaps {other:#x} to {other_end:#x}");
        }
        self.ranges.insert(start, end);
        let mut units = UNITS.lock().unwrap_or_else(PoisonError::into_inner);
        let units = units.get_or_insert_default();
        for unit in start / UNIT_BYTES..end.div_ceil(UNIT_BYTES) {
            if doors.is_large(slot.layout) {
                assert!(!units.contains_key(&unit), "{slot:?}: a mapping in the slabs of a family");
            } else {
                // What is as long as this may have grown into a mapping, which another family may have later.
                let known = units.get(&unit).copied().unwrap_or(doors.name);
                let may_be_mapped = slot.range().len() >= GROWN_FROM_BYTES;
                let owner = if may_be_mapped { known } else { *units.entry(unit).or_insert(doors.name) };
                assert_eq!(owner, doors.name, "{slot:?}: in a slab of another family");
            }
        }
    }

    pub(crate) fn remove(&mut self, slot: &Slot) {
        if slot.layout.size() > 0 {
            let end = self.ranges.remove(&slot.start());
            assert_eq!(end, Some(slot.range().end), "{slot:?} is not in the model");
        }
    }
}

/// Everything that a family counts is what the slots say.
pub(crate) fn check_counters(doors: &Doors, slots: &[Slot]) {
    let (mut live, mut large) = ((0, 0), (0, 0));
    // Slots of each length.
    let mut small = BTreeMap::<usize, usize>::new();
    for slot in slots.iter().filter(|slot| slot.doors.name == doors.name && slot.layout.size() > 0) {
        let bytes = slot.range().len();
        live = (live.0 + 1, live.1 + bytes);
        if doors.is_large(slot.layout) {
            large = (large.0 + 1, large.1 + bytes);
        } else {
            *small.entry(bytes).or_default() += 1;
        }
    }
    let stats = (doors.stats)();
    assert_eq!((stats.live_allocations, stats.live_bytes), live, "{stats}");
    assert!(stats.peak_live_allocations >= stats.live_allocations && stats.peak_live_bytes >= stats.live_bytes);
    let mut grown_count = 0;
    for class in &stats.classes {
        let live = small.remove(&class.slot_bytes).unwrap_or(0);
        // A few that have grown stand among the large ones though a slot would hold them.
        let grown = live.checked_sub(class.live_slots).unwrap_or_else(|| panic!("{class:?}: {stats}"));
        assert!(grown == 0 || class.slot_bytes >= GROWN_FROM_BYTES, "slots of {} bytes: {stats}", class.slot_bytes);
        grown_count += grown;
        large = (large.0 + grown, large.1 + grown * class.slot_bytes);
        let all = class.live_slots + class.cached_slots + class.depot_slots + class.free_slots;
        let of_slab = slots_of_slab(doors.classes, doors.checks, doors.slab_bytes, class.slot_bytes);
        assert_eq!(all, class.slab_count * of_slab, "{stats}");
    }
    assert!(small.is_empty(), "{small:?} are slots of no class");
    assert!(grown_count <= GROWN_COUNT, "{stats}");
    assert_eq!((stats.large_allocations, stats.large_bytes), large, "{stats}");
}
