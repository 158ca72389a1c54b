//! What a child notes: figures with names, read at moments that the program chooses.

use std::fs;
use std::io::{BufRead, BufReader};

use crate::os;

/// What a figure counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    Bytes,
    Count,
}

/// A figure of one process.
#[derive(Clone, Debug)]
pub(crate) struct Figure {
    pub(crate) name: String,
    pub(crate) unit: Unit,
    pub(crate) value: usize,
}

/// The figures of this process so far.
pub(crate) struct Moments {
    start: usize,
    figures: Vec<(&'static str, Unit, usize)>,
}

impl Moments {
    /// Resident memory counts from here on.
    pub(crate) fn new() -> Self {
        let figures = Vec::with_capacity(64);
        Self { start: resident_bytes(), figures }
    }

    /// Resident memory counts from here on: what the program has prepared is no part of it.
    pub(crate) fn begin(&mut self) {
        self.start = resident_bytes();
    }

    /// Notes what has become resident since the beginning.
    pub(crate) fn note(&mut self, moment: &'static str) {
        self.bytes(moment, self.more());
    }

    /// Bytes that have become resident since the beginning.
    pub(crate) fn more(&self) -> usize {
        resident_bytes().saturating_sub(self.start)
    }

    pub(crate) fn bytes(&mut self, name: &'static str, value: usize) {
        self.figures.push((name, Unit::Bytes, value));
    }

    pub(crate) fn count(&mut self, name: &'static str, value: usize) {
        self.figures.push((name, Unit::Count, value));
    }

    /// Prints all figures, a line each.
    pub(crate) fn print(&self) {
        for (name, unit, value) in &self.figures {
            println!("{name}\t{}\t{value}", if *unit == Unit::Bytes { "bytes" } else { "count" });
        }
    }
}

/// What [`Moments::print`] has printed.
pub(crate) fn parse(text: &str) -> Option<Vec<Figure>> {
    text.lines().map(figure).collect()
}

fn figure(line: &str) -> Option<Figure> {
    let mut parts = line.split('\t');
    let (name, unit, value) = (parts.next()?, parts.next()?, parts.next()?);
    let unit = if unit == "bytes" { Unit::Bytes } else { Unit::Count };
    Some(Figure { name: name.to_owned(), unit, value: value.parse().ok()? })
}

fn resident_bytes() -> usize {
    usize::try_from(os::resident_bytes()).unwrap_or(usize::MAX)
}

/// Mappings of this process.
pub(crate) fn mappings() -> usize {
    // Line by line: where there are no mappings left, there is no memory for all of them.
    fs::File::open("/proc/self/maps").map_or(0, |file| BufReader::new(file).split(b'\n').count())
}

/// Bytes of address space of this process.
pub(crate) fn mapped_bytes() -> usize {
    let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').next().and_then(|pages| pages.parse::<usize>().ok()).unwrap_or(0) * 4096
}

/// Bytes that a core file of this process would have: mappings of its own that can be read and are not kept out of dumps (`dd`);
/// of those of files, the ones that were written to.
pub(crate) fn dumped_bytes() -> usize {
    let text = fs::read_to_string("/proc/self/smaps").unwrap_or_default();
    let number = |rest: &str| rest.trim().trim_end_matches("kB").trim().parse::<usize>().unwrap_or(0) << 10;
    let (mut sum, mut bytes, mut is_own, mut can_be_read) = (0, 0, false, false);
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("Size:") {
            bytes = number(rest);
        } else if let Some(rest) = line.strip_prefix("Anonymous:") {
            is_own |= number(rest) > 0;
        } else if let Some(flags) = line.strip_prefix("VmFlags:") {
            let is_left_out = flags.split_whitespace().any(|flag| flag == "dd");
            sum += if is_own && can_be_read && !is_left_out { bytes } else { 0 };
        } else if let Some(access) = line.split(' ').nth(1).filter(|access| access.len() == 4) {
            can_be_read = access.starts_with('r') && access.ends_with('p');
            // No file has the number 0.
            is_own = line.split(' ').nth(4) == Some("0");
        }
    }
    sum
}
