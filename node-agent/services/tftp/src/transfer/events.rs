//! What goes into a transfer and what comes out of it.

use std::time::Duration;

/// What was agreed with the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// Bytes of the file as sent.
    pub length: u64,
    /// Bytes of each block but the last.
    pub block_size: u16,
    /// Blocks that may be sent ahead of the last ACK.
    pub window_size: u16,
    /// The retransmission interval that the client asked for (RFC 2349).
    pub timeout: Option<Duration>,
    /// Whether the first packet is an OACK.
    pub has_oack: bool,
    /// Whether the client may take a second OACK for an error, so that it has to be asked for.
    pub one_oack: bool,
}

/// When to give up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Retransmissions without any progress.
    pub retransmissions_max: u32,
    /// Time without any packet of the client.
    pub idle_max: Duration,
}

/// How far the client is. Ordered: a later position is greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Position {
    /// It has not answered.
    Unheard,
    /// It has acknowledged all blocks up to this one; 0 is the OACK.
    Acked(u64),
}

/// What a new leader knows of a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// The last position heard of; perhaps old.
    pub position: Position,
    /// The last checkpoint committed.
    pub checkpoint: Position,
    /// Whether the position is certainly the last one of the old leader: a planned hand-over.
    pub exact: bool,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// ACK with this number came.
    Ack(u16),
    /// ERROR with this code came.
    PeerError {
        /// As sent.
        code: u16,
    },
    /// The same request came again: the client may have missed the first packet.
    RepeatedRequest,
    /// It is [`deadline`](super::Transfer::deadline), or later.
    Deadline,
    /// A quorum has stored this position (or a later one).
    CheckpointCommitted(u64),
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// Send the OACK.
    SendOack,
    /// Send DATA with these blocks, in order.
    SendData {
        /// The first one.
        first: u64,
        /// How many.
        count: u16,
    },
    /// Let a quorum store this position, then say [`Input::CheckpointCommitted`]. May be asked for again.
    Checkpoint(u64),
    /// The transfer is over; forget it.
    Closed(End),
}

/// How a transfer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The last block was acknowledged.
    Complete,
    /// The client has what it wanted: the size (UEFI's ERROR 8 after the OACK), or enough (GRUB's ERROR 0).
    ClientFinishedEarly {
        /// As sent.
        code: u16,
    },
    /// The client gave up.
    ClientError {
        /// As sent.
        code: u16,
    },
    /// The client did not answer.
    GaveUp {
        /// How often the same was sent again in vain.
        retransmissions: u32,
    },
    /// Nothing came from the client for too long.
    Idle,
}

/// What may be under way to the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outstanding {
    /// The OACK.
    Oack,
    /// These blocks; `count` may be 0 while a checkpoint is awaited.
    Blocks {
        /// The first one.
        first: u64,
        /// How many.
        count: u64,
    },
}

impl Position {
    /// The last block acknowledged; 0 if none.
    pub fn block(self) -> u64 {
        match self {
            Self::Unheard => 0,
            Self::Acked(block) => block,
        }
    }
}
