//! The command line.

use std::path::PathBuf;

use crate::peers::{ALL, Name};

/// What the user asked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Options {
    pub(crate) short: bool,
    pub(crate) list: bool,
    pub(crate) every_size: bool,
    /// As many allocations in the proof of concept's table as it had itself.
    pub(crate) whole_gib: bool,
    pub(crate) filters: Vec<String>,
    pub(crate) only: Vec<Name>,
    pub(crate) json: Option<PathBuf>,
    pub(crate) svg: Option<PathBuf>,
    pub(crate) rotations: Option<usize>,
    /// Which sizes of the proof of concept's table: every one, every second, …
    pub(crate) step: Option<usize>,
}

/// What this process is.
pub(crate) enum Role {
    /// It starts the others and prints the table.
    Parent(Options),
    /// It measures one case with one allocator.
    Child { case: String, name: Name, short: bool },
    /// It says how it is used, and whether that was asked for.
    Help { asked: bool, message: String },
}

const HELP: &str = "\
Measures family-alloc beside its peers: `cargo bench --bench allocators -- [OPTIONS]`

  --short            under two minutes: fewer cases, sizes, operations and repetitions
  --filter TEXT,...  only cases whose name contains one of the texts (\"proof-of-concept\" is the first table)
  --only NAME,...    only these allocators
  --rotations N      how many processes each case and allocator get
  --every-size       in the proof of concept's table, a row for every size instead of every class
  --step N           in that table, only every Nth size
  --whole-gib        in that table, up to a GiB of every size instead of up to 128 MiB: many hours
  --json FILE        write everything that was measured
  --svg FILE         draw it
  --list             name the cases and the allocators";

/// Reads the arguments, cargo's own `--bench` included.
pub(crate) fn parse(mut arguments: impl Iterator<Item = String>) -> Role {
    let mut options = Options::default();
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| format!("{argument} needs a value"));
        let result = match argument.as_str() {
            "--bench" => Ok(()),
            "--short" => set(&mut options.short),
            "--list" => set(&mut options.list),
            "--every-size" => set(&mut options.every_size),
            "--whole-gib" => set(&mut options.whole_gib),
            "--filter" => value().map(|text| options.filters.extend(split(&text))),
            "--only" => value().and_then(|text| names(&text)).map(|names| options.only.extend(names)),
            "--json" => value().map(|file| options.json = Some(file.into())),
            "--svg" => value().map(|file| options.svg = Some(file.into())),
            "--rotations" => value().and_then(|text| number(&text)).map(|count| options.rotations = Some(count)),
            "--step" => value().and_then(|text| number(&text)).map(|step| options.step = Some(step)),
            "--child" => return child(&mut arguments),
            "--help" | "-h" => return Role::Help { asked: true, message: HELP.to_owned() },
            _ => Err(format!("{argument} is unknown")),
        };
        if let Err(message) = result {
            return Role::Help { asked: false, message: format!("{message}\n\n{HELP}") };
        }
    }
    Role::Parent(options)
}

/// Arguments for a child: what [`parse`] understands as one.
pub(crate) fn child_arguments(case: &str, name: Name, short: bool) -> [String; 4] {
    ["--child".to_owned(), case.to_owned(), name.to_string(), if short { "short" } else { "full" }.to_owned()]
}

fn child(arguments: &mut impl Iterator<Item = String>) -> Role {
    let mut next = || arguments.next().unwrap_or_default();
    let (case, name, mode) = (next(), next(), next());
    match Name::parse(&name) {
        Some(name) => Role::Child { case, name, short: mode == "short" },
        None => Role::Help { asked: false, message: unknown(&name) },
    }
}

fn set(flag: &mut bool) -> Result<(), String> {
    *flag = true;
    Ok(())
}

fn split(text: &str) -> impl Iterator<Item = String> {
    text.split(',').map(|part| part.trim().to_owned()).filter(|part| !part.is_empty())
}

fn names(text: &str) -> Result<Vec<Name>, String> {
    split(text).map(|name| Name::parse(&name).ok_or_else(|| unknown(&name))).collect()
}

fn number(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number) if number > 0 => Ok(number),
        _ => Err(format!("\"{text}\" is no number above 0")),
    }
}

fn unknown(name: &str) -> String {
    let known: Vec<_> = ALL.iter().map(|name| name.as_str()).collect();
    format!("no allocator is called \"{name}\"; there are {}", known.join(", "))
}
