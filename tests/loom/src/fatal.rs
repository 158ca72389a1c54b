//! The end of the process, as a model sees it: the line unwinds to whoever made the wrong call.

use std::fmt;
use std::panic::resume_unwind;

/// What the process would have said before its end.
pub(crate) struct Line(pub(crate) String);

/// Says nothing yet: a handler is called first.
pub(crate) fn say(_: fmt::Arguments<'_>) {}

pub(crate) fn end_after(message: fmt::Arguments<'_>) -> ! {
    resume_unwind(Box::new(Line(message.to_string())))
}

pub(crate) fn end() -> ! {
    resume_unwind(Box::new(Line("the end without a line".to_owned())))
}
