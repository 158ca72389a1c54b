//! Models of the protocols by which threads share memory in `family-alloc`, explored by loom.
//!
//! What runs is the crate's own source, included by path. Five modules are of this package: they are where the crate touches
//! something that loom must see or that must be small.
//!
//! | module | instead of |
//! | --- | --- |
//! | `sync` | the processor's atomics and the futex; the crate's `Lock` is included |
//! | `os` | the system: one arena that is cleared after each execution, and a clock that stands still |
//! | `fatal` | the end of the process: an unwinding that a model can catch |
//! | `capacity` | magazines of two slots, depots of one batch or none |
//! | `worlds` | the allocator traits: none |
//!
//! What loom sees of memory: every atomic; every `Cell` and the value of every `Lock`, as data that must not race; each slot
//! that a model says it [owns](world::own). What is written to slots, depots and arrays of magazines is plain memory.

macro_rules! from_the_crate {
    ($($module:ident $path:literal;)*) => {
        $(
            #[allow(dead_code, unused_imports, clippy::all, reason = "the models do not use all of it")]
            #[path = $path]
            mod $module;
        )*
    };
}

from_the_crate! {
    bin "../../../src/bin.rs";
    checks "../../../src/checks.rs";
    depot "../../../src/depot.rs";
    family "../../../src/family/mod.rs";
    fault "../../../src/fault.rs";
    header "../../../src/header/mod.rs";
    front "../../../src/front/mod.rs";
    huge_pages "../../../src/huge_pages.rs";
    large "../../../src/large/mod.rs";
    magazine "../../../src/magazine/mod.rs";
    marks "../../../src/marks.rs";
    purge "../../../src/purge.rs";
    region "../../../src/region/mod.rs";
    size_class "../../../src/size_class.rs";
    slab "../../../src/slab/mod.rs";
    states "../../../src/states.rs";
    stats "../../../src/stats/mod.rs";
    thread "../../../src/thread/mod.rs";
    thread_pages "../../../src/thread_pages.rs";
    tiny "../../../src/tiny.rs";
    waiting "../../../src/waiting.rs";
}

#[allow(dead_code, reason = "the same functions as the crate's")]
mod capacity;
#[allow(dead_code, reason = "the same functions as the crate's")]
mod fatal;
pub mod models;
#[allow(dead_code, reason = "the same functions as the crate's")]
mod os;
mod sync;
mod world;
/// The traits that a family implements beside `Family`: none here.
mod worlds {
    pub trait Worlds {}

    impl<T> Worlds for T {}
}

use checks::Checks;
use front::Family;
