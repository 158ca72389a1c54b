//! The jobs with the C library's allocator.

family_alloc_programs::program!(std::alloc::System, std::alloc::System);
