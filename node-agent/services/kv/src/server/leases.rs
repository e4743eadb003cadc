//! What ends by itself: leases for clients, and the leader's clock, which ends what is due.

use std::sync::Arc;
use std::time::Duration;

use replication::Leadership;

use super::Context;
use super::answers::timeout;
use super::conveyor::Load;
use super::operations::{TIMEOUT, unix_ms};
use super::writes::{Patience, reached};
use crate::request::{Answer, Refusal, Row, Terms};
use crate::state::{Change, KvState, Owner};

/// The leader looks so often for what is due; what may end earlier than what it waits for was stored less than a second ago.
const LOOK_EVERY: Duration = Duration::from_millis(250);

impl Context {
    /// A lease, with its keys and what is left of its time.
    pub(super) async fn lease(&self, id: u64, terms: &Terms) -> Answer {
        let patience = self.patience(terms, TIMEOUT);
        let read = |state: &KvState| {
            let lease = state.lease(id);
            let ends = lease.as_ref().map(|(_, ends_ms, _)| *ends_ms);
            (lease, ends)
        };
        let found = if terms.local {
            match self.recovered(patience).await {
                true => Some(self.link.replica.local(|state| read(state).0)),
                false => None,
            }
        } else {
            self.consistent_alive(patience, read).await
        };
        match found {
            None => timeout(),
            Some(None) => Answer::default(),
            Some(Some((_, ends_ms, keys))) => Answer {
                valid: true,
                lease: Some(id),
                ttl_ms: Some(ends_ms.saturating_sub(unix_ms())),
                items: Some(
                    keys.into_iter()
                        .map(|key| Row {
                            key: Some(key),
                            ..Row::default()
                        })
                        .collect(),
                ),
                ..Answer::default()
            },
        }
    }

    /// The keys of a lease, as far as this member knows.
    pub(super) fn keys_of(&self, id: u64) -> Vec<Arc<str>> {
        let lease = self.link.replica.local(|state| state.lease(id));
        lease.map(|(_, _, keys)| keys).unwrap_or_default()
    }

    /// Grants a lease, keeps one alive, or ends one.
    pub(super) async fn change_lease(&self, change: Change, terms: &Terms) -> Result<Answer, Refusal> {
        self.change(change, terms).await
    }

    /// Reads what a quorum has stored. What should have ended by this member's clock is looked at again, once the leader's
    /// clock has had its say: nothing that ended is shown.
    pub(super) async fn consistent_alive<T>(
        &self,
        patience: Patience,
        read: impl Fn(&KvState) -> (T, Option<u64>),
    ) -> Option<T> {
        let (value, ends) = self.consistent(patience, &read).await?;
        if ends.is_none_or(|ends| ends > unix_ms()) {
            return Some(value);
        }
        tokio::select! {
            () = self.expire() => {}
            () = reached(patience.deadline) => return None,
        }
        self.consistent(patience, &read).await.map(|(value, _)| value)
    }

    /// Lets the leader order that what is due ends.
    async fn expire(&self) {
        let load = Load {
            session: 0,
            seq: 0,
            floor: None,
            owner: Owner::NOBODY,
            change: Change::Expire,
            confirmed: false,
        };
        let mut carried = self.conveyor.put(load).await;
        // Whoever needs it certain looks again.
        carried.answer().await.ok();
    }

    /// Ends what is due, as long as this member leads. Never ends itself.
    pub(super) async fn end_what_is_due(&self) {
        let replica = &self.link.replica;
        let (mut leadership, mut applied) = (replica.leadership(), replica.applied());
        loop {
            let leads = matches!(*leadership.borrow_and_update(), Leadership::Leader { .. });
            if !leads {
                if leadership.changed().await.is_err() {
                    return std::future::pending().await;
                }
                continue;
            }
            applied.mark_unchanged();
            match replica.local(KvState::first_due) {
                None => {
                    tokio::select! {
                        _ = applied.changed() => tokio::time::sleep(LOOK_EVERY).await,
                        _ = leadership.changed() => {}
                    }
                }
                Some(due) => match due.saturating_sub(unix_ms()) {
                    0 => {
                        self.expire().await;
                        // A clock behind the log's must not be asked without pause.
                        if replica.local(KvState::first_due) == Some(due) {
                            tokio::time::sleep(LOOK_EVERY).await;
                        }
                    }
                    left => tokio::time::sleep(Duration::from_millis(left).min(LOOK_EVERY)).await,
                },
            }
        }
    }
}
