//! The replicated store: keys in order, each with its value and the revision that wrote it.
//!
//! Pure: a command and the log's time in, an outcome out. Whether a swap takes place is decided here and nowhere else.

mod value;

use std::collections::BTreeMap;
use std::sync::Arc;

use replication::{LogTime, RestoreError, State};
use serde::{Deserialize, Serialize};

pub use value::Value;

/// The version of the snapshot's format.
const SNAPSHOT_VERSION: u8 = 1;

/// One log entry. A stored format: variants and fields are only appended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Changes, in this order.
    Batch(Vec<Change>),
}

/// One change of the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// Stores a value.
    Set {
        /// The key.
        key: Arc<str>,
        /// Its new value.
        value: Value,
    },
    /// Removes a key.
    Delete {
        /// The key.
        key: Arc<str>,
    },
    /// Stores a value if another one is there.
    Swap {
        /// The key.
        key: Arc<str>,
        /// What must be there; an empty value also stands for an absent key.
        old: Value,
        /// What is stored then.
        new: Value,
    },
}

/// What became of one change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// It was made, at this revision.
    Done {
        /// The store's revision since.
        revision: u64,
    },
    /// Nothing was changed: this is what is there, and the revision that wrote it (0 for an absent key).
    Differs {
        /// The present value; none for an absent key.
        value: Option<Value>,
        /// The revision that wrote it.
        revision: u64,
    },
}

/// A key's value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// The value.
    pub value: Value,
    /// The revision that wrote it.
    pub revision: u64,
}

/// What every member holds.
#[derive(Debug, Default)]
pub struct KvState {
    items: BTreeMap<Arc<str>, Item>,
    /// Counts changes that were made.
    revision: u64,
    /// Of all keys and values.
    bytes: u64,
}

impl KvState {
    /// The present item of a key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Item> {
        self.items.get(key)
    }

    /// The revision of the last change.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// How many keys there are.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.items.len()
    }

    /// The bytes of all keys and values together.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    fn change(&mut self, change: Change) -> Outcome {
        match change {
            Change::Set { key, value } => self.set(key, value),
            Change::Delete { key } => match self.items.remove(&key) {
                Some(item) => {
                    self.bytes -= size(&key, &item);
                    self.revision += 1;
                    Outcome::Done {
                        revision: self.revision,
                    }
                }
                None => differs(None),
            },
            Change::Swap { key, old, new } => {
                let item = self.items.get(&key);
                let present = item.map_or(&[][..], |item| item.value.as_ref());
                if present == old.as_ref() {
                    self.set(key, new)
                } else {
                    differs(item)
                }
            }
        }
    }

    fn set(&mut self, key: Arc<str>, value: Value) -> Outcome {
        self.revision += 1;
        let item = Item {
            value,
            revision: self.revision,
        };
        self.bytes += size(&key, &item);
        if let Some(before) = self.items.insert(key.clone(), item) {
            self.bytes -= size(&key, &before);
        }
        Outcome::Done {
            revision: self.revision,
        }
    }
}

fn differs(item: Option<&Item>) -> Outcome {
    Outcome::Differs {
        value: item.map(|item| item.value.clone()),
        revision: item.map_or(0, |item| item.revision),
    }
}

fn size(key: &str, item: &Item) -> u64 {
    (key.len() + item.value.as_ref().len()) as u64
}

/// The snapshot after its version byte. A stored format: fields are only appended.
#[derive(Serialize, Deserialize)]
struct SnapshotV1 {
    revision: u64,
    items: Vec<(Arc<str>, Item)>,
}

impl State for KvState {
    type Command = Command;
    type Outcome = Vec<Outcome>;

    fn apply(&mut self, _at: LogTime, command: Command) -> Vec<Outcome> {
        let Command::Batch(changes) = command;
        changes.into_iter().map(|change| self.change(change)).collect()
    }

    fn snapshot(&self) -> Vec<u8> {
        let items = self.items.iter().map(|(key, item)| (key.clone(), item.clone()));
        let snapshot = SnapshotV1 {
            revision: self.revision,
            items: items.collect(),
        };
        postcard::to_extend(&snapshot, vec![SNAPSHOT_VERSION]).expect("values in memory always serialise")
    }

    fn restore(bytes: &[u8]) -> Result<Self, RestoreError> {
        let error = |reason: String| RestoreError { reason };
        let (version, rest) = bytes
            .split_first()
            .ok_or_else(|| error("a snapshot of no bytes".to_owned()))?;
        if *version != SNAPSHOT_VERSION {
            return Err(error(format!(
                "a snapshot of version {version}, expected {SNAPSHOT_VERSION}"
            )));
        }
        let (snapshot, rest): (SnapshotV1, _) =
            postcard::take_from_bytes(rest).map_err(|source| error(source.to_string()))?;
        if !rest.is_empty() {
            return Err(error(format!("{} bytes follow the snapshot", rest.len())));
        }
        let items: BTreeMap<_, _> = snapshot.items.into_iter().collect();
        Ok(Self {
            revision: snapshot.revision,
            bytes: items.iter().map(|(key, item)| size(key, item)).sum(),
            items,
        })
    }
}

#[cfg(test)]
mod tests;
