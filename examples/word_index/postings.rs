//! Where one word stands: a list of documents and lines, compressed.
//!
//! One posting for each document that has the word, in ascending order of documents; every number
//! is a *varint*, seven bits a byte, the lowest first, the top bit set on all bytes but the last:
//!
//! ```text
//! document − previous document │ occurrences │ first line, line − previous line, …
//! ```
//!
//! A list only ever grows at its end. Most words are rare and their lists a few bytes; a few lists
//! are very long: the sizes that an allocator sees here run from a few bytes to megabytes.

use family_alloc::allocator_api2::alloc::Allocator;
use family_alloc::allocator_api2::vec::Vec;

/// A document by its number, in the order in which they were indexed.
pub(crate) type DocumentNumber = u32;

pub(crate) struct PostingList<A: Allocator> {
    bytes: Vec<u8, A>,
    last_document: DocumentNumber,
    document_count: u32,
}

/// One word in one document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Posting {
    pub(crate) document: DocumentNumber,
    pub(crate) occurrences: u32,
    pub(crate) first_line: u32,
}

impl<A: Allocator> PostingList<A> {
    pub(crate) const fn new_in(allocator: A) -> Self {
        Self { bytes: Vec::new_in(allocator), last_document: 0, document_count: 0 }
    }

    /// Adds the posting of a document with a higher number than all so far; `lines` ascend.
    pub(crate) fn push(&mut self, document: DocumentNumber, lines: &[u32]) {
        self.push_varint(document - self.last_document);
        self.push_varint(u32::try_from(lines.len()).expect("as many occurrences as 32 bits count"));
        let mut previous = 0;
        for &line in lines {
            self.push_varint(line - previous);
            previous = line;
        }
        self.last_document = document;
        self.document_count += 1;
    }

    fn push_varint(&mut self, mut number: u32) {
        while number >= 0x80 {
            self.bytes.push(low_byte(number) | 0x80);
            number >>= 7;
        }
        self.bytes.push(low_byte(number));
    }

    pub(crate) fn document_count(&self) -> u32 {
        self.document_count
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) fn iter(&self) -> Iter<'_> {
        Iter { rest: &self.bytes, document: 0 }
    }
}

const fn low_byte(number: u32) -> u8 {
    number.to_le_bytes()[0]
}

/// The postings of one list, decoded one by one.
#[derive(Clone, Debug)]
pub(crate) struct Iter<'a> {
    rest: &'a [u8],
    document: DocumentNumber,
}

impl Iter<'_> {
    fn varint(&mut self) -> Option<u32> {
        let mut number = 0;
        for shift in (0..u32::BITS).step_by(7) {
            let (&byte, rest) = self.rest.split_first()?;
            self.rest = rest;
            number |= u32::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }
}

impl Iterator for Iter<'_> {
    type Item = Posting;

    fn next(&mut self) -> Option<Posting> {
        self.document += self.varint()?;
        let occurrences = self.varint()?;
        let first_line = self.varint()?;
        for _ in 1..occurrences {
            self.varint()?;
        }
        Some(Posting { document: self.document, occurrences, first_line })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use family_alloc::allocator_api2::alloc::Global;

    #[test]
    fn what_is_pushed_comes_back() {
        let pushed: [(DocumentNumber, &[u32]); 4] =
            [(0, &[1]), (1, &[7, 7, 300]), (129, &[2]), (u32::MAX, &[u32::MAX, u32::MAX])];
        let mut list = PostingList::new_in(Global);
        for (document, lines) in pushed {
            list.push(document, lines);
        }
        let expected = pushed.map(|(document, lines)| Posting {
            document,
            occurrences: u32::try_from(lines.len()).unwrap(),
            first_line: lines[0],
        });
        assert!(list.iter().eq(expected));
        assert_eq!(list.document_count(), 4);
    }

    #[test]
    fn a_cut_list_ends_instead_of_lying() {
        let mut list = PostingList::new_in(Global);
        list.push(1000, &[1, 2, 3]);
        for length in 0..list.bytes().len() {
            let mut cut = Iter { rest: &list.bytes()[..length], document: 0 };
            assert_eq!(cut.next(), None);
        }
    }
}
