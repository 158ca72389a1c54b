//! The command line.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use crate::words;

pub(crate) const USAGE: &str = "\
Build an inverted index over the words of all text files below the PATHs, answer
a few queries, and do the same over the system allocator to compare the two.

usage: word_index [--query WORDS]... [--] [PATH]...

  PATH           a file, or a directory that is searched (all but `target`,
                 `.git`, symbolic links and files that are no UTF-8 text);
                 without one: the directory of this program's sources
  --query WORDS  name the documents that have all these words; may be given
                 several times; without it: three queries made from the corpus
  -h, --help     this text

exit status: 0 both runs agree; 1 they differ, or something failed; 2 usage
";

/// What to index and what to ask.
#[derive(Debug, Default)]
pub(crate) struct Options {
    pub(crate) roots: Vec<PathBuf>,
    pub(crate) queries: Vec<String>,
}

impl Options {
    fn push_query(&mut self, words: &str) -> Result<(), String> {
        if words::distinct(words).is_empty() {
            return Err(format!("the query \"{words}\" has no word"));
        }
        self.queries.push(words.to_owned());
        Ok(())
    }
}

/// What the command line asks for.
pub(crate) enum Request {
    Help,
    /// Run both sides and compare them.
    Compare(Options),
    /// Be the child that runs this side.
    Run(Options, String),
}

/// The hidden argument that makes a process the child for one side.
const CHILD: &str = "--child";

pub(crate) fn parse(arguments: &[OsString]) -> Result<Request, String> {
    let mut options = Options::default();
    let mut side = None;
    let mut only_paths = false;
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        match argument.to_str() {
            Some("--") if !only_paths => only_paths = true,
            Some("-h" | "--help") if !only_paths => return Ok(Request::Help),
            Some("--query") if !only_paths => {
                options.push_query(&value(rest.next(), "--query")?)?;
            }
            Some(CHILD) if !only_paths => side = Some(value(rest.next(), CHILD)?),
            Some(text) if !only_paths && text.len() > 1 && text.starts_with('-') => {
                match text.strip_prefix("--query=") {
                    Some(words) => options.push_query(words)?,
                    None => return Err(format!("unknown option {text}")),
                }
            }
            _ => options.roots.push(PathBuf::from(argument)),
        }
    }
    if options.roots.is_empty() {
        options.roots.push(crate::default_root());
    }
    Ok(match side {
        Some(side) => Request::Run(options, side),
        None => Request::Compare(options),
    })
}

fn value(argument: Option<&OsString>, option: &str) -> Result<String, String> {
    argument.and_then(|value| value.to_str()).map(str::to_owned).ok_or_else(|| format!("{option} needs a value"))
}

/// The command line that [`parse`] reads back as the same options, for the child of one side.
pub(crate) fn arguments_of_child<'a>(options: &'a Options, side: &'a str) -> impl Iterator<Item = &'a OsStr> {
    let queries = options.queries.iter().flat_map(|words| ["--query", words.as_str()]);
    let switches = [CHILD, side].into_iter().chain(queries).chain(["--"]);
    let roots = options.roots.iter().map(|root| root.as_os_str());
    switches.map(OsStr::new).chain(roots)
}
