//! Samples of one figure, and what is said of them.

/// Samples of one figure for one allocator.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Figures(Vec<f64>);

impl Figures {
    pub(crate) fn push(&mut self, value: f64) {
        let place = self.0.partition_point(|&other| other < value);
        self.0.insert(place, value);
    }

    pub(crate) fn median(&self) -> f64 {
        let middle = self.0.len() / 2;
        match self.0.len() {
            0 => f64::NAN,
            len if len % 2 == 0 => f64::midpoint(self.0[middle - 1], self.0[middle]),
            _ => self.0[middle],
        }
    }

    /// A quarter of all samples is below.
    pub(crate) fn lower_quartile(&self) -> f64 {
        self.0.get(self.0.len() / 4).copied().unwrap_or(f64::NAN)
    }

    /// A quarter of all samples is above.
    pub(crate) fn upper_quartile(&self) -> f64 {
        let last = self.0.len().saturating_sub(1);
        self.0.get(last - last.min(self.0.len() / 4)).copied().unwrap_or(f64::NAN)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}
