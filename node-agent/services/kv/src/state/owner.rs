//! Whose numbered requests are. A session is its token's: to callers with another token it is one that never was, so that
//! nobody learns an answer, or is given one, that is a stranger's.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::Change;

/// A digest of the name of a caller's token. The token itself may be renewed under its name: a repeated request is then the
/// same one. Nobody where the store asks for no tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Owner(u64);

impl Owner {
    /// The callers of a store that asks for no tokens, and the members themselves.
    pub const NOBODY: Self = Self(0);

    /// The callers whose token has this name.
    #[must_use]
    pub fn of(name: &str) -> Self {
        let digest = Sha256::digest(name.as_bytes());
        let number = digest
            .iter()
            .take(8)
            .fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
        Self(number.max(1))
    }
}

/// Who asks for a change.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Caller {
    /// Whose request it is.
    pub owner: Owner,
    /// Whether the caller numbered it. Else the member that was asked did, in a session of its own.
    pub has_numbered: bool,
}

impl Change {
    /// The change as it enters the log.
    #[must_use]
    pub fn asked_by(self, caller: Caller) -> Self {
        if caller.owner == Owner::NOBODY {
            return self;
        }
        Self::By {
            caller,
            change: Box::new(self),
        }
    }

    /// Who asks for it, and for what.
    pub(super) fn caller(self) -> (Caller, Self) {
        match self {
            Self::By { caller, change } => (caller, *change),
            other => (Caller::default(), other),
        }
    }
}
