//! The jobs with rusty_alloc.

family_alloc_programs::program!(rusty_alloc_api::RustyAlloc, rusty_alloc_api::RustyAlloc);
