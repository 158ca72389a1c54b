//! What the processes of one case have printed, allocator by allocator, and the rows of the table that follow.

use std::collections::BTreeMap;

use crate::cases::Case;
use crate::figures::Figures;
use crate::meter::Report;
use crate::peers::Name;
use crate::targets;

/// A figure for every allocator.
pub(crate) type ByName = BTreeMap<Name, Figures>;

/// One figure that was timed: how long it took and how many pages it faulted in.
struct Timed {
    label: String,
    nanoseconds: ByName,
    faults: ByName,
}

/// Everything about one case.
pub(crate) struct Outcome {
    pub(crate) case: Case,
    timed: Vec<Timed>,
    peaks: ByName,
    /// What became of processes that gave nothing.
    pub(crate) failures: BTreeMap<Name, String>,
}

/// What a row counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    Nanoseconds,
    Bytes,
    Faults,
}

impl Unit {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Nanoseconds => "ns",
            Self::Bytes => "bytes",
            Self::Faults => "page faults",
        }
    }
}

/// One row of the table.
pub(crate) struct Row {
    pub(crate) case: Case,
    pub(crate) label: String,
    pub(crate) unit: Unit,
    pub(crate) figures: ByName,
    /// The peer that does best, and its median divided by ours.
    pub(crate) best: Option<(Name, f64)>,
    /// The least ratio that is good enough, if the row has a target.
    pub(crate) target: Option<f64>,
}

impl Outcome {
    pub(crate) fn new(case: Case) -> Self {
        Self { case, timed: Vec::new(), peaks: ByName::new(), failures: BTreeMap::new() }
    }

    /// Takes in what one process printed.
    pub(crate) fn add(&mut self, name: Name, result: Result<Report, String>) {
        match result {
            Ok(report) => self.add_report(name, report),
            Err(message) => {
                self.failures.insert(name, message);
            }
        }
    }

    fn add_report(&mut self, name: Name, report: Report) {
        for sample in report.samples {
            let timed = self.timed_as(&sample.cell);
            timed.nanoseconds.entry(name).or_default().push(sample.nanoseconds);
            timed.faults.entry(name).or_default().push(sample.faults as f64);
        }
        if let Some(bytes) = report.peak_bytes {
            self.peaks.entry(name).or_default().push(bytes as f64);
        }
    }

    fn timed_as(&mut self, label: &str) -> &mut Timed {
        let index = self.timed.iter().position(|timed| timed.label == label).unwrap_or_else(|| {
            self.timed.push(Timed { label: label.to_owned(), nanoseconds: ByName::new(), faults: ByName::new() });
            self.timed.len() - 1
        });
        &mut self.timed[index]
    }

    /// The median of a timed figure.
    pub(crate) fn nanoseconds(&self, label: &str, name: Name) -> Option<f64> {
        let timed = self.timed.iter().find(|timed| timed.label == label)?;
        Some(timed.nanoseconds.get(&name)?.median())
    }

    /// The median of the resident memory.
    pub(crate) fn peak_bytes(&self, name: Name) -> Option<f64> {
        Some(self.peaks.get(&name)?.median())
    }

    /// The rows of the table: times, page faults where memory is fresh, resident memory.
    pub(crate) fn rows(&self) -> Vec<Row> {
        let mut rows = Vec::new();
        for timed in &self.timed {
            rows.push(self.row(&timed.label, Unit::Nanoseconds, &timed.nanoseconds));
            if timed.label.contains("fresh") {
                rows.push(self.row(&timed.label, Unit::Faults, &timed.faults));
            }
        }
        if !self.peaks.is_empty() {
            rows.push(self.row("resident memory", Unit::Bytes, &self.peaks));
        }
        rows
    }

    fn row(&self, label: &str, unit: Unit, figures: &ByName) -> Row {
        let target = targets::of(&self.case, label, unit);
        let best = best(figures, |name| targets::is_compared(name, unit));
        Row { case: self.case.clone(), label: label.to_owned(), unit, figures: figures.clone(), best, target }
    }
}

/// The peer with the least median, and how many times ours that is.
fn best(figures: &ByName, is_compared: impl Fn(Name) -> bool) -> Option<(Name, f64)> {
    let ours = figures.get(&Name::Ours)?.median();
    let peers = figures.iter().filter(|(name, _)| is_compared(**name));
    let (&name, figures) = peers.min_by(|(_, a), (_, b)| a.median().total_cmp(&b.median()))?;
    Some((name, figures.median() / ours))
}

impl Row {
    /// Whether it falls short of its target.
    pub(crate) fn is_short(&self) -> bool {
        match (self.best, self.target) {
            (Some((_, ratio)), Some(target)) => ratio < target,
            _ => false,
        }
    }

    /// Whether the middle halves of our samples and of the best peer's, scaled by the target, overlap.
    pub(crate) fn is_close(&self) -> bool {
        let Some((name, _)) = self.best else { return false };
        let (ours, peer) = (&self.figures[&Name::Ours], &self.figures[&name]);
        let target = self.target.unwrap_or(1.0);
        ours.lower_quartile() * target <= peer.upper_quartile()
            && peer.lower_quartile() <= ours.upper_quartile() * target
    }
}
