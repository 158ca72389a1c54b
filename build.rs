//! Asks the compiler about `core::alloc::Allocator`, because no feature can know which compiler a build uses.
//!
//! | cfg | says |
//! | --- | --- |
//! | `family_alloc_core_allocator` | families implement it: `allocator-api` is on and the compiler has the trait |
//! | `family_alloc_core_allocator_unstable` | the compiler has the trait only behind `feature(allocator_api)` |
//! | `counts_in_one` | an `asm!` may branch, as of Rust 1.87, and optimised code for x86-64 gains by it |
//!
//! Where the compiler cannot have the trait (stable before 1.100), `allocator-api` does nothing: a feature is switched
//! on for all who depend on this crate at once, and an error would punish the ones that never asked.
//!
//! The second cfg is set for `allocator-api2-02` too: with `allocator-api2/nightly` switched on somewhere in the build,
//! the trait of 0.2 is core's, and naming it takes the gate.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::{env, fs};

/// Implements the trait in full, by a macro as the crate does; `{gate}` and `{allow}` open the feature or are empty.
const PROBE: &str = r#"
#![no_std]
{gate}

{allow}
macro_rules! implement {
    ($name:ident) => {
        unsafe impl core::alloc::Allocator for $name {
            fn allocate(&self, _: Layout) -> Result<NonNull<[u8]>, core::alloc::AllocError> {
                Err(core::alloc::AllocError)
            }
            fn allocate_zeroed(&self, _: Layout) -> Result<NonNull<[u8]>, core::alloc::AllocError> {
                Err(core::alloc::AllocError)
            }
            unsafe fn deallocate(&self, _: NonNull<u8>, _: Layout) {}
            unsafe fn grow(
                &self,
                _: NonNull<u8>,
                _: Layout,
                _: Layout,
            ) -> Result<NonNull<[u8]>, core::alloc::AllocError> {
                Err(core::alloc::AllocError)
            }
            unsafe fn grow_zeroed(
                &self,
                _: NonNull<u8>,
                _: Layout,
                _: Layout,
            ) -> Result<NonNull<[u8]>, core::alloc::AllocError> {
                Err(core::alloc::AllocError)
            }
            unsafe fn shrink(
                &self,
                _: NonNull<u8>,
                _: Layout,
                _: Layout,
            ) -> Result<NonNull<[u8]>, core::alloc::AllocError> {
                Err(core::alloc::AllocError)
            }
        }
    };
}

use core::{alloc::Layout, ptr::NonNull};

pub struct Probe;
implement!(Probe);
"#;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    for variable in ["RUSTC_BOOTSTRAP", "RUSTC", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    println!("cargo::rustc-check-cfg=cfg(family_alloc_core_allocator)");
    println!("cargo::rustc-check-cfg=cfg(family_alloc_core_allocator_unstable)");
    println!("cargo::rerun-if-env-changed=FAMILY_ALLOC_NO_ASM_LABELS");
    println!("cargo::rustc-check-cfg=cfg(counts_in_one)");
    if counts_in_one() {
        println!("cargo::rustc-cfg=counts_in_one");
    }

    let implemented = env::var_os("CARGO_FEATURE_ALLOCATOR_API").is_some();
    let named = env::var_os("CARGO_FEATURE_ALLOCATOR_API2_02").is_some();
    if !implemented && !named {
        return;
    }
    // Whoever takes what cannot be compiled says nothing about what can: a wrapper may say yes to
    // everything.
    if compiles("compile_error!(\"taken all the same\");", "") {
        println!(
            "cargo::warning=the compiler or its wrapper takes a program that is wrong: core's `Allocator` is not looked for"
        );
        return;
    }
    let stable = compiles("", "");
    let unstable =
        !stable && compiles("#![feature(allow_internal_unstable)]", "#[allow_internal_unstable(allocator_api)]");
    if implemented && (stable || unstable) {
        println!("cargo::rustc-cfg=family_alloc_core_allocator");
    }
    if unstable {
        println!("cargo::rustc-cfg=family_alloc_core_allocator_unstable");
    }
}

/// Not in unoptimised code: what makes that fastest is a compiler without such `asm!`. Nor under Miri.
fn counts_in_one() -> bool {
    let is = |name, value: &str| env::var(name).is_ok_and(|found| found == value);
    // Another code generator may not know labels; where it is chosen elsewhere than in the flags, a variable says so.
    let flags = env::var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default();
    if flags.contains("codegen-backend") || env::var_os("FAMILY_ALLOC_NO_ASM_LABELS").is_some() {
        return false;
    }
    let optimised = !is("OPT_LEVEL", "0") && env::var_os("CARGO_CFG_MIRI").is_none();
    is("CARGO_CFG_TARGET_ARCH", "x86_64")
        && is("CARGO_CFG_TARGET_POINTER_WIDTH", "64")
        && optimised
        && minor_version().is_some_and(|minor| minor >= 87)
}

/// The 95 of Rust 1.95.
fn minor_version() -> Option<u32> {
    let output = Command::new(env::var_os("RUSTC")?).arg("--version").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let version = text.strip_prefix("rustc 1.")?;
    version.split('.').next()?.parse().ok()
}

/// Whether the compiler that builds this crate, for its target and with its flags, takes the probe.
fn compiles(gate: &str, allow: &str) -> bool {
    let run = || {
        let directory = PathBuf::from(env::var_os("OUT_DIR")?);
        let source = directory.join("probe.rs");
        fs::write(&source, PROBE.replace("{gate}", gate).replace("{allow}", allow)).ok()?;
        compiler()?.arg("--out-dir").arg(directory).arg(source).status().ok()
    };
    run().is_some_and(|status| status.success())
}

/// The compiler, called as cargo calls it, silent and stopping short of code.
fn compiler() -> Option<Command> {
    let set = |name| env::var_os(name).filter(|value| !value.is_empty());
    let mut words = [set("RUSTC_WRAPPER"), set("RUSTC_WORKSPACE_WRAPPER"), set("RUSTC")].into_iter().flatten();
    let flags = env::var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default();
    let mut compiler = Command::new(words.next()?);
    compiler
        .args(words)
        .args(["--edition=2024", "--crate-name=probe", "--crate-type=lib", "--emit=metadata", "--cap-lints=allow"])
        .arg("--target")
        .arg(env::var_os("TARGET")?)
        .args(flags.split('\x1f').filter(|flag| !flag.is_empty()))
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    Some(compiler)
}
