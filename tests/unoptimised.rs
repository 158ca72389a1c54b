//! Unoptimised builds of programs that use the crate: the stack that a level of a recursive drop
//! takes, and the code that a type in a vector and a box takes, beside `Global`. A crate outside of
//! the workspace, where nothing of this one is optimised, built by the cargo that built this.

#![cfg(all(unix, not(miri)))]

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const MANIFEST: &str = r#"
[package]
name = "unoptimised"
version = "0.0.0"
edition = "2024"

[workspace]

[profile.dev]
debug = 0
strip = true

[dependencies]
family-alloc = { path = "{crate}" }
"#;

/// Frees lists node by node, and prints how far apart the stacks of two levels are.
const DEPTH: &str = r#"
use family_alloc::allocator_api2::alloc::{Allocator, Global};
use family_alloc::allocator_api2::boxed::Box;
use std::cell::RefCell;

family_alloc::family! {
    struct Default;
    struct Unchecked { checks: Unchecked }
    struct Checked { checks: Checked }
    struct Hardened { checks: Hardened }
}

thread_local! { static STACKS: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) }; }

struct Mark;

impl Drop for Mark {
    fn drop(&mut self) {
        let here = 0_u8;
        STACKS.with_borrow_mut(|stacks| stacks.push((&raw const here).addr()));
    }
}

/// Fields are dropped in order: the next node and all behind it first.
struct Node<A: Allocator> {
    _next: Option<Box<Node<A>, A>>,
    _mark: Mark,
}

fn show<A: Allocator + Copy>(name: &str, allocator: A) {
    let mut list = None;
    for _ in 0..100 {
        list = Some(Box::new_in(Node { _next: list, _mark: Mark }, allocator));
    }
    drop(list);
    let stacks = STACKS.take();
    let steps: Vec<usize> = stacks.windows(2).map(|two| two[1] - two[0]).collect();
    assert!(steps.len() == 99 && steps.iter().all(|step| *step == steps[0]), "{steps:?}");
    println!("{name} {}", steps[0]);
}

fn main() {
    show("Global", Global);
    show("Default", Default);
    show("Unchecked", Unchecked);
    show("Checked", Checked);
    show("Hardened", Hardened);
}
"#;

/// How many types the larger of two programs has more than the smaller.
const TYPES: usize = 40;

/// A program that has so many types in a vector and a box of an allocator.
fn with_types(count: usize, allocator: &str) -> String {
    let mut text = String::from(
        "use family_alloc::{Box, Vec, allocator_api2::alloc::Global};\n\
         family_alloc::family! { struct Family; }\n\
         fn main() {\nlet _ = (Global, Family);\nlet count = std::env::args().count();\n",
    );
    for number in 0..count {
        writeln!(
            text,
            "{{ struct Type([u64; {}]); let mut all = Vec::new_in({allocator}); all.push(Type([count as u64; {0}])); \
             let one = Box::new_in(Type([1; {0}]), {allocator}); println!(\"{{}}\", all[0].0[0] + one.0[0]); }}",
            1 + number % 7,
        )
        .expect("a string can be written to");
    }
    text + "}\n"
}

fn place() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("unoptimised")
}

fn write(path: &str, text: &str) {
    let path = place().join(path);
    fs::create_dir_all(path.parent().expect("a directory")).expect("a directory can be made");
    fs::write(&path, text).expect("a file can be written");
}

/// Builds the programs; returns the directory that they are in.
fn build(programs: &[(&str, String)]) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    write("Cargo.toml", &MANIFEST.replace("{crate}", root.to_str().expect("a path in UTF-8")));
    for (name, text) in programs {
        write(&format!("src/bin/{name}.rs"), text);
    }
    fs::copy(root.join("Cargo.lock"), place().join("Cargo.lock")).expect("the versions that were tested");
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(place()).args(["build", "--offline", "--quiet", "--target-dir", "target"]);
    cargo.env_remove("RUSTFLAGS").env_remove("CARGO_BUILD_TARGET");
    let built = cargo.output().expect("cargo starts");
    assert!(built.status.success(), "not built:\n{}", String::from_utf8_lossy(&built.stderr));
    place().join("target/debug")
}

#[test]
#[cfg_attr(any(not(debug_assertions), feature = "portable"), ignore = "what it builds is the same in each of these")]
fn a_level_of_a_drop_and_a_type_cost_little_more_than_with_the_system() {
    let types = [("few_global", 1, "Global"), ("many_global", 1 + TYPES, "Global")]
        .into_iter()
        .chain([("few_family", 1, "Family"), ("many_family", 1 + TYPES, "Family")])
        .map(|(name, count, allocator)| (name, with_types(count, allocator)));
    let programs: Vec<_> = types.chain([("depth", DEPTH.into())]).collect();
    let directory = build(&programs);

    let output = Command::new(directory.join("depth")).output().expect("the program starts");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let levels: Vec<(&str, usize)> = text
        .lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(name, bytes)| (name, bytes.parse().expect("a number")))
        .collect();
    println!("bytes of stack a level: {levels:?}");
    assert_eq!(levels.len(), 5, "{text}");
    for (name, bytes) in &levels[1..] {
        assert!(*bytes <= 2 * levels[0].1, "{name}: {bytes} bytes of stack a level, {} with Global", levels[0].1);
    }

    let bytes = |name: &str| fs::metadata(directory.join(name)).expect("the program was built").len();
    let a_type = |kind: &str| (bytes(&format!("many_{kind}")) - bytes(&format!("few_{kind}"))) / TYPES as u64;
    let (family, global) = (a_type("family"), a_type("global"));
    println!("bytes of the program a type: {family}, {global} with Global");
    assert!(2 * family <= 3 * global, "{family} bytes a type, {global} with Global");
}
