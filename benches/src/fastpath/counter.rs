//! The same program under callgrind, and what callgrind wrote down.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, fs, process};

use crate::loops::COUNT;
use crate::peers::Name;

/// Iterations of a first run; a second one has twice as many.
pub(crate) const ITERATIONS: usize = 20_000;

/// Where callgrind writes down its count: at every return from this function.
const MEASURED: &str = "family_alloc_fastpath_measured";

/// Instructions per iteration of every loop, for one allocator.
pub(crate) struct Counts {
    pub(crate) name: Name,
    /// Name of the loop and instructions.
    pub(crate) loops: Vec<(String, f64)>,
}

/// Calls a loop; callgrind's count starts at the call and is written down at the return.
#[inline(never)]
#[unsafe(export_name = "family_alloc_fastpath_measured")]
extern "C" fn measured(run: extern "C" fn(usize, usize), which: usize, times: usize) {
    run(which, times);
    // Nothing may follow the call as its last, or it becomes a jump and the return is another function's.
    std::hint::black_box(());
}

/// Runs every loop twice, for callgrind to count, after a run that is not counted: a thread earns what its caches hold.
pub(crate) fn serve(run: extern "C" fn(usize, usize), names: &[&str; COUNT]) {
    for (which, name) in names.iter().enumerate() {
        println!("{name}");
        run(which, ITERATIONS);
        for times in [ITERATIONS, 2 * ITERATIONS] {
            std::hint::black_box(measured)(run, which, times);
        }
    }
}

/// Counts for every allocator that is asked for; those that cannot run under valgrind are left out with a word.
pub(crate) fn count(names: &[Name]) -> Result<Vec<Counts>, String> {
    if Command::new("valgrind").arg("--version").stdout(Stdio::null()).status().is_err() {
        return Err("valgrind is not installed".to_owned());
    }
    let mut all = Vec::new();
    for &name in names {
        match count_one(name) {
            Ok(counts) => all.push(counts),
            Err(message) => eprintln!("{name} under valgrind: {message}"),
        }
    }
    Ok(all)
}

fn count_one(name: Name) -> Result<Counts, String> {
    let folder = Folder::new()?;
    let program = env::current_exe().map_err(|error| error.to_string())?;
    let output = Command::new("valgrind")
        .args(["-q", "--tool=callgrind", "--combine-dumps=no"])
        .arg(format!("--zero-before={MEASURED}"))
        .arg(format!("--dump-after={MEASURED}"))
        .arg(format!("--callgrind-out-file={}", folder.0.join("out").display()))
        .arg(program)
        .args(["--run", name.as_str()])
        .output()
        .map_err(|error| error.to_string())?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).lines().last().unwrap_or("failed").to_owned());
    }
    let names = String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect::<Vec<_>>();
    let totals = totals(&folder.0, 2 * names.len())?;
    Ok(Counts { name, loops: per_iteration(names, &totals) })
}

/// What callgrind wrote down at each return, in order.
fn totals(folder: &Path, count: usize) -> Result<Vec<u64>, String> {
    (1..=count)
        .map(|index| {
            let text = fs::read_to_string(folder.join(format!("out.{index}"))).map_err(|error| error.to_string())?;
            let line = text.lines().find_map(|line| line.strip_prefix("summary:").or(line.strip_prefix("totals:")));
            line.and_then(|line| line.trim().parse().ok()).ok_or_else(|| "no total".to_owned())
        })
        .collect()
}

/// The difference of two runs, without what the empty loop takes.
fn per_iteration(names: Vec<String>, totals: &[u64]) -> Vec<(String, f64)> {
    let cost = |pair: &[u64]| (pair[1] as f64 - pair[0] as f64) / ITERATIONS as f64;
    let empty = cost(&totals[..2]);
    let costs = totals.chunks_exact(2).map(|pair| cost(pair) - empty);
    names.into_iter().zip(costs).skip(1).collect()
}

/// A folder that goes away with its contents.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Result<Self, String> {
        let path = env::temp_dir().join(format!("family-alloc-fastpath-{}", process::id()));
        fs::create_dir_all(&path).map_err(|error| error.to_string())?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What cannot be removed stays in the folder for temporary files.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The table for people.
pub(crate) fn print(all: &[Counts]) {
    println!("instructions per iteration (callgrind), the loop itself taken off");
    let head: String = all.iter().map(|counts| format!("{:>13}", counts.name)).collect();
    println!("{:22}{head}", "");
    let Some(first) = all.first() else { return };
    for (index, (name, _)) in first.loops.iter().enumerate() {
        let columns: String = all.iter().map(|counts| format!("{:>13.1}", counts.loops[index].1)).collect();
        println!("{name:22}{columns}");
    }
}
