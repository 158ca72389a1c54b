//! The models, one file for each protocol. Each function explores one model to its end, and panics where it finds an error.

pub mod bin;
pub mod counts;
pub mod directory;
pub mod exit;
pub mod handlers;
pub mod heaps;
pub mod limits;
pub mod lock;
pub mod registry;
pub mod reset;
pub mod slab;
pub mod states;
pub mod stats;
