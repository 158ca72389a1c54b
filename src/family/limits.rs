//! Limits: what a family and those under it may hold, live and cached, in bytes of slots and mappings.
//!
//! ```text
//!   batch of slots, or mapping ──charge──► this family ──► its parent ──► … ──► charged: taken, kept
//!                                              │ one of them would be above its limit
//!                                              └──► refunded in those below, less is tried, or it is refused
//! ```
//!
//! What leaves a bin is charged, and refunded when it is back: a thread's cache counts. What a slab has free
//! does not, nor what is kept of freed large allocations.
//!
//! Where an allocation cannot be refused, because null would end the process (scopes), the limit is *soft*: what was asked for is
//! charged all the same, and whoever crosses the limit so leaves word of it.
//!
//! **C1** `charged` is the sum of what the family's bins have out and its large allocations have, and of `charged`
//! of those whose parent it is; for a moment more, while somebody has charged and not taken yet. **C2** It is
//! at most the limit, or what it was when the limit was set, or what a soft limit let pass. **C3** `is_over` is 1 while `charged` is
//! above the limit, when nobody is in the middle of a charge: each side says what it did before it looks at what the other has.

use super::FamilyCore;
use super::crossings::{self, LimitCrossing};
use super::life::Settled;
use super::registry::{FamilyRef, families};
use crate::sync::{AcqRel, Acquire, AtomicU8, AtomicUsize, Cell, Relaxed, Release, thread_local};

/// What of a family has to do with limits.
pub(super) struct Limits {
    charged: AtomicUsize,
    /// The limit less than `usize::MAX`: 0 where there is none.
    below_max: AtomicUsize,
    /// Who is charged as well.
    parent: Settled<Option<&'static FamilyCore>>,
}

/// Whether more is charged than the limit.
pub(super) struct Crossing {
    is_over: AtomicU8,
    /// Whether that has begun since somebody was told.
    was_crossed: AtomicU8,
}

impl Crossing {
    pub(super) const fn new() -> Self {
        Self { is_over: AtomicU8::new(0), was_crossed: AtomicU8::new(0) }
    }
}

/// What was charged to a family and to those above it; refunded unless it is kept.
pub(super) struct Charge {
    family: &'static FamilyCore,
    bytes: usize,
}

/// What a limit has refused last; from [`last_refusal`].
///
/// ```
/// use family_alloc::{Heap, Vec, last_refusal};
///
/// let heap = Heap::builder("tenant 42").limit(1 << 20).build()?;
/// let mut v = Vec::<u8, _>::new_in(heap);
/// assert!(v.try_reserve(2 << 20).is_err());
/// let refusal = last_refusal().unwrap();
/// assert_eq!((refusal.limit.name(), refusal.limit_bytes, refusal.asked_bytes), ("tenant 42", 1 << 20, 2 << 20));
/// # Ok::<(), family_alloc::HeapError>(())
/// ```
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct LimitRefusal {
    /// The family whose limit it was: the one that was asked, or one above it.
    pub limit: FamilyRef,
    /// Its limit, in bytes.
    pub limit_bytes: usize,
    /// Bytes that were charged to it then.
    pub charged_bytes: usize,
    /// Bytes that were asked for: of a slot, or of whole pages.
    pub asked_bytes: usize,
}

impl LimitRefusal {
    /// The heaps under the limit that hold most now, with those under them; those that hold more first.
    ///
    /// ```
    /// use family_alloc::{Heap, Vec, last_refusal};
    ///
    /// let process = Heap::builder("process").limit(4 << 20).build()?;
    /// let tenant = Heap::builder("tenant").parent(&process).build()?;
    /// let v = Vec::<u8, _>::with_capacity_in(3 << 20, tenant.clone());
    /// assert!(Vec::<u8, _>::new_in(tenant).try_reserve(2 << 20).is_err());
    /// let largest = last_refusal().unwrap().largest();
    /// assert_eq!(largest.map(|family| family.map_or("", |family| family.name())), ["tenant", "", ""]);
    /// # drop(v);
    /// # Ok::<(), family_alloc::HeapError>(())
    /// ```
    #[must_use]
    pub fn largest(&self) -> [Option<FamilyRef>; 3] {
        let Some(limit) = self.limit.hold() else { return [None; 3] };
        let mut largest = [(0, None); 3];
        for family in families() {
            let Some(held) = family.hold() else { continue };
            let bytes = held.charged_bytes();
            let is_under = held.lineage().skip(1).any(|above| core::ptr::eq(above, *limit));
            if is_under && bytes > largest[2].0 {
                largest[2] = (bytes, Some(family));
                largest.sort_unstable_by_key(|(bytes, _)| core::cmp::Reverse(*bytes));
            }
        }
        largest.map(|(_, family)| family)
    }
}

thread_local! {
    static LAST: Cell<Option<LimitRefusal>> = const { Cell::new(None) };
    // Whether limits are soft for what the thread allocates now.
    static IS_SOFT: Cell<bool> = const { Cell::new(false) };
}

/// Does what may not be refused for a limit's sake.
pub(crate) fn softly<T>(work: impl FnOnce() -> T) -> T {
    let before = IS_SOFT.with(|is_soft| is_soft.replace(true));
    let result = work();
    IS_SOFT.with(|is_soft| is_soft.set(before));
    result
}

/// What a limit has refused to the calling thread last. An allocation that is refused for want of memory changes nothing here.
///
/// ```
/// assert!(family_alloc::last_refusal().is_none());
/// ```
#[must_use]
pub fn last_refusal() -> Option<LimitRefusal> {
    LAST.with(Cell::get)
}

impl Limits {
    pub(super) const fn new() -> Self {
        Self { charged: AtomicUsize::new(0), below_max: AtomicUsize::new(0), parent: Settled::new(None) }
    }

    pub(super) const fn with_limit(bytes: usize) -> Self {
        Self { below_max: AtomicUsize::new(usize::MAX - bytes), ..Self::new() }
    }

    fn limit(&self) -> usize {
        // Relaxed: a number that publishes nothing.
        usize::MAX - self.below_max.load(Relaxed)
    }

    /// Adds up to `bytes`, a multiple of `unit` and at least one; returns how many, 0 if there is
    /// no room, and under which limit.
    fn charge(&self, bytes: usize, unit: usize) -> (usize, usize) {
        let limit = self.limit();
        if limit == usize::MAX {
            // Acquire, here and below: pairs with `look`, so that who charges after a limit's
            // setter has looked sees the limit.
            self.charged.fetch_add(bytes, Acquire);
            return (bytes, limit);
        }
        let mut charged = self.charged.load(Relaxed);
        loop {
            // What was freed twice, unnoticed, was refunded twice.
            let room = limit.saturating_sub(usize::try_from(charged as isize).unwrap_or(0));
            let granted = bytes.min(room - room % unit);
            if granted == 0 {
                return (0, limit);
            }
            match self.charged.compare_exchange(charged, charged.wrapping_add(granted), Acquire, Relaxed) {
                Ok(_) => return (granted, limit),
                Err(now) => charged = now,
            }
        }
    }

    /// Sees what was charged by those who have not seen the limit that was set just now.
    fn look(&self) {
        // Release: pairs with the charges, which all change the same number: each comes before or
        // after this.
        self.charged.fetch_add(0, Release);
    }
}

impl Charge {
    /// Bytes that were charged.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Keeps so many bytes charged, and refunds the rest.
    pub(super) fn keep(mut self, bytes: usize) {
        self.bytes -= bytes;
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.family.refund(self.bytes);
    }
}

impl FamilyCore {
    /// The same family, with a limit in bytes.
    #[must_use]
    pub const fn with_limit(self, bytes: usize) -> Self {
        Self { limits: Limits::with_limit(bytes), ..self }
    }

    /// The family and those above it.
    fn lineage(&'static self) -> impl Iterator<Item = &'static Self> {
        core::iter::successors(Some(self), |family| family.limits.parent.get())
    }

    /// As [`Limits::charge`], and again where a lower limit was set meanwhile.
    fn charge_here(&self, bytes: usize, unit: usize) -> usize {
        loop {
            let (granted, limit) = self.limits.charge(bytes, unit);
            if granted == 0 || self.limit() >= limit || !self.is_above() {
                return granted;
            }
            self.refund_here(granted);
        }
    }

    /// Adds bytes for which there is no room.
    #[cold]
    fn overcharge(&self, bytes: usize) {
        self.limits.charged.fetch_add(bytes, Relaxed);
        self.settle();
    }

    fn refund_here(&self, bytes: usize) {
        self.limits.charged.fetch_sub(bytes, Relaxed);
        if self.crossing.is_over.load(Relaxed) != 0 {
            self.settle();
        }
    }

    fn is_above(&self) -> bool {
        self.charged_bytes() > self.limit()
    }

    /// Says whether more is charged than the limit, after either has changed.
    #[cold]
    fn settle(&self) {
        loop {
            let is_above = self.is_above();
            // AcqRel: pairs with itself in other threads. Of two that settle, the later sees what was charged, refunded or set by
            // the earlier, and says what is true of both.
            let was_above = self.crossing.is_over.swap(u8::from(is_above), AcqRel) != 0;
            if is_above && !was_above {
                self.crossing.was_crossed.store(1, Relaxed);
            }
            if self.is_above() == is_above {
                return;
            }
        }
    }

    /// Charges up to `bytes`, a multiple of `unit`, to the family and to those above it: what all of them have room for. `None`:
    /// there is no room for one.
    pub(super) fn charge(&'static self, bytes: usize, unit: usize) -> Option<Charge> {
        let mut granted = bytes;
        for (depth, family) in self.lineage().enumerate() {
            let here = match family.charge_here(granted, unit) {
                0 if IS_SOFT.with(Cell::get) => {
                    family.overcharge(granted);
                    granted
                }
                here => here,
            };
            // What those below were charged more is refunded.
            self.lineage().take(depth).for_each(|below| below.refund_here(granted - here));
            if here == 0 {
                family.note_refusal(unit);
                return None;
            }
            granted = here;
        }
        Some(Charge { family: self, bytes: granted })
    }

    /// Refunds what is back.
    pub(super) fn refund(&'static self, bytes: usize) {
        if bytes > 0 {
            self.lineage().for_each(|family| family.refund_here(bytes));
        }
    }

    #[cold]
    fn note_refusal(&'static self, asked_bytes: usize) {
        let limit = FamilyRef::of(self);
        let (limit_bytes, charged_bytes) = (self.limits.limit(), self.charged_bytes());
        LAST.with(|last| last.set(Some(LimitRefusal { limit, limit_bytes, charged_bytes, asked_bytes })));
    }

    /// Bytes of slots and mappings that are live or cached, here and in those under this family.
    pub(crate) fn charged_bytes(&self) -> usize {
        // Below 0 where something was freed twice, unnoticed.
        usize::try_from(self.limits.charged.load(Relaxed) as isize).unwrap_or(0)
    }

    /// The most that `charged_bytes` may become; `usize::MAX` where there is no limit.
    pub(crate) fn limit(&self) -> usize {
        self.limits.limit()
    }

    /// Whether there is a limit on the family or above it.
    pub(crate) fn is_limited(&'static self) -> bool {
        self.lineage().any(|family| family.limit() != usize::MAX)
    }

    /// Sets the limit. What is above it stays.
    pub(crate) fn set_limit(&self, bytes: usize) {
        self.limits.below_max.store(usize::MAX - bytes, Relaxed);
        self.limits.look();
        self.settle();
    }

    /// Whether more is charged than the limit. One load, unless it is.
    #[inline]
    pub(crate) fn is_over_limit(&self) -> bool {
        // Where it says so, a refund that came at the same time may not have seen it.
        self.crossing.is_over.load(Relaxed) != 0 && self.is_above()
    }

    /// Whether that is so of the family or of one above it: all of them are charged.
    pub(crate) fn is_over_any_limit(&'static self) -> bool {
        self.lineage().any(Self::is_over_limit)
    }

    /// Whether the limit was crossed since this was last asked; whoever is first is told.
    fn take_crossing(&self) -> bool {
        self.crossing.was_crossed.load(Relaxed) != 0 && self.crossing.was_crossed.swap(0, Relaxed) != 0
    }

    /// Tells the handler of each limit that was crossed, of the family and of those above it. No lock may be held, and the caller holds the
    /// family.
    #[inline]
    pub(crate) fn tell_of_crossings(&'static self) {
        for family in self.lineage() {
            if family.crossing.was_crossed.load(Relaxed) != 0 {
                family.tell_of_crossing();
            }
        }
    }

    #[cold]
    fn tell_of_crossing(&'static self) {
        if self.take_crossing() {
            let (limit_bytes, charged_bytes) = (self.limit(), self.charged_bytes());
            let crossing = LimitCrossing { limit: FamilyRef::of(self), limit_bytes, charged_bytes };
            match self.heap.as_ref().and_then(|heap| heap.limit_handler.get()) {
                Some(handler) => handler(&crossing),
                None => crossings::call(&crossing),
            }
        }
    }

    /// Forgets what was never told of the last life.
    pub(super) fn forget_crossings(&self) {
        self.crossing.was_crossed.store(0, Relaxed);
    }

    /// Who is charged as well.
    pub(super) fn parent(&self) -> Option<&'static Self> {
        self.limits.parent.get()
    }

    /// Says who is charged as well.
    ///
    /// # Safety
    /// The caller has the heap to itself, and nothing is charged to it.
    pub(super) unsafe fn set_parent(&self, parent: Option<&'static Self>) {
        // SAFETY: the same contract.
        unsafe { self.limits.parent.set(parent) };
    }
}
