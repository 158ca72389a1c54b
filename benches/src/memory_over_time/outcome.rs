//! What the processes of one program have found.
#![forbid(unsafe_code)]

use crate::moments::{Figure, Unit};
use crate::peers::Name;
use crate::programs::Program;
use crate::targets::Target;

/// The figures of a program, by allocator; or what went wrong.
pub(crate) struct Outcome {
    pub(crate) program: &'static Program,
    pub(crate) results: Vec<(Name, Result<Vec<Figure>, String>)>,
}

/// One figure of all allocators.
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) unit: Unit,
    /// In the order of the columns.
    pub(crate) values: Vec<Option<f64>>,
    pub(crate) target: Option<Target>,
}

impl Outcome {
    pub(crate) fn names(&self) -> impl Iterator<Item = Name> {
        self.results.iter().map(|(name, _)| *name)
    }

    fn figure(&self, name: Name, figure: &str) -> Option<&Figure> {
        let (_, result) = self.results.iter().find(|(other, _)| *other == name)?;
        result.as_ref().ok()?.iter().find(|other| other.name == figure)
    }

    #[allow(clippy::cast_precision_loss, reason = "three digits are shown")]
    pub(crate) fn value(&self, name: Name, figure: &str) -> Option<f64> {
        self.figure(name, figure).map(|figure| figure.value as f64)
    }

    /// All figures, in the order in which they were noted, those that only some allocators have included.
    pub(crate) fn rows(&self) -> Vec<Row> {
        let mut rows: Vec<Row> = Vec::new();
        for figure in self.results.iter().filter_map(|(_, result)| result.as_ref().ok()).flatten() {
            if rows.iter().all(|row| row.name != figure.name) {
                let values = self.names().map(|name| self.value(name, &figure.name)).collect();
                let bound = self.program.targets.iter().find(|(name, _)| *name == figure.name);
                let target = bound.and_then(|(name, bound)| bound.of(name, self));
                rows.push(Row { name: figure.name.clone(), unit: figure.unit, values, target });
            }
        }
        rows
    }
}
