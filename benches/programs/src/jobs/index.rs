//! A full-text index, built, searched, and dropped.

use tantivy::collector::{Count, DocSetCollector};
use tantivy::query::QueryParser;
use tantivy::schema::{FAST, Field, STORED, Schema, TEXT, Value};
use tantivy::{Index, Searcher, TantivyDocument, doc};

use super::{Job, part, text};
use crate::input;
use crate::random::Random;
use crate::sum::{self, Sum};

pub(super) const JOB: Job = Job {
    name: "full-text index",
    what: "tantivy: 80 000 paragraphs indexed in memory by one thread, 600 searches",
    prepare,
    run,
};

/// What stands between two paragraphs.
const SEPARATOR: char = '\0';
/// What the index may buffer before it writes a segment.
const BUFFER_BYTES: usize = 32 << 20;

/// Paragraphs of the documents, with some words changed so that no two are alike.
fn prepare(percent: usize) -> Vec<u8> {
    let (paragraphs, words) = (input::paragraphs(), input::words());
    let mut random = Random::new(3);
    let mut text = String::new();
    for _ in 0..part(80_000, percent) {
        let paragraph = &paragraphs[random.below(paragraphs.len())];
        for word in paragraph.split_whitespace().take(120) {
            let is_changed = random.below(8) == 0;
            text.push_str(if is_changed { &words[random.below(words.len())] } else { word });
            text.push(' ');
        }
        text.push(SEPARATOR);
    }
    text.into_bytes()
}

fn run(input: Vec<u8>) -> u64 {
    let text = text(input);
    let mut schema = Schema::builder();
    let title = schema.add_text_field("title", TEXT | STORED);
    let body = schema.add_text_field("body", TEXT);
    let length = schema.add_u64_field("length", FAST | STORED);
    let index = Index::create_in_ram(schema.build());
    let mut writer = index.writer_with_num_threads(1, BUFFER_BYTES).expect("a writer");
    for paragraph in text.split_terminator(SEPARATOR) {
        let head: String = paragraph.chars().take(40).collect();
        let entry = doc!(title => head, body => paragraph, length => paragraph.len() as u64);
        writer.add_document(entry).expect("room for a document");
    }
    writer.commit().expect("a commit");
    writer.wait_merging_threads().expect("merges that end");
    let searcher = index.reader().expect("a reader").searcher();
    let words = words(&text);
    let parser = QueryParser::for_index(&index, vec![title, body]);
    let mut sum = Sum::new();
    for pair in words.chunks_exact(2) {
        sum.number(search(&searcher, &parser, title, &format!("{} AND {}", pair[0], pair[1])));
        sum.number(search(&searcher, &parser, title, &format!("body:{} OR title:{}", pair[0], pair[1])));
    }
    sum.value()
}

/// How many paragraphs were found, and the titles of some of them, in no order.
fn search(searcher: &Searcher, parser: &QueryParser, title: Field, query: &str) -> u64 {
    let query = parser.parse_query(query).expect("a query");
    let (count, found) = searcher.search(&query, &(Count, DocSetCollector)).expect("a search");
    if count > 500 {
        return count as u64;
    }
    let titles = found.into_iter().map(|address| {
        let entry: TantivyDocument = searcher.doc(address).expect("a stored document");
        let title = entry.get_first(title).and_then(|value| value.as_str());
        sum::of(title.unwrap_or_default().as_bytes())
    });
    titles.fold(count as u64, u64::wrapping_add)
}

/// Words to look for.
fn words(text: &str) -> Vec<&str> {
    let parts = text.split(|character: char| !character.is_ascii_alphabetic());
    parts.filter(|word| word.len() > 3 && !["AND", "OR", "NOT"].contains(word)).step_by(997).take(600).collect()
}
