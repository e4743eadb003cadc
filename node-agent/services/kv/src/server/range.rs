//! Many keys at once: ranges and transactions.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Context;
use super::answers::timeout;
use super::operations::unix_ms;
use crate::request::{Answer, More, Refusal, Row, Terms};
use crate::state::{Change, Item, KvState, Transaction};

/// Keys of an answer, when the request does not say.
const LIMIT: usize = 100;
/// Bytes of keys and values in an answer, beyond which no further one is added.
const PAGE_BYTES_MAX: usize = 1 << 20;

impl Context {
    /// The keys that begin with a prefix, in order.
    pub(super) async fn range(&self, terms: &Terms) -> Answer {
        let patience = self.patience(terms, super::operations::TIMEOUT);
        if terms.local {
            return match self.recovered(patience).await {
                true => self.range_here(&terms.more),
                false => timeout(),
            };
        }
        let read = |state: &KvState| {
            let items = state
                .range(prefix(&terms.more), terms.more.after.as_deref())
                .map(|(key, item)| row(key, item));
            let page = page(items, &terms.more, state.revision());
            let keys = page.items.iter().flatten().filter_map(|row| row.key.as_deref());
            let ends = keys.filter_map(|key| state.ends(key)).min();
            (page, ends)
        };
        self.consistent_alive(patience, read)
            .await
            .unwrap_or_else(timeout)
    }

    /// As this member knows them, with what it remembers.
    fn range_here(&self, more: &More) -> Answer {
        let (prefix, after) = (prefix(more), more.after.as_deref());
        let (now, limit) = (unix_ms(), more.limit.unwrap_or(LIMIT));
        let remembered = self
            .memory
            .keys(|key| key.starts_with(prefix) && after.is_none_or(|after| key > after));
        let stored = self.link.replica.local(|state| {
            let alive = state
                .range(prefix, after)
                .filter(|(key, _)| state.ends(key).is_none_or(|ends| ends > now));
            // One more than are shown tells that there are more; each remembered one may hide one.
            let rows = alive.take(limit + 1 + remembered.len());
            let rows: BTreeMap<Arc<str>, Row> =
                rows.map(|(key, item)| (key.clone(), row(key, item))).collect();
            (rows, state.revision())
        });
        let (mut rows, revision) = stored;
        for key in remembered {
            let (shown, item) = self.memory.shows(&key);
            let (item, remembered) = match shown {
                Some(shown) => (shown.0, true),
                None => (item, false),
            };
            match item {
                Some(item) => {
                    let row = Row {
                        remembered,
                        revision: (!remembered).then_some(item.revision),
                        ..row(&key, &item)
                    };
                    rows.insert(key, row);
                }
                None => {
                    rows.remove(&key);
                }
            }
        }
        page(rows.into_values(), more, revision)
    }

    /// Several operations at once.
    pub(super) async fn transact(&self, transaction: Transaction, terms: &Terms) -> Result<Answer, Refusal> {
        self.change(Change::Transact(transaction), terms).await
    }
}

fn prefix(more: &More) -> &str {
    more.prefix.as_deref().unwrap_or_default()
}

fn row(key: &Arc<str>, item: &Item) -> Row {
    Row {
        key: Some(key.clone()),
        revision: Some(item.revision),
        ..Row::default().with_value(&item.value)
    }
}

/// As many rows as an answer bears.
fn page(rows: impl Iterator<Item = Row>, more: &More, revision: u64) -> Answer {
    let limit = more.limit.unwrap_or(LIMIT);
    let (mut items, mut bytes, mut is_cut) = (Vec::new(), 0, false);
    for row in rows {
        if items.len() == limit || bytes >= PAGE_BYTES_MAX {
            is_cut = true;
            break;
        }
        bytes += row.value.len() + row.key.as_ref().map_or(0, |key| key.len());
        items.push(row);
    }
    Answer {
        valid: true,
        revision: Some(revision),
        items: Some(items),
        more: is_cut,
        ..Answer::default()
    }
}
