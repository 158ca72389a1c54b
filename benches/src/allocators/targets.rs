//! What family-alloc aims at: the least ratio "best peer / ours" of each row.

use crate::cases::Case;
use crate::outcome::{Outcome, Row, Unit};
use crate::peers::Name;
use crate::workload::Workload as W;

/// How many times mimalloc a pair of constant layout is to be.
pub(crate) const PAIR_OVER_MIMALLOC: f64 = 4.0;

/// The geometric mean of the ratios of all times.
pub(crate) const GEOMETRIC_MEAN: f64 = 2.0;

/// How much more the most expensive point of a growing series may cost than the cheapest.
pub(crate) const FLATNESS: f64 = 1.5;

/// The target of a row, if it has one.
pub(crate) fn of(case: &Case, label: &str, unit: Unit) -> Option<f64> {
    match unit {
        Unit::Nanoseconds => time(case.workload, label),
        Unit::Faults => Some(8.0),
        Unit::Bytes => memory(case.workload),
    }
}

/// Never slower; and more than that where it matters most. Growth is judged by its flatness.
fn time(workload: W, label: &str) -> Option<f64> {
    match workload {
        W::GrowthLive { .. } | W::GrowthFamilies { .. } | W::GrowthThreads { .. } => None,
        W::PairConstant => Some(1.7),
        W::Churn { live: 1_000_000.., .. } => Some(2.0),
        W::ChurnMixed { live: 1_000_000.. } => Some(2.0),
        W::ProducerConsumer => Some(2.0),
        W::TwoThreads | W::TwoThreadsMixed => Some(1.5),
        _ if label == "floor" => None,
        _ => Some(1.0),
    }
}

/// At most 3 % above the leanest of three; below all of them where objects are small.
fn memory(workload: W) -> Option<f64> {
    match workload {
        W::Bulk { size: ..16 } => Some(1.0 + f64::EPSILON),
        _ => Some(1.0 / 1.03),
    }
}

/// Whether the row's ratio is taken against that allocator. Memory is compared to the three that are lean.
pub(crate) fn is_compared(name: Name, unit: Unit) -> bool {
    match unit {
        Unit::Nanoseconds | Unit::Faults => name.is_peer(),
        Unit::Bytes => matches!(name, Name::Mimalloc | Name::Jemalloc | Name::RustyAlloc),
    }
}

/// The geometric mean of the ratios of the best peer to one of our columns, over all rows of time that have a target.
pub(crate) fn geometric_mean(rows: &[Row], ours: Name) -> Option<f64> {
    let ratio = |row: &Row| Some(row.figures[&row.best?.0].median() / row.figures.get(&ours)?.median());
    let logarithms: Vec<f64> = rows
        .iter()
        .filter(|row| row.unit == Unit::Nanoseconds && row.target.is_some())
        .filter_map(|row| Some(ratio(row)?.ln()))
        .collect();
    (!logarithms.is_empty()).then(|| (logarithms.iter().sum::<f64>() / logarithms.len() as f64).exp())
}

/// A series of cases that differ in how much there is of one thing.
pub(crate) struct Series {
    pub(crate) name: &'static str,
    pub(crate) label: &'static str,
    /// Our nanoseconds at each point.
    pub(crate) points: Vec<(String, f64)>,
}

impl Series {
    /// The most expensive point over the cheapest. Less than a nanosecond is taken as one: it is within the noise.
    pub(crate) fn spread(&self) -> f64 {
        let costs = || self.points.iter().map(|&(_, cost)| cost.max(1.0));
        costs().fold(f64::MIN, f64::max) / costs().fold(f64::MAX, f64::min)
    }
}

/// The growing series of the run that have more than one point.
pub(crate) fn series(outcomes: &[Outcome]) -> Vec<Series> {
    let all = [
        ("live", "growth/live ", "batch of 1000"),
        ("live", "growth/live ", "replace - floor"),
        ("families", "growth/families ", "replace"),
        ("families", "growth/families ", "replace - floor"),
        ("threads", "growth/threads ", "replace"),
        ("threads", "growth/threads ", "replace - floor"),
    ];
    let series = all.map(|(name, prefix, label)| Series { name, label, points: points(outcomes, prefix, label) });
    series.into_iter().filter(|series| series.points.len() > 1).collect()
}

fn points(outcomes: &[Outcome], prefix: &str, label: &str) -> Vec<(String, f64)> {
    let point = |outcome: &Outcome| {
        let at = outcome.case.name.strip_prefix(prefix)?;
        Some((at.to_owned(), outcome.nanoseconds(label, Name::Ours)?))
    };
    outcomes.iter().filter_map(point).collect()
}
