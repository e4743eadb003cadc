//! Decides whether what clients of a key-value service saw can be explained by one order of their operations, each at
//! one instant between its call and its answer (Herlihy and Wing, 1990).
//!
//! The search is Wing and Gong's with Lowe's memory of what was tried (Testing for linearizability, 2017). Keys are
//! independent of each other, so each is searched alone. Three things are peculiar to this service:
//!
//! - an operation of *unknown* outcome may act at any instant after its call, once, or never;
//! - an operation that was answered `timeout`, or refused, must never act: it takes no part in any order, so whoever sees
//!   its value sees what nobody wrote;
//! - the time limit is a failure: a history that was not decided was not checked.
//!
//! Start with [`History`] and [`check`]. A failure prints a small part of the history that is wrong by itself.

mod explain;
mod history;
mod prepare;
mod search;
mod shrink;
#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

pub use history::{Action, History, Operation, Outcome};

/// What was checked. A caller that counts these notices a night that checked nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Checked {
    /// Keys with at least one operation.
    pub keys: usize,
    /// Operations of all kinds.
    pub operations: usize,
    /// Operations whose outcome no client learned.
    pub unknown: usize,
    /// Configurations that the search looked at.
    pub steps: u64,
}

/// Why a history does not pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// No order explains what the clients saw. The text shows a small part of one key's history that is wrong by itself.
    Illegal {
        /// The guilty key.
        key: String,
        /// The operations left after everything that could be left out was, and where every order ends.
        explanation: String,
    },
    /// The limit passed before the search ended.
    OutOfTime {
        /// The key under search.
        key: String,
        /// How many operations it has.
        operations: usize,
        /// How many of them are of unknown outcome: what makes searches long.
        unknown: usize,
    },
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Illegal { explanation, .. } => f.write_str(explanation),
            Self::OutOfTime {
                key,
                operations,
                unknown,
            } => write!(
                f,
                "the limit passed before the {operations} operations on {key:?} were decided ({unknown} of unknown outcome)"
            ),
        }
    }
}

impl std::error::Error for Failure {}

/// Checks every key of the history within `limit`; says what it checked, or the first key that is wrong.
///
/// Keys start absent. After a key was found wrong, its history is made smaller for at most `limit` again.
pub fn check(history: &History, limit: Duration) -> Result<Checked, Failure> {
    let ends = now() + limit;
    let mut checked = Checked::default();
    for (key, operations) in history.by_key() {
        let unknown = operations
            .iter()
            .filter(|operation| operation.outcome == Outcome::Unknown)
            .count();
        let found = search::search(&prepare::prepare(&operations), || now() >= ends);
        checked.keys += 1;
        checked.operations += operations.len();
        checked.unknown += unknown;
        checked.steps += found.steps;
        match found.verdict {
            search::Verdict::Legal => {}
            search::Verdict::OutOfTime => {
                return Err(Failure::OutOfTime {
                    key: key.to_owned(),
                    operations: operations.len(),
                    unknown,
                });
            }
            search::Verdict::Illegal(_) => {
                let ends = now() + limit;
                let small = shrink::shrink(operations, || now() >= ends);
                return Err(Failure::Illegal {
                    key: key.to_owned(),
                    explanation: explain::explain(key, &small),
                });
            }
        }
    }
    Ok(checked)
}

#[expect(
    clippy::disallowed_methods,
    reason = "the limit is on this program's own time"
)]
fn now() -> Instant {
    Instant::now()
}
