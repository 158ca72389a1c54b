//! What may be resident: bounds that follow from the peers of the same run, from what is live, or from nothing but themselves.
#![forbid(unsafe_code)]

use crate::outcome::Outcome;
use crate::peers::Name;

/// The figure that says how many bytes the pages have on which something is live.
pub(crate) const LIVE_PAGES: &str = "pages of what is live";

/// The most that a figure of family-alloc may be.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Bound {
    /// The best peer's figure times something, and some MiB more.
    Best { times: f64, more_mib: f64 },
    /// The same, of the peers' figure at another moment.
    BestAt { figure: &'static str, times: f64, more_mib: f64 },
    /// One peer's figure times something, and some MiB more.
    Of { name: Name, times: f64, more_mib: f64 },
    /// The pages of what is live times something.
    Live { times: f64 },
    /// A number.
    AtMost(usize),
}

/// A bound with its value in this run.
pub(crate) struct Target {
    pub(crate) most: f64,
    /// Where it comes from.
    pub(crate) from: String,
    pub(crate) is_met: bool,
}

impl Bound {
    /// The bound of a figure, if all that it needs was measured.
    pub(crate) fn of(self, figure: &str, outcome: &Outcome) -> Option<Target> {
        let ours = outcome.value(Name::Ours, figure)?;
        let (most, from) = match self {
            Self::Best { times, more_mib } => {
                let (best, name) = best(outcome, figure)?;
                (best * times + mib(more_mib), describe(name.as_str(), times, more_mib))
            }
            Self::BestAt { figure, times, more_mib } => {
                let (best, name) = best(outcome, figure)?;
                (best * times + mib(more_mib), describe(&format!("{name} at \"{figure}\""), times, more_mib))
            }
            Self::Of { name, times, more_mib } => {
                let value = outcome.value(name, figure)?;
                (value * times + mib(more_mib), describe(name.as_str(), times, more_mib))
            }
            Self::Live { times } => {
                (outcome.value(Name::Ours, LIVE_PAGES)? * times, describe("live pages", times, 0.0))
            }
            #[allow(clippy::cast_precision_loss, reason = "bounds are small")]
            Self::AtMost(most) => (most as f64, String::new()),
        };
        Some(Target { most, from, is_met: ours <= most })
    }
}

/// The peer with the least figure.
fn best(outcome: &Outcome, figure: &str) -> Option<(f64, Name)> {
    let peers = outcome.names().filter(|name| name.is_peer());
    let values = peers.filter_map(|name| Some((outcome.value(name, figure)?, name)));
    values.min_by(|one, other| one.0.total_cmp(&other.0))
}

fn mib(number: f64) -> f64 {
    number * f64::from(1 << 20)
}

fn describe(what: &str, times: f64, more_mib: f64) -> String {
    if more_mib > 0.0 { format!("{what} × {times} + {more_mib} MiB") } else { format!("{what} × {times}") }
}
