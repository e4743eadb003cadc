//! Do two leaders ever serve at once? Watches what the members say of themselves and keeps what contradicts it.

use std::collections::BTreeMap;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::admin::Admin;
use crate::clock::now;

/// The pause between two questions to one member.
const ASK_PAUSE: Duration = Duration::from_millis(5);

/// One member said that it serves.
#[derive(Debug, Clone, Copy)]
pub struct Claim {
    /// When it was asked.
    pub asked: Instant,
    /// When it had answered. At some instant between the two it served.
    pub answered: Instant,
    /// Its term.
    pub term: u64,
    /// Its node id.
    pub node_id: u64,
}

/// All claims so far, and what contradicts that at most one member serves at a time.
#[derive(Debug, Default)]
pub struct Claims {
    terms: BTreeMap<u64, Term>,
    contradictions: Vec<String>,
    count: u64,
}

#[derive(Debug)]
struct Term {
    node_id: u64,
    first_answered: Instant,
    last_asked: Instant,
}

impl Claims {
    /// Adds a claim. Terms only grow, so a member that serves in a lower term *after* another served in a higher one
    /// was deposed and does not know: both serve. Two members that serve in one term are a broken election.
    pub fn add(&mut self, claim: Claim) {
        self.count += 1;
        let Claim {
            asked,
            answered,
            term,
            node_id,
        } = claim;
        let seen = self.terms.entry(term).or_insert(Term {
            node_id,
            first_answered: answered,
            last_asked: asked,
        });
        if seen.node_id != node_id {
            let other = seen.node_id;
            self.contradictions
                .push(format!("nodes {other} and {node_id} both served in term {term}"));
        }
        seen.first_answered = seen.first_answered.min(answered);
        seen.last_asked = seen.last_asked.max(asked);
        let deposed_later = self
            .terms
            .range(term + 1..)
            .find(|(_, higher)| higher.first_answered < asked);
        if let Some((higher, by)) = deposed_later {
            self.contradictions.push(format!(
                "node {node_id} served in term {term} after node {} had served in term {higher}",
                by.node_id
            ));
        }
        let still_serving = self
            .terms
            .range(..term)
            .find(|(_, lower)| lower.last_asked > answered);
        if let Some((lower, by)) = still_serving {
            self.contradictions.push(format!(
                "node {} served in term {lower} after node {node_id} had served in term {term}",
                by.node_id
            ));
        }
    }

    /// What contradicts that at most one member served at a time.
    #[must_use]
    pub fn contradictions(&self) -> &[String] {
        &self.contradictions
    }

    /// How many claims were heard.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// How many different terms were served.
    #[must_use]
    pub fn terms(&self) -> usize {
        self.terms.len()
    }
}

/// Asks every member again and again whether it serves, each from a thread of its own.
#[derive(Debug)]
pub struct ServingWatch {
    claims: Arc<Mutex<Claims>>,
    threads: Vec<(Sender<()>, JoinHandle<()>)>,
}

impl ServingWatch {
    /// Starts to ask the members with these admin ports.
    pub fn start(admin_ports: impl IntoIterator<Item = u16>) -> anyhow::Result<Self> {
        let claims = Arc::new(Mutex::new(Claims::default()));
        let mut threads = Vec::new();
        for port in admin_ports {
            let admin = Admin::new()?;
            let claims = Arc::clone(&claims);
            let (stop, stopped) = channel();
            let ask = move || {
                while stopped.recv_timeout(ASK_PAUSE) == Err(RecvTimeoutError::Timeout) {
                    if let Some(claim) = claim(&admin, port) {
                        claims.lock().unwrap_or_else(PoisonError::into_inner).add(claim);
                    }
                }
            };
            let thread = std::thread::Builder::new().name(format!("ask-{port}")).spawn(ask);
            threads.push((stop, thread.context("starting a thread")?));
        }
        Ok(Self { claims, threads })
    }

    /// Stops asking and returns what was heard.
    #[must_use]
    pub fn finish(self) -> Claims {
        for (stop, thread) in self.threads {
            drop(stop);
            thread.join().ok();
        }
        std::mem::take(&mut self.claims.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn claim(admin: &Admin, port: u16) -> Option<Claim> {
    let asked = now();
    let status = admin.status(port).ok()?;
    let serving = status.detail.as_ref()?.serving;
    serving.then_some(Claim {
        asked,
        answered: now(),
        term: status.term,
        node_id: status.node_id?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims(rows: &[(u64, u64, u64, u64)]) -> Vec<String> {
        let start = now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut claims = Claims::default();
        for &(asked, answered, term, node_id) in rows {
            claims.add(Claim {
                asked: at(asked),
                answered: at(answered),
                term,
                node_id,
            });
        }
        claims.contradictions().to_vec()
    }

    #[test]
    fn one_leader_after_another_is_fine() {
        assert_eq!(claims(&[(0, 1, 1, 7), (5, 6, 1, 7), (10, 11, 2, 8)]), [""; 0]);
        // The two answers overlap in time: the older leader may have answered first.
        assert_eq!(claims(&[(0, 10, 2, 8), (5, 12, 1, 7)]), [""; 0]);
    }

    #[test]
    fn deposed_leader_that_still_serves_is_found() {
        let expected = ["node 7 served in term 1 after node 8 had served in term 2"];
        assert_eq!(claims(&[(0, 1, 2, 8), (5, 6, 1, 7)]), expected);
        // Also when the answers come in the other order.
        assert_eq!(claims(&[(5, 6, 1, 7), (0, 1, 2, 8)]), expected);
    }

    #[test]
    fn two_leaders_of_one_term_are_found() {
        assert_eq!(
            claims(&[(0, 1, 4, 7), (5, 6, 4, 8)]),
            ["nodes 7 and 8 both served in term 4"]
        );
    }
}
