//! Wrong calls among right ones, in the families that find them.
//!
//! A report ends the process, so what is wrong happens in a forked child: there the handler of faults looks whether everything that
//! is live still has its contents, and whether the fault is one that the model allows; then the child ends. The parent goes on as if nothing had happened.
//! What may be harmless (a write to a freed slot) lets the child run the rest of the input, by the same rules.

use std::alloc::Layout;
use std::ptr::NonNull;

use arbitrary::Result;
use family_alloc::{Checks, FaultKind};

use crate::child::{self, Ending, Expected};
use crate::common::doors::{Doors, layout};
use crate::common::shadow::Slot;
use crate::common::steps::{Holdings, Step};
use crate::input::{ENDS, Input};
use crate::operations::{assert_gone, free_all};

/// Children of one input.
const CHILDREN: usize = 4;
/// Stale pointers that are remembered.
const STALE: usize = 64;
/// Free slots from here on may be guarded against any access.
const GUARDED_FROM_BYTES: usize = 64 << 10;
/// Slots, and bytes of them, that a hardened family may hand out before one that has been freed.
const WAITING: usize = 300;
const WAITING_BYTES: usize = 1 << 20;
/// Slots from here on may be mappings, if they have grown.
const GROWN_FROM_BYTES: usize = 32 << 10;
/// A mark behind an allocation is as long.
const CANARY_BYTES: usize = 8;

/// What came of the misuses of one input.
#[derive(Clone, Copy, Debug, Default)]
pub struct Misuses {
    /// Those that ended their process with a report.
    pub reported: usize,
    /// Those that did not, and harmed nothing.
    pub harmless: usize,
    /// A bit for each kind of fault that was reported.
    pub kinds: u8,
}

/// Runs the steps that the bytes say, right and wrong; panics if a wrong one goes unnoticed, is taken for something else, or
/// harms what is live.
pub fn misuse(data: &[u8]) -> Misuses {
    child::prepare();
    let mut run = Run {
        input: Input::strict(data),
        holdings: Holdings::new(ENDS),
        stale: Vec::new(),
        children: 0,
        written: None,
        misuses: Misuses::default(),
    };
    while run.turn().is_ok() {}
    run.finish();
    run.misuses
}

/// A call that gives memory back or resizes it.
#[derive(Clone, Copy, Debug)]
struct Call {
    doors: &'static Doors,
    address: usize,
    layout: Layout,
    /// Frees if there is none.
    new: Option<Layout>,
}

impl Call {
    /// # Safety
    /// The call is right, or will be found to be wrong, or this process is a child that ends soon.
    unsafe fn make(&self) {
        let pointer = NonNull::new(std::ptr::with_exposed_provenance_mut(self.address)).expect("never null");
        match self.new {
            // SAFETY: the caller's promise, here and below.
            None => unsafe { (self.doors.deallocate)(pointer, self.layout) },
            Some(new) if new.size() >= self.layout.size() => {
                // SAFETY: as above.
                unsafe { (self.doors.grow)(pointer, self.layout, new) };
            }
            Some(new) => {
                // SAFETY: as above.
                unsafe { (self.doors.shrink)(pointer, self.layout, new) };
            }
        }
    }
}

/// What the model knows of a call.
enum Verdict {
    /// It is right: this live slot is meant, whoever asked for it.
    Right(usize),
    /// It must be found, as one of these.
    Wrong(&'static [FaultKind]),
    /// It fits, but a mark may stand elsewhere.
    Doubtful(usize),
    /// The family does not promise to find it.
    Undefined,
}

struct Run<'a> {
    input: Input<'a>,
    holdings: Holdings,
    /// What was freed last.
    stale: Vec<Slot>,
    children: usize,
    /// Where something was written that must not be, in a child that goes on after it.
    written: Option<usize>,
    misuses: Misuses,
}

impl Run<'_> {
    fn turn(&mut self) -> Result<()> {
        if self.input.is_empty() {
            return Err(arbitrary::Error::NotEnoughData);
        }
        match self.input.below(8)? {
            0..4 => {
                let step = self.input.step()?;
                self.right(step);
            }
            4..6 => {
                if let Some(call) = self.wrong_call()? {
                    let elsewhere = self.input.any()?;
                    self.call(call, elsewhere);
                }
            }
            6 => self.stale_write()?,
            _ => self.overflow()?,
        }
        Ok(())
    }

    fn finish(&mut self) {
        free_all(&mut self.holdings);
        self.input.used().for_each(assert_gone);
    }

    fn right(&mut self, mut step: Step) {
        if self.written.is_some() {
            child::watch(&self.holdings.live);
        }
        match &mut step {
            &mut Step::Free { place, fraction, count } => {
                for _ in 0..count.min(self.holdings.live.len()) {
                    let slot = self.holdings.take(place % self.holdings.live.len());
                    slot.deallocate(fraction);
                    self.remember(slot);
                }
                return;
            }
            Step::Resize { place, zeroed, .. } => {
                // Nobody promises zero where something was written behind the family's back.
                *zeroed &= self.written.is_none();
                if let Some(&before) = self.holdings.live.get(*place % self.holdings.live.len().max(1)) {
                    if self.written.is_some() {
                        let others = self.holdings.live.iter().filter(|slot| slot.start() != before.start());
                        child::watch(&others.copied().collect::<Vec<_>>());
                    }
                    self.remember(before);
                }
            }
            Step::Allocate { zeroed, .. } => *zeroed &= self.written.is_none(),
            Step::Trim { .. } => {}
        }
        self.holdings.step(&step);
    }

    fn remember(&mut self, slot: Slot) {
        if slot.layout.size() == 0 {
            return;
        }
        if self.stale.len() == STALE {
            self.stale.remove(0);
        }
        self.stale.push(slot);
    }

    /// Some live slot of at least one byte that is as wanted.
    fn live(&mut self, wanted: impl Fn(&Slot) -> bool) -> Result<Option<Slot>> {
        let place = usize::from(self.input.any::<u16>()?);
        let live = || self.holdings.live.iter().filter(|slot| slot.layout.size() > 0 && wanted(slot));
        let count = live().count();
        Ok(live().nth(place % count.max(1)).copied())
    }

    fn stale(&mut self) -> Result<Option<Slot>> {
        let place = usize::from(self.input.any::<u8>()?);
        // The last ones first.
        Ok(self.stale.iter().rev().nth(place % self.stale.len().max(1)).copied())
    }

    /// A call that is probably wrong.
    fn wrong_call(&mut self) -> Result<Option<Call>> {
        let kind = self.input.below(8)?;
        let Some(slot) = (if kind < 2 { self.stale()? } else { self.live(|_| true)? }) else { return Ok(None) };
        let right = Call { doors: slot.doors, address: slot.start(), layout: slot.layout, new: None };
        let mut call = match kind {
            0 => right,
            1 | 2 => {
                let layout = self.input.layout(slot.doors)?;
                Call { layout, ..right }
            }
            3 => {
                let offset = usize::from(self.input.any::<u16>()?) % slot.range().len();
                Call { address: slot.start() + offset, ..right }
            }
            4 => Call { doors: self.input.doors()?, ..right },
            5 => {
                let slots = isize::from(self.input.any::<i16>()?);
                let distance = slots.wrapping_mul(slot.range().len() as isize);
                Call { address: slot.start().wrapping_add_signed(distance), ..right }
            }
            6 => Call { address: self.foreign(slot)?, ..right },
            _ => {
                let (doors, address) = (self.input.doors()?, self.input.any::<u64>()? as usize);
                Call { doors, address, layout: self.input.layout(doors)?, new: None }
            }
        };
        if self.input.below(3)? == 0 {
            let new = self.input.layout(call.doors)?;
            let align = if call.doors.is_exact { call.layout.align() } else { new.align() };
            call.new = Some(layout(new.size(), align));
        }
        let is_possible = call.address != 0 && call.layout.size() != 0;
        Ok(is_possible.then_some(call))
    }

    /// An address that no family has handed out.
    fn foreign(&mut self, near: Slot) -> Result<usize> {
        static STATIC: u64 = 7;
        let local = 0_u64;
        let region_bytes = 64 * near.doors.slab_bytes;
        Ok(match self.input.below(6)? {
            0 => (&raw const local).expose_provenance(),
            1 => (&raw const STATIC).expose_provenance(),
            2 => self.stale.as_ptr().expose_provenance(),
            3 => near.start() ^ 1 << (47 + self.input.below(17)?),
            // Where the families keep what they know.
            4 => (near.start() & !(region_bytes - 1)) + self.input.below(near.doors.slab_bytes)?,
            _ => usize::from(self.input.any::<u16>()?),
        })
    }

    fn verdict(&self, call: &Call) -> Verdict {
        let Call { doors, address, layout, .. } = *call;
        let keeps_states = matches!(doors.checks, Checks::Checked | Checks::Hardened);
        let is_large = doors.is_large(layout);
        if doors.checks == Checks::Unchecked && !is_large {
            return Verdict::Undefined;
        }
        let holder = self.holdings.live.iter().position(|slot| slot.range().contains(&address));
        let Some(place) = holder else {
            return match (is_large, keeps_states) {
                // Where something was freed that began there, that is known until the memory is handed out again.
                (true, _) => Verdict::Wrong(&[FaultKind::InvalidFree, FaultKind::DoubleFree]),
                (false, true) => Verdict::Wrong(&[
                    FaultKind::InvalidFree,
                    FaultKind::DoubleFree,
                    FaultKind::NeverAllocated,
                    FaultKind::InteriorPointer,
                ]),
                (false, false) => Verdict::Undefined,
            };
        };
        let slot = &self.holdings.live[place];
        let same_kind = slot.doors.name == doors.name && doors.is_large(slot.layout) == is_large;
        let same_length = slot.range().len() == doors.occupied(layout);
        match (same_kind, same_length, slot.start() == address) {
            (true, true, true) => {
                let exact_twice = doors.is_exact && slot.doors.is_exact && doors.checks == Checks::Hardened;
                let is_doubtful = exact_twice && slot.layout.size() != layout.size();
                if is_doubtful { Verdict::Doubtful(place) } else { Verdict::Right(place) }
            }
            (true, false, true) if is_large => Verdict::Wrong(&[FaultKind::WrongSize]),
            (true, true, false) if !is_large && keeps_states => Verdict::Wrong(&[FaultKind::InteriorPointer]),
            (true, true, false) if !is_large => Verdict::Undefined,
            (false, _, true) if is_large && slot.doors.name == doors.name && slot.range().len() >= GROWN_FROM_BYTES => {
                Verdict::Wrong(&[FaultKind::InvalidFree, FaultKind::WrongSize])
            }
            _ => Verdict::Wrong(&[FaultKind::InvalidFree]),
        }
    }

    /// Makes a call that may be wrong, if the family promises anything about it.
    fn call(&mut self, call: Call, elsewhere: bool) {
        match self.verdict(&call) {
            Verdict::Undefined => {}
            Verdict::Right(place) if call.new.is_none() => {
                let slot = self.holdings.take(place);
                slot.verify();
                // SAFETY: a live slot that the layout fits, given up by the model; that the pointer is somebody else's changes nothing.
                unsafe { call.make() };
                self.remember(slot);
            }
            // As any other resize.
            Verdict::Right(_) => {}
            Verdict::Doubtful(place) => {
                let others = self.holdings.live.iter().enumerate().filter(|&(index, _)| index != place);
                let others: Vec<_> = others.map(|(_, slot)| *slot).collect();
                self.misuse(&call, &[FaultKind::Overflow], &others, elsewhere, true);
            }
            Verdict::Wrong(kinds) => {
                let all = self.holdings.live.clone();
                self.misuse(&call, kinds, &all, elsewhere, false);
            }
        }
    }

    fn misuse(&mut self, call: &Call, kinds: &'static [FaultKind], live: &[Slot], elsewhere: bool, may_pass: bool) {
        let body = || {
            child::watch(live);
            child::expect(Expected { kinds, family: call.doors.name, address: call.address });
            // SAFETY: it is wrong, which is found or not; this process ends soon.
            let make = || unsafe { call.make() };
            if elsewhere {
                std::thread::scope(|scope| drop(scope.spawn(make).join()))
            } else {
                make()
            }
            live.iter().for_each(Slot::verify);
            assert!(may_pass, "{call:?} has gone unnoticed, expected {kinds:?}");
        };
        if self.written.is_some() {
            body();
            child::end();
        }
        let action = call.new.map_or(0, |new| if new.size() >= call.layout.size() { 1 } else { 2 });
        self.in_child(call.doors, 2 * action + usize::from(elsewhere), |_| body());
    }

    /// Runs something in a child of the state as it is, unless there have been enough children. `way` (below 8) tells a fuzzer that the
    /// same ending of another way is something else.
    fn in_child(&mut self, doors: &Doors, way: usize, body: impl Fn(&mut Self)) {
        if self.children == CHILDREN {
            return;
        }
        self.children += 1;
        let ending = match child::run(|| body(self)) {
            Ending::Reported(kind) => {
                self.misuses.reported += 1;
                self.misuses.kinds |= 1 << kind;
                kind
            }
            Ending::Harmless => {
                self.misuses.harmless += 1;
                7
            }
        };
        let mode = match doors.checks {
            Checks::Unchecked => 0,
            Checks::Default => 1,
            Checks::Checked => 2,
            _ => 3,
        };
        child::count(((ending * 4 + mode) * 2 + usize::from(doors.is_exact)) * 8 + way);
    }

    /// Writes to a freed slot, and lets a child do the rest of the input after that.
    fn stale_write(&mut self) -> Result<()> {
        let (slot, offset, value) = (self.stale()?, self.input.any::<u16>()?, self.input.any::<u8>()?);
        let Some(slot) = slot.filter(|_| self.written.is_none()) else { return Ok(()) };
        let range = slot.range();
        let address = range.start + usize::from(offset) % range.len();
        let keeps_states = matches!(slot.doors.checks, Checks::Checked | Checks::Hardened);
        // Large ones may be unmapped by now.
        let is_slot = range.len() < GUARDED_FROM_BYTES && !slot.doors.is_large(slot.layout);
        let is_free = !self.holdings.live.iter().any(|slot| slot.range().contains(&address));
        if keeps_states && is_slot && is_free {
            self.in_child(slot.doors, 6, |run| {
                if slot.doors.checks == Checks::Hardened {
                    child::expect(Expected { kinds: &[FaultKind::WriteAfterFree], family: slot.doors.name, address });
                }
                // The slab may be of a class by now whose free slots are guarded.
                let guarded = (slot.doors.checks == Checks::Hardened).then(child::may_fault);
                // SAFETY: memory of a slab, which stays mapped; that nobody may write there is the point.
                unsafe { std::ptr::with_exposed_provenance_mut::<u8>(address).write_volatile(value) };
                drop(guarded);
                run.written = Some(address);
                while run.turn().is_ok() {}
                // So many that it is handed out again, if it still is as it was written.
                let count = (WAITING_BYTES / range.len()).clamp(8, WAITING);
                run.right(Step::Allocate { doors: slot.doors, layout: slot.layout, zeroed: false, count });
                run.finish();
            });
        }
        Ok(())
    }

    /// Writes behind the end of an allocation that a hardened family has marked, and frees it.
    fn overflow(&mut self) -> Result<()> {
        let slot = self.live(|slot| slot.doors.is_exact && slot.doors.checks == Checks::Hardened)?;
        let (offset, resizes) = (self.input.below(CANARY_BYTES)?, self.input.any::<bool>()?);
        let Some(slot) = slot else { return Ok(()) };
        let slack = slot.range().len() - slot.layout.size();
        if slack <= offset {
            return Ok(());
        }
        let others: Vec<_> = self.holdings.live.iter().filter(|other| other.start() != slot.start()).copied().collect();
        let new = resizes.then(|| layout(slot.layout.size() + 1, slot.layout.align()));
        let call = Call { doors: slot.doors, address: slot.start(), layout: slot.layout, new };
        if self.written.is_some() {
            return Ok(());
        }
        self.in_child(slot.doors, 7, |_| {
            child::watch(&others);
            child::expect(Expected { kinds: &[FaultKind::Overflow], family: slot.doors.name, address: slot.start() });
            let behind = std::ptr::with_exposed_provenance_mut::<u8>(slot.start() + slot.layout.size() + offset);
            // SAFETY: inside the slot.
            let before = unsafe { behind.read_volatile() };
            // SAFETY: as above; that it is not the client's is the point.
            unsafe { behind.write_volatile(!before) };
            // SAFETY: a right call, but for what was written.
            unsafe { call.make() };
            panic!("{call:?}: what was written {offset} bytes behind the end has gone unnoticed");
        });
        Ok(())
    }
}
