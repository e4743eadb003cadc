//! What the members of a hub ask each other, outside the log. Pure.
//!
//! Encoded with postcard; variants and fields are only appended, since members of two versions talk during an upgrade.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::session::{Reach, Unproved};
use crate::state::{Command, Front};

/// A question to another member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Question {
    /// To the leader: order a command of that member's front.
    Order(Command),
    /// Is the service of this member there?
    Ping,
    /// Lines of the asker's users for users of this member.
    Relay {
        /// The asker's run.
        epoch: u64,
        /// The number of the first line; lines that came already are skipped.
        first: u64,
        /// How many effects the asker had told when it sent the last line: they come before it here, too.
        seen: u64,
        /// The asker.
        from: u64,
        /// The lines.
        lines: Vec<Relayed>,
    },
    /// Somebody proves the second address of a user of this member.
    Prove(Proof),
}

/// A further connection that a user made over the other family of addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// What the user's member gave it to say.
    pub token: String,
    /// Where it came from.
    pub address: IpAddr,
    /// Where it takes datagrams there.
    pub udp_port: Option<u16>,
}

/// A line for users of another member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Relayed {
    /// For whom.
    pub reach: Reach,
    /// The line, with its `\n`.
    pub line: String,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// The command was ordered; the front as it is now.
    Ordered(Option<Front>),
    /// It was not, or nobody knows.
    NotOrdered,
    /// The service is there.
    Here,
    /// The lines came; the number of the next one.
    Relayed {
        /// The number of the next line.
        next: u64,
    },
    /// Whether the address is proved.
    Proved(bool),
    /// It is not: the address is banned, and with it the user.
    Banned {
        /// Why.
        reason: String,
        /// For how many seconds more; for ever, without.
        left_s: Option<u64>,
    },
}

impl From<Result<(), Unproved>> for Reply {
    fn from(result: Result<(), Unproved>) -> Self {
        match result {
            Ok(()) => Self::Proved(true),
            Err(Unproved::Unknown) => Self::Proved(false),
            Err(Unproved::Banned { reason, left_s }) => Self::Banned { reason, left_s },
        }
    }
}

/// Bytes of a question or an answer.
#[must_use]
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    postcard::to_allocvec(value).expect("a value in memory always serialises")
}

/// Reads a question or an answer.
///
/// # Errors
/// When the bytes are none that this program knows.
pub fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, postcard::Error> {
    postcard::from_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Sid;

    /// The bytes that members of other versions read.
    #[test]
    fn golden_bytes() {
        let question = Question::Relay {
            epoch: 7,
            first: 300,
            seen: 2,
            from: 1,
            lines: vec![Relayed {
                reach: Reach::One(Sid::from_number(0)),
                line: "x\n".to_owned(),
            }],
        };
        let bytes = encode(&question);
        assert_eq!(bytes, [2, 7, 0xac, 2, 2, 1, 1, 2, 1, 2, b'x', b'\n']);
        assert_eq!(decode::<Question>(&bytes), Ok(question));
        assert_eq!(encode(&Question::Ping), [1]);
        assert_eq!(encode(&Question::Order(Command::Expire)), [0, 3]);
        assert_eq!(encode(&Reply::Ordered(None)), [0, 0]);
        assert_eq!(encode(&Reply::NotOrdered), [1]);
        assert_eq!(encode(&Reply::Here), [2]);
        assert_eq!(encode(&Reply::Relayed { next: 300 }), [3, 0xac, 2]);
        let proof = Question::Prove(Proof {
            token: "T".to_owned(),
            address: IpAddr::from([192, 0, 2, 7]),
            udp_port: Some(5),
        });
        let bytes = encode(&proof);
        assert_eq!(bytes, [3, 1, b'T', 0, 192, 0, 2, 7, 1, 5]);
        assert_eq!(decode::<Question>(&bytes), Ok(proof));
        assert_eq!(encode(&Reply::Proved(true)), [4, 1]);
        let banned = Err(Unproved::Banned {
            reason: "x".to_owned(),
            left_s: Some(9),
        });
        assert_eq!(encode(&Reply::from(banned)), [5, 1, b'x', 1, 9]);
    }
}
