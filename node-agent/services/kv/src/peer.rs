//! What members ask each other: a follower hands its clients' requests to the leader, and asks it how far to read.
//!
//! A wire format between members of one group, which may run versions next to each other: variants and fields are only
//! appended.

use std::sync::Arc;

use bytes::Bytes;
use replication::NodeId;
use serde::{Deserialize, Serialize};

use crate::state::{Command, Outcome, Value};

/// A question to the leader.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Question {
    /// How far the log must be applied to see everything that was acknowledged before.
    ReadIndex,
    /// Whether a quorum confirms right now that the asked member leads.
    Confirm,
    /// To order a command.
    Order {
        /// Only if a quorum confirms right now that the asked member leads.
        confirmed: bool,
        /// The command.
        command: Command,
    },
    /// Something of the event bus; every member answers it.
    Bus(Bus),
}

/// What the event bus asks another member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Bus {
    /// To give a message to all its subscribers of an address.
    Publish {
        /// The address.
        address: Arc<str>,
        /// The message.
        message: Value,
    },
    /// How many subscribers an address has there.
    Count {
        /// The address.
        address: Arc<str>,
    },
    /// To give a message to one of them.
    Send {
        /// The address.
        address: Arc<str>,
        /// Which one.
        place: u64,
        /// The message.
        message: Value,
        /// The member at which the sender waits for a reply.
        sender: NodeId,
        /// The number of its wait.
        number: u64,
        /// What nobody can guess.
        secret: u64,
    },
    /// To give a reply to a sender that waits there.
    Reply {
        /// The number of its wait.
        number: u64,
        /// What nobody can guess.
        secret: u64,
        /// The reply.
        reply: Value,
    },
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// To [`Question::ReadIndex`] and [`Question::Confirm`].
    Index(u64),
    /// What became of the requests of a command.
    Ordered(Vec<Outcome>),
    /// Nothing was ordered.
    NotOrdered(NotOrdered),
    /// The command may have been ordered.
    InDoubt,
    /// To [`Question::Bus`]: how many subscribers there are, or have got it.
    Delivered(u64),
}

/// Why nothing was ordered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum NotOrdered {
    /// The asked member does not lead, or no quorum hears it.
    #[error("no member leads with a quorum at the moment")]
    NoLeader {
        /// The leader, if known.
        leader: Option<NodeId>,
    },
    /// The leader's disk is full.
    #[error("the disk of the leader is full: free some space and try again")]
    StorageFull,
    /// The member stops.
    #[error("this member is stopping")]
    Stopping,
}

/// The bytes of a question or an answer.
pub fn encode<T: Serialize>(message: &T) -> Bytes {
    postcard::to_allocvec(message)
        .expect("values in memory always serialise")
        .into()
}

/// The inverse of [`encode`].
///
/// # Errors
/// When the bytes are of a version that this program does not know, or damaged.
pub fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, postcard::Error> {
    postcard::from_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{Change, Request};

    #[test]
    fn golden_bytes() {
        let request = Request {
            session: 1,
            seq: 2,
            floor: 1,
            change: Change::Cancel,
        };
        let order = Question::Order {
            confirmed: true,
            command: Command::Batch(vec![request]),
        };
        assert_eq!(&encode(&order)[..], b"\x02\x01\x00\x01\x01\x02\x01\x04");
        assert_eq!(decode::<Question>(&encode(&order)).unwrap(), order);
        assert_eq!(&encode(&Question::ReadIndex)[..], b"\x00");
        assert_eq!(&encode(&Question::Confirm)[..], b"\x01");
        assert_eq!(&encode(&Reply::Index(300))[..], b"\x00\xac\x02");
        assert_eq!(
            &encode(&Reply::Ordered(vec![Outcome::Done { revision: 3 }]))[..],
            b"\x01\x01\x00\x03"
        );
        let refused = Reply::NotOrdered(NotOrdered::NoLeader { leader: Some(4) });
        assert_eq!(&encode(&refused)[..], b"\x02\x00\x01\x04");
        assert_eq!(&encode(&Reply::InDoubt)[..], b"\x03");
        assert_eq!(&encode(&Reply::Delivered(3))[..], b"\x04\x03");
        let send = Question::Bus(Bus::Send {
            address: "a".into(),
            place: 1,
            message: "m".into(),
            sender: 2,
            number: 3,
            secret: 4,
        });
        assert_eq!(&encode(&send)[..], b"\x03\x02\x01a\x01\x01m\x02\x03\x04");
        let publish = Question::Bus(Bus::Publish {
            address: "a".into(),
            message: "m".into(),
        });
        assert_eq!(&encode(&publish)[..], b"\x03\x00\x01a\x01m");
        let count = Question::Bus(Bus::Count { address: "a".into() });
        assert_eq!(&encode(&count)[..], b"\x03\x01\x01a");
        let reply = Question::Bus(Bus::Reply {
            number: 3,
            secret: 4,
            reply: "r".into(),
        });
        assert_eq!(&encode(&reply)[..], b"\x03\x03\x03\x04\x01r");
        assert!(decode::<Reply>(b"\x09").is_err());
    }
}
