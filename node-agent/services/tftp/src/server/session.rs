//! One running transfer on the leader: the pure machine, and what it takes to send its blocks.

use std::time::Duration;

use crate::content::BlobKey;
use crate::packet::Packet;
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
    /// Whether its client was heard at this leader's own port.
    pub(crate) is_led_here: bool,
    /// Blocks sent by this leader.
    pub(crate) sent: u64,
    /// What is known of a transfer that waits for its client to speak first; see [`Session::wake`].
    asleep: Option<(Known, Limits)>,
}

impl Session {
    /// A session that was just opened.
    pub(crate) fn open(id: SessionId, fixed: NewSession, limits: Limits, now: Duration) -> Self {
        let transfer = Transfer::open(terms(&fixed), limits, now);
        Self::new(id, fixed, transfer, now)
    }

    /// A session that another leader opened; `told` is where its client was when last heard of. `speaks_first`: the
    /// client does.
    pub(crate) fn resume(
        record: &SessionRecord,
        told: Option<Position>,
        exact: bool,
        speaks_first: bool,
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
        let mut session = Self::new(record.id, record.fixed.clone(), transfer, now);
        session.asleep = speaks_first.then_some((known, limits));
        session
    }

    /// Whether nothing may be sent before the client has sent something.
    pub(crate) fn is_asleep(&self) -> bool {
        self.asleep.is_some()
    }

    /// The client has sent something: the transfer begins where it was taken over.
    pub(crate) fn wake(&mut self, now: Duration) {
        if let Some((known, limits)) = self.asleep.take() {
            self.transfer = Transfer::resume(terms(&self.fixed), limits, known, now);
        }
    }

    /// When there is something to do for it: for a sleeping one, when it has slept long enough to be forgotten.
    pub(crate) fn deadline(&self) -> Duration {
        match &self.asleep {
            Some((_, limits)) => self.since + limits.idle_max,
            None => self.transfer.deadline(),
        }
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
            is_led_here: false,
            sent: 0,
            asleep: None,
        }
    }

    /// The blocks that the client has acknowledged; 0 when it has only seen the OACK, none before.
    pub(crate) fn acked(&self) -> Option<u64> {
        match self.transfer.position() {
            Position::Unheard => None,
            Position::Acked(block) => Some(block),
        }
    }

    /// Whether the client is there, and no further than what was sent since.
    pub(crate) fn is_position_exact(&self) -> bool {
        self.transfer.is_position_exact()
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
        one_oack: is_like_atftp(&fixed.oack),
    }
}

/// Whether the OACK goes to a client like atftp, which gives up on a second one. It can be told by what it does not ask
/// for: firmware, boot loaders, curl and busybox all ask for `tsize`. Those must not wait for a repeated OACK, since some
/// never repeat anything themselves; whoever else asks for no `tsize` repeats its packets as RFC 1350 §2 says.
fn is_like_atftp(oack: &[u8]) -> bool {
    matches!(Packet::decode(oack), Ok(Packet::Oack(options))
        if options.iter().all(|option| !option.name.eq_ignore_ascii_case("tsize")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::{Limits, RequestOption, negotiate};

    #[test]
    fn clients_that_ask_for_the_size_are_not_like_atftp() {
        let oack = |options: &[(&str, &str)]| {
            let options: Vec<_> = options
                .iter()
                .map(|(name, value)| RequestOption {
                    name: (*name).to_owned(),
                    value: (*value).to_owned(),
                })
                .collect();
            let limits = Limits {
                block_size_max: 65_464,
                window_size_max: 64,
                file_len: 7,
            };
            negotiate(&options, &limits).oack.unwrap_or_default()
        };
        assert!(is_like_atftp(&oack(&[("blksize", "8192"), ("windowsize", "8")])));
        // curl, busybox, and EDK2, as captured or documented.
        assert!(!is_like_atftp(&oack(&[
            ("tsize", "0"),
            ("blksize", "512"),
            ("timeout", "6")
        ])));
        assert!(!is_like_atftp(&oack(&[("blksize", "1400"), ("TSIZE", "0")])));
        // No OACK at all.
        assert!(!is_like_atftp(&oack(&[])));
    }
}
