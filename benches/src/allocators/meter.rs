//! The stopwatch of a child process: what a workload reports to.

use std::io::Write;

use crate::os;

/// What one timed section gave.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sample {
    /// What was timed: a row of the table.
    pub(crate) cell: String,
    /// Nanoseconds per operation.
    pub(crate) nanoseconds: f64,
    /// Page faults in all.
    pub(crate) faults: u64,
}

/// Collects the samples of one workload with one allocator.
pub(crate) struct Meter {
    short: bool,
    samples: Vec<Sample>,
    baseline_bytes: u64,
    peak_bytes: Option<u64>,
}

impl Meter {
    pub(crate) fn new(short: bool) -> Self {
        Self { short, samples: Vec::with_capacity(1024), baseline_bytes: os::resident_bytes(), peak_bytes: None }
    }

    /// The first value in a short run, the second in a full one.
    pub(crate) fn pick<T>(&self, short: T, full: T) -> T {
        if self.short { short } else { full }
    }

    /// Says that the workload's own arrays are there and the allocator has not been used: what is resident now is not its.
    pub(crate) fn ready(&mut self) {
        self.baseline_bytes = os::resident_bytes();
    }

    /// Says that the workload holds as much memory as it ever will.
    pub(crate) fn peak(&mut self) {
        let bytes = os::resident_bytes().saturating_sub(self.baseline_bytes);
        self.peak_bytes = self.peak_bytes.max(Some(bytes));
    }

    /// Times `work`, which does `operations`, by the processor's time: what the machine does besides does not count.
    pub(crate) fn time<T>(&mut self, cell: &str, operations: usize, work: impl FnOnce() -> T) -> T {
        let faults = os::page_faults();
        let start = os::processor_nanoseconds();
        let result = work();
        let elapsed = os::processor_nanoseconds() - start;
        let faults = os::page_faults() - faults;
        let nanoseconds = elapsed as f64 / operations.max(1) as f64;
        self.samples.push(Sample { cell: cell.to_owned(), nanoseconds, faults });
        result
    }

    /// Records a figure that a workload has timed itself, in nanoseconds per operation.
    pub(crate) fn record(&mut self, cell: &str, nanoseconds: f64) {
        self.samples.push(Sample { cell: cell.to_owned(), nanoseconds, faults: 0 });
    }

    /// Says what the newest sample of `cell` was.
    pub(crate) fn newest(&self, cell: &str) -> f64 {
        self.samples.iter().rev().find(|sample| sample.cell == cell).map_or(0.0, |sample| sample.nanoseconds)
    }

    /// Prints everything for the parent process.
    pub(crate) fn print(&self) {
        let mut text = String::new();
        for Sample { cell, nanoseconds, faults } in &self.samples {
            text += &format!("sample\t{cell}\t{nanoseconds}\t{faults}\n");
        }
        if let Some(bytes) = self.peak_bytes {
            text += &format!("peak\t{bytes}\n");
        }
        let mut out = std::io::stdout();
        out.write_all(text.as_bytes()).expect("the parent reads");
        out.flush().expect("the parent reads");
    }
}

/// What a child process printed.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Report {
    pub(crate) samples: Vec<Sample>,
    pub(crate) peak_bytes: Option<u64>,
}

impl Report {
    /// Reads what [`Meter::print`] wrote.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut report = Self::default();
        for line in text.lines() {
            let mut fields = line.split('\t');
            match fields.next()? {
                "sample" => report.samples.push(Sample {
                    cell: fields.next()?.to_owned(),
                    nanoseconds: fields.next()?.parse().ok()?,
                    faults: fields.next()?.parse().ok()?,
                }),
                "peak" => report.peak_bytes = Some(fields.next()?.parse().ok()?),
                _ => return None,
            }
        }
        Some(report)
    }
}
