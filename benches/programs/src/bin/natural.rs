//! The jobs with a family whose classes are powers of two.

family_alloc::family! {
    struct Everything { classes: Natural }
}

family_alloc_programs::program!(Everything, Everything);
