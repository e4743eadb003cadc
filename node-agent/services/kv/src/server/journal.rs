//! Journals: appending to them, reading them.

use std::sync::Arc;

use hyper::StatusCode;

use super::Context;
use super::answers::timeout;
use super::operations::TIMEOUT;
use crate::request::{Answer, Refusal, Row, Terms};
use crate::state::{Compacted, Entry, KvState};

/// Entries of an answer, when the request does not say.
const LIMIT: usize = 100;
/// Bytes of entries in an answer, beyond which no further one is added.
const PAGE_BYTES_MAX: usize = 1 << 20;
/// Entries that the status page shows.
const TAIL_ENTRIES: usize = 10;
/// Of an entry on the status page.
const CHARS_SHOWN: usize = 200;

impl Context {
    /// The entries of a journal, from a number on.
    pub(super) async fn read_journal(&self, name: Arc<str>, terms: &Terms) -> Result<Answer, Refusal> {
        let patience = self.patience(terms, TIMEOUT);
        let read = |state: &KvState| page(state, &name, terms);
        let read = if terms.local {
            match self.recovered(patience).await {
                true => Some(self.link.replica.local(read)),
                false => None,
            }
        } else {
            self.consistent(patience, read).await
        };
        read.unwrap_or_else(|| Ok(timeout()))
    }
}

fn page(state: &KvState, name: &str, terms: &Terms) -> Result<Answer, Refusal> {
    let limit = terms.more.limit.unwrap_or(LIMIT);
    let entries = match state.journal(name, terms.more.from) {
        None => return Ok(Answer::default()),
        Some(Err(Compacted { oldest })) => {
            return Err(Refusal {
                oldest: Some(oldest),
                ..Refusal::new(
                    StatusCode::GONE,
                    format!(
                        "these entries have made room for newer ones: the oldest that is kept is {oldest}"
                    ),
                )
            });
        }
        Some(Ok(entries)) => entries,
    };
    let (mut rows, mut bytes, mut is_cut) = (Vec::new(), 0, false);
    for (index, Entry { unix_ms, value }) in entries {
        if rows.len() == limit || bytes >= PAGE_BYTES_MAX {
            is_cut = true;
            break;
        }
        bytes += value.as_ref().len();
        let row = Row {
            index: Some(index),
            unix_ms: Some(*unix_ms),
            ..Row::default()
        };
        rows.push(row.with_value(value));
    }
    Ok(Answer {
        valid: true,
        index: Some(state.journal_last(name)),
        entries: Some(rows),
        more: is_cut,
        ..Answer::default()
    })
}

/// The end of all journals together, for the status page.
pub(super) fn tail(state: &KvState) -> Vec<serde_json::Value> {
    let rows = state.journal_tail(TAIL_ENTRIES).into_iter();
    rows.map(|(name, number, entry)| {
        let text = String::from_utf8_lossy(entry.value.as_ref());
        serde_json::json!({
            "journal": name,
            "entry": number,
            "unixMs": entry.unix_ms,
            "says": text.chars().take(CHARS_SHOWN).collect::<String>(),
        })
    })
    .collect()
}
