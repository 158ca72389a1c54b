//! What `family!` takes, and what it says of what it doesn't; and what `build.rs` believes of a
//! compiler. All is compiled by the cargo and with the versions that this program was compiled
//! with.

#![cfg(all(unix, not(miri)))]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const MANIFEST: &str = r#"
[package]
name = "declarations"
version = "0.0.0"
edition = "2024"

[workspace]

[dependencies]
family-alloc = { path = "{crate}", default-features = false, features = ["std"] }
"#;

/// Programs that are refused, and what must be said of each.
const REFUSED: &[(&str, &str, &str)] = &[
    (
        "twice",
        "family! { pub struct A { checks: Hardened, checks: Unchecked } }",
        "`checks` is given twice for one family",
    ),
    (
        "twice_bytes",
        "family! { struct A { slab_bytes: 1 << 16, checks: Checked, slab_bytes: 1 << 17, } }",
        "`slab_bytes` is given twice for one family",
    ),
    (
        "unknown_checks",
        "family! { struct A { checks: Paranoid } }",
        "`checks: Paranoid`: it is Unchecked, Default, Checked or Hardened",
    ),
    (
        "unknown_classes",
        "family! { struct A { classes: Fine } }",
        "`classes: Fine`: it is Natural or Spaced; a constant goes in braces: `{ Fine }`",
    ),
    (
        "twice_classes",
        "family! { struct A { classes: Spaced, classes: Natural } }",
        "`classes` is given twice for one family",
    ),
    (
        "unknown_option",
        "family! { struct A { slots: 5 } }",
        "`slots` is no option: there are `slab_bytes: …`, `cache_bytes: …`, `checks: …`, `huge_pages: …`, `classes: …` and `limit: …`",
    ),
    ("no_colon", "family! { struct A { checks = Checked } }", "`checks` is no option: there are"),
    ("no_comma", "family! { struct A { checks: Checked slab_bytes: 65536 } }", "family!: "),
    ("derive", "family! { #[derive(PartialOrd, Debug)] struct A; }", "a family is `Debug` already"),
    ("cfg", "family! { #[cfg(unix)] struct A; struct B; }", "a `#[cfg]` goes on the whole `family! { … }`"),
    ("item", "macro_rules! my { ($i:item) => { family! { $i } } } my! { struct A; }", "let it take `$($family:tt)*`"),
    ("kind", "family! { enum A {} }", "expected `struct Name;` or `struct Name { slab_bytes: …, checks: … }`"),
    ("bytes", "family! { struct A { slab_bytes: 100_000 } }", "`slab_bytes` must be a power of two"),
];

/// A program that is compiled and run.
const TAKEN: &str = r#"
use family_alloc::{Checks, Classes, Family, family};

const MODE: Checks = Checks::Checked;
const FINE: Classes = Classes::Spaced;

family! {}
family! {
    /// With a comment.
    #[allow(dead_code)]
    pub struct Plain;
    pub(crate) struct Empty {}
    struct Both { checks: Hardened, slab_bytes: 64 * 1024, }
    struct Constant { checks: { MODE } }
    struct Path { checks: family_alloc::Checks::Unchecked }
    struct Text { classes: Spaced, slab_bytes: 1 << 16 }
    struct Nodes { checks: Checked, classes: { FINE } }
    struct Buffers { classes: if cfg!(target_os = "none") { Spaced } else { Natural } }
    #[derive(PartialOrd, Ord)]
    struct Chosen { slab_bytes: { 1 << 17 }, checks: if cfg!(debug_assertions) { Checked } else { Default } }
}

macro_rules! pass_on { ($($family:tt)*) => { family! { $($family)* } } }
pass_on! { struct Passed; struct On { checks: Checked } }

fn main() {
    family! { struct Inside; }
    assert_eq!((Plain::CHECKS, Plain::SLAB_BYTES), (Checks::Default, 2 << 20));
    assert_eq!((Empty::CHECKS, Inside::CHECKS, Passed::CHECKS), (Checks::Default, Checks::Default, Checks::Default));
    assert_eq!((Both::CHECKS, Both::SLAB_BYTES), (Checks::Hardened, 64 * 1024));
    assert_eq!((Constant::CHECKS, Path::CHECKS, On::CHECKS), (MODE, Checks::Unchecked, MODE));
    assert_eq!((Chosen::CHECKS, Chosen::SLAB_BYTES), (MODE, 1 << 17));
    assert_eq!((Plain::CLASSES, Text::CLASSES, Nodes::CLASSES), (Classes::Natural, FINE, FINE));
    assert_eq!((Buffers::CLASSES, Text::SLAB_BYTES, Nodes::CHECKS), (Classes::Natural, 1 << 16, MODE));
    let text = Text::malloc(8 << 10);
    assert_eq!((Text::stats().classes.len(), Text::stats().large_allocations), (64, 0));
    // SAFETY: allocated above with this size.
    unsafe { Text::free(text, 8 << 10) };
    assert!(Chosen <= Chosen);
}
"#;

fn place() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("declarations")
}

fn write(path: &str, text: &[u8]) {
    let path = place().join(path);
    fs::create_dir_all(path.parent().expect("a directory")).expect("a directory can be made");
    if fs::read(&path).ok().as_deref() != Some(text) {
        fs::write(&path, text).expect("a file can be written");
    }
}

/// Runs cargo on the programs; whether it is content, and what it says, a line for each error.
fn cargo(arguments: &[&str]) -> (bool, String) {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(place()).args(arguments).args(["--offline", "--quiet", "--target-dir", "target"]);
    cargo.args(["--message-format", "short"]).env_remove("CARGO_BUILD_TARGET").env_remove("RUSTFLAGS");
    let output = cargo.output().expect("cargo starts");
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
#[cfg_attr(any(not(debug_assertions), feature = "portable"), ignore = "what it builds is the same in each of these")]
fn what_is_declared_is_taken_or_refused_with_a_reason() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    write("Cargo.toml", MANIFEST.replace("{crate}", root.to_str().expect("a path in UTF-8")).as_bytes());
    // A lock file exists in a checkout only; without it cargo finds the versions that it has.
    if let Ok(versions) = fs::read(root.join("Cargo.lock")) {
        fs::write(place().join("Cargo.lock"), versions).expect("a file can be written");
    }
    for (name, source, _) in REFUSED {
        let source = format!("#![allow(dead_code)]\nuse family_alloc::family;\n{source}\nfn main() {{}}\n");
        write(&format!("src/bin/{name}.rs"), source.as_bytes());
    }
    write("src/bin/taken.rs", TAKEN.as_bytes());
    let many: String = (0..300).map(|number| format!("struct F{number};\n")).collect();
    let many = format!("#![allow(dead_code)]\nfamily_alloc::family! {{\n{many}}}\nfn main() {{}}\n");
    write("src/bin/many.rs", many.as_bytes());

    let (taken, said) = cargo(&["run", "--bin", "taken"]);
    assert!(taken && said.is_empty(), "{said}");
    let (taken, said) = cargo(&["check", "--bins", "--keep-going"]);
    assert!(!taken);
    let of =
        |name: &str| said.lines().filter(|line| line.starts_with(&format!("src/bin/{name}.rs:"))).collect::<Vec<_>>();
    assert!(of("many").is_empty(), "three hundred families in one: {said}");
    for (name, _, reason) in REFUSED {
        assert!(of(name).iter().any(|line| line.contains(reason)), "{name}: not with the reason \"{reason}\":\n{said}");
    }
}

/// A wrapper of the compiler that says yes to each program of `build.rs`, as one that caches or
/// distributes may: nothing is concluded.
#[test]
#[cfg_attr(any(not(debug_assertions), feature = "portable"), ignore = "what it builds is the same in each of these")]
fn a_wrapper_that_takes_everything_is_not_believed() {
    use std::os::unix::fs::PermissionsExt;

    let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join("wrapped");
    fs::create_dir_all(&place).expect("a directory can be made");
    let wrapper = place.join("wrapper");
    let script = "#!/bin/sh\ncase \" $* \" in *' --crate-name=probe '*) exit 0 ;; esac\nexec \"$@\"\n";
    fs::write(&wrapper, script).expect("a file can be written");
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)).expect("a file can be run");
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(env!("CARGO_MANIFEST_DIR")).args([
        "check",
        "--offline",
        "-p",
        "family-alloc",
        "--lib",
        "--features",
        "allocator-api",
    ]);
    cargo.arg("--target-dir").arg(&place).env("RUSTC_WRAPPER", &wrapper).env_remove("CARGO_BUILD_TARGET");
    let output = cargo.output().expect("cargo starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("core's `Allocator` is not looked for"), "{said}");
}
