//! Clients whose packets come from another port than their own.
//!
//! Nodes translate a Service's address connection by connection. What a member sends while the client's own connection is
//! being forgotten begins a connection of its own there, and keeps the client's port for half a minute. When the client is
//! led to that member in this time, its packets get another source port. Its session is known by the one it had.

use std::collections::BTreeMap;
use std::time::Duration;

use tracing::info;

use super::Leader;
use crate::state::SessionKey;
use crate::transfer::Input;

/// Unknown ports whose last ACK is kept. Beyond it all are forgotten; clients repeat themselves.
const STRANGERS_MAX: usize = 256;
/// What a link repeats follows its original sooner; what a client repeats, later.
const REPETITION_MIN: Duration = Duration::from_millis(100);

/// Which clients are heard from another port.
#[derive(Debug, Default)]
pub(super) struct Ports {
    /// The last ACK of ports that belong to nobody, and when it came first.
    strangers: BTreeMap<SessionKey, (u16, Duration)>,
    /// Sessions by the other port of their clients.
    sessions: BTreeMap<SessionKey, SessionKey>,
    /// The same the other way round, and whether the client was heard there last.
    others: BTreeMap<SessionKey, (SessionKey, bool)>,
}

impl Ports {
    /// Where the session's client was heard last.
    pub(super) fn of(&self, session: SessionKey) -> SessionKey {
        match self.others.get(&session) {
            Some(&(other, true)) => other,
            _ => session,
        }
    }

    /// The client was heard from its own port.
    pub(super) fn is_at_its_own(&mut self, session: SessionKey) {
        if let Some((_, is_there)) = self.others.get_mut(&session) {
            *is_there = false;
        }
    }

    /// The session has ended.
    pub(super) fn forget(&mut self, session: SessionKey) {
        if let Some((other, _)) = self.others.remove(&session) {
            self.sessions.remove(&other);
        }
    }

    fn assign(&mut self, other: SessionKey, session: SessionKey) {
        self.forget(session);
        self.others.insert(session, (other, true));
        self.sessions.insert(other, session);
    }

    /// The session of a client that is heard there again.
    fn session(&mut self, other: SessionKey) -> Option<SessionKey> {
        let session = *self.sessions.get(&other)?;
        self.others.insert(session, (other, true));
        Some(session)
    }

    /// Whether the same ACK came from there before, long enough ago.
    fn is_repeated(&mut self, from: SessionKey, number: u16, now: Duration) -> bool {
        if self.strangers.len() >= STRANGERS_MAX && !self.strangers.contains_key(&from) {
            self.strangers.clear();
        }
        let first = self.strangers.entry(from).or_insert((number, now));
        if first.0 != number {
            *first = (number, now);
        }
        let is_repeated = first.1 + REPETITION_MIN <= now;
        if is_repeated {
            self.strangers.remove(&from);
        }
        is_repeated
    }
}

impl Leader {
    /// The session of a client that is heard from a port that is no session's.
    ///
    /// An ACK that came twice is taken for that of the one session of its address that was taken over, of which nothing was
    /// heard yet, and that can be there. When there are several, it is nobody's.
    pub(super) fn session_behind(&mut self, heard: SessionKey, input: Input) -> Option<SessionKey> {
        if !self.way.is_straight(heard) {
            return None;
        }
        if let Some(session) = self.way.ports.session(heard) {
            return Some(session);
        }
        let Input::Ack(number) = input else {
            return None;
        };
        let mut candidates = self
            .sessions
            .range(SessionKey::first_of(heard.client())..)
            .take_while(|(key, _)| key.client() == heard.client())
            .filter(|(key, session)| {
                key.local() == heard.local() && session.is_asleep() && session.transfer.can_be_at(number)
            });
        let session = *candidates.next()?.0;
        if candidates.next().is_some() || !self.way.ports.is_repeated(heard, number, self.epoch.elapsed()) {
            return None;
        }
        info!(peer = %session.peer(), from = %heard.peer(), "a client is heard from another port than its own");
        self.way.straight(session);
        self.way.ports.assign(heard, session);
        Some(session)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(port: u16) -> SessionKey {
        SessionKey::new(([192, 0, 2, 1], port).into(), ([192, 0, 2, 9], 69).into())
    }

    #[test]
    fn acks_count_when_a_client_repeats_them() {
        let mut ports = Ports::default();
        let (now, ms) = (Duration::from_secs(7), Duration::from_millis);
        assert!(!ports.is_repeated(at(1), 5, now));
        assert!(!ports.is_repeated(at(1), 5, now + ms(99)), "by the link");
        assert!(!ports.is_repeated(at(1), 6, now + ms(200)), "another one");
        assert!(!ports.is_repeated(at(2), 6, now + ms(400)), "somebody else");
        assert!(ports.is_repeated(at(1), 6, now + ms(300)));
        for port in 0..u16::try_from(3 * STRANGERS_MAX).unwrap() {
            ports.is_repeated(at(port), 1, now);
        }
        assert!(ports.strangers.len() <= STRANGERS_MAX);
    }

    #[test]
    fn a_session_is_heard_at_one_port_at_a_time() {
        let mut ports = Ports::default();
        assert_eq!(ports.of(at(1)), at(1));
        ports.assign(at(7), at(1));
        ports.assign(at(8), at(1));
        assert_eq!(ports.of(at(1)), at(8));
        assert_eq!(ports.session(at(7)), None);
        // Where it was heard last counts.
        ports.is_at_its_own(at(1));
        assert_eq!(ports.of(at(1)), at(1));
        assert_eq!(ports.session(at(8)), Some(at(1)));
        assert_eq!(ports.of(at(1)), at(8));
        ports.forget(at(1));
        assert_eq!(ports.of(at(1)), at(1));
        assert!(ports.sessions.is_empty() && ports.others.is_empty());
    }
}
