//! The command line.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use crate::peers::Name;
use crate::programs::Settings;

/// Those that are compared unless others are named: ours and the three peers that programs have most.
const DEFAULT: [Name; 4] = [Name::Ours, Name::System, Name::Mimalloc, Name::Jemalloc];

/// What the user asked for.
pub(crate) struct Options {
    pub(crate) only: Vec<String>,
    pub(crate) names: Vec<Name>,
    pub(crate) settings: Settings,
    /// What was asked for in these words, to be told in the file.
    pub(crate) words: Vec<String>,
    pub(crate) list: bool,
    pub(crate) write: Option<PathBuf>,
    /// The user asked for the other benchmarks.
    pub(crate) left_out: bool,
}

pub(crate) const HELP: &str = "\
Memory over time: `cargo bench --bench memory_over_time -- [OPTIONS]`

  --only TEXT,…        only programs whose name contains one of the texts
  --allocators NAME,…  only these allocators (family-alloc,system,mimalloc,jemalloc)
  --short              a smoke run: a tenth of the memory, a fiftieth of the time
  --scale PERCENT      of the memory, threads and objects of each program (100)
  --seconds N          what a trickle of ten seconds takes; all other times follow (10)
  --seed N             of the random numbers (1)
  --write FILE         write a page of Markdown as well
  --list               name the programs";

/// Reads the arguments, cargo's own `--bench` included; those of the other benchmarks, which `cargo bench` gives to all, mean
/// that this one is not wanted.
pub(crate) fn parse(arguments: impl Iterator<Item = String>) -> Result<Options, String> {
    let mut arguments = arguments.filter(|argument| argument != "--bench");
    let mut options = Options {
        only: Vec::new(),
        names: DEFAULT.to_vec(),
        settings: Settings { scale: 100, time: 100, seed: 1, looks: true },
        words: Vec::new(),
        list: false,
        write: None,
        left_out: false,
    };
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| format!("{argument} needs a value\n\n{HELP}"));
        let mut told = None;
        match argument.as_str() {
            "--only" | "--filter" => {
                let text = value()?;
                options.only.extend(text.split(',').map(|part| part.trim().to_owned()));
                told = Some(text);
            }
            "--allocators" => options.names = value()?.split(',').map(named).collect::<Result<_, _>>()?,
            "--short" => options.settings = Settings { scale: 10, time: 2, looks: false, ..options.settings },
            "--scale" => options.settings.scale = number(told.insert(value()?))?,
            "--seconds" => options.settings.time = number(told.insert(value()?))? * 10,
            "--seed" => options.settings.seed = number(told.insert(value()?))? as u64,
            "--write" => options.write = Some(value()?.into()),
            "--list" => options.list = true,
            "--misuse" | "--json" | "--svg" | "--rotations" | "--runs" | "--step" | "--compare" => {
                options.left_out = true;
                value()?;
            }
            "--every-size" | "--whole-gib" | "--plain" | "--words" => options.left_out = true,
            _ => return Err(HELP.to_owned()),
        }
        if told.is_some() || argument == "--short" {
            options.words.push(argument);
            options.words.extend(told);
        }
    }
    Ok(options)
}

fn named(text: &str) -> Result<Name, String> {
    let name = Name::parse(text.trim()).filter(|name| name.frees());
    name.ok_or_else(|| format!("no allocator that frees is called \"{text}\""))
}

fn number(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|&number| number > 0).ok_or_else(|| format!("\"{text}\" is no number above 0"))
}
