//! Keeps one peer out of the others' threads.
//!
//! The `rpmalloc` crate defines `pthread_create`, so that in a program that links it every thread starts and ends by way of
//! rpmalloc, whoever allocates. The linker is told to send all calls to `src/common/pthread.rs` instead, which uses rpmalloc's where
//! rpmalloc is measured and the system's otherwise.

fn main() {
    println!("cargo::rerun-if-changed=src/build.rs");
    println!("cargo::rustc-link-arg-benches=-Wl,--wrap=pthread_create");
}
