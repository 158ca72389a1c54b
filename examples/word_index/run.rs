//! One run: build the index, question it, read it back, free it, and measure each step.

use std::time::{Duration, Instant};

use family_alloc::allocator_api2::vec::Vec as VecIn;
use family_alloc::families;

use crate::answers::answers;
use crate::corpus::{self, Contents, Corpus};
use crate::index::{Figures, Index, Memory, Scratchpad};
use crate::options::Options;
use crate::progress::Progress;
use crate::report::{Kind, Report};
use crate::resident::Resident;

pub(crate) fn run<M: Memory>(options: &Options) -> Result<Report, String> {
    let mut report = Report::default();
    let resident_at_start = Resident::read();
    let (mut corpus, finding) = timed(|| Corpus::find(&options.roots));
    let Built { index, binary_files, reading, indexing } = Built::<M>::from_files(&mut corpus);
    let (answers, querying) = timed(|| answers(&index, &options.queries));
    let (figures, checking) = timed(|| index.figures());
    check(&index, &figures)?;
    report.push(Kind::Count, "documents", figures.documents);
    report.push(Kind::Count, "files passed over (binary)", binary_files);
    report.push(Kind::Count, "files passed over (unreadable)", corpus.warnings.len() as u64);
    report.push(Kind::Count, "bytes of text", index.text_bytes());
    report.push(Kind::Count, "words", index.word_count());
    report.push(Kind::Count, "distinct words", figures.distinct_words);
    report.push(Kind::Count, "postings", figures.postings);
    report.push(Kind::Count, "bytes of postings", figures.posting_bytes);
    report.push(Kind::Checksum, "checksum of the index", figures.checksum);
    report.tables = tables();
    let ((), freeing) = timed(|| drop(index));
    report.push_time("finding the files", finding);
    report.push_time("reading the files", reading);
    report.push_time("indexing", indexing);
    report.push_time("answering", querying);
    report.push_time("reading the index back", checking);
    report.push_time("freeing the index", freeing);
    let resident_when_freed = Resident::read();
    for family in families() {
        family.trim();
    }
    report.push_memory("resident at the start", resident_at_start.map(|resident| resident.now));
    report.push_memory("peak resident", resident_when_freed.map(|resident| resident.peak));
    report.push_memory("resident, index freed", resident_when_freed.map(|resident| resident.now));
    report.push_memory("resident, families trimmed", Resident::read().map(|resident| resident.now));
    report.warnings = corpus.warnings.join("\n");
    report.answers = answers;
    Ok(report)
}

/// An index and what it took to build it.
struct Built<M: Memory> {
    index: Index<M>,
    binary_files: u64,
    reading: Duration,
    indexing: Duration,
}

impl<M: Memory> Built<M> {
    fn from_files(corpus: &mut Corpus) -> Self {
        let mut built =
            Self { index: Index::new(), binary_files: 0, reading: Duration::ZERO, indexing: Duration::ZERO };
        let mut progress = Progress::new("indexing", corpus.files.len());
        let mut buffer = VecIn::new_in(M::Scratch::default());
        let mut scratchpad = Scratchpad::new();
        for (done, path) in corpus.files.iter().enumerate() {
            progress.show(done);
            let (contents, reading) = timed(|| corpus::read(path, &mut buffer));
            built.reading += reading;
            match contents {
                Ok(Contents::Text(text)) => {
                    let name = corpus.name(path);
                    let add = || built.index.add(&name, text, &mut scratchpad);
                    built.indexing += timed(add).1;
                }
                Ok(Contents::Binary) => built.binary_files += 1,
                Err(error) => corpus.warnings.push(corpus::warning(path, &error)),
            }
        }
        built
    }
}

/// What can be seen to be wrong without a second run.
fn check<M: Memory>(index: &Index<M>, figures: &Figures) -> Result<(), String> {
    if figures.documents == 0 {
        return Err("found no text file to index".to_owned());
    }
    if figures.occurrences != index.word_count() {
        let (read, indexed) = (index.word_count(), figures.occurrences);
        return Err(format!("{read} words were read, but the index has {indexed}"));
    }
    Ok(())
}

/// How to read the tables of families.
const LEGEND: &str = "
What each family held when the index was complete. Slabs and mappings are address space: only the
pages of them that were touched are memory. Of the slots of a size,
  live    are held by the program,
  cached  are free, and wait in the cache of a thread,
  depot   are free, and on their way from thread to thread,
  free    are free in their slab, most of them never touched.
";

/// The table of every family in use, after what their columns mean; nothing where no family is in use.
fn tables() -> String {
    let tables = families().fold(String::new(), |text, family| {
        let table = family.stats().to_string();
        text + "\n" + table.trim_end() + "\n"
    });
    if tables.is_empty() { tables } else { LEGEND.to_owned() + &tables }
}

/// Nothing may be left in any family when the index is gone.
pub(crate) fn check_all_freed() -> Result<(), String> {
    for family in families() {
        let live_allocations = family.stats().live_allocations;
        if live_allocations != 0 {
            return Err(format!("{live_allocations} allocations are left in {}", family.name()));
        }
    }
    Ok(())
}

fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let start = Instant::now();
    let result = work();
    (result, start.elapsed())
}
