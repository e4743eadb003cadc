//! How far the clients are: streamed from the leader to the other members, outside the log.
//!
//! A checkpoint in the log says within 32,767 blocks where a client is; this board says it within milliseconds, so
//! that a new leader sends just what the old one had outstanding. It is best effort: a position that is a little old
//! costs a short walk (see [`crate::transfer`]), a lost one a longer walk.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use replication::Told;
use serde::{Deserialize, Serialize};

use crate::state::SessionId;
use crate::transfer::Position;

/// The first byte of a message.
const MESSAGE_VERSION: u8 = 1;
/// Entries that the board keeps beyond twice the running sessions before it forgets those that ended.
const SLACK: usize = 1024;

/// What a leader tells the others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Message {
    /// The blocks that clients have acknowledged, in their sessions' whole numbers.
    acked: Vec<(SessionId, u64)>,
    /// The leader has stopped sending: these, and those told before, are its last positions.
    last_words: bool,
}

/// The newest positions that this member knows.
#[derive(Debug, Clone, Default)]
pub(crate) struct Board(Arc<Mutex<Positions>>);

#[derive(Debug, Default)]
struct Positions {
    acked: BTreeMap<SessionId, u64>,
    /// The highest term that anything was told in.
    term: u64,
    /// The term whose leader said its last words.
    exact_term: Option<u64>,
}

impl Board {
    fn lock(&self) -> MutexGuard<'_, Positions> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes one session's position, on the leader.
    pub(crate) fn note(&self, id: SessionId, acked: u64) {
        self.lock().acked.insert(id, acked);
    }

    /// Notes what a leader told; what an older leader tells late is ignored.
    pub(crate) fn hear(&self, told: &Told) {
        let Some((&MESSAGE_VERSION, body)) = told.message.split_first() else {
            return;
        };
        let Ok(message) = postcard::from_bytes::<Message>(body) else {
            return;
        };
        let mut positions = self.lock();
        if told.term < positions.term {
            return;
        }
        positions.term = told.term;
        for (id, acked) in message.acked {
            let known = positions.acked.entry(id).or_default();
            *known = acked.max(*known);
        }
        if message.last_words {
            positions.exact_term = Some(told.term);
        } else if positions.exact_term == Some(told.term) {
            // Its leader went on.
            positions.exact_term = None;
        }
    }

    /// Where the session's client was when last heard of.
    pub(crate) fn position(&self, id: SessionId) -> Option<Position> {
        self.lock().acked.get(&id).map(|acked| Position::Acked(*acked))
    }

    /// Whether the positions are exact for the leader of `term`: its predecessor said its last words.
    pub(crate) fn is_exact_for(&self, term: u64) -> bool {
        self.lock().exact_term.is_some_and(|exact| exact + 1 == term)
    }

    /// Forgets sessions that ended, once there are many.
    pub(crate) fn forget_unless(&self, running: usize, lives: impl Fn(SessionId) -> bool) {
        let mut positions = self.lock();
        if positions.acked.len() > 2 * running + SLACK {
            positions.acked.retain(|id, _| lives(*id));
        }
    }
}

/// A message with these positions.
pub(crate) fn message(acked: Vec<(SessionId, u64)>, last_words: bool) -> Bytes {
    postcard::to_extend(&Message { acked, last_words }, vec![MESSAGE_VERSION])
        .expect("numbers in memory always serialise")
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(term: u64, acked: &[(u64, u64)], last_words: bool) -> Told {
        let acked = acked.iter().map(|(id, block)| (SessionId(*id), *block)).collect();
        Told {
            from: 1,
            term,
            message: message(acked, last_words),
        }
    }

    #[test]
    fn positions_only_grow_and_old_leaders_are_not_heard() {
        let board = Board::default();
        board.hear(&told(2, &[(7, 100)], false));
        board.hear(&told(2, &[(7, 90)], false));
        board.hear(&told(1, &[(7, 500)], false));
        assert_eq!(board.position(SessionId(7)), Some(Position::Acked(100)));
        assert_eq!(board.position(SessionId(8)), None);
    }

    #[test]
    fn last_words_are_exact_for_the_next_term_only() {
        let board = Board::default();
        board.hear(&told(2, &[], true));
        assert!(board.is_exact_for(3));
        assert!(!board.is_exact_for(4), "somebody led in between");
        board.hear(&told(3, &[], false));
        assert!(!board.is_exact_for(5));
    }

    #[test]
    fn last_words_of_a_leader_that_goes_on_are_not_exact() {
        let board = Board::default();
        board.hear(&told(2, &[(7, 100)], true));
        board.hear(&told(2, &[(7, 200)], false));
        assert!(!board.is_exact_for(3));
    }

    #[test]
    fn garbage_is_ignored() {
        let board = Board::default();
        for bytes in [&b""[..], b"\x01", b"\x02\x00\x00", b"\x01\xff\xff\xff"] {
            board.hear(&Told {
                from: 1,
                term: 1,
                message: Bytes::copy_from_slice(bytes),
            });
        }
        assert_eq!(board.lock().term, 0);
    }

    #[test]
    fn golden_bytes() {
        assert_eq!(
            &message(vec![(SessionId(7), 300)], true)[..],
            [1, 1, 7, 0xac, 2, 1]
        );
    }
}
