//! This member's session: which of its requests are unanswered, so that the group can forget the others.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::state::Owner;

/// Requests whose clients were told that nobody knows; the group remembers these until they are settled.
const UNKNOWN_MAX: usize = 1024;

/// The numbers of one member's requests.
#[derive(Debug, Default)]
pub(super) struct Numbers(Mutex<Held>);

#[derive(Debug, Default)]
struct Held {
    /// 0 before one is open.
    session: u64,
    next: u64,
    unanswered: BTreeSet<u64>,
    unknown: VecDeque<(u64, Owner)>,
}

/// A request that is unanswered as long as this lives.
#[derive(Debug)]
pub(super) struct Number {
    pub(super) session: u64,
    pub(super) seq: u64,
    pub(super) owner: Owner,
    numbers: Arc<Numbers>,
}

impl Numbers {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The session; 0 before one is open.
    pub(super) fn session(&self) -> u64 {
        self.held().session
    }

    /// Goes on in a new session.
    pub(super) fn begin(&self, session: u64) {
        *self.held() = Held {
            session,
            ..Held::default()
        };
    }

    /// The number of an owner's next request; none before a session is open.
    pub(super) fn next(self: &Arc<Self>, owner: Owner) -> Option<Number> {
        let mut held = self.held();
        if held.session == 0 {
            return None;
        }
        held.next += 1;
        let seq = held.next;
        held.unanswered.insert(seq);
        Some(Number {
            session: held.session,
            seq,
            owner,
            numbers: self.clone(),
        })
    }

    /// The session, and the lowest of its numbers that is unanswered.
    pub(super) fn floor(&self) -> (u64, u64) {
        let held = self.held();
        let lowest = held.unanswered.first().copied().unwrap_or(held.next + 1);
        (held.session, lowest)
    }

    /// Ends the wait for a request whose outcome its owner asked for.
    pub(super) fn settle(&self, owner: Owner, session: u64, seq: u64) {
        let mut held = self.held();
        if held.session == session && held.unknown.contains(&(seq, owner)) {
            held.unknown.retain(|unknown| *unknown != (seq, owner));
            held.unanswered.remove(&seq);
        }
    }
}

impl Number {
    /// Keeps the request unanswered: its client was told that nobody knows, and may ask later.
    pub(super) fn leave_unknown(&self) {
        let mut held = self.numbers.held();
        if held.session != self.session {
            return;
        }
        held.unknown.push_back((self.seq, self.owner));
        if held.unknown.len() > UNKNOWN_MAX
            && let Some((oldest, _)) = held.unknown.pop_front()
        {
            held.unanswered.remove(&oldest);
        }
    }
}

impl Drop for Number {
    fn drop(&mut self) {
        let mut held = self.numbers.held();
        if held.session == self.session && !held.unknown.contains(&(self.seq, self.owner)) {
            held.unanswered.remove(&self.seq);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWNER: Owner = Owner::NOBODY;

    #[test]
    fn floor_is_the_lowest_unanswered_number() {
        let numbers = Arc::new(Numbers::default());
        assert!(numbers.next(OWNER).is_none());
        numbers.begin(7);
        assert_eq!(numbers.floor(), (7, 1));
        let (first, second) = (numbers.next(OWNER).unwrap(), numbers.next(OWNER).unwrap());
        drop(second);
        assert_eq!(numbers.floor(), (7, 1));
        first.leave_unknown();
        drop(first);
        assert_eq!(numbers.floor(), (7, 1));
        numbers.settle(Owner::of("another"), 7, 1);
        assert_eq!(numbers.floor(), (7, 1));
        numbers.settle(OWNER, 7, 1);
        assert_eq!(numbers.floor(), (7, 3));
    }

    #[test]
    fn numbers_of_an_old_session_change_nothing_in_the_new_one() {
        let numbers = Arc::new(Numbers::default());
        numbers.begin(7);
        let old = numbers.next(OWNER).unwrap();
        numbers.begin(8);
        let new = numbers.next(OWNER).unwrap();
        drop(old);
        assert_eq!(numbers.floor(), (8, new.seq));
    }
}
