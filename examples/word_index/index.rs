//! The inverted index, generic over where its parts are kept.

use core::cmp::Reverse;
use core::iter::Peekable;

use family_alloc::allocator_api2::alloc::Allocator;
use family_alloc::allocator_api2::boxed::Box;
use family_alloc::allocator_api2::vec::Vec;
use hashbrown::{DefaultHashBuilder, HashMap};

use crate::postings::{self, DocumentNumber, Posting, PostingList};
use crate::words::for_each_word;

/// Where each part of an index is kept.
pub(crate) trait Memory {
    /// The words and the names of the documents: small pieces of all sizes.
    type Dictionary: Allocator + Copy + Default;
    /// The postings: many small buffers that grow, a few that become large.
    type Postings: Allocator + Copy + Default;
    /// What is gone after the document, or the query.
    type Scratch: Allocator + Copy + Default;
}

/// A word by its number, in the order in which they were first seen.
type Term = u32;

type Map<K, V, A> = HashMap<K, V, DefaultHashBuilder, A>;
type Terms<M> = Map<Text<M>, Term, <M as Memory>::Dictionary>;
type Text<M> = Box<[u8], <M as Memory>::Dictionary>;
/// The lines on which each word of one document stands.
type Lines<M> = Map<Term, Vec<u32, <M as Memory>::Scratch>, <M as Memory>::Scratch>;

pub(crate) struct Index<M: Memory> {
    terms: Terms<M>,
    document_names: Vec<Text<M>, M::Dictionary>,
    postings: Vec<PostingList<M::Postings>, M::Postings>,
    word_count: u64,
    text_bytes: u64,
}

/// What is kept from document to document only to use its memory again; empty between two.
pub(crate) struct Scratchpad<M: Memory> {
    word: Vec<u8, M::Scratch>,
    lines: Lines<M>,
}

/// What is in the index, each figure computed from the index itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Figures {
    pub(crate) documents: u64,
    pub(crate) distinct_words: u64,
    /// Pairs of a word and a document that has it.
    pub(crate) postings: u64,
    pub(crate) posting_bytes: u64,
    /// Occurrences of words, decoded back from the postings.
    pub(crate) occurrences: u64,
    /// Over the names of the documents, all words and all postings.
    pub(crate) checksum: u64,
}

impl<M: Memory> Scratchpad<M> {
    pub(crate) fn new() -> Self {
        let scratch = M::Scratch::default();
        Self { word: Vec::new_in(scratch), lines: Map::with_hasher_in(DefaultHashBuilder::default(), scratch) }
    }
}

impl<M: Memory> Index<M> {
    pub(crate) fn new() -> Self {
        let dictionary = M::Dictionary::default();
        Self {
            terms: Map::with_hasher_in(DefaultHashBuilder::default(), dictionary),
            document_names: Vec::new_in(dictionary),
            postings: Vec::new_in(M::Postings::default()),
            word_count: 0,
            text_bytes: 0,
        }
    }

    /// Words seen while reading; [`Figures::occurrences`] must say the same.
    pub(crate) fn word_count(&self) -> u64 {
        self.word_count
    }

    pub(crate) fn text_bytes(&self) -> u64 {
        self.text_bytes
    }

    pub(crate) fn document_count(&self) -> usize {
        self.document_names.len()
    }

    pub(crate) fn document_name(&self, document: DocumentNumber) -> &str {
        core::str::from_utf8(&self.document_names[index(document)]).expect("names are UTF-8")
    }

    /// Adds one document: first where each of its words stands, then one posting for each word.
    pub(crate) fn add(&mut self, name: &str, text: &str, scratchpad: &mut Scratchpad<M>) {
        let document = number(self.document_names.len());
        self.document_names.push(copy(name.as_bytes()));
        self.text_bytes += text.len() as u64;
        let Scratchpad { word, lines } = scratchpad;
        for_each_word(text, word, |word, line| {
            self.word_count += 1;
            let term = self.term(word);
            lines.entry(term).or_insert_with(|| Vec::new_in(M::Scratch::default())).push(line);
        });
        for (term, lines) in lines.drain() {
            self.postings[index(term)].push(document, &lines);
        }
    }

    /// The number of a word, a new one if it was never seen.
    fn term(&mut self, word: &[u8]) -> Term {
        if let Some(&term) = self.terms.get(word) {
            return term;
        }
        let term = number(self.postings.len());
        self.terms.insert(copy(word), term);
        self.postings.push(PostingList::new_in(M::Postings::default()));
        term
    }

    /// The documents that have all of the words, those with most occurrences first.
    pub(crate) fn find(&self, words: &[String]) -> Vec<Hit, M::Scratch> {
        let mut hits = Vec::new_in(M::Scratch::default());
        let mut lists = Vec::new_in(M::Scratch::default());
        for word in words {
            let Some(list) = self.list(word) else {
                return hits;
            };
            lists.push(list);
        }
        // The rarest word proposes documents, the others are asked.
        lists.sort_by_key(|list| list.document_count());
        let mut cursors = Vec::new_in(M::Scratch::default());
        cursors.extend(lists.iter().skip(1).map(|list| list.iter().peekable()));
        for proposed in lists.first().into_iter().flat_map(|rarest| rarest.iter()) {
            let others = cursors.iter_mut().map(|cursor| occurrences_in(proposed.document, cursor));
            if let Some(others) = others.sum::<Option<u32>>() {
                hits.push(Hit { document: proposed.document, occurrences: proposed.occurrences + others });
            }
        }
        hits.sort_by_key(|hit| (Reverse(hit.occurrences), hit.document));
        hits
    }

    fn list(&self, word: &str) -> Option<&PostingList<M::Postings>> {
        self.terms.get(word.as_bytes()).map(|&term| &self.postings[index(term)])
    }

    /// The posting of one word in one document.
    pub(crate) fn posting(&self, word: &str, document: DocumentNumber) -> Option<Posting> {
        self.list(word)?.iter().find(|posting| posting.document == document)
    }

    /// Words that make queries with an answer: the most widespread long ones that not every second
    /// document has.
    pub(crate) fn typical_words(&self, count: usize) -> Vec<&str, M::Scratch> {
        let mut words = Vec::new_in(M::Scratch::default());
        for (word, &term) in &self.terms {
            let document_count = self.postings[index(term)].document_count();
            let is_long = word.len() >= 5 && word.iter().all(u8::is_ascii_alphabetic);
            if is_long && index(document_count) <= self.document_names.len().div_ceil(2) {
                words.push((Reverse(document_count), &**word));
            }
        }
        words.sort_unstable();
        let mut texts = Vec::new_in(M::Scratch::default());
        texts.extend(words.iter().take(count).filter_map(|(_, word)| core::str::from_utf8(word).ok()));
        texts
    }

    /// Reads the whole index back.
    pub(crate) fn figures(&self) -> Figures {
        let mut figures = Figures {
            documents: self.document_names.len() as u64,
            distinct_words: self.terms.len() as u64,
            ..Figures::default()
        };
        for (document, name) in self.document_names.iter().enumerate() {
            figures.mix(&[&document.to_le_bytes(), name]);
        }
        for (word, &term) in &self.terms {
            let list = &self.postings[index(term)];
            figures.postings += u64::from(list.document_count());
            figures.posting_bytes += list.bytes().len() as u64;
            figures.occurrences += list.iter().map(|posting| u64::from(posting.occurrences)).sum::<u64>();
            figures.mix(&[word, &[0], list.bytes()]);
        }
        figures
    }
}

impl Figures {
    /// Adds one item to the checksum. A sum, because a table yields its items in no certain order.
    fn mix(&mut self, parts: &[&[u8]]) {
        const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
        const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;
        let bytes = parts.iter().copied().flatten();
        let hash = bytes.fold(FNV_OFFSET, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(FNV_PRIME));
        self.checksum = self.checksum.wrapping_add(hash);
    }
}

/// A document that answers a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hit {
    pub(crate) document: DocumentNumber,
    /// Of all words of the query together.
    pub(crate) occurrences: u32,
}

/// The occurrences in this document, if it has any; passes over all documents before it.
fn occurrences_in(document: DocumentNumber, cursor: &mut Peekable<postings::Iter<'_>>) -> Option<u32> {
    while cursor.next_if(|posting| posting.document < document).is_some() {}
    cursor.peek().filter(|posting| posting.document == document).map(|posting| posting.occurrences)
}

fn copy<A: Allocator + Default>(bytes: &[u8]) -> Box<[u8], A> {
    let mut text = Vec::with_capacity_in(bytes.len(), A::default());
    text.extend_from_slice(bytes);
    text.into_boxed_slice()
}

fn number(index: usize) -> u32 {
    u32::try_from(index).expect("as many words and documents as 32 bits number")
}

/// `u32` fits into `usize` wherever this program runs.
const fn index(number: u32) -> usize {
    const { assert!(usize::BITS >= u32::BITS) };
    number as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Families, words};

    const TEXTS: [&str; 4] = ["a b c\nb", "b c c", "c a\n\nc C", ""];

    fn index_of_texts() -> Index<Families> {
        let mut index = Index::new();
        let mut scratchpad = Scratchpad::new();
        for (document, text) in TEXTS.iter().enumerate() {
            index.add(&format!("text {document}"), text, &mut scratchpad);
        }
        index
    }

    /// How often the word stands in the text: the definition that needs no index.
    fn count(text: &str, word: &str) -> u32 {
        let text = text.to_lowercase();
        number(text.split_whitespace().filter(|candidate| *candidate == word).count())
    }

    #[test]
    fn an_answer_is_every_document_with_all_words() {
        let index = index_of_texts();
        for query in ["a", "b", "c", "a b", "b c", "c b a", "a unknown", "unknown"] {
            let words = words::distinct(query);
            let mut expected: Vec<_> = Vec::new();
            for (document, text) in TEXTS.iter().enumerate() {
                let counts = words.iter().map(|word| count(text, word));
                if counts.clone().all(|count| count > 0) {
                    expected.push(Hit { document: number(document), occurrences: counts.sum() });
                }
            }
            expected.sort_by_key(|hit| (Reverse(hit.occurrences), hit.document));
            assert_eq!(index.find(&words)[..], expected[..], "{query}");
        }
    }

    #[test]
    fn a_posting_tells_count_and_first_line() {
        let index = index_of_texts();
        let posting = Posting { document: 2, occurrences: 3, first_line: 1 };
        assert_eq!(index.posting("c", 2), Some(posting));
        assert_eq!(index.posting("b", 2), None);
    }

    #[test]
    fn figures_are_those_of_the_texts() {
        let figures = index_of_texts().figures();
        assert_eq!((figures.documents, figures.distinct_words), (4, 3));
        assert_eq!((figures.postings, figures.occurrences), (7, 11));
    }

    #[test]
    fn the_checksum_is_that_of_the_content() {
        let checksum = index_of_texts().figures().checksum;
        assert_eq!(checksum, index_of_texts().figures().checksum);
        let mut other = index_of_texts();
        other.add("text 4", "", &mut Scratchpad::new());
        assert_ne!(checksum, other.figures().checksum);
    }
}
