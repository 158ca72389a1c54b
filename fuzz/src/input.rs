//! Bytes read as steps. Whatever the bytes, the steps are legal; when the bytes or the budget are used up, the sequence ends.

use std::alloc::Layout;

use arbitrary::{Arbitrary, Result, Unstructured};

use crate::common::doors::{Doors, layout};
use crate::common::steps::Step;
use crate::families::{DOORS, FAMILIES};

/// Of longer contents only so many bytes at each end are written and looked at.
pub(crate) const ENDS: usize = 2 << 10;
/// Calls that one input may make: a long input is no reason to be slow.
const CALLS: usize = 2048;
/// Bytes that these may write or copy.
const BYTES: usize = 2 << 20;
/// What slots and mappings cost that the system has to do something for, each time.
const COSTLY: std::ops::RangeFrom<usize> = 32 << 10..;
const COST_BYTES: usize = 64 << 10;

pub(crate) struct Input<'a> {
    bytes: Unstructured<'a>,
    calls: usize,
    budget: usize,
    /// The families that a step has named, by their place in [`DOORS`].
    used: [bool; FAMILIES],
    /// Whether most doors are to be those of families that find every misuse.
    strict: bool,
}

/// Spares this process huge pages: every execution gives its memory back, and the next would wait for 2 MiB to be cleared where it
/// touches a few bytes.
fn use_small_pages() {
    #[cfg(target_os = "linux")]
    {
        static ONCE: std::sync::Once = std::sync::Once::new();
        // SAFETY: changes nothing but how pages are made. Where it is refused things take longer.
        ONCE.call_once(|| _ = unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) });
    }
}

impl<'a> Input<'a> {
    pub(crate) fn new(data: &'a [u8]) -> Self {
        use_small_pages();
        Self { bytes: Unstructured::new(data), calls: CALLS, budget: BYTES, used: [false; FAMILIES], strict: false }
    }

    /// Bytes that mostly name families that find every misuse.
    pub(crate) fn strict(data: &'a [u8]) -> Self {
        Self { strict: true, ..Self::new(data) }
    }

    /// Any value of a type.
    pub(crate) fn any<T: Arbitrary<'a>>(&mut self) -> Result<T> {
        self.bytes.arbitrary()
    }

    /// A number below `bound`, from one byte if that suffices.
    pub(crate) fn below(&mut self, bound: usize) -> Result<usize> {
        self.bytes.int_in_range(0..=bound - 1)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The doors of a family; it counts as used.
    pub(crate) fn doors(&mut self) -> Result<&'static Doors> {
        let choice = self.below(4 * DOORS.len())?;
        let checked = if self.strict && choice >= DOORS.len() { FAMILIES / 2 } else { 0 };
        let place = (choice % DOORS.len()) | checked;
        self.used[place % FAMILIES] = true;
        Ok(&DOORS[place])
    }

    /// The families that were used.
    pub(crate) fn used(&self) -> impl Iterator<Item = &'static Doors> {
        DOORS.iter().zip(self.used).filter_map(|(doors, used)| used.then_some(doors))
    }

    /// A size as programs ask for it: small, at an edge between classes, or somewhat larger.
    pub(crate) fn size(&mut self) -> Result<usize> {
        Ok(match self.below(32)? {
            0 => 0,
            1..14 => usize::from(self.any::<u8>()?),
            14..25 => self.near(15)?,
            25..30 => usize::from(self.any::<u16>()?),
            30 => self.near(22)?,
            _ => 64 + (self.below(3 << 10)? << 10),
        })
    }

    /// A size around a power of two: there are edges.
    fn near(&mut self, shifts: usize) -> Result<usize> {
        let (shift, above) = (self.below(shifts)?, self.below(3)?);
        Ok((1 << shift) + above - 1)
    }

    fn align(&mut self) -> Result<usize> {
        let choice = self.below(256)?;
        Ok(1 << match choice {
            0..200 => choice % 5,
            200..250 => choice % 13,
            _ => 7 + choice % 16,
        })
    }

    pub(crate) fn layout(&mut self, doors: &Doors) -> Result<Layout> {
        let (size, align) = (self.size()?, self.align()?);
        Ok(layout(if doors.is_exact { size.max(1) } else { size }, align))
    }

    fn count(&mut self) -> Result<usize> {
        let choice = self.below(256)?;
        Ok(if choice < 248 { 1 } else { (choice - 247) * 36 })
    }

    /// Takes calls and the bytes that each costs out of the budget; `Err` when it is used up.
    fn charge(&mut self, calls: usize, bytes: usize) -> Result<()> {
        let left = self.calls.checked_sub(calls).zip(self.budget.checked_sub(calls * bytes));
        (self.calls, self.budget) = left.ok_or(arbitrary::Error::NotEnoughData)?;
        Ok(())
    }

    /// The next step; `Err` at the end.
    pub(crate) fn step(&mut self) -> Result<Step> {
        if self.is_empty() {
            return Err(arbitrary::Error::NotEnoughData);
        }
        match self.below(16)? {
            0..6 => {
                let doors = self.doors()?;
                let (layout, zeroed, count) = (self.layout(doors)?, self.any()?, self.count()?);
                let occupied = doors.occupied(layout);
                self.charge(count, if COSTLY.contains(&occupied) { COST_BYTES } else { occupied.min(2 * ENDS) })?;
                Ok(Step::Allocate { doors, layout, zeroed, count })
            }
            6..11 => {
                let (place, fraction, count) = (self.any::<u16>()?.into(), self.any()?, self.count()?);
                self.charge(count, 0)?;
                Ok(Step::Free { place, fraction, count })
            }
            11..15 => {
                let (place, fraction, zeroed) = (self.any::<u16>()?.into(), self.any()?, self.any()?);
                let layout = self.layout(&DOORS[0])?;
                // The old contents may have to be copied, how ever long they are.
                self.charge(1, layout.size().max(ENDS))?;
                Ok(Step::Resize { place, fraction, layout, zeroed })
            }
            _ => Ok(Step::Trim { doors: self.doors()? }),
        }
    }
}
