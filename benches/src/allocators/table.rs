//! The table: a row per figure, a column per allocator.

use crate::outcome::{Outcome, Row, Unit};
use crate::peers::Name;
use crate::targets::{self, FLATNESS, GEOMETRIC_MEAN, PAIR_OVER_MIMALLOC};
use crate::workload::Workload;

const LABEL_WIDTH: usize = 38;

/// The names of the columns.
pub(crate) fn print_head(names: &[Name]) {
    let columns: String = names.iter().map(|name| format!("{name:>12}")).collect();
    println!("{:LABEL_WIDTH$}{columns}{:>8}", "nanoseconds unless said", "ratio");
}

/// All rows of a case.
pub(crate) fn print_outcome(outcome: &Outcome, names: &[Name]) {
    println!("{}", outcome.case.name);
    for row in outcome.rows() {
        print_row(&row, names);
    }
    for (name, message) in &outcome.failures {
        println!("  {name} gave nothing: {message}");
    }
}

fn print_row(row: &Row, names: &[Name]) {
    let columns: String = names
        .iter()
        .map(|name| row.figures.get(name).map_or("–".to_owned(), |figures| show(figures.median(), row.unit)))
        .map(|text| format!("{text:>12}"))
        .collect();
    let ratio = row.best.map_or(String::new(), |(_, ratio)| format!("{ratio:.2}"));
    let label = match row.unit {
        Unit::Faults => format!("  {}, page faults", row.label),
        _ => format!("  {}", row.label),
    };
    println!("{label:LABEL_WIDTH$}{columns}{ratio:>8}{}", mark(row));
}

/// What stands behind a ratio below its target.
fn mark(row: &Row) -> String {
    match row.target {
        Some(target) if row.is_short() && row.is_close() => format!("  < {target:.2} within the noise"),
        Some(target) if row.is_short() => format!("  < {target:.2}"),
        _ => String::new(),
    }
}

/// A figure in at most eight characters.
fn show(value: f64, unit: Unit) -> String {
    match unit {
        Unit::Bytes => format!("{:.2} MiB", value / f64::from(1 << 20)),
        _ if value >= 1e7 => format!("{:.1} M", value / 1e6),
        _ if value >= 1e4 => format!("{:.1} k", value / 1e3),
        Unit::Faults => format!("{value:.0}"),
        _ if value >= 100.0 => format!("{value:.0}"),
        _ => format!("{value:.2}"),
    }
}

/// What the table comes to: mean, growth, and every row that falls short.
pub(crate) fn print_verdict(outcomes: &[Outcome]) {
    let rows: Vec<Row> = outcomes.iter().flat_map(Outcome::rows).collect();
    println!();
    if let Some(mean) = targets::geometric_mean(&rows, Name::Ours) {
        println!("geometric mean of all times, best peer / ours: {mean:.2} (target {GEOMETRIC_MEAN:.2})");
    }
    if let Some(mean) = targets::geometric_mean(&rows, Name::OursSpaced) {
        println!("geometric mean of all times, best peer / spaced: {mean:.2}");
    }
    print_growth(outcomes);
    let judged = rows.iter().filter(|row| row.target.is_some() && row.best.is_some()).count();
    let short: Vec<&Row> = rows.iter().filter(|row| row.is_short()).collect();
    let close = short.iter().filter(|row| row.is_close()).count();
    println!("{} of {judged} rows fall short of their target, {close} of them within the noise:", short.len());
    for row in short {
        let (name, ratio) = row.best.unwrap_or((Name::Ours, 1.0));
        println!("  {ratio:>6.2} against {name:<12} {}, {}{}", row.case.name, describe(row), mark(row));
    }
    print_pairs(&rows);
}

fn describe(row: &Row) -> String {
    match row.unit {
        Unit::Faults => format!("{}, page faults", row.label),
        _ => row.label.clone(),
    }
}

fn print_growth(outcomes: &[Outcome]) {
    for series in targets::series(outcomes) {
        let points: Vec<_> = series.points.iter().map(|(at, cost)| format!("{at}: {cost:.1}")).collect();
        let (name, label, spread) = (series.name, series.label, series.spread());
        println!("growth in {name}, {label}: {} ns; spread {spread:.2} (target {FLATNESS:.2})", points.join(", "));
    }
}

/// The second target of a pair whose layout is a constant.
fn print_pairs(rows: &[Row]) {
    for row in rows.iter().filter(|row| row.case.workload == Workload::PairConstant && row.unit == Unit::Nanoseconds) {
        let (Some(ours), Some(mimalloc)) = (row.figures.get(&Name::Ours), row.figures.get(&Name::Mimalloc)) else {
            continue;
        };
        let ratio = mimalloc.median() / ours.median();
        if ratio < PAIR_OVER_MIMALLOC {
            println!(
                "  {ratio:>6.2} against {:<12} {}, {}  < {PAIR_OVER_MIMALLOC:.2}",
                "mimalloc", row.case.name, row.label
            );
        }
    }
}
