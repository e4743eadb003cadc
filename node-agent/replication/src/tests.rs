//! The storage under openraft's own suite, and groups of three in one process.

mod group;
mod storage;

use serde::{Deserialize, Serialize};

use crate::{LogTime, RestoreError, State};

/// A state that shows order, time and repetition: every command with its stamp.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ledger {
    pub(crate) lines: Vec<String>,
    clock_ms: u64,
}

impl State for Ledger {
    type Command = String;
    type Outcome = usize;

    fn apply(&mut self, at: LogTime, command: String) -> usize {
        assert!(at.unix_ms >= self.clock_ms, "time went back");
        self.clock_ms = at.unix_ms;
        self.lines.push(command);
        self.lines.len()
    }

    fn snapshot(&self) -> Vec<u8> {
        postcard::to_allocvec(self).expect("strings serialise")
    }

    fn restore(bytes: &[u8]) -> Result<Self, RestoreError> {
        postcard::from_bytes(bytes).map_err(|error| RestoreError {
            reason: error.to_string(),
        })
    }
}
