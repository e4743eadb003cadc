//! What clients did and saw.

use std::collections::BTreeMap;

/// What a client asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// The key's value, consistently.
    Get,
    /// Store a value.
    Set(String),
    /// Remove the key.
    Delete,
    /// Store `new` if `old` is there. An empty `old` is also met by an absent key.
    Swap {
        /// What must be there.
        old: String,
        /// What is there afterwards.
        new: String,
    },
}

/// What the client learned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// An answer that is a promise.
    ///
    /// | action | `valid` | `value` |
    /// |---|---|---|
    /// | get | the key is there | its value, empty when it is absent |
    /// | set | always true | not looked at |
    /// | delete | the key was there and is not now; false: it was absent | not looked at |
    /// | swap | `old` was there and `new` is now | not looked at when valid; else what is there |
    Answered {
        /// Whether it took effect, or the key was there.
        valid: bool,
        /// What is there.
        value: String,
    },
    /// `timeout`, or a refusal: it has not acted and never will.
    Never,
    /// No answer, or one that says that nobody knows: it acts once, at any time after the call, or never.
    Unknown,
}

/// One operation of one client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    /// The client; only for people who read the history.
    pub client: String,
    /// The key.
    pub key: String,
    /// What was asked for.
    pub action: Action,
    /// When, in nanoseconds of one clock for all clients.
    pub called: u64,
    /// When the answer, or the failure, was there. Not looked at for unknown outcomes.
    pub returned: u64,
    /// What the client learned.
    pub outcome: Outcome,
}

/// Everything that all clients did and saw, in any order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct History {
    /// The operations.
    pub operations: Vec<Operation>,
}

impl History {
    /// The operations of each key, by the time of their call.
    pub(crate) fn by_key(&self) -> BTreeMap<&str, Vec<&Operation>> {
        let mut keys: BTreeMap<&str, Vec<&Operation>> = BTreeMap::new();
        for operation in &self.operations {
            keys.entry(&operation.key).or_default().push(operation);
        }
        for operations in keys.values_mut() {
            operations.sort_by_key(|operation| (operation.called, operation.returned));
        }
        keys
    }
}

impl std::fmt::Display for Operation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.action {
            Action::Get => write!(f, "get")?,
            Action::Set(value) => write!(f, "set {value:?}")?,
            Action::Delete => write!(f, "delete")?,
            Action::Swap { old, new } => write!(f, "swap {old:?} -> {new:?}")?,
        }
        match (&self.action, &self.outcome) {
            (_, Outcome::Unknown) => write!(f, ": unknown"),
            (_, Outcome::Never) => write!(f, ": timeout or refused"),
            (Action::Get | Action::Delete, Outcome::Answered { valid: false, .. }) => write!(f, ": absent"),
            (Action::Set(_), Outcome::Answered { valid: false, .. }) => write!(f, ": no"),
            (Action::Get, Outcome::Answered { value, .. }) => write!(f, ": {value:?}"),
            (Action::Swap { .. }, Outcome::Answered { valid: false, value }) => {
                write!(f, ": no, {value:?} is there")
            }
            (_, Outcome::Answered { .. }) => write!(f, ": done"),
        }
    }
}
