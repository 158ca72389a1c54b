//! The numbers of a family's large allocations, and when what is free has to go back.

#![forbid(unsafe_code)]

use super::kept::KEPT_BYTES;
use super::{LargeSet, Mismatch};
use crate::os;
use crate::region::PURGE_AFTER_MILLISECONDS;

/// Space that is kept beyond what has been live.
pub(super) const SPARE_BYTES: usize = 4 << 20;
/// What is free is looked through for what has been so for long, at most so often.
pub(super) const LOOK_MILLISECONDS: u64 = 100;

impl LargeSet {
    /// Whether the live allocation of this length that begins here is a run.
    pub(super) fn verify(&self, address: usize, bytes: usize) -> Result<bool, Mismatch> {
        let is_run = self.runs.holds(address);
        let live = if is_run { self.runs.live_bytes(address) } else { self.singles.live_bytes(address) };
        match live {
            Some(live) if live == bytes => Ok(is_run),
            Some(live) => Err(Mismatch::Length(live)),
            None if self.runs.was_freed(address) || !is_run && self.singles.was_freed(address) => Err(Mismatch::Freed),
            None => Err(Mismatch::Unknown),
        }
    }

    /// Counts what is live from now on.
    pub(super) fn admit(&mut self, bytes: usize) {
        self.count += 1;
        self.grown_count += usize::from(bytes <= self.slot_bytes_max);
        self.bytes += bytes;
        self.peak_bytes = self.peak_bytes.max(self.bytes);
    }

    /// Counts what was live.
    pub(super) fn dismiss(&mut self, bytes: usize) {
        self.count -= 1;
        self.grown_count -= usize::from(bytes <= self.slot_bytes_max);
        self.bytes -= bytes;
    }

    /// Before so many bytes become free: if they are the first, the peak is what is live with them.
    pub(super) fn begin_free(&mut self, bytes: usize) {
        if self.free_bytes() == 0 {
            self.peak_bytes = self.bytes + bytes;
        }
    }

    /// Counts an allocation of `old_bytes` as one of `bytes`.
    pub(super) fn count_change(&mut self, old_bytes: usize, bytes: usize) {
        self.dismiss(old_bytes);
        self.admit(bytes);
    }

    /// Bytes of what is free, and not on its way back to the system.
    pub(super) fn free_bytes(&self) -> usize {
        self.runs.dirty_bytes + self.singles.kept.bytes
    }

    /// Bytes that are free beyond L3 and [`KEPT_BYTES`]. Where nothing is free the peak begins anew.
    pub(super) fn excess_bytes(&mut self) -> usize {
        let free_bytes = self.free_bytes();
        if free_bytes == 0 {
            self.peak_bytes = self.bytes;
        }
        let is_bounded = os::HAS_PAGES && !self.singles.kept.guarded;
        let spare_bytes = if is_bounded { self.peak_bytes - self.bytes + SPARE_BYTES } else { KEPT_BYTES };
        #[allow(clippy::unnecessary_min_or_max, reason = "some backends keep nothing")]
        free_bytes.saturating_sub(spare_bytes.min(KEPT_BYTES))
    }

    /// Whether something has to go back to the system, or may have been free for long.
    pub(super) fn is_due(&mut self, now: u64) -> bool {
        self.excess_bytes() > 0 || now.saturating_sub(self.looked) >= LOOK_MILLISECONDS
    }

    /// Until when what is free must have been freed to go back at this time.
    pub(super) fn aged_at(now: u64) -> Option<u64> {
        now.checked_sub(PURGE_AFTER_MILLISECONDS)
    }
}
