//! Just enough of Rust's lexical grammar to tell code from comments and strings.

/// A piece of code. Strings, characters and numbers are all [`Token::Literal`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Token {
    Word(String),
    Lifetime,
    Literal,
    Symbol(char),
}

impl Token {
    pub(crate) fn is_word(&self, expected: &str) -> bool {
        matches!(self, Self::Word(word) if word == expected)
    }

    pub(crate) fn is_symbol(&self, expected: char) -> bool {
        *self == Self::Symbol(expected)
    }
}

/// A file taken apart; every piece with the line on which it begins, from 1.
#[derive(Debug, Default)]
pub(crate) struct Tokens {
    pub(crate) code: Vec<(usize, Token)>,
    /// One entry for each line of a comment.
    pub(crate) comments: Vec<(usize, String)>,
}

impl Tokens {
    pub(crate) fn of(text: &str) -> Self {
        let mut lexer = Lexer { rest: text, line: 1, tokens: Self::default() };
        while lexer.step() {}
        lexer.tokens
    }

    /// Whether the code from `start` on begins with these words and symbols, written with blanks between.
    pub(crate) fn matches(&self, start: usize, pattern: &str) -> bool {
        let mut code = self.code[start.min(self.code.len())..].iter();
        pattern.split(' ').all(|expected| {
            code.next().is_some_and(|(_, token)| match token {
                Token::Word(word) => word == expected,
                Token::Symbol(symbol) => expected.chars().eq([*symbol]),
                Token::Lifetime | Token::Literal => false,
            })
        })
    }

    /// The place after the group whose opening bracket stands at `open`.
    pub(crate) fn after_group(&self, open: usize) -> usize {
        let mut depth = 0_usize;
        for (place, (_, token)) in self.code.iter().enumerate().skip(open) {
            match token {
                Token::Symbol('(' | '[' | '{') => depth += 1,
                Token::Symbol(')' | ']' | '}') => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                return place + 1;
            }
        }
        self.code.len()
    }
}

struct Lexer<'a> {
    rest: &'a str,
    line: usize,
    tokens: Tokens,
}

impl Lexer<'_> {
    /// Takes one piece off the front. `false` at the end.
    fn step(&mut self) -> bool {
        let Some(first) = self.rest.chars().next() else { return false };
        if first.is_whitespace() {
            self.take(first.len_utf8());
        } else if self.rest.starts_with("//") {
            let length = self.rest.find('\n').unwrap_or(self.rest.len());
            self.take_comment(length);
        } else if self.rest.starts_with("/*") {
            self.take_comment(block_comment_length(self.rest));
        } else if let Some(length) = string_length(self.rest) {
            self.take_code(length, Token::Literal);
        } else if first == '\'' {
            self.take_quote();
        } else if first.is_alphabetic() || first == '_' {
            self.take_word();
        } else if first.is_ascii_digit() {
            // `1.5` is taken for three pieces, which nothing here minds.
            self.take_code(word_length(self.rest), Token::Literal);
        } else {
            self.take_code(first.len_utf8(), Token::Symbol(first));
        }
        true
    }

    fn take(&mut self, length: usize) {
        let (taken, rest) = self.rest.split_at(length);
        self.line += taken.matches('\n').count();
        self.rest = rest;
    }

    fn take_code(&mut self, length: usize, token: Token) {
        self.tokens.code.push((self.line, token));
        self.take(length);
    }

    fn take_comment(&mut self, length: usize) {
        let lines = self.rest[..length].lines().enumerate();
        self.tokens.comments.extend(lines.map(|(index, line)| (self.line + index, line.to_owned())));
        self.take(length);
    }

    fn take_word(&mut self) {
        let raw_prefix = if self.rest.starts_with("r#") { 2 } else { 0 };
        let length = raw_prefix + word_length(&self.rest[raw_prefix..]);
        let word = self.rest[raw_prefix..length].to_owned();
        self.take_code(length, Token::Word(word));
    }

    /// A character, or a lifetime: which of the two, the closing quote decides.
    fn take_quote(&mut self) {
        let mut characters = self.rest.char_indices().skip(1);
        match characters.next() {
            Some((_, '\\')) => {
                let length = quoted_length(self.rest, '\'');
                self.take_code(length, Token::Literal);
            }
            Some(_) => match characters.next() {
                Some((end, '\'')) => self.take_code(end + 1, Token::Literal),
                _ => self.take_code(1 + word_length(&self.rest[1..]), Token::Lifetime),
            },
            None => self.take(1),
        }
    }
}

fn word_length(text: &str) -> usize {
    text.find(|character: char| !character.is_alphanumeric() && character != '_').unwrap_or(text.len())
}

/// Block comments nest.
fn block_comment_length(text: &str) -> usize {
    let mut depth = 0_usize;
    let mut place = 0;
    while place < text.len() {
        let rest = &text[place..];
        if rest.starts_with("/*") {
            depth += 1;
            place += 2;
        } else if rest.starts_with("*/") {
            depth -= 1;
            place += 2;
            if depth == 0 {
                return place;
            }
        } else {
            place += rest.chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

/// The length of the string literal at the front, of whatever kind, if there is one.
fn string_length(text: &str) -> Option<usize> {
    let prefix = ["br", "cr", "r", "b", "c", ""].into_iter().find(|prefix| {
        let hashes = text.strip_prefix(prefix).map(|rest| rest.trim_start_matches('#'));
        hashes.is_some_and(|rest| rest.starts_with('"'))
    })?;
    let rest = &text[prefix.len()..];
    let hashes = rest.len() - rest.trim_start_matches('#').len();
    if prefix.ends_with('r') {
        let end = format!("\"{}", &rest[..hashes]);
        let start = prefix.len() + hashes + 1;
        return Some(text[start..].find(&end).map_or(text.len(), |place| start + place + end.len()));
    }
    (hashes == 0).then(|| prefix.len() + quoted_length(rest, '"'))
}

/// The length of a literal that begins and ends with `quote`, in which `\` takes the next character.
fn quoted_length(text: &str, quote: char) -> usize {
    let mut characters = text.char_indices().skip(1);
    while let Some((place, character)) = characters.next() {
        if character == '\\' {
            characters.next();
        } else if character == quote {
            return place + 1;
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        let words = Tokens::of(text).code.into_iter().filter_map(|(_, token)| match token {
            Token::Word(word) => Some(word),
            _ => None,
        });
        words.collect()
    }

    #[test]
    fn comments_and_literals_are_no_code() {
        let text = r####"a /* x /* y */ z */ b // c
            "d \" e" f r#"g " h"# i b'j' '\'' '"' k 'l: "m" br"n\" o c"p" r#q"####;
        assert_eq!(words(text), ["a", "b", "f", "i", "b", "k", "o", "q"]);
    }

    #[test]
    fn pieces_know_their_line() {
        let tokens = Tokens::of("a\n/* b\nc */ \"d\n\" e // f");
        let lines: Vec<_> = tokens.code.iter().map(|(line, _)| *line).collect();
        assert_eq!(lines, [1, 3, 4]);
        let comments: Vec<_> = tokens.comments.iter().map(|(line, text)| (*line, text.as_str())).collect();
        assert_eq!(comments, [(2, "/* b"), (3, "c */"), (4, "// f")]);
    }

    #[test]
    fn groups_and_patterns_are_found() {
        let tokens = Tokens::of("#[cfg(test)] mod x { { } ( ) } y");
        assert!(tokens.matches(0, "# [ cfg ( test ) ] mod"));
        assert!(!tokens.matches(0, "# [ cfg ( loom"));
        let open = tokens.code.iter().position(|(_, token)| token.is_symbol('{')).unwrap();
        assert!(tokens.matches(tokens.after_group(open), "y"));
    }
}
