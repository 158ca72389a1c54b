//! Queries, and their answers as text.

use std::fmt::{self, Write};

use crate::index::{Hit, Index, Memory};
use crate::words;

/// So many documents are named for one query; the others are only counted.
const NAMED_DOCUMENTS: usize = 5;

/// Answers the queries, or a few made from the corpus where none are given.
pub(crate) fn answers<M: Memory>(index: &Index<M>, queries: &[String]) -> String {
    let mut queries: Vec<_> = queries.iter().map(|query| words::distinct(query)).collect();
    if queries.is_empty() {
        queries = typical_queries(index);
    }
    let mut text = String::new();
    for words in &queries {
        answer(&mut text, index, words).expect("a String takes any text");
    }
    text
}

/// One word, then two, then three: each query has at most as many answers as the one before.
fn typical_queries<M: Memory>(index: &Index<M>) -> Vec<Vec<String>> {
    let words: Vec<_> = index.typical_words(3).into_iter().map(str::to_owned).collect();
    (1..=words.len()).map(|count| words[..count].to_vec()).collect()
}

fn answer<M: Memory>(text: &mut String, index: &Index<M>, words: &[String]) -> fmt::Result {
    let hits = index.find(words);
    let (query, all) = (words.join(" "), index.document_count());
    writeln!(text, "query \"{query}\": {} of {all} documents", hits.len())?;
    for &hit in hits.iter().take(NAMED_DOCUMENTS) {
        name(text, index, words, hit)?;
    }
    match hits.len().saturating_sub(NAMED_DOCUMENTS) {
        0 => Ok(()),
        more => writeln!(text, "{more:>8}  more"),
    }
}

/// A line of an answer is no longer than this, if the name of the document can be cut.
const COLUMNS: usize = 100;
/// So much of a name is always shown.
const LEAST_OF_NAME: usize = 12;

/// One line: the document, and for each word how often it stands there and on which line first.
fn name<M: Memory>(text: &mut String, index: &Index<M>, words: &[String], hit: Hit) -> fmt::Result {
    let mut places = String::new();
    for (position, word) in words.iter().enumerate() {
        let comma = if position == 0 { "" } else { "," };
        let posting = index.posting(word, hit.document).expect("a hit has every word");
        write!(places, "{comma} {word} {} (line {})", posting.occurrences, posting.first_line)?;
    }
    let room = COLUMNS.saturating_sub(11 + places.chars().count());
    let document = index.document_name(hit.document);
    writeln!(text, "{:>8}  {}:{places}", hit.occurrences, end_of(document, room.max(LEAST_OF_NAME)))
}

/// The name of a file, or its last characters where it is longer than that.
fn end_of(name: &str, most: usize) -> String {
    let length = name.chars().count();
    if length <= most {
        return name.to_owned();
    }
    let end: String = name.chars().skip(length + 1 - most).collect();
    format!("…{end}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_lose_their_beginning() {
        assert_eq!(end_of("src/ä.rs", 8), "src/ä.rs");
        assert_eq!(end_of("src/ä.rs", 7), "…c/ä.rs");
    }
}
