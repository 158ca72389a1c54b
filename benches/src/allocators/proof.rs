//! The first table: the proof of concept's own benchmark, for every size from 1 to 8192, against the system allocator.

use crate::cli::Options;
use crate::outcome::Outcome;
use crate::peers::Name;
use crate::progress::Progress;
use crate::{cases, child, os};

/// The sizes of a short run: the classes' first and last, and what programs use most.
const SHORT: [usize; 24] =
    [1, 2, 3, 4, 5, 8, 12, 16, 24, 32, 48, 64, 96, 128, 200, 256, 400, 512, 1000, 1024, 2048, 3000, 4096, 8192];

/// What one size came to with one allocator.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Figures {
    pub(crate) allocate: f64,
    pub(crate) walk: f64,
    pub(crate) free: f64,
    /// Resident bytes per allocation.
    pub(crate) bytes: f64,
}

impl Figures {
    fn total(self) -> f64 {
        self.allocate + self.walk + self.free
    }
}

/// One size.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Line {
    pub(crate) size: usize,
    pub(crate) count: usize,
    pub(crate) ours: Figures,
    pub(crate) system: Figures,
}

impl Line {
    fn speed(&self) -> f64 {
        self.system.total() / self.ours.total()
    }

    fn memory(&self) -> f64 {
        self.system.bytes / self.ours.bytes
    }
}

/// Runs it and prints the table.
pub(crate) fn run(options: &Options) -> Vec<Line> {
    let short = options.short;
    let sizes = sizes(options);
    let most = Most::of(options);
    print_head(&most, &sizes);
    let mut progress = Progress::new(sizes.len());
    let mut lines: Vec<Line> = Vec::new();
    for (index, &size) in sizes.iter().enumerate() {
        progress.step(&format!("size {size}"));
        let measured = measure(size, most.count(size), short);
        let ends_class = sizes.get(index + 1).is_none_or(|next| class(*next) != class(size));
        if short || options.every_size || ends_class || measured.is_err() {
            progress.clear();
        }
        match measured {
            Ok(line) if short || options.every_size => {
                print_line(&size.to_string(), &line);
                lines.push(line);
            }
            Ok(line) => lines.push(line),
            Err(message) => println!("{size:>12}  {message}"),
        }
        if ends_class && !short && !options.every_size {
            print_class(&lines, class(size));
        }
    }
    print_worst(&lines);
    lines
}

/// How many allocations of each size, and how many bytes.
struct Most {
    count: usize,
    bytes: usize,
    words: &'static str,
}

impl Most {
    const fn of(options: &Options) -> Self {
        match (options.short, options.whole_gib) {
            (true, _) => {
                Self { count: 100_000, bytes: 32 << 20, words: "SHORT: a hundred thousand allocations or 32 MiB" }
            }
            (false, false) => Self { count: 1_000_000, bytes: 128 << 20, words: "a million allocations or 128 MiB" },
            (false, true) => Self { count: 1_000_000, bytes: 1 << 30, words: "a million allocations or 1 GiB" },
        }
    }

    fn count(&self, size: usize) -> usize {
        self.count.min(self.bytes / size)
    }
}

/// The sizes that are measured.
fn sizes(options: &Options) -> Vec<usize> {
    let step = options.step.unwrap_or(1);
    match (options.short, options.step) {
        (true, None) => SHORT.to_vec(),
        _ => (1..=8192_usize).filter(|size| size.is_multiple_of(step)).collect(),
    }
}

/// The largest size of the class.
fn class(size: usize) -> usize {
    size.next_power_of_two()
}

fn print_head(most: &Most, sizes: &[usize]) {
    println!("The proof of concept's benchmark for {} of the sizes from 1 to 8192", sizes.len());
    println!("{} of each; allocate and touch, walk, free; fresh memory, a process each.", most.words);
    println!(
        "{:>12} {:>9} | {:^40} | {:^40} | {:>6} {:>6}",
        "", "", "family-alloc, ns and resident bytes", "system, ns and resident bytes", "time", "memory"
    );
    let columns = format!("{:>9} {:>9} {:>9} {:>10}", "allocate", "walk", "free", "bytes");
    println!("{:>12} {:>9} | {columns} | {columns} | {:>6} {:>6}", "size", "count", "×", "×");
}

fn print_line(label: &str, line: &Line) {
    let show = |figures: Figures| {
        format!("{:>9.2} {:>9.2} {:>9.2} {:>10.3}", figures.allocate, figures.walk, figures.free, figures.bytes)
    };
    let (ours, system) = (show(line.ours), show(line.system));
    println!("{label:>12} {:>9} | {ours} | {system} | {:>6.2} {:>6.2}", line.count, line.speed(), line.memory());
}

/// A row for a class: the median of its sizes.
fn print_class(lines: &[Line], last: usize) {
    let first = last / 2 + 1;
    let class: Vec<&Line> = lines.iter().filter(|line| (first..=last).contains(&line.size)).collect();
    let Some(&newest) = class.last() else { return };
    let label = if first >= last { last.to_string() } else { format!("{first}–{last}") };
    let median = |figure: fn(&Line) -> f64| {
        let mut values: Vec<f64> = class.iter().map(|line| figure(line)).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let line = Line {
        size: newest.size,
        count: newest.count,
        ours: Figures {
            allocate: median(|line| line.ours.allocate),
            walk: median(|line| line.ours.walk),
            free: median(|line| line.ours.free),
            bytes: median(|line| line.ours.bytes),
        },
        system: Figures {
            allocate: median(|line| line.system.allocate),
            walk: median(|line| line.system.walk),
            free: median(|line| line.system.free),
            bytes: median(|line| line.system.bytes),
        },
    };
    print_line(&label, &line);
}

/// The sizes where we look worst.
fn print_worst(lines: &[Line]) {
    if lines.is_empty() {
        return;
    }
    let slower: Vec<usize> = lines.iter().filter(|line| line.speed() < 1.0).map(|line| line.size).collect();
    let larger: Vec<usize> = lines.iter().filter(|line| line.memory() < 1.0).map(|line| line.size).collect();
    println!("slower than the system allocator: {}", describe(&slower));
    println!("more resident memory than the system allocator: {}", describe(&larger));
    if !larger.is_empty() {
        println!("(classes are powers of two: a size just above one takes up to twice its bytes)");
    }
    println!();
}

/// How many sizes, and some of them.
fn describe(sizes: &[usize]) -> String {
    let some: Vec<String> = sizes.iter().take(12).map(usize::to_string).collect();
    match sizes.len() {
        0 => "no size".to_owned(),
        count if count > some.len() => format!("{count} sizes: {}, …", some.join(", ")),
        count => format!("{count} sizes: {}", some.join(", ")),
    }
}

fn measure(size: usize, count: usize, short: bool) -> Result<Line, String> {
    let case = cases::proof(count, size);
    let mut outcome = Outcome::new(case.clone());
    for name in [Name::Ours, Name::System] {
        os::warm(case.workload.fresh_bytes());
        let report = child::measure(&case, name, short).map_err(|message| format!("{name} gave nothing: {message}"))?;
        outcome.add(name, Ok(report));
    }
    let figures = |name| {
        Some(Figures {
            allocate: outcome.nanoseconds("allocate", name)?,
            walk: outcome.nanoseconds("walk", name)?,
            free: outcome.nanoseconds("free", name)?,
            bytes: outcome.peak_bytes(name)? / count as f64,
        })
    };
    let (Some(ours), Some(system)) = (figures(Name::Ours), figures(Name::System)) else {
        return Err("a process printed nothing".to_owned());
    };
    Ok(Line { size, count, ours, system })
}
