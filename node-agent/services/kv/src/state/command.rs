//! What the log holds, and what becomes of it. A stored format: variants and fields are only appended.

use std::sync::Arc;

use replication::NodeId;
use serde::{Deserialize, Serialize};

use super::{Caller, Lifetime, Made, Owner, Transaction, Value};

/// One log entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Requests, in this order.
    Batch(Vec<Request>),
}

/// A change, and which request it is, so that a second copy of it changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// The session; 0 for requests that may be repeated.
    pub session: u64,
    /// The request's number in its session.
    pub seq: u64,
    /// Requests of the session below this one have been answered and are never repeated.
    pub floor: u64,
    /// What is to be changed.
    pub change: Change,
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
    /// Opens a session.
    Open {
        /// The member that opens it for itself; none for a client's.
        member: Option<NodeId>,
    },
    /// Makes the request of this session and number never take place, unless it did already.
    Cancel,
    /// Stores what a member remembered while there was no quorum.
    Merge {
        /// The member, under the node id that it had then.
        member: NodeId,
        /// What it remembered, in this order.
        remembered: Vec<Remembered>,
    },
    /// Hands out the records of a server's log that nobody was handed before.
    Extract {
        /// The server.
        server: Arc<str>,
        /// The digests of the lines of the caller's copy, 8 bytes each; their text does not enter the log.
        digests: Value,
    },
    /// Carries out several operations at once.
    Transact(Transaction),
    /// Stores a value that ends by itself.
    SetFor {
        /// The key.
        key: Arc<str>,
        /// Its new value.
        value: Value,
        /// How long it stays.
        lifetime: Lifetime,
    },
    /// Stores a value that ends by itself if another one is there.
    SwapFor {
        /// The key.
        key: Arc<str>,
        /// What must be there; an empty value also stands for an absent key.
        old: Value,
        /// What is stored then.
        new: Value,
        /// How long it stays.
        lifetime: Lifetime,
    },
    /// Grants a lease.
    Grant {
        /// How long it lasts without being kept alive, in milliseconds.
        ttl_ms: u64,
    },
    /// Gives a lease its whole time again.
    KeepAlive {
        /// The lease.
        lease: u64,
    },
    /// Ends a lease, and removes its keys.
    Revoke {
        /// The lease.
        lease: u64,
    },
    /// Ends what is due; every command does.
    Expire,
    /// Appends an entry to a journal.
    Append {
        /// The journal's name.
        journal: Arc<str>,
        /// What the entry says.
        value: Value,
    },
    /// Removes a journal.
    RemoveJournal {
        /// The journal's name.
        journal: Arc<str>,
    },
    /// What a caller with a token asks for.
    By {
        /// The caller.
        caller: Caller,
        /// Any other change.
        change: Box<Change>,
    },
    /// As [`Change::Merge`], where requests are callers' with tokens.
    MergeFor {
        /// The member, under the node id that it had then.
        member: NodeId,
        /// What it remembered, in this order, and whose requests these were.
        remembered: Vec<(Owner, Remembered)>,
    },
}

impl Change {
    /// Stores what a member remembered.
    #[must_use]
    pub fn merge(member: NodeId, remembered: Vec<(Owner, Remembered)>) -> Self {
        if remembered.iter().any(|(owner, _)| *owner != Owner::NOBODY) {
            return Self::MergeFor { member, remembered };
        }
        let remembered = remembered.into_iter().map(|(_, one)| one).collect();
        Self::Merge { member, remembered }
    }
}

/// A write that a member accepted without a quorum.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remembered {
    /// Its number among those of its member: each is merged once.
    pub number: u64,
    /// The session of the request, if it may have been ordered already; else 0.
    pub session: u64,
    /// The number of the request in that session.
    pub seq: u64,
    /// The key.
    pub key: Arc<str>,
    /// Its new value; none removes the key.
    pub value: Option<Value>,
    /// The revision of the key that the member knew; 0 for a key that was absent, or removed by what it remembered.
    pub base: u64,
    /// The number of the write of the same key that the member had remembered right before, and not merged; else 0.
    pub after: u64,
    /// When it was accepted, by the member's clock, in milliseconds since the Unix epoch.
    pub unix_ms: u64,
    /// What happens when a quorum wrote the key meanwhile.
    pub policy: Policy,
}

/// What happens to a remembered write when a quorum wrote the key meanwhile.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Policy {
    /// It is stored when it arrives.
    #[default]
    Arrival,
    /// It is stored only if the key is as it was when it was accepted.
    Base,
    /// The later one stays, by the clocks of the members.
    Latest,
    /// It is stored only if the quorum holds no value for the key.
    KeepQuorum,
}

impl Policy {
    /// The name that configuration and answers use.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Arrival => "arrival",
            Self::Base => "base",
            Self::Latest => "latest",
            Self::KeepQuorum => "keep-quorum",
        }
    }
}

/// What became of one request.
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
    /// The session was opened.
    Opened {
        /// Its id.
        session: u64,
    },
    /// It did not take place and never will.
    Cancelled,
    /// Its session is not known (any more): it did not take place now.
    NoSession,
    /// It was answered long ago, and what became of it is forgotten.
    Forgotten,
    /// The remembered writes were merged; those that lost a conflict were not stored.
    Merged {
        /// How many were stored.
        stored: u64,
        /// Those that were dropped, by their numbers.
        dropped: Vec<u64>,
    },
    /// These records are the caller's.
    Extracted {
        /// How many lines of its copy are not.
        start: u64,
        /// Whether the copy does not continue what was handed out before.
        gap: bool,
        /// How many records of the server were ever handed out, these included.
        total: u64,
    },
    /// Nothing was done: a bounded collection is full.
    Full,
    /// The transaction was carried out.
    Transacted {
        /// Whether all comparisons held.
        holds: bool,
        /// What its operations did, in their order.
        made: Vec<Made>,
        /// The store's revision since.
        revision: u64,
    },
    /// The lease was granted, or kept alive.
    Leased {
        /// Its id.
        lease: u64,
        /// How long it lasts from now on, in milliseconds.
        ttl_ms: u64,
    },
    /// Nothing was done: there is no such lease (any more).
    NoLease,
    /// The entry was appended.
    Appended {
        /// Its number in its journal, from 1.
        index: u64,
    },
}
