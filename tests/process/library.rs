//! The plugin: built by cargo where this program was, then loaded like any shared library.

use std::ffi::{CStr, CString, c_void};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::common::child;

const PLUGIN: &str = include_str!("plugin.rs");

const MANIFEST: &str = r#"
[package]
name = "plugin"
version = "0.0.0"
edition = "2024"

[workspace]

[lib]
crate-type = ["cdylib"]

[features]
portable = ["family-alloc/portable"]

[dependencies]
family-alloc = { path = "{crate}", default-features = false, features = ["std"] }

[profile.dev.package.family-alloc]
opt-level = 1
"#;

/// The built library. Child processes find it where their parent has built it.
pub(crate) fn path() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        if child::case().is_none() {
            build();
        }
        place().join("target/debug/libplugin.so")
    })
}

fn place() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("plugin")
}

/// Builds the plugin with the cargo and the versions that this program was built with. Nothing is fetched.
fn build() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let place = place();
    let write = |path: &str, text: &[u8]| {
        let path = place.join(path);
        fs::create_dir_all(path.parent().expect("a directory")).expect("a directory can be made");
        if fs::read(&path).ok().as_deref() != Some(text) {
            fs::write(&path, text).expect("a file can be written");
        }
    };
    write("src/lib.rs", PLUGIN.as_bytes());
    let manifest = MANIFEST.replace("{crate}", root.to_str().expect("a path in UTF-8"));
    write("Cargo.toml", manifest.as_bytes());
    let versions = fs::read(root.join("Cargo.lock")).expect("the versions that were tested");
    fs::write(place.join("Cargo.lock"), versions).expect("a file can be written");

    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(&place).args(["build", "--offline", "--quiet", "--target-dir", "target"]);
    cargo.env_remove("CARGO_BUILD_TARGET");
    if cfg!(feature = "portable") {
        cargo.args(["--features", "portable"]);
    }
    let output = cargo.output().expect("cargo starts");
    assert!(output.status.success(), "the plugin was not built:\n{}", String::from_utf8_lossy(&output.stderr));
}

type Allocate = extern "C" fn(u32, usize) -> *mut u8;
type Free = extern "C" fn(u32, *mut u8, usize);
type Use = extern "C" fn();
type Counts = extern "C" fn(&mut [usize; 3]);

/// The plugin, loaded.
#[derive(Clone, Copy)]
pub(crate) struct Library {
    handle: *mut c_void,
    pub(crate) allocate: Allocate,
    pub(crate) free: Free,
    pub(crate) use_all: Use,
    pub(crate) counts: Counts,
}

// SAFETY: a handle and functions may be used on any thread.
unsafe impl Send for Library {}

impl Library {
    pub(crate) fn load(path: &Path) -> Self {
        let path = CString::new(path.to_str().expect("a path in UTF-8")).expect("no zero in it");
        // SAFETY: a path that ends with a zero byte; what is loaded has no code that runs by itself.
        let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        if handle.is_null() {
            // SAFETY: no preconditions.
            let error = unsafe { libc::dlerror() };
            // SAFETY: after a failure there is a text.
            panic!("{path:?}: {:?}", unsafe { CStr::from_ptr(error) });
        }
        let function = |name: &CStr| {
            // SAFETY: an open handle.
            let function = unsafe { libc::dlsym(handle, name.as_ptr()) };
            assert!(!function.is_null(), "{name:?} is not there");
            function
        };
        // SAFETY: the signatures in `plugin.rs`, here and below.
        let allocate = unsafe { std::mem::transmute::<*mut c_void, Allocate>(function(c"plugin_allocate")) };
        // SAFETY: as above.
        let free = unsafe { std::mem::transmute::<*mut c_void, Free>(function(c"plugin_free")) };
        // SAFETY: as above.
        let use_all = unsafe { std::mem::transmute::<*mut c_void, Use>(function(c"plugin_use")) };
        // SAFETY: as above.
        let counts = unsafe { std::mem::transmute::<*mut c_void, Counts>(function(c"plugin_counts")) };
        Self { handle, allocate, free, use_all, counts }
    }

    /// What `plugin_counts` tells.
    pub(crate) fn count(&self) -> [usize; 3] {
        let mut counts = [0; 3];
        (self.counts)(&mut counts);
        counts
    }

    pub(crate) fn unload(self) {
        // SAFETY: an open handle, given up; whoever calls the functions after this relies on what is tested here.
        assert_eq!(unsafe { libc::dlclose(self.handle) }, 0);
    }
}
