//! The snapshot: a version, the store itself, then the parts that are not empty, each behind its tag.
//!
//! A stored format: the store's fields are as they are in version 1, tags are only added, and fields of a part are only
//! appended under a new tag. Equal states give equal bytes.

use std::collections::BTreeMap;
use std::sync::Arc;

use replication::{NodeId, RestoreError};
use serde::{Deserialize, Serialize};

use super::history::History;
use super::session::Sessions;
use super::{Item, KvState, SNAPSHOT_VERSION, size};

/// The store, as in version 1, which has nothing behind it.
#[derive(Serialize, Deserialize)]
struct Store {
    revision: u64,
    items: Vec<(Arc<str>, Item)>,
    sessions: Sessions,
    merged: BTreeMap<NodeId, u64>,
    dropped: u64,
}

const DROPPED_LAST: u8 = 1;
const LOGS: u8 = 2;
const LEASES: u8 = 3;
const HISTORY: u8 = 4;
const JOURNALS: u8 = 5;

/// The state as bytes.
pub(super) fn write(state: &KvState) -> Vec<u8> {
    let items = state.items.iter().map(|(key, item)| (key.clone(), item.clone()));
    let store = Store {
        revision: state.revision,
        items: items.collect(),
        sessions: state.sessions.clone(),
        merged: state.merged.clone(),
        dropped: state.dropped,
    };
    let mut bytes = to_bytes(vec![SNAPSHOT_VERSION], &store);
    if !state.dropped_last.is_empty() {
        bytes.push(DROPPED_LAST);
        bytes = to_bytes(bytes, &state.dropped_last);
    }
    if state.logs.servers() != 0 {
        bytes.push(LOGS);
        bytes = to_bytes(bytes, &state.logs);
    }
    if !state.leases.is_untouched() {
        bytes.push(LEASES);
        bytes = to_bytes(bytes, &state.leases);
    }
    if !state.history.is_empty() {
        bytes.push(HISTORY);
        bytes = to_bytes(bytes, &state.history);
    }
    if !state.journals.is_empty() {
        bytes.push(JOURNALS);
        bytes = to_bytes(bytes, &state.journals);
    }
    bytes
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
        sessions: store.sessions,
        merged: store.merged,
        dropped: store.dropped,
        // A snapshot of an earlier version has no history.
        history: History::after(store.revision),
        ..KvState::default()
    };
    if *version == 1 && !rest.is_empty() {
        return Err(error(format!("{} bytes follow the snapshot", rest.len())));
    }
    while let Some((tag, part)) = rest.split_first() {
        rest = match *tag {
            DROPPED_LAST => put(part, &mut state.dropped_last)?,
            LOGS => put(part, &mut state.logs)?,
            LEASES => put(part, &mut state.leases)?,
            HISTORY => put(part, &mut state.history)?,
            JOURNALS => put(part, &mut state.journals)?,
            other => {
                return Err(error(format!(
                    "part {other} of the snapshot is of a later version of this program"
                )));
            }
        };
    }
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

fn to_bytes<T: Serialize>(before: Vec<u8>, part: &T) -> Vec<u8> {
    postcard::to_extend(part, before).expect("values in memory always serialise")
}

fn error(reason: impl Into<String>) -> RestoreError {
    RestoreError {
        reason: reason.into(),
    }
}
