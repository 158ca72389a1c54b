//! Tables, on the terminal and in Markdown.
#![forbid(unsafe_code)]

use std::fmt::Write;

use family_alloc_programs::child::{LIGHT_LOAD, REST};

use crate::allocators::{self, Allocator};
use crate::cli::Options;
use crate::outcome::{JUDGED, Measure, Outcome, geometric_mean};

/// A table of Markdown whose columns are even, so that it can be read as text as well.
struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    fn new(heads: impl IntoIterator<Item = &'static str>) -> Self {
        Self { rows: vec![heads.into_iter().map(str::to_owned).collect()] }
    }

    fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    fn text(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let cell = |row: &[String], column: usize| row.get(column).cloned().unwrap_or_default();
        let width = |column| self.rows.iter().map(|row| cell(row, column).chars().count()).max().unwrap_or(0).max(3);
        let mut text = String::new();
        for (number, row) in self.rows.iter().enumerate() {
            for column in 0..columns {
                let (cell, width) = (cell(row, column), width(column));
                let _ = if column == 0 { write!(text, "| {cell:<width$} ") } else { write!(text, "| {cell:>width$} ") };
            }
            text.push_str("|\n");
            if number == 0 {
                for column in 0..columns {
                    let dashes = "-".repeat(width(column) - usize::from(column > 0));
                    let _ = write!(text, "| {dashes}{} ", if column > 0 { ":" } else { "" });
                }
                text.push_str("|\n");
            }
        }
        text
    }
}

/// A job's figures, a row for each allocator.
pub(crate) fn table(outcome: &Outcome) -> String {
    let measures = [Measure::Cpu, Measure::Wall, Measure::Faults, Measure::Peak, Measure::End, Measure::Later];
    let mut table = Table::new([""].into_iter().chain(measures.map(Measure::heading)).chain(["CPU from run to run"]));
    for (allocator, _) in &outcome.results {
        let figures = measures.map(|measure| {
            outcome.median(allocator, measure).map_or(String::new(), |figure| match measure {
                Measure::Faults => format!("{figure:.0}"),
                Measure::Cpu | Measure::Wall => format!("{figure:.3}"),
                _ => format!("{figure:.1}"),
            })
        });
        let spread = format!("{:.0} %", outcome.spread(allocator, Measure::Cpu) * 100.0);
        table.row([allocator.name.to_owned()].into_iter().chain(figures).chain([spread]));
    }
    format!("## {}\n\n{}\n\n{}", outcome.job.name, outcome.job.what, table.text())
}

/// For each of our allocators: every job beside its best peer, and the geometric means.
pub(crate) fn means(outcomes: &[Outcome]) -> String {
    let is_measured = |allocator: &&Allocator| {
        outcomes.iter().all(|outcome| outcome.results.iter().any(|(known, _)| known == allocator))
    };
    let ours = allocators::ALL.iter().filter(|allocator| !allocator.is_peer).filter(is_measured);
    ours.map(|ours| format!("## {}: peer / ours\n\n{}\n", ours.name, ratios(ours, outcomes))).collect()
}

fn ratios(ours: &Allocator, outcomes: &[Outcome]) -> String {
    let mut table = Table::new([""].into_iter().chain(JUDGED.map(Measure::heading)));
    let best = |outcome: &Outcome, measure| {
        let (peer, figure) = outcome.best_peer(measure)?;
        Some((peer, figure / outcome.median(ours, measure)?))
    };
    for outcome in outcomes {
        let cells = JUDGED.map(|measure| {
            best(outcome, measure).map_or(String::new(), |(peer, ratio)| format!("{ratio:.2} ({})", peer.name))
        });
        table.row([outcome.job.name.to_owned()].into_iter().chain(cells));
    }
    let shown = |ratio: Option<f64>| ratio.map_or(String::new(), |ratio| format!("**{ratio:.2}**"));
    let cells = JUDGED
        .map(|measure| shown(geometric_mean(outcomes.iter().filter_map(|outcome| Some(best(outcome, measure)?.1)))));
    table.row(["best peer of each job, geometric mean".to_owned()].into_iter().chain(cells));
    for peer in allocators::ALL.iter().filter(|allocator| allocator.is_peer) {
        let ratio = |outcome: &Outcome, measure| Some(outcome.median(peer, measure)? / outcome.median(ours, measure)?);
        let cells =
            JUDGED.map(|measure| shown(geometric_mean(outcomes.iter().filter_map(|outcome| ratio(outcome, measure)))));
        table.row([format!("{}, geometric mean", peer.name)].into_iter().chain(cells));
    }
    table.text()
}

/// The page.
pub(crate) fn markdown(machine: &str, loads: [&str; 2], options: &Options, outcomes: &[Outcome]) -> String {
    let words: String = options.words.iter().map(|word| format!(" {word}")).collect();
    let (rest, light) = (REST.as_secs_f64(), LIGHT_LOAD.as_secs_f64());
    let (rotations, [before, after]) = (options.rotations, loads);
    let mut text = format!(
        "# Real programs

Jobs over crates that many programs use, with each allocator as the global one of a process of its
own. Generated by

```sh
cargo bench -p family-alloc-benches --bench programs --{words} --write \"$PWD/docs/programs.md\"
```

on {machine}.
{before} threads wanted to run when it began, and {after} when it ended: its own is one or two of them.

*CPU* is processor time of the whole process, user and system; *peak* is `VmHWM`; *end* is anonymous
memory when all is dropped and the process has slept for {rest} s; *later* is that after {light} s more,
in which the process makes a short text every 10 ms. All are medians of {rotations} processes. A ratio is
peer / ours: above 1, ours needs less. `benches/README.md` says how it is measured.

"
    );
    text.push_str(&means(outcomes));
    outcomes.iter().for_each(|outcome| {
        let _ = writeln!(text, "{}", table(outcome));
    });
    format!("{}\n", text.trim_end())
}
