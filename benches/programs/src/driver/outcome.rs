//! The figures of a job by allocator: medians and ratios.
#![forbid(unsafe_code)]

use family_alloc_programs::jobs::Job;

use crate::allocators::Allocator;
use crate::process::Seen;

/// What is compared. Less is better in all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Measure {
    Cpu,
    Wall,
    Faults,
    Peak,
    End,
    Later,
}

/// Those in whose ratios an allocator is judged.
pub(crate) const JUDGED: [Measure; 5] = [Measure::Cpu, Measure::Wall, Measure::Peak, Measure::End, Measure::Later];

impl Measure {
    pub(crate) const fn heading(self) -> &'static str {
        match self {
            Self::Cpu => "CPU s",
            Self::Wall => "wall s",
            Self::Faults => "page faults",
            Self::Peak => "peak MiB",
            Self::End => "end MiB",
            Self::Later => "later MiB",
        }
    }

    /// The figure of one process.
    fn of(self, seen: &Seen) -> f64 {
        let kib = match self {
            Self::Cpu => return seen.cpu_seconds,
            Self::Wall => return seen.told.wall_seconds,
            Self::Faults => return seen.faults as f64,
            Self::Peak => seen.told.peak_kib,
            Self::End => seen.told.end_kib,
            Self::Later => seen.told.later_kib,
        };
        kib as f64 / 1024.0
    }
}

/// A job with all allocators.
pub(crate) struct Outcome {
    pub(crate) job: &'static Job,
    pub(crate) results: Vec<(&'static Allocator, Vec<Seen>)>,
}

impl Outcome {
    pub(crate) fn new(job: &'static Job, allocators: &[&'static Allocator]) -> Self {
        Self { job, results: allocators.iter().map(|&allocator| (allocator, Vec::new())).collect() }
    }

    /// Takes the figures of one more process, unless it computed something else than those before.
    pub(crate) fn add(&mut self, allocator: &Allocator, seen: Seen) -> Result<(), String> {
        let mut earlier = self.results.iter().flat_map(|(_, all)| all);
        if earlier.any(|earlier| earlier.told.checksum != seen.told.checksum) {
            return Err(format!("{}: {} has another checksum than others", self.job.name, allocator.name));
        }
        let own = self.results.iter_mut().find(|(known, _)| *known == allocator);
        own.expect("an allocator that is measured").1.push(seen);
        Ok(())
    }

    /// The most that any process of this job has needed so far.
    pub(crate) fn most_bytes(&self) -> Option<usize> {
        self.results.iter().flat_map(|(_, all)| all).map(|seen| seen.told.peak_kib as usize * 1024).max()
    }

    /// The median of an allocator's processes.
    pub(crate) fn median(&self, allocator: &Allocator, measure: Measure) -> Option<f64> {
        let (_, all) = self.results.iter().find(|(known, _)| *known == allocator)?;
        let mut figures: Vec<f64> = all.iter().map(|seen| measure.of(seen)).collect();
        figures.sort_unstable_by(f64::total_cmp);
        let upper = *figures.get(figures.len() / 2)?;
        let lower = figures[(figures.len() - 1) / 2];
        Some((lower + upper) / 2.0)
    }

    /// The widest distance between two processes of an allocator, in parts of the median.
    pub(crate) fn spread(&self, allocator: &Allocator, measure: Measure) -> f64 {
        let all = self.results.iter().filter(|(known, _)| *known == allocator).flat_map(|(_, all)| all);
        let figures: Vec<f64> = all.map(|seen| measure.of(seen)).collect();
        let most = figures.iter().copied().fold(0.0, f64::max);
        let least = figures.iter().copied().fold(f64::INFINITY, f64::min);
        self.median(allocator, measure).map_or(0.0, |median| (most - least) / median)
    }

    /// The peer that needs least, and how much that is.
    pub(crate) fn best_peer(&self, measure: Measure) -> Option<(&'static Allocator, f64)> {
        let peers = self.results.iter().map(|(allocator, _)| *allocator).filter(|allocator| allocator.is_peer);
        peers
            .filter_map(|peer| Some((peer, self.median(peer, measure)?)))
            .min_by(|left, right| left.1.total_cmp(&right.1))
    }
}

/// The geometric mean; nothing of nothing.
pub(crate) fn geometric_mean(ratios: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, count) = ratios.fold((0.0, 0_u32), |(sum, count), ratio| (sum + ratio.ln(), count + 1));
    (count > 0).then(|| (sum / f64::from(count)).exp())
}
