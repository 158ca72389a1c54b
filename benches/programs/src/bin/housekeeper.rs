//! The jobs as with `spaced`, and with a thread that gives memory back while the program is silent.

family_alloc::family! {
    struct Everything { classes: Spaced }
}

family_alloc_programs::program!(
    Everything,
    Everything,
    family_alloc::Housekeeper::start().expect("a thread can be started").detach()
);
