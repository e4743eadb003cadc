//! One running transfer on the leader: the pure machine, and what it takes to send its blocks.

use std::time::Duration;

use crate::content::BlobKey;
use crate::state::{NewSession, SessionId, SessionRecord, TransferMode};
use crate::transfer::{Known, Limits, Position, Terms, Transfer};

/// A running transfer.
pub(crate) struct Session {
    pub(crate) id: SessionId,
    pub(crate) fixed: NewSession,
    pub(crate) transfer: Transfer,
    pub(crate) blob: BlobKey,
    /// When the timer of this session is set to fire; the machine's own deadline may have moved since.
    pub(crate) scheduled: Duration,
    /// Whether its position changed since it was last told.
    pub(crate) moved: bool,
    /// Blocks that wait for content to come from the disk: the first one, and how many.
    pub(crate) waiting: Option<(u64, u16)>,
    /// Whether content is on its way from the disk for `waiting`.
    pub(crate) loading: bool,
    /// The last chunk of content that was asked for ahead of time.
    pub(crate) ahead: u64,
    /// When this leader took the transfer on.
    pub(crate) since: Duration,
    /// Blocks sent by this leader.
    pub(crate) sent: u64,
}

impl Session {
    /// A session that was just opened.
    pub(crate) fn open(id: SessionId, fixed: NewSession, limits: Limits, now: Duration) -> Self {
        let transfer = Transfer::open(terms(&fixed), limits, now);
        Self::new(id, fixed, transfer, now)
    }

    /// A session that another leader opened; `told` is where its client was when last heard of.
    pub(crate) fn resume(
        record: &SessionRecord,
        told: Option<Position>,
        exact: bool,
        limits: Limits,
        now: Duration,
    ) -> Self {
        let checkpoint = record.acked.map_or(Position::Unheard, Position::Acked);
        let position = told.unwrap_or(Position::Unheard).max(checkpoint);
        let known = Known {
            position,
            checkpoint,
            exact,
        };
        let transfer = Transfer::resume(terms(&record.fixed), limits, known, now);
        Self::new(record.id, record.fixed.clone(), transfer, now)
    }

    fn new(id: SessionId, fixed: NewSession, transfer: Transfer, now: Duration) -> Self {
        let blob = match fixed.mode {
            TransferMode::Octet => BlobKey::Raw(fixed.content),
            TransferMode::Netascii => BlobKey::Netascii(fixed.content),
        };
        Self {
            id,
            fixed,
            transfer,
            blob,
            scheduled: Duration::MAX,
            moved: false,
            waiting: None,
            loading: false,
            ahead: 0,
            since: now,
            sent: 0,
        }
    }

    /// The blocks that the client has acknowledged; 0 when it has only seen the OACK, none before.
    pub(crate) fn acked(&self) -> Option<u64> {
        match self.transfer.position() {
            Position::Unheard => None,
            Position::Acked(block) => Some(block),
        }
    }

    /// The bytes of block `block` in the file: offset and length.
    pub(crate) fn extent(&self, block: u64) -> (u64, usize) {
        let size = u64::from(self.fixed.block_size);
        let offset = (block - 1) * size;
        let length = self.fixed.size.saturating_sub(offset).min(size);
        (offset, usize::try_from(length).unwrap_or(usize::MAX))
    }
}

fn terms(fixed: &NewSession) -> Terms {
    Terms {
        length: fixed.size,
        block_size: fixed.block_size,
        window_size: fixed.window_size,
        timeout: (fixed.timeout_ms > 0).then(|| Duration::from_millis(u64::from(fixed.timeout_ms))),
        has_oack: !fixed.oack.is_empty(),
    }
}
