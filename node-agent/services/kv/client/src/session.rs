//! The numbers under which changes are made: one session, opened with the first change.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::answer::Ticket;

/// The session of one client.
#[derive(Default)]
pub(crate) struct Session {
    numbers: Mutex<Numbers>,
    /// Held while a session is opened: one at a time.
    pub(crate) opening: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Numbers {
    id: Option<u64>,
    last: u64,
    /// Those that are not answered yet.
    underway: BTreeSet<u64>,
}

/// A number that is in use until it is dropped.
pub(crate) struct Number<'a> {
    session: &'a Session,
    pub(crate) ticket: Ticket,
}

impl Drop for Number<'_> {
    fn drop(&mut self) {
        let mut numbers = self.session.numbers();
        if numbers.id == Some(self.ticket.session) {
            numbers.underway.remove(&self.ticket.seq);
        }
    }
}

impl Session {
    fn numbers(&self) -> MutexGuard<'_, Numbers> {
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next number; none while no session is open.
    pub(crate) fn next(&self) -> Option<Number<'_>> {
        let mut numbers = self.numbers();
        let session = numbers.id?;
        numbers.last += 1;
        let seq = numbers.last;
        numbers.underway.insert(seq);
        Some(Number {
            session: self,
            ticket: Ticket { session, seq },
        })
    }

    /// The first number that is still waited for: the store may forget those before it.
    pub(crate) fn floor(&self, number: &Number<'_>) -> u64 {
        let first = self.numbers().underway.first().copied();
        first.map_or(number.ticket.seq, |first| first.min(number.ticket.seq))
    }

    /// A session was opened.
    pub(crate) fn opened(&self, id: u64) {
        let mut numbers = self.numbers();
        *numbers = Numbers {
            id: Some(id),
            ..Numbers::default()
        };
    }

    /// The store has forgotten a session.
    pub(crate) fn lost(&self, id: u64) {
        let mut numbers = self.numbers();
        if numbers.id == Some(id) {
            *numbers = Numbers::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_used_once_and_the_floor_is_the_first_that_is_waited_for() {
        let session = Session::default();
        assert!(session.next().is_none());
        session.opened(7);
        let first = session.next().unwrap();
        let second = session.next().unwrap();
        assert_eq!((first.ticket.seq, second.ticket.seq), (1, 2));
        assert_eq!(session.floor(&second), 1);
        drop(first);
        assert_eq!(session.floor(&second), 2);
        session.lost(6);
        assert_eq!(session.next().unwrap().ticket.seq, 3);
        session.lost(7);
        assert!(session.next().is_none());
        session.opened(8);
        drop(second);
        assert_eq!(session.next().unwrap().ticket, Ticket { session: 8, seq: 1 });
    }
}
