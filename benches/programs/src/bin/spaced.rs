//! The jobs with a family whose classes are spaced, as the README advises for a global allocator.

family_alloc::family! {
    struct Everything { classes: Spaced }
}

family_alloc_programs::program!(Everything, Everything);
