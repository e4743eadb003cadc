//! What the hub and the threads that serve connections tell each other. Both send in batches.

use std::net::IpAddr;

use bytes::Bytes;

use crate::message::{Salt, Sid};
use crate::peer::Proof;
use crate::session::{Census, Login, Reach, Unproved};
use crate::state::{Class, Departure, Event, LinkId, Refusal};

use super::listener::Accepted;
use super::roster::PackedList;

/// To a thread that serves connections.
#[derive(Debug)]
pub(super) enum ToWorker {
    /// A new connection.
    Accept(Accepted),
    /// The SID that a client is given, and for a pinger how large the hub is.
    Sid {
        link: LinkId,
        sid: Sid,
        census: Option<Census>,
    },
    /// What is known of the nick that a client wants.
    Account {
        link: LinkId,
        account: Option<(String, Salt)>,
    },
    /// A client is let in.
    Admitted(Box<Admitted>),
    /// A client is not let in.
    Refused { link: LinkId, refusal: Refusal },
    /// Whether the address is proved that a connection was made for.
    Proved {
        link: LinkId,
        result: Result<(), Unproved>,
    },
    /// A user has addresses of both families.
    Hybrid { link: LinkId },
    /// Lines for all users.
    All { lines: Bytes, count: u32 },
    /// A line for the users with these features.
    Selected { features: String, line: Bytes },
    /// Lines for one user.
    One { link: LinkId, lines: Bytes },
    /// A user's features changed: the value of `SU`.
    Features { link: LinkId, features: String },
    /// Send this and close the connection. The hub knows already.
    Close { link: LinkId, lines: Bytes },
    /// Say good-bye to all: come back after one second and up to `spread_s` more.
    Drain { spread_s: u64 },
}

/// A client that is let in.
#[derive(Debug)]
pub(super) struct Admitted {
    pub(super) link: LinkId,
    /// Its SID for everybody else.
    pub(super) sid: Sid,
    pub(super) class: Class,
    /// Everybody else.
    pub(super) list: Vec<Bytes>,
    /// The same, if the client takes compressed lines.
    pub(super) packed: Option<PackedList>,
    /// Its own `INF`, which tells the client that it is in.
    pub(super) own: Bytes,
    /// What is said to it then: topic, history.
    pub(super) welcome: Bytes,
    /// The value of `SU`.
    pub(super) features: String,
}

/// From a thread that serves connections.
#[derive(Debug)]
pub(super) enum ToHub {
    /// A client needs a SID.
    NeedSid {
        link: LinkId,
        offer: String,
        address: IpAddr,
    },
    /// A client wants this nick.
    LookUp { link: LinkId, nick: String },
    /// A client wants in.
    Claim { link: LinkId, login: Box<Login> },
    /// A connection proves the second address of a user, of this member or another.
    Prove { link: LinkId, proof: Proof },
    /// A user did something that everybody is told.
    Event(Event),
    /// A user wants something of the hub.
    Command { link: LinkId, text: String },
    /// A line for other users.
    Relay {
        /// The sender's connection.
        link: LinkId,
        reach: Reach,
        line: String,
    },
    /// A connection is closed, or will be once its client has read the last words.
    Ended { link: LinkId, departure: Departure },
}
