//! What one run found: sent from the child to the parent as text, and shown beside the other run's.

use std::time::Duration;

#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Report {
    rows: Vec<Row>,
    /// One line for each file or directory that could not be read.
    pub(crate) warnings: String,
    pub(crate) answers: String,
    /// What each family held when the index was complete.
    pub(crate) tables: String,
}

#[derive(Debug, PartialEq, Eq)]
struct Row {
    kind: Kind,
    value: u64,
    label: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Must be the same in both runs.
    Count,
    /// Must be the same in both runs.
    Checksum,
    /// In nanoseconds.
    Time,
    /// In bytes.
    Memory,
}

const KINDS: [(Kind, &str); 4] =
    [(Kind::Count, "count"), (Kind::Checksum, "checksum"), (Kind::Time, "time"), (Kind::Memory, "memory")];

impl Report {
    /// Between the sections of an encoded report. Can't stand in them: names of files lose their
    /// control characters, and words have none.
    const SEPARATOR: char = '\x1e';

    pub(crate) fn push(&mut self, kind: Kind, label: &str, value: u64) {
        self.rows.push(Row { kind, value, label: label.to_owned() });
    }

    pub(crate) fn push_time(&mut self, label: &str, time: Duration) {
        self.push(Kind::Time, label, u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }

    /// Nothing where the system does not tell.
    pub(crate) fn push_memory(&mut self, label: &str, bytes: Option<u64>) {
        if let Some(bytes) = bytes {
            self.push(Kind::Memory, label, bytes);
        }
    }

    pub(crate) fn encode(&self) -> String {
        let rows: String = self.rows.iter().map(Row::encode).collect();
        [&rows, &self.warnings, &self.answers, &self.tables]
            .map(String::as_str)
            .join(Self::SEPARATOR.encode_utf8(&mut [0; 4]))
    }

    pub(crate) fn decode(text: &str) -> Option<Self> {
        let mut sections = text.split(Self::SEPARATOR);
        let mut section = || sections.next().map(str::to_owned);
        Some(Self {
            rows: section()?.lines().map(Row::decode).collect::<Option<_>>()?,
            warnings: section()?,
            answers: section()?,
            tables: section()?,
        })
    }
}

impl Row {
    fn encode(&self) -> String {
        let (_, kind) = KINDS.iter().find(|(kind, _)| *kind == self.kind).expect("every kind is listed");
        format!("{kind}\t{}\t{}\n", self.value, self.label)
    }

    fn decode(line: &str) -> Option<Self> {
        let mut fields = line.splitn(3, '\t');
        let kind = fields.next()?;
        Some(Self {
            kind: KINDS.iter().find(|(_, name)| *name == kind)?.0,
            value: fields.next()?.parse().ok()?,
            label: fields.next()?.to_owned(),
        })
    }

    fn must_agree(&self) -> bool {
        matches!(self.kind, Kind::Count | Kind::Checksum)
    }
}

impl Kind {
    /// What is to be known before the first row.
    fn legend(self) -> &'static str {
        match self {
            Self::Count | Self::Checksum => "",
            Self::Time => {
                "
Times; lower is better, and a ratio below 1 means that the families took less.
"
            }
            Self::Memory => {
                "
Resident memory of the whole process; lower is better. What is freed stays resident for a while, to
be used again: `trim` gives it back at once, and both allocators keep what they hold for other parts
of the program.
"
            }
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    fn show(self, value: u64) -> String {
        match self {
            Self::Count => with_thousands(value),
            Self::Checksum => format!("{value:016x}"),
            Self::Time => format!("{:.3} ms", value as f64 / 1e6),
            Self::Memory => format!("{} KiB", with_thousands(value / 1024)),
        }
    }
}

/// Both runs as a table, with the ratio of what is measured. What the rows of a kind mean stands before them.
pub(crate) fn side_by_side(families: &Report, system: &Report) -> String {
    let mut table = format!("{:<32}{:>18}{:>18}{:>8}\n", "", "families", "system", "ratio");
    let mut kind = None;
    for (left, right) in families.rows.iter().zip(&system.rows) {
        if kind.replace(left.kind) != Some(left.kind) {
            table += left.kind.legend();
        }
        let [left_value, right_value] = [left, right].map(|row| row.kind.show(row.value));
        let ratio = if left.must_agree() { String::new() } else { ratio(left.value, right.value) };
        let line = format!("{:<32}{left_value:>18}{right_value:>18}{ratio:>8}", left.label);
        table = table + line.trim_end() + "\n";
    }
    table
}

/// The names of what should be the same in both runs and is not.
pub(crate) fn differences<'a>(families: &'a Report, system: &'a Report) -> Vec<&'a str> {
    let rows = families.rows.iter().zip(&system.rows);
    let mut names: Vec<_> = rows
        .filter(|(left, right)| left.label != right.label || left.must_agree() && left != right)
        .map(|(left, _)| left.label.as_str())
        .collect();
    let texts = [
        ("the number of rows", families.rows.len() != system.rows.len()),
        ("the warnings", families.warnings != system.warnings),
        ("the answers", families.answers != system.answers),
    ];
    names.extend(texts.iter().filter(|(_, differs)| *differs).map(|(name, _)| *name));
    names
}

#[expect(clippy::cast_precision_loss, reason = "two digits are shown")]
fn ratio(left: u64, right: u64) -> String {
    if right == 0 { String::new() } else { format!("{:.2}", left as f64 / right as f64) }
}

fn with_thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(words: u64, time: u64) -> Report {
        let mut report = Report { answers: "query\n".to_owned(), ..Report::default() };
        report.push(Kind::Count, "words", words);
        report.push(Kind::Time, "indexing", time);
        report
    }

    #[test]
    fn a_report_survives_the_way_to_the_parent() {
        let report = report(3, 1_000_000);
        assert_eq!(Report::decode(&report.encode()), Some(report));
    }

    #[test]
    fn text_that_is_no_report_is_refused() {
        for text in ["", "words 3", "\x1e\x1e", "speed\t1\twords\x1e\x1e\x1e"] {
            assert_eq!(Report::decode(text), None, "{text:?}");
        }
    }

    #[test]
    fn counts_and_answers_must_agree_and_times_need_not() {
        assert!(differences(&report(3, 1), &report(3, 2)).is_empty());
        assert_eq!(differences(&report(3, 1), &report(4, 1)), ["words"]);
        let other = Report { answers: String::new(), ..report(3, 1) };
        assert_eq!(differences(&report(3, 1), &other), ["the answers"]);
        let shorter = Report { answers: "query\n".to_owned(), ..Report::default() };
        assert_eq!(differences(&report(3, 1), &shorter), ["the number of rows"]);
    }

    #[test]
    fn figures_are_shown_readably() {
        assert_eq!(Kind::Count.show(1_234_567), "1,234,567");
        assert_eq!(Kind::Count.show(123), "123");
        assert_eq!(Kind::Memory.show(3 << 20), "3,072 KiB");
        assert_eq!(Kind::Time.show(1_500_000), "1.500 ms");
    }
}
