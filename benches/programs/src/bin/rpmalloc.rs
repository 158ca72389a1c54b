//! The jobs with rpmalloc.

family_alloc_programs::program!(rpmalloc::RpMalloc, rpmalloc::RpMalloc);
