//! The ways to call that are counted.

use std::fmt;

/// A way to call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Name {
    /// A family as the global allocator.
    Plain,
    /// `Scoped` with the same family as its home, outside of all scopes.
    Outside,
    /// The same in the scope of a heap.
    Inside,
    /// In the scope of a heap with spaced classes.
    InsideSpaced,
}

/// All of them, in the order of the columns.
pub(crate) const ALL: [Name; 4] = [Name::Plain, Name::Outside, Name::Inside, Name::InsideSpaced];

impl Name {
    /// The name in the tables.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "no-scopes",
            Self::Outside => "outside",
            Self::Inside => "in-a-scope",
            Self::InsideSpaced => "in-a-spaced",
        }
    }

    /// The way of that name.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        ALL.into_iter().find(|name| name.as_str() == text)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
