//! What members ask each other: a follower hands its clients' requests to the leader, and asks it how far to read.
//!
//! A wire format between members of one group, which may run versions next to each other: variants and fields are only
//! appended.

use bytes::Bytes;
use replication::NodeId;
use serde::{Deserialize, Serialize};

use crate::state::{Command, Outcome};

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
        assert!(decode::<Reply>(b"\x09").is_err());
    }
}
