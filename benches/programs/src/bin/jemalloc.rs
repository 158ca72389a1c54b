//! The jobs with jemalloc.

family_alloc_programs::program!(tikv_jemallocator::Jemalloc, tikv_jemallocator::Jemalloc);
