//! The command line.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use crate::allocators::{self, Allocator};

/// What the user asked for.
pub(crate) struct Options {
    pub(crate) only: Vec<String>,
    pub(crate) allocators: Vec<&'static Allocator>,
    pub(crate) rotations: usize,
    /// Of each job's work, in percent.
    pub(crate) scale: usize,
    /// What was asked for in these words, to be told in the file.
    pub(crate) words: Vec<String>,
    pub(crate) list: bool,
    pub(crate) write: Option<PathBuf>,
}

pub(crate) const HELP: &str = "\
Real programs: `cargo bench --bench programs -- [OPTIONS]`

  --only TEXT,…        only jobs whose name contains one of the texts
  --allocators TEXT,…  only allocators whose name contains one of the texts
  --rotations N        processes per job and allocator (3)
  --short              a smoke run: a tenth of the work, one process each
  --scale PERCENT      of each job's work (100)
  --write FILE         write a page of Markdown as well
  --list               name the jobs";

/// Reads the arguments, cargo's own `--bench` included.
pub(crate) fn parse(arguments: impl Iterator<Item = String>) -> Result<Options, String> {
    let mut arguments = arguments.filter(|argument| argument != "--bench");
    let mut options = Options {
        only: Vec::new(),
        allocators: allocators::ALL.iter().collect(),
        rotations: 3,
        scale: 100,
        words: Vec::new(),
        list: false,
        write: None,
    };
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| format!("{argument} needs a value\n\n{HELP}"));
        let mut told = None;
        match argument.as_str() {
            "--only" | "--filter" => options.only.extend(parts(told.insert(value()?))),
            "--allocators" => options.allocators = named(told.insert(value()?))?,
            "--rotations" => options.rotations = number(told.insert(value()?))?,
            "--short" => (options.scale, options.rotations) = (10, 1),
            "--scale" => options.scale = number(told.insert(value()?))?,
            "--write" => options.write = Some(value()?.into()),
            "--list" => options.list = true,
            _ => return Err(HELP.to_owned()),
        }
        if told.is_some() || argument == "--short" {
            options.words.push(argument);
            options.words.extend(told);
        }
    }
    Ok(options)
}

fn parts(text: &str) -> Vec<String> {
    text.split(',').map(|part| part.trim().to_owned()).collect()
}

fn named(text: &str) -> Result<Vec<&'static Allocator>, String> {
    let wanted = parts(text);
    let found: Vec<_> =
        allocators::ALL.iter().filter(|known| wanted.iter().any(|text| known.name.contains(text.as_str()))).collect();
    if found.is_empty() { Err(format!("no allocator is called \"{text}\"")) } else { Ok(found) }
}

fn number(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|&number| number > 0).ok_or_else(|| format!("\"{text}\" is no number above 0"))
}
