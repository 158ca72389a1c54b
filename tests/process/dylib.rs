//! The crate in a Rust `dylib` that a program and its plugins share: a plugin that declares a
//! family and is closed must stay, because the registry, forks, reports and the ends of threads
//! reach its statics. Three crates, built by cargo where this program was.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const WORKSPACE: &str = r#"
[workspace]
members = ["host", "plugin", "program"]
resolver = "3"

[profile.dev.package.family-alloc]
opt-level = 1
"#;

const HOST: [&str; 2] = [
    r#"
[package]
name = "host"
version = "0.0.0"
edition = "2024"

[lib]
crate-type = ["dylib"]

[dependencies]
family-alloc = { path = "{crate}", default-features = false, features = ["std"] }
"#,
    r#"
pub use family_alloc;

/// In this library, as the crate is: it sees what the crate sees.
pub fn used() -> Vec<(&'static str, usize)> {
    family_alloc::families().map(|family| (family.name(), family.stats().live_bytes)).collect()
}
"#,
];

const PLUGIN: [&str; 2] = [
    r#"
[package]
name = "plugin"
version = "0.0.0"
edition = "2024"

[lib]
crate-type = ["dylib"]

[dependencies]
host = { path = "../host" }
"#,
    r#"
use host::family_alloc::{self, Fault, Family};

family_alloc::family! { pub struct Plugged; pub struct PluggedHardened { checks: Hardened } }

fn handler(fault: &Fault) {
    println!("the plugin's handler is told of {:?} in {}", fault.kind, fault.family);
}

#[unsafe(no_mangle)]
pub extern "C" fn plugin_work() -> usize {
    let slot = Plugged::malloc(64);
    unsafe { PluggedHardened::free(PluggedHardened::malloc(64), 64) };
    slot as usize
}

#[unsafe(no_mangle)]
pub extern "C" fn plugin_free(slot: usize) {
    unsafe { Plugged::free(slot as *mut u8, 64) }
}

/// The only thing that it does with the crate.
#[unsafe(no_mangle)]
pub extern "C" fn plugin_handle() {
    family_alloc::set_fault_handler(handler);
}
"#,
];

const PROGRAM: [&str; 2] = [
    r#"
[package]
name = "program"
version = "0.0.0"
edition = "2024"

[dependencies]
host = { path = "../host" }
libc = { version = "0.2", default-features = false }
"#,
    r#"
use std::ffi::{CStr, CString, c_void};
use host::family_alloc::{self, Family};

family_alloc::family! { struct Own; }

fn function(library: *mut c_void, name: &CStr) -> *mut c_void {
    let function = unsafe { libc::dlsym(library, name.as_ptr()) };
    assert!(!function.is_null());
    function
}

fn main() {
    let path = CString::new(std::env::args().nth(1).unwrap()).unwrap();
    let open = || {
        let library = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW) };
        assert!(!library.is_null(), "{:?}", unsafe { CStr::from_ptr(libc::dlerror()) });
        library
    };
    let library = open();
    if std::env::args().nth(2).unwrap() == "handler" {
        let handle: extern "C" fn() = unsafe { std::mem::transmute(function(library, c"plugin_handle")) };
        handle();
        assert_eq!(unsafe { libc::dlclose(library) }, 0);
        let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        unsafe { libc::setrlimit(libc::RLIMIT_CORE, &none) };
        let slot = Own::malloc(3 << 20);
        unsafe { Own::free(slot, 2 << 20) };
        return;
    }
    let work: extern "C" fn() -> usize = unsafe { std::mem::transmute(function(library, c"plugin_work")) };
    // One thread has used it when it goes, and ends afterwards; another has ended before.
    std::thread::spawn(move || work()).join().unwrap();
    let slot = work();
    let (end, wait) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::spawn(move || { work(); let _ = wait.recv(); });
    while host::used().iter().find(|family| family.0 == "Plugged").unwrap().1 < 3 * 64 {
        std::thread::yield_now();
    }
    assert_eq!(unsafe { libc::dlclose(library) }, 0);
    drop(end);
    thread.join().unwrap();
    let mut used = host::used();
    used.sort();
    assert_eq!(used, [("Plugged", 3 * 64), ("PluggedHardened", 0)]);
    let child = unsafe { libc::fork() };
    if child == 0 {
        assert_eq!(host::used().len(), 2);
        unsafe { libc::_exit(0) };
    }
    let mut status = 0;
    unsafe { libc::waitpid(child, &mut status, 0) };
    assert_eq!(status, 0);
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    println!("the plugin is {}", if maps.contains("libplugin") { "still loaded" } else { "gone" });
    // It is found again with all it holds.
    let free: extern "C" fn(usize) = unsafe { std::mem::transmute(function(open(), c"plugin_free")) };
    free(slot);
    assert_eq!(host::used().iter().find(|family| family.0 == "Plugged").unwrap().1, 2 * 64);
    println!("got through");
}
"#,
];

fn place() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("dylib")
}

fn write(path: &str, text: &str) {
    let path = place().join(path);
    fs::create_dir_all(path.parent().expect("a directory")).expect("a directory can be made");
    if fs::read_to_string(&path).ok().as_deref() != Some(text) {
        fs::write(&path, text).expect("a file can be written");
    }
}

/// Runs the program that loads the plugin, with what it is to do.
fn run(what: &str) -> Output {
    let target = place().join("target/debug");
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let libraries = Command::new(rustc).args(["--print", "target-libdir"]).output().expect("rustc starts").stdout;
    let libraries = String::from_utf8(libraries).expect("a path in UTF-8");
    let mut program = Command::new(target.join("program"));
    program.arg(target.join("libplugin.so")).arg(what);
    program
        .env("LD_LIBRARY_PATH", format!("{}:{}:{}", target.display(), target.join("deps").display(), libraries.trim()));
    program.output().expect("the program starts")
}

#[test]
#[cfg_attr(target_feature = "crt-static", ignore = "nothing is loaded")]
#[cfg_attr(any(not(debug_assertions), feature = "portable"), ignore = "what it builds is the same in each of these")]
fn a_plugin_that_declared_a_family_stays() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    write("Cargo.toml", WORKSPACE);
    for (name, [manifest, source]) in [("host", HOST), ("plugin", PLUGIN), ("program", PROGRAM)] {
        let manifest = manifest.replace("{crate}", root.to_str().expect("a path in UTF-8"));
        write(&format!("{name}/Cargo.toml"), &manifest);
        write(&format!("{name}/src/{}.rs", if name == "program" { "main" } else { "lib" }), source);
    }
    let versions = fs::read(root.join("Cargo.lock")).expect("the versions that were tested");
    fs::write(place().join("Cargo.lock"), versions).expect("a file can be written");
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(place()).args(["build", "--offline", "--quiet", "--target-dir", "target"]);
    cargo.env("RUSTFLAGS", "-Cprefer-dynamic").env_remove("CARGO_BUILD_TARGET");
    let built = cargo.output().expect("cargo starts");
    assert!(built.status.success(), "not built:\n{}", String::from_utf8_lossy(&built.stderr));

    let output = run("families");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}\n{out}{err}", output.status);
    assert!(out.contains("the plugin is still loaded") && out.contains("got through"), "{out}{err}");

    let output = run("handler");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(out.contains("the plugin's handler is told of WrongSize in Own"), "{}\n{out}{err}", output.status);
}
