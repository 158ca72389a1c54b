//! What the fuzz targets do with their bytes. Each target is a function here, so that libFuzzer's programs are one line each and the
//! committed corpus can be replayed without libFuzzer:
//!
//! | target | bytes are read as | what must hold |
//! | --- | --- | --- |
//! | [`operations`] | allocate, zeroed, grow, shrink, free, trim, through both doors of families of every mode | the shadow model: alignment, whole slots, no overlap, no unit of two families, contents, zero, counters; after freeing and trimming nothing is left |
//! | [`layouts`] | one or a few layouts, as impossible as `Layout` allows | an error, or memory that is aligned and can be written at both ends; then the counters are what they were |
//! | [`schedules`] | who of up to four threads does which step next, threads ending and starting | as for `operations`, whoever frees what |
//! | [`heaps`] | make, clone, limit, reset and drop heaps and local heaps, allocate, resize and free in them, on two threads | alignment, no overlap, contents, zero, counters; a heap ends with its last handle, and none is left |
//! | [`scopes`] | make and drop heaps, enter and leave scopes in any order, allocate, resize and free through a global allocator, on two threads | the scope that is current, alignment, no overlap, contents, zero, whose a block is; no heap and no orphan is left |
//! | [`misuse`] | steps, and among them wrong frees, wrong resizes, stale writes and overflows | what is wrong is reported, with the right kind where the model knows it; what is not reported harms nothing: live slots never overlap and keep their contents |
//!
//! Every execution begins with families that hold nothing and have given their memory back, so that an input does the same
//! whatever ran before it (but for the order of slots in hardened families, which nobody shall foresee).
//!
//! ```sh
//! cargo test --manifest-path fuzz/Cargo.toml --no-default-features    # replays the corpus
//! fuzz/run 1000000                                                    # so many executions of each target
//! ```

#[path = "../../tests/common/mod.rs"]
mod common;

mod child;
mod families;
mod heaps;
mod input;
mod layouts;
mod misuse;
mod operations;
mod schedules;
mod scopes;

pub use heaps::heaps;
pub use layouts::layouts;
pub use misuse::{Misuses, misuse};
pub use operations::operations;
pub use schedules::schedules;
pub use scopes::scopes;
