//! The jobs with snmalloc.

family_alloc_programs::program!(snmalloc_rs::SnMalloc, snmalloc_rs::SnMalloc);
