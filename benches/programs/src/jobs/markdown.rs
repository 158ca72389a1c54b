//! Markdown as HTML.

use comrak::{Arena, Options, format_html, parse_document};

use super::{Job, part, text};
use crate::input;
use crate::sum::Sum;

pub(super) const JOB: Job = Job {
    name: "Markdown",
    what: "comrak: this crate's documents, two hundred times, as HTML with tables and footnotes",
    prepare,
    run,
};

/// What stands between two documents.
const SEPARATOR: char = '\0';

fn prepare(percent: usize) -> Vec<u8> {
    let documents = input::documents();
    let count = part(documents.len() * 200, percent);
    let texts: Vec<_> = documents.iter().cycle().take(count).map(String::as_str).collect();
    texts.join(&SEPARATOR.to_string()).into_bytes()
}

fn run(input: Vec<u8>) -> u64 {
    let text = text(input);
    let mut options = Options::default();
    options.extension.table = true;
    options.extension.footnotes = true;
    options.extension.autolink = true;
    options.extension.strikethrough = true;
    let mut pages = Vec::new();
    for document in text.split(SEPARATOR) {
        let arena = Arena::new();
        let root = parse_document(&arena, document, &options);
        let mut html = String::new();
        format_html(root, &options, &mut html).expect("memory");
        pages.push(html);
    }
    let mut sum = Sum::new();
    pages.iter().for_each(|page| sum.bytes(page.as_bytes()));
    sum.value()
}
