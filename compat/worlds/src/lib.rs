//! A crate that declares a family and opens no feature gate: it must build whatever the rest of the build switches on.

#![forbid(unsafe_code)]
#![deny(warnings)]

use family_alloc::family;

family! {
    /// The family of this crate.
    pub struct Shared;
    /// Another one of the same invocation.
    pub struct Second;
}

/// Declares a family where no item but a function's can see it.
pub fn local() -> impl Copy {
    family! { struct Local; }
    Local
}
