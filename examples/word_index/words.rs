//! What a word is: a longest run of letters, digits and `_`, in lower case. Documents and queries
//! are taken apart in this one place.

use family_alloc::allocator_api2::alloc::Allocator;
use family_alloc::allocator_api2::vec::Vec;

/// Calls `visit` with every word of the text and its line. `word` is room to work in.
pub(crate) fn for_each_word<A: Allocator>(text: &str, word: &mut Vec<u8, A>, mut visit: impl FnMut(&[u8], u32)) {
    let mut line = 1;
    // One more line's end closes a word at the end of the text.
    for character in text.chars().chain(['\n']) {
        if character.is_alphanumeric() || character == '_' {
            push_lowercase(word, character);
            continue;
        }
        if !word.is_empty() {
            visit(word, line);
            word.clear();
        }
        line += u32::from(character == '\n');
    }
}

/// The words of a query, each once.
pub(crate) fn distinct(query: &str) -> std::vec::Vec<String> {
    let mut words = std::vec::Vec::new();
    for_each_word(query, &mut Vec::new(), |word, _| {
        let word = String::from_utf8_lossy(word).into_owned();
        if !words.contains(&word) {
            words.push(word);
        }
    });
    words
}

fn push_lowercase<A: Allocator>(word: &mut Vec<u8, A>, character: char) {
    if character.is_ascii() {
        word.extend(u8::try_from(character.to_ascii_lowercase()));
    } else {
        for lower in character.to_lowercase() {
            word.extend_from_slice(lower.encode_utf8(&mut [0; 4]).as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_lower_case_runs_with_their_line() {
        let mut words = std::vec::Vec::new();
        for_each_word("One, TWO_2\n\nÄrger-3", &mut Vec::new(), |word, line| {
            words.push((String::from_utf8(word.to_vec()).unwrap(), line));
        });
        let expected = [("one", 1), ("two_2", 1), ("ärger", 3), ("3", 3)];
        assert_eq!(words, expected.map(|(word, line)| (word.to_owned(), line)));
    }
}
