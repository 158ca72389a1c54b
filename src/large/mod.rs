//! Allocations above the largest slot, and a few that are growing there. Nothing is attached to them.
//!
//! Up to [`RUN_BYTES_MAX`] they are *runs* of pages in reserved [`range`]s of the family, above *single* mappings; so the number of
//! mappings does not follow the number of objects. Singly mapped are also what has outgrown its place, and all where the
//! system takes back whole mappings only, or where each has guards around it.
//!
//! ```text
//!           above top           free                   purged, outside of the lock
//!   range ───────────► live ───────────► dirty ──► leaving ──► clean ──► above top, where it is the last
//!                       ▲ ▲                │                     │
//!                       │ └────────────────┘ not to be zero      │          a range without runs is released
//!                       └────────────────────────────────────────┘
//!   map ─────────────► live ──► kept, whole or in parts ──► live, or released outside of the lock
//! ```
//!
//! One of 3 MiB: the least dirty run that has room serves it, else the least clean one, else what was never used. Its free looks up
//! which run begins there and how long it is, joins it with dirty neighbours, and asks the system for nothing. To grow, it takes
//! what is free behind it; else it moves, from [`MOVED_BYTES`] on to a mapping that grows by itself.
//!
//! **L1** `count` and `bytes` are those of all live allocations; no two overlap each other or what is free. **L2** No call to the
//! system is made under the lock: space is taken and given under it, and is meanwhile the caller's. **L3** What is live and free
//! together holds memory for at most what was live at once since nothing was free, and [`SPARE_BYTES`](set::SPARE_BYTES).

mod kept;
mod places;
mod range;
mod run;
mod runs;
mod set;
mod single;
mod space;
mod table;
#[cfg(test)]
mod tests;

use core::alloc::Layout;
use core::ptr::NonNull;

use runs::{Found, RunSet, Wish};
use single::Singles;
use space::in_use;

use crate::marks::Generation;
use crate::os;
use crate::sync::{AtomicU32, Lock};

/// What is longer is mapped singly.
const RUN_BYTES_MAX: usize = 32 << 20;
/// A run grows where it is up to this.
const GROWN_RUN_BYTES_MAX: usize = 64 << 20;
/// From here on a run that has no room to grow moves to a mapping of its own.
const MOVED_BYTES: usize = 4 << 20;
/// Of those there are so many at most.
const MOVED_COUNT: usize = 1000;

/// What is this long and need not read zero is most often filled: it is advised to use huge pages. Of a run the first part
/// in so many is left out, which may be all that is used of a buffer.
const FILLED_FROM_BYTES: usize = 8 << 20;
const FIRST_PART: usize = 8;

/// Allocations that may stand here though a slot would hold them: so few that what fragments of runs waste on them is bounded.
const GROWN_COUNT: usize = 16;
/// From here on an allocation that grows out of its slot comes here: what it grows into next costs no copying.
pub(crate) const GROWN_FROM_BYTES: usize = 32 << 10;

/// A large allocation on its way to the client.
#[derive(Clone, Copy)]
pub(crate) struct Large {
    pub(crate) memory: NonNull<u8>,
    pub(crate) bytes: usize,
}

/// Why a free or a resize of a large allocation was refused: misuse by the client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mismatch {
    /// No live large allocation of the family begins here.
    Unknown,
    /// One begins here, but it has this many bytes.
    Length(usize),
    /// One began here, and was freed.
    Freed,
}

/// What a family's large allocations are, at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Figures {
    pub(crate) count: usize,
    pub(crate) bytes: usize,
    /// Bytes of what is free and holds memory.
    pub(crate) kept_bytes: usize,
}

/// All large allocations of one family.
pub(crate) struct Larges {
    /// Held while a range is made, made usable or released, with calls to the system; taken before `set`.
    growth: Lock<()>,
    set: Lock<LargeSet>,
    is_guarded: bool,
    /// Whether memory may use huge pages of the system.
    may_be_huge: bool,
    /// What the family's mappings are called.
    name: &'static str,
    /// Where allocations have been, in units of [`places`]: how far from the end of what these tell apart the first one
    /// lies, and where the last one does. They only grow.
    first_below_end: AtomicU32,
    last: AtomicU32,
}

pub(crate) struct LargeSet {
    runs: RunSet,
    singles: Singles,
    count: usize,
    bytes: usize,
    /// The most that `bytes` has been since nothing was free.
    peak_bytes: usize,
    /// The largest slot of the family, and how many allocations here are not longer.
    slot_bytes_max: usize,
    grown_count: usize,
    /// When what is free was last looked through.
    looked: u64,
}

/// The mapping's length for a layout: whole pages. `None` if that is more than any object may have.
pub(crate) fn mapped_bytes(layout: Layout) -> Option<usize> {
    os::round_to_pages(layout.size().max(layout.align()))
}

impl Larges {
    /// With `guarded` a page that may not be touched lies before and behind each allocation, and freed ones are not used again.
    pub(crate) const fn new(guarded: bool, slot_bytes_max: usize) -> Self {
        let set = LargeSet {
            runs: RunSet::new(),
            singles: Singles::new(guarded),
            count: 0,
            bytes: 0,
            peak_bytes: 0,
            slot_bytes_max,
            grown_count: 0,
            looked: 0,
        };
        let (first_below_end, last) = (AtomicU32::new(0), AtomicU32::new(0));
        let (growth, set) = (Lock::new(()), Lock::new(set));
        Self { growth, set, is_guarded: guarded, may_be_huge: true, name: "", first_below_end, last }
    }

    /// The same, for a family with other slots.
    pub(crate) const fn with_slots_up_to(self, slot_bytes_max: usize) -> Self {
        Self { may_be_huge: self.may_be_huge, ..Self::new(self.is_guarded, slot_bytes_max) }.named(self.name)
    }

    pub(crate) const fn with_huge_pages(self, may_be_huge: bool) -> Self {
        Self { may_be_huge, ..self }
    }

    pub(crate) const fn named(self, name: &'static str) -> Self {
        Self { name, ..self }
    }

    pub(crate) fn figures(&self) -> Figures {
        let set = self.set.lock();
        let kept_bytes = set.runs.dirty_bytes + set.runs.leaving_bytes + set.singles.kept.memory_bytes();
        Figures { count: set.count, bytes: set.bytes, kept_bytes }
    }

    /// Whether somebody is at work here.
    pub(crate) fn is_busy(&self) -> bool {
        self.growth.is_held() || self.set.is_held()
    }

    /// Whether there are runs at all.
    fn has_runs(&self) -> bool {
        os::HAS_PAGES && !self.is_guarded
    }

    /// Allocates; with `want_zero` only memory that reads zero is returned.
    pub(crate) fn allocate(&self, layout: Layout, want_zero: bool, now: u64) -> Option<Large> {
        let bytes = mapped_bytes(layout)?;
        let wish = Wish { bytes, align: layout.align().max(os::page_bytes()), want_zero, grows: false };
        let is_run = self.has_runs() && bytes <= RUN_BYTES_MAX;
        if is_run && want_zero {
            if let Some(large) = self.allocate_cleared(&wish) {
                return Some(large);
            }
        }
        let memory = if is_run { self.allocate_run(&wish, now) } else { self.allocate_single(&wish, now) }?;
        if !want_zero && bytes >= FILLED_FROM_BYTES {
            self.advise_filled(memory, bytes, is_run);
        }
        Some(in_use(Large { memory, bytes }))
    }

    /// A run that was used before and is cleared for a wish: that takes less time than page faults do. `None`: there is none.
    fn allocate_cleared(&self, wish: &Wish) -> Option<Large> {
        let mut set = self.set.lock();
        let memory = pointer(set.runs.take_to_clear(wish)?);
        set.admit(wish.bytes);
        drop(set);
        let large = in_use(Large { memory: self.recommit_run(memory, wish.bytes)?, bytes: wish.bytes });
        // SAFETY: an allocation of so many bytes that nobody has yet.
        unsafe { large.memory.write_bytes(0, large.bytes) };
        Some(large)
    }

    /// Advises huge pages for what will most likely be filled.
    fn advise_filled(&self, memory: NonNull<u8>, bytes: usize, is_run: bool) {
        if is_run {
            self.advise_run(memory, bytes / FIRST_PART, bytes);
        } else {
            // All of it: with other advice for a part it would be two mappings, which the system does not move as one.
            // SAFETY: an allocation of so many bytes that nobody has yet.
            unsafe { self.advise_single(memory, bytes) };
        }
    }

    /// Allocates what has grown out of a slot and would still fit into one, where there is room to grow on. `None`: a slot serves as well.
    pub(crate) fn allocate_grown(&self, bytes: usize, now: u64) -> Option<Large> {
        if !self.has_runs() || self.set.lock().grown_count >= GROWN_COUNT {
            return None;
        }
        let wish = Wish { bytes, align: os::page_bytes(), want_zero: false, grows: true };
        let memory = self.try_run(&wish, now)?;
        Some(in_use(Large { memory, bytes }))
    }

    /// A run, if need be after what is free was given back: it may be what is missing.
    fn allocate_run(&self, wish: &Wish, now: u64) -> Option<NonNull<u8>> {
        self.try_run(wish, now).or_else(|| if self.release_spare() { self.try_run(wish, now) } else { None })
    }

    fn try_run(&self, wish: &Wish, now: u64) -> Option<NonNull<u8>> {
        loop {
            let mut set = self.set.lock();
            let found = set.runs.allocate(wish);
            if let Found::Run(address) = found {
                set.admit(wish.bytes);
                let is_due = set.is_due(now);
                drop(set);
                if is_due {
                    self.give_back_due(now);
                }
                return self.recommit_run(pointer(address), wish.bytes);
            }
            let generation = set.runs.generation;
            drop(set);
            match found {
                Found::Commit { range, pages } => self.commit(range, pages)?,
                _ => self.reserve(wish, generation)?,
            }
        }
    }

    /// Frees; on a mismatch nothing has changed.
    ///
    /// # Safety
    /// If `memory` is a live allocation of this length, nobody uses it any more.
    pub(crate) unsafe fn deallocate(&self, memory: NonNull<u8>, bytes: usize, now: u64) -> Result<(), Mismatch> {
        let address = memory.addr().get();
        let mut set = self.set.lock();
        let is_run = set.verify(address, bytes)?;
        // SAFETY: whole pages of an allocation that its client has given up; this takes no lock.
        unsafe { os::poison(pointer(address), bytes) };
        set.dismiss(bytes);
        if !is_run {
            set.singles.forget(address);
            drop(set);
            // SAFETY: a single mapping of this length, which was told when it was entered.
            unsafe { os::remove_root(pointer(address), bytes) };
            self.keep(address, bytes, now);
            return Ok(());
        }
        set.begin_free(bytes);
        set.runs.free(address, now);
        let is_due = set.is_due(now);
        drop(set);
        if is_due {
            self.give_back_due(now);
        }
        Ok(())
    }

    /// Frees all that is live; returns how many bytes that was.
    ///
    /// # Safety
    /// Nobody uses any of it, and nobody allocates or frees here meanwhile.
    pub(crate) unsafe fn reset(&self, now: u64) -> usize {
        let (mut all_bytes, mut last) = (0, 0);
        loop {
            let set = self.set.lock();
            let next = set.runs.live_behind(last);
            let Some((address, bytes)) = next.or_else(|| set.singles.any()) else { return all_bytes };
            drop(set);
            if next.is_some() {
                last = address;
            }
            // SAFETY: a live allocation, which nobody uses.
            let freed = unsafe { self.deallocate(pointer(address), bytes, now) };
            debug_assert!(freed.is_ok(), "what is live can be freed");
            all_bytes += bytes;
        }
    }

    /// Changes the length in place or by moving. `Ok(None)`: not possible, nothing has changed. With `want_zero` what is new reads
    /// zero.
    ///
    /// # Safety
    /// If `memory` is a live allocation of `old_bytes` and the call returns another address, the old one is not used any more.
    pub(crate) unsafe fn resize(
        &self,
        memory: NonNull<u8>,
        old_bytes: usize,
        wish: (usize, usize, bool),
        now: u64,
    ) -> Result<Option<Large>, Mismatch> {
        let (bytes, align, want_zero) = wish;
        let in_place = os::is_aligned(memory, align);
        let may_move = align <= os::page_bytes();
        let is_run = {
            let mut set = self.set.lock();
            let is_run = set.verify(memory.addr().get(), old_bytes)?;
            if bytes == old_bytes {
                if in_place {
                    // A mark behind the old size is no longer one.
                    set.singles.unmark(memory.addr().get());
                }
                return Ok(in_place.then_some(Large { memory: own(memory), bytes }));
            }
            is_run
        };
        if self.is_guarded || !(in_place || may_move) || bytes > isize::MAX as usize {
            return Ok(None);
        }
        let resized = match (is_run, in_place) {
            // SAFETY: the same contract, here and below.
            (true, true) => unsafe { self.resize_run(memory, old_bytes, (bytes, may_move, want_zero), now) }?,
            (true, false) => None,
            // SAFETY: as above.
            (false, _) => unsafe { self.resize_single(memory, old_bytes, bytes, may_move, want_zero) }?,
        };
        self.give_back_due(now);
        Ok(resized.map(|memory| in_use(Large { memory, bytes })))
    }

    /// # Safety
    /// As for [`resize`](Self::resize); the allocation was a run.
    unsafe fn resize_run(
        &self,
        memory: NonNull<u8>,
        old_bytes: usize,
        (bytes, may_move, want_zero): (usize, bool, bool),
        now: u64,
    ) -> Result<Option<NonNull<u8>>, Mismatch> {
        let resized = if bytes <= GROWN_RUN_BYTES_MAX {
            self.resize_in_place(memory.addr().get(), old_bytes, bytes, want_zero, now)?
        } else {
            None
        };
        // What is moved is aligned to a page, whatever the old place happened to be.
        if resized.is_some() || bytes < old_bytes || !may_move {
            return Ok(resized.map(pointer));
        }
        // SAFETY: the same contract.
        unsafe { self.move_run(memory, old_bytes, bytes, want_zero, now) }
    }

    /// Changes the length of a run where it is; returns its address, if that is possible.
    fn resize_in_place(
        &self,
        address: usize,
        old_bytes: usize,
        bytes: usize,
        want_zero: bool,
        now: u64,
    ) -> Result<Option<usize>, Mismatch> {
        loop {
            let mut set = self.set.lock();
            // Once more: what somebody has freed meanwhile, by mistake, is not taken for live.
            set.verify(address, old_bytes)?;
            let found = if bytes > old_bytes {
                set.runs.lengthen(address, bytes, want_zero)
            } else if set.runs.shorten(address, bytes, now) {
                Found::Run(address)
            } else {
                Found::Nothing
            };
            match found {
                Found::Run(_) => {
                    if !set.finish_resize(address, old_bytes, bytes, now) {
                        return Ok(None);
                    }
                    drop(set);
                    if bytes > old_bytes {
                        self.advise_run(pointer(address), 0, bytes);
                    }
                    return Ok(Some(address));
                }
                Found::Commit { range, pages } => {
                    drop(set);
                    if self.commit(range, pages).is_none() {
                        return Ok(None);
                    }
                }
                Found::Nothing => return Ok(None),
            }
        }
    }

    /// Moves a run that grows to where it has room.
    ///
    /// # Safety
    /// As for [`resize`](Self::resize).
    unsafe fn move_run(
        &self,
        memory: NonNull<u8>,
        old_bytes: usize,
        bytes: usize,
        want_zero: bool,
        now: u64,
    ) -> Result<Option<NonNull<u8>>, Mismatch> {
        let wish = Wish { bytes, align: os::page_bytes(), want_zero, grows: true };
        let is_single = bytes > RUN_BYTES_MAX || bytes >= MOVED_BYTES && self.set.lock().singles.count < MOVED_COUNT;
        let moved = if is_single { self.allocate_single(&wish, now) } else { self.allocate_run(&wish, now) };
        let Some(moved) = moved else { return Ok(None) };
        if is_single {
            // All that is copied is touched, and what grows is filled.
            // SAFETY: allocated just now.
            unsafe { self.advise_single(moved, bytes) };
        } else {
            self.advise_run(moved, 0, bytes);
        }
        in_use(Large { memory: moved, bytes });
        // SAFETY: both are live and at least `old_bytes` long; a new allocation overlaps no live one.
        unsafe { core::ptr::copy_nonoverlapping(own(memory).as_ptr(), moved.as_ptr(), old_bytes) };
        // SAFETY: the contents have been copied, and the caller gives the old place up.
        unsafe { self.deallocate(memory, old_bytes, now) }?;
        Ok(Some(moved))
    }

    /// Whether a live allocation of this length begins here.
    pub(crate) fn verify(&self, memory: NonNull<u8>, bytes: usize) -> Result<(), Mismatch> {
        self.set.lock().verify(memory.addr().get(), bytes).map(|_| ())
    }

    /// Notes that a mark stands behind what the client asked for in a live allocation.
    pub(crate) fn mark(&self, memory: NonNull<u8>, generation: Generation) {
        self.set.lock().singles.mark(memory.addr().get(), generation);
    }

    /// The generation of the mark of a live allocation of this length, if it has one.
    pub(crate) fn mark_of(&self, memory: NonNull<u8>, bytes: usize) -> Option<Generation> {
        let set = self.set.lock();
        set.verify(memory.addr().get(), bytes).ok().and_then(|_| set.singles.mark_of(memory.addr().get()))
    }

    /// The live allocation that contains an address: where it begins and its length; for reports.
    pub(crate) fn containing(&self, address: usize) -> Option<(usize, usize)> {
        let set = self.set.lock();
        set.runs.containing(address).or_else(|| set.singles.containing(address))
    }

    /// Takes the locks and keeps them: for the time of a `fork`.
    #[cfg(all(unix, not(any(miri, loom))))]
    pub(crate) fn hold(&self) {
        self.growth.hold();
        self.set.hold();
    }

    /// Frees the locks after [`hold`](Self::hold).
    ///
    /// # Safety
    /// This thread, or the one it is a fork of, holds them by `hold`.
    #[cfg(all(unix, not(any(miri, loom))))]
    pub(crate) unsafe fn release(&self) {
        // SAFETY: the same contract, here and below.
        unsafe { self.set.release() };
        // SAFETY: as above.
        unsafe { self.growth.release() };
    }

    /// In the child of a fork: what other threads were giving back is free again.
    #[cfg(all(unix, not(any(miri, loom))))]
    pub(crate) fn begin_child(&self) {
        self.set.lock().runs.take_all_back(os::milliseconds());
    }

    /// For tests that hold another thread up.
    #[cfg(all(test, unix, not(any(miri, loom))))]
    pub(crate) fn lock(&self) -> impl Sized + '_ {
        self.set.lock()
    }
}

/// The memory at an address that a mapping of the family's holds; its provenance was exposed when it was mapped.
fn pointer(address: usize) -> NonNull<u8> {
    NonNull::new(core::ptr::with_exposed_provenance_mut(address)).unwrap_or(NonNull::dangling())
}

/// The memory that begins where a client's pointer points: the client's own may be good for its layout only.
fn own(memory: NonNull<u8>) -> NonNull<u8> {
    pointer(memory.as_ptr().expose_provenance())
}
