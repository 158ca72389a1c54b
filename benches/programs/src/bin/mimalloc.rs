//! The jobs with mimalloc 3.

family_alloc_programs::program!(mimalloc::MiMalloc, mimalloc::MiMalloc);
