//! Several keys at once: if all comparisons hold, one list of operations is carried out, else the other.

use std::sync::Arc;

use replication::LogTime;
use serde::{Deserialize, Serialize};

use super::{Item, KvState, Lifetime, Origin, Outcome, Value};

/// A transaction. A stored format: variants and fields are only appended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transaction {
    /// What must hold.
    pub compare: Vec<Comparison>,
    /// What is done if all of it does.
    pub then: Vec<Operation>,
    /// What is done otherwise.
    pub otherwise: Vec<Operation>,
}

/// What must hold of a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Comparison {
    /// The key.
    pub key: Arc<str>,
    /// What must hold.
    pub condition: Condition,
}

/// One condition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Condition {
    /// This value is there.
    Value(Value),
    /// This revision wrote it; 0: it is absent.
    Revision(u64),
    /// It is there, or absent.
    Exists(bool),
}

/// One operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operation {
    /// Stores a value.
    Set {
        /// The key.
        key: Arc<str>,
        /// Its new value.
        value: Value,
        /// How long it stays.
        lifetime: Lifetime,
    },
    /// Removes a key.
    Delete {
        /// The key.
        key: Arc<str>,
    },
    /// Reads a key, after the operations before it.
    Get {
        /// The key.
        key: Arc<str>,
    },
}

/// What one operation did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Made {
    /// The key was set or removed, at this revision.
    Changed {
        /// The revision.
        revision: u64,
    },
    /// The key that was to be removed was absent.
    Absent,
    /// What was there; none for an absent key.
    Found {
        /// The value.
        value: Option<Value>,
        /// The revision that wrote it.
        revision: u64,
    },
    /// What was there was too large to be kept for a repetition.
    Forgotten,
}

impl Operation {
    fn lease(&self) -> Option<u64> {
        match self {
            Self::Set {
                lifetime: Lifetime::Lease(lease),
                ..
            } => Some(*lease),
            _ => None,
        }
    }
}

impl Transaction {
    /// The bytes of its keys and values.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let compared = self.compare.iter().map(|one| {
            one.key.len()
                + match &one.condition {
                    Condition::Value(value) => value.as_ref().len(),
                    Condition::Revision(_) | Condition::Exists(_) => 0,
                }
        });
        let done = self.then.iter().chain(&self.otherwise).map(|one| match one {
            Operation::Set { key, value, .. } => key.len() + value.as_ref().len(),
            Operation::Delete { key } | Operation::Get { key } => key.len(),
        });
        compared.chain(done).sum()
    }
}

/// Without the values that are too large to be kept with a session's answers.
pub(super) fn kept(made: &[Made], bytes_max: usize) -> Vec<Made> {
    let mut room = bytes_max;
    made.iter()
        .map(|one| match one {
            Made::Found {
                value: Some(value), ..
            } if value.as_ref().len() > room => Made::Forgotten,
            Made::Found {
                value: Some(value), ..
            } => {
                room -= value.as_ref().len();
                one.clone()
            }
            _ => one.clone(),
        })
        .collect()
}

impl KvState {
    pub(super) fn transact(&mut self, at: LogTime, transaction: Transaction) -> Outcome {
        let holds = transaction.compare.iter().all(|one| self.holds(one));
        let operations = if holds {
            transaction.then
        } else {
            transaction.otherwise
        };
        if operations
            .iter()
            .filter_map(Operation::lease)
            .any(|lease| !self.leases.has(lease))
        {
            return Outcome::NoLease;
        }
        let made = operations.into_iter().map(|one| self.operate(at, one)).collect();
        Outcome::Transacted {
            holds,
            made,
            revision: self.revision,
        }
    }

    fn holds(&self, comparison: &Comparison) -> bool {
        let item = self.items.get(&comparison.key);
        match &comparison.condition {
            Condition::Value(value) => item.is_some_and(|item| item.value == *value),
            Condition::Revision(revision) => item.map_or(0, |item| item.revision) == *revision,
            Condition::Exists(exists) => item.is_some() == *exists,
        }
    }

    fn operate(&mut self, at: LogTime, operation: Operation) -> Made {
        let outcome = match operation {
            Operation::Set { key, value, lifetime } => {
                self.set_for(key, value, lifetime, Origin::quorum(at), at)
            }
            Operation::Delete { key } => self.delete(&key),
            Operation::Get { key } => {
                let item = self.items.get(&key);
                return Made::Found {
                    value: item.map(|item: &Item| item.value.clone()),
                    revision: item.map_or(0, |item| item.revision),
                };
            }
        };
        match outcome {
            Outcome::Done { revision } => Made::Changed { revision },
            _ => Made::Absent,
        }
    }
}
