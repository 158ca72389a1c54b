//! The order of the modules, a table in `DESIGN.md`, holds: a module uses only modules of lower
//! layers.
//!
//! A *use* is a path that begins with `crate::`, or with so many `super::` that they lead to the root. It
//! may name a module, something that `lib.rs` exports again from a module, or a macro. Code for tests
//! (`#[cfg(test)]`) may use everything. What stands behind `$crate` belongs to whoever calls the macro.

use std::collections::BTreeMap;

use crate::Violation;
use crate::files::SourceFile;
use crate::tokens::{Token, Tokens};

const ROOT: &str = "src/lib.rs";
const DESIGN: &str = "DESIGN.md";

/// The segments of a path.
type Path = Vec<String>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Row {
    layer: u32,
    line: usize,
}

/// What is known from the table and from `lib.rs`.
struct Layers {
    /// The rows of the table, by module.
    rows: BTreeMap<String, Row>,
    /// The modules that own what can be reached under another name: exports of `lib.rs`, macros.
    owners: BTreeMap<Path, String>,
}

pub(crate) fn violations(design: &SourceFile, sources: &[&SourceFile]) -> Vec<Violation> {
    let Some(root) = sources.iter().find(|file| file.path == ROOT) else {
        return vec![Violation { path: ROOT.to_owned(), line: 1, message: "not found".to_owned() }];
    };
    let layers = Layers::read(design, root, sources);
    let mut violations = layers.rows_without_module(design, sources);
    for file in sources.iter().filter(|file| file.path != ROOT) {
        match layers.rows.get(top_module(file)) {
            Some(&own) => violations.extend(layers.upward_uses(file, own)),
            None => violations.push(Violation::new(file, 1, format!("has no row in the table of layers in {DESIGN}"))),
        }
    }
    violations
}

impl Layers {
    fn read(design: &SourceFile, root: &SourceFile, sources: &[&SourceFile]) -> Self {
        let rows = table(design);
        let mut owners = BTreeMap::new();
        for (name, path) in exports(&Tokens::of(&root.text)) {
            if let Some(module) = path.iter().find(|segment| *segment != "crate" && *segment != "self") {
                owners.insert(name, module.clone());
            }
        }
        for file in sources {
            let macros = macro_names(&Tokens::of(&file.text));
            owners.extend(macros.into_iter().map(|name| (vec![name], top_module(file).to_owned())));
        }
        Self { rows, owners }
    }

    fn rows_without_module(&self, design: &SourceFile, sources: &[&SourceFile]) -> Vec<Violation> {
        let is_missing = |name: &str| !sources.iter().any(|file| top_module(file) == name);
        let missing = self.rows.iter().filter(|(name, _)| is_missing(name));
        missing.map(|(name, row)| Violation::new(design, row.line, format!("there is no module {name}"))).collect()
    }

    fn upward_uses(&self, file: &SourceFile, own: Row) -> Vec<Violation> {
        let mut violations = Vec::new();
        for (line, path) in uses(file) {
            let name = path.join("::");
            match self.owner(&path).map(|module| (module, self.rows.get(module))) {
                Some((module, _)) if module == top_module(file) => {}
                Some((_, Some(row))) if row.layer < own.layer => {}
                Some((module, Some(row))) => violations.push(Violation::new(
                    file,
                    line,
                    format!("crate::{name}: {module} is of layer {}, not below {}", row.layer, own.layer),
                )),
                _ => violations.push(Violation::new(
                    file,
                    line,
                    format!("crate::{name} is of no module in the table of layers in {DESIGN}"),
                )),
            }
        }
        violations
    }

    /// The module that a path from the root leads to.
    fn owner(&self, path: &[String]) -> Option<&str> {
        if let Some((module, _)) = self.rows.get_key_value(path.first()?) {
            return Some(module);
        }
        (1..=path.len()).find_map(|length| self.owners.get(&path[..length])).map(String::as_str)
    }
}

/// `bin` for `src/bin.rs`, `os` for `src/os/unix.rs`.
fn top_module(file: &SourceFile) -> &str {
    let inside = file.path.strip_prefix("src/").unwrap_or(&file.path);
    let end = inside.find('/').or_else(|| inside.strip_suffix(".rs").map(str::len));
    &inside[..end.unwrap_or(inside.len())]
}

/// How many modules lie between the root and the code of a file, its own included.
fn depth_of_module(file: &SourceFile) -> usize {
    let inside = file.path.strip_prefix("src/").unwrap_or(&file.path);
    inside.strip_suffix("/mod.rs").unwrap_or(inside).split('/').count()
}

/// The rows `| LAYER | `module`, `module` | … |` of a document.
fn table(file: &SourceFile) -> BTreeMap<String, Row> {
    let mut rows = BTreeMap::new();
    for (index, line) in file.text.lines().enumerate() {
        let Some(row) = line.strip_prefix('|') else { continue };
        let mut cells = row.split('|').map(str::trim);
        let Some(layer) = cells.next().and_then(|cell| cell.parse().ok()) else { continue };
        let names = cells.next().unwrap_or_default().split('`').skip(1).step_by(2);
        rows.extend(names.map(|name| (name.to_owned(), Row { layer, line: index + 1 })));
    }
    rows
}

/// The paths from the root that a file's code uses, tests left out.
fn uses(file: &SourceFile) -> Vec<(usize, Path)> {
    let tokens = Tokens::of(&file.text);
    let mut found = Vec::new();
    let mut walk = Walk::new(&tokens);
    while let Some(place) = walk.next_outside_tests() {
        let is_inside_path = walk.follows_path_separator(place);
        let depth = depth_of_module(file) + walk.inline_modules.len();
        if is_inside_path || tokens.code[..place].last().is_some_and(|(_, token)| token.is_symbol('$')) {
            continue;
        }
        let tree = if tokens.matches(place, "crate : :") {
            place + 3
        } else {
            let supers = (0..).take_while(|count| tokens.matches(place + 3 * count, "super : :")).count();
            if supers < depth {
                continue;
            }
            place + 3 * supers
        };
        let line = tokens.code[place].0;
        found.extend(use_tree(&tokens, tree).into_iter().map(|leaf| (line, leaf.path)));
    }
    found
}

/// What `lib.rs` makes reachable under another path: (that path, where it comes from).
fn exports(root: &Tokens) -> Vec<(Path, Path)> {
    let mut exports = Vec::new();
    let mut walk = Walk::new(root);
    while let Some(place) = walk.next_outside_tests() {
        if !root.code[place].1.is_word("use") {
            continue;
        }
        for leaf in use_tree(root, place + 1) {
            let mut name: Path = walk.inline_modules.iter().map(|(name, _)| name.clone()).collect();
            name.push(leaf.name);
            exports.push((name, leaf.path));
        }
    }
    exports
}

fn macro_names(tokens: &Tokens) -> Vec<String> {
    let definitions = (0..tokens.code.len()).filter(|&place| tokens.matches(place, "macro_rules !"));
    definitions.filter_map(|place| word(tokens, place + 2)).collect()
}

/// One path of a `use`, and the name it gets.
struct Leaf {
    path: Path,
    name: String,
}

/// All paths of the tree that begins at `start`: `a::{b, c as d}` has `a::b` and `a::c`.
fn use_tree(tokens: &Tokens, start: usize) -> Vec<Leaf> {
    let mut path = Path::new();
    let mut place = start;
    loop {
        if tokens.matches(place, "{") {
            return branches(tokens, place)
                .flat_map(|branch| use_tree(tokens, branch).into_iter().map(|leaf| leaf.below(&path)))
                .collect();
        }
        match word(tokens, place) {
            Some(segment) => path.push(segment),
            None if tokens.matches(place, "*") => path.push("*".to_owned()),
            None => return Vec::new(),
        }
        place += 1;
        if !tokens.matches(place, ": :") || tokens.matches(place + 2, "<") {
            break;
        }
        place += 2;
    }
    let renamed = if tokens.matches(place, "as") { word(tokens, place + 1) } else { None };
    let name = renamed.or_else(|| path.last().cloned()).unwrap_or_default();
    vec![Leaf { path, name }]
}

impl Leaf {
    /// The same below another path. `a::{self}` is `a`.
    fn below(self, parent: &[String]) -> Self {
        let is_parent = self.path == ["self"];
        let own = if is_parent { Path::new() } else { self.path };
        let name = match (is_parent && self.name == "self", parent.last()) {
            (true, Some(last)) => last.clone(),
            _ => self.name,
        };
        Self { path: [parent, &own].concat(), name }
    }
}

/// Where the branches of the group begin whose bracket stands at `open`.
fn branches(tokens: &Tokens, open: usize) -> impl Iterator<Item = usize> {
    let end = tokens.after_group(open);
    let mut next = Some(open + 1);
    std::iter::from_fn(move || {
        let start = next.filter(|&start| start + 1 < end)?;
        let mut place = start;
        while place < end && !tokens.matches(place, ",") {
            place = if tokens.matches(place, "{") { tokens.after_group(place) } else { place + 1 };
        }
        next = (place < end).then_some(place + 1);
        Some(start)
    })
}

fn word(tokens: &Tokens, place: usize) -> Option<String> {
    match tokens.code.get(place) {
        Some((_, Token::Word(word))) => Some(word.clone()),
        _ => None,
    }
}

/// Goes over the code of a file, past what is only for tests, and knows the inline modules it is in.
struct Walk<'a> {
    tokens: &'a Tokens,
    next: usize,
    /// Their names, and where they end.
    inline_modules: Vec<(String, usize)>,
}

impl<'a> Walk<'a> {
    fn new(tokens: &'a Tokens) -> Self {
        Self { tokens, next: 0, inline_modules: Vec::new() }
    }

    fn next_outside_tests(&mut self) -> Option<usize> {
        while let Some(end) = self.end_of_test_item() {
            self.next = end;
        }
        let place = self.next;
        self.next += 1;
        self.inline_modules.retain(|(_, end)| place < *end);
        if self.tokens.matches(place, "mod") && self.tokens.matches(place + 2, "{") {
            let name = word(self.tokens, place + 1)?;
            self.inline_modules.push((name, self.tokens.after_group(place + 2)));
        }
        (place < self.tokens.code.len()).then_some(place)
    }

    /// Where the item ends whose `#[cfg(test)]` or `#[cfg(all(test, …))]` comes next.
    fn end_of_test_item(&self) -> Option<usize> {
        let is_for_tests =
            ["# [ cfg ( test", "# [ cfg ( all ( test"].iter().any(|pattern| self.tokens.matches(self.next, pattern));
        if !is_for_tests {
            return None;
        }
        let mut place = self.next;
        while self.tokens.matches(place, "# [") {
            place = self.tokens.after_group(place + 1);
        }
        while place < self.tokens.code.len() && !self.tokens.matches(place, ";") {
            if self.tokens.matches(place, "{") {
                return Some(self.tokens.after_group(place));
            }
            place += 1;
        }
        Some(place + 1)
    }

    /// Whether the word at `place` is a later segment of a path, such as the `crate` of no use.
    fn follows_path_separator(&self, place: usize) -> bool {
        place >= 2 && self.tokens.matches(place - 2, ": :")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
| layer | modules | in one line |
| --- | --- | --- |
| 2 | `slab`, `large` | slots |
| 1 | `os` | pages |
| 1 | `size_class` | sizes |
| 0 | `sync` | doors |
";
    const LIB: &str = "\
mod sync;
pub use slab::{Slab, Tag as Label};
#[doc(hidden)]
pub mod __private { pub use crate::os::reserve; }
";

    /// The violations in `src/os/unix.rs` with this text.
    fn in_os(text: &str) -> Vec<String> {
        let files = [
            SourceFile::new(ROOT, LIB),
            SourceFile::new("src/sync.rs", ""),
            SourceFile::new("src/os/mod.rs", ""),
            SourceFile::new("src/os/unix.rs", text),
            SourceFile::new("src/size_class.rs", ""),
            SourceFile::new("src/slab.rs", "macro_rules! slots { () => {} }"),
            SourceFile::new("src/large.rs", ""),
        ];
        let violations = violations(&SourceFile::new(DESIGN, TABLE), &files.iter().collect::<Vec<_>>());
        violations.iter().map(ToString::to_string).collect()
    }

    #[track_caller]
    fn assert_found(text: &str, path: &str) {
        let found = in_os(text);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with(&format!("src/os/unix.rs:2: crate::{path}")), "{found:?}");
    }

    #[test]
    fn uses_of_higher_and_equal_layers_are_found() {
        assert_found("\nuse crate::slab::Slab;", "slab::Slab: slab is of layer 2, not below 1");
        assert_found("\nuse crate::{sync::{Lock, self}, slab};", "slab: slab is of layer 2");
        assert_found("\nfn f() { crate::large::allocate::<u8>() }", "large::allocate: large is of layer 2");
        assert_found("\nuse crate::size_class::SizeClass;", "size_class::SizeClass: size_class is of layer 1");
        assert_found("\nuse super::super::slab;", "slab: slab is of layer 2");
        assert_found("\nmod a { use super::super::super::slab; }", "slab: slab is of layer 2");
        assert_found("\npub(in crate::slab) fn f() {}", "slab: slab is of layer 2");
    }

    #[test]
    fn other_names_do_not_hide_a_use() {
        assert_found("\nuse crate::Slab;", "Slab: slab is of layer 2");
        assert_found("\nuse crate::Label;", "Label: slab is of layer 2");
        assert_found("\ncrate::slots!();", "slots: slab is of layer 2");
        assert_found("\nuse crate::Unknown;", "Unknown is of no module");
        assert_found("\nuse crate::*;", "* is of no module");
    }

    #[test]
    fn uses_of_lower_layers_and_of_the_own_module_are_not() {
        for text in [
            "use crate::sync::{Lock, self};",
            "use crate::os::Memory; use super::Memory; mod a { use super::super::Memory; }",
            "use crate::__private::reserve;",
            "pub(crate) fn f() {} // crate::slab",
            "const TEXT: &str = \"crate::slab\";",
            "macro_rules! m { () => { $crate::slab::f() } }",
            "#[cfg(test)] mod tests { use crate::slab::Slab; } use crate::sync;",
            "#[cfg(all(test, not(loom)))] #[expect(unused)] use crate::{slab};",
        ] {
            assert_eq!(in_os(text), Vec::<String>::new(), "{text}");
        }
    }

    #[test]
    fn code_after_tests_counts_again() {
        assert_found("#[cfg(test)] mod tests { use crate::slab; }\nuse crate::large;", "large: ");
        assert_found("#[cfg(test)] use crate::slab;\nuse crate::large;", "large: ");
    }

    #[test]
    fn table_and_modules_must_be_the_same() {
        let design = SourceFile::new(DESIGN, "| 1 | `gone` | nothing |\n| 0 | `sync` | doors |");
        let lib = SourceFile::new(ROOT, "mod sync;");
        let sync = SourceFile::new("src/sync.rs", "");
        let new = SourceFile::new("src/new/mod.rs", "");
        let found: Vec<_> = violations(&design, &[&lib, &sync, &new]).iter().map(ToString::to_string).collect();
        let expected = [
            "DESIGN.md:1: there is no module gone",
            "src/new/mod.rs:1: has no row in the table of layers in DESIGN.md",
        ];
        assert_eq!(found, expected);
    }
}
