//! The snapshot: a version, the store itself, then the parts that are not empty, each behind its tag.
//!
//! A stored format: the store's fields are as they are in version 1, tags are only added, and fields of a part are only
//! appended under a new tag. Equal states give equal bytes.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

#[cfg(simulation)]
use replication::simulation::{Bug, is_planted};
use replication::{NodeId, RestoreError};
use serde::{Deserialize, Serialize};

use super::history::History;
use super::session::{Owned, Sessions, Stored};
use super::{Item, KvState, SNAPSHOT_VERSION, size};

/// The store, as in version 1, which has nothing behind it.
#[derive(Serialize, Deserialize)]
struct Store {
    revision: u64,
    items: Vec<(Arc<str>, Item)>,
    sessions: Stored,
    merged: BTreeMap<NodeId, u64>,
    dropped: u64,
}

const DROPPED_LAST: u8 = 1;
const LOGS: u8 = 2;
const LEASES: u8 = 3;
const HISTORY: u8 = 4;
const JOURNALS: u8 = 5;
const OWNED_SESSIONS: u8 = 6;

/// Writes the state.
pub(super) fn write(state: &KvState, to: &mut dyn io::Write) -> io::Result<()> {
    let items = state.items.iter().map(|(key, item)| (key.clone(), item.clone()));
    let (sessions, owned) = state.sessions.stored();
    let store = Store {
        revision: state.revision,
        items: items.collect(),
        sessions,
        merged: state.merged.clone(),
        dropped: state.dropped,
    };
    to.write_all(&[SNAPSHOT_VERSION])?;
    put_on(&store, to)?;
    if !state.dropped_last.is_empty() {
        to.write_all(&[DROPPED_LAST])?;
        put_on(&state.dropped_last, to)?;
    }
    let has_logs = state.logs.servers() != 0;
    #[cfg(simulation)]
    let has_logs = has_logs && !is_planted(Bug::MarksNotInSnapshot);
    if has_logs {
        to.write_all(&[LOGS])?;
        put_on(&state.logs, to)?;
    }
    let has_leases = !state.leases.is_untouched();
    #[cfg(simulation)]
    let has_leases = has_leases && !is_planted(Bug::LeasesNotInSnapshot);
    if has_leases {
        to.write_all(&[LEASES])?;
        put_on(&state.leases, to)?;
    }
    if !state.history.is_empty() {
        to.write_all(&[HISTORY])?;
        put_on(&state.history, to)?;
    }
    let has_journals = !state.journals.is_empty();
    #[cfg(simulation)]
    let has_journals = has_journals && !is_planted(Bug::JournalsNotInSnapshot);
    if has_journals {
        to.write_all(&[JOURNALS])?;
        put_on(&state.journals, to)?;
    }
    if !owned.is_empty() {
        to.write_all(&[OWNED_SESSIONS])?;
        put_on(&owned, to)?;
    }
    Ok(())
}

/// The inverse of [`write`].
pub(super) fn read(bytes: &[u8]) -> Result<KvState, RestoreError> {
    let (version, rest) = bytes
        .split_first()
        .ok_or_else(|| error("a snapshot of no bytes"))?;
    if !(1..=SNAPSHOT_VERSION).contains(version) {
        return Err(error(format!(
            "a snapshot of version {version}, expected at most {SNAPSHOT_VERSION}"
        )));
    }
    let (store, mut rest): (Store, _) = take(rest)?;
    let items: BTreeMap<_, _> = store.items.into_iter().collect();
    let mut state = KvState {
        revision: store.revision,
        bytes: items.iter().map(|(key, item)| size(key, item)).sum(),
        items,
        merged: store.merged,
        dropped: store.dropped,
        // A snapshot of an earlier version has no history.
        history: History::after(store.revision),
        ..KvState::default()
    };
    if *version == 1 && !rest.is_empty() {
        return Err(error(format!("{} bytes follow the snapshot", rest.len())));
    }
    let mut owned = Owned::default();
    while let Some((tag, part)) = rest.split_first() {
        rest = match *tag {
            DROPPED_LAST => put(part, &mut state.dropped_last)?,
            LOGS => put(part, &mut state.logs)?,
            LEASES => put(part, &mut state.leases)?,
            HISTORY => put(part, &mut state.history)?,
            JOURNALS => put(part, &mut state.journals)?,
            OWNED_SESSIONS => put(part, &mut owned)?,
            other => {
                return Err(error(format!(
                    "part {other} of the snapshot is of a later version of this program"
                )));
            }
        };
    }
    state.sessions = Sessions::of(store.sessions, owned);
    state.leases.index();
    state.history.index();
    state.journals.index();
    Ok(state)
}

/// Reads a part, and returns what follows it.
fn put<'a, T: Deserialize<'a>>(bytes: &'a [u8], place: &mut T) -> Result<&'a [u8], RestoreError> {
    let (part, rest) = take(bytes)?;
    *place = part;
    Ok(rest)
}

fn take<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<(T, &'a [u8]), RestoreError> {
    postcard::take_from_bytes(bytes).map_err(|source| error(source.to_string()))
}

/// Values in memory always serialise: an error is one of `to`.
fn put_on<T: Serialize>(part: &T, to: &mut dyn io::Write) -> io::Result<()> {
    postcard::to_io(part, to).map(drop).map_err(io::Error::other)
}

fn error(reason: impl Into<String>) -> RestoreError {
    RestoreError {
        reason: reason.into(),
    }
}
