//! Which content may be deleted here, and when. Pure: the time is an argument.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::content::BlobKey;
use crate::state::ContentHash;

/// How long content must have been unreferenced before it is deleted. A put makes its content durable on a quorum
/// before the entry that references it is committed; this is many times what lies between the two.
pub(super) const GRACE: Duration = Duration::from_secs(60);

/// Content in use here, and since when the rest has been idle.
#[derive(Debug, Default)]
pub(super) struct Pins {
    pinned: BTreeMap<ContentHash, u32>,
    idle_since: BTreeMap<BlobKey, Instant>,
}

impl Pins {
    pub(super) fn pin(&mut self, hash: ContentHash) {
        *self.pinned.entry(hash).or_default() += 1;
    }

    /// Ends one pin. The content's grace starts anew.
    pub(super) fn unpin(&mut self, hash: ContentHash) {
        if let Some(count) = self.pinned.get_mut(&hash) {
            *count -= 1;
            if *count == 0 {
                self.pinned.remove(&hash);
            }
        }
        self.idle_since.remove(&BlobKey::Raw(hash));
        self.idle_since.remove(&BlobKey::Netascii(hash));
    }

    pub(super) fn is_pinned(&self, hash: &ContentHash) -> bool {
        self.pinned.contains_key(hash)
    }

    /// May a blob that was among the [`Pins::expired`] still be deleted? Not if it was pinned since, even for a moment:
    /// a peer may count on it now.
    pub(super) fn is_still_idle(&self, key: &BlobKey) -> bool {
        self.idle_since.contains_key(key) && !self.is_pinned(&key.content())
    }

    /// Which of the idle blobs have been idle for [`GRACE`], pinned ones among them. All that are not named start anew
    /// when they are next.
    pub(super) fn expired(&mut self, idle: &BTreeSet<BlobKey>, now: Instant) -> Vec<BlobKey> {
        self.idle_since.retain(|key, _| idle.contains(key));
        for key in idle {
            self.idle_since.entry(*key).or_insert(now);
        }
        self.idle_since
            .iter()
            .filter(|(_, since)| now.duration_since(**since) >= GRACE)
            .map(|(key, _)| *key)
            .collect()
    }

    /// Nothing counts as idle: this member may be behind, and what it does not reference may be needed.
    pub(super) fn restart_grace(&mut self) {
        self.idle_since.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::keeper;

    #[test]
    fn blob_pinned_for_a_moment_is_no_longer_idle() {
        let hash = ContentHash([1; 32]);
        let key = BlobKey::Raw(hash);
        let idle = BTreeSet::from([key]);
        let start = keeper::now();
        let mut pins = Pins::default();
        assert!(pins.expired(&idle, start).is_empty());
        assert_eq!(pins.expired(&idle, start + GRACE), [key]);
        assert!(pins.is_still_idle(&key));
        pins.pin(hash);
        assert!(!pins.is_still_idle(&key));
        pins.unpin(hash);
        assert!(!pins.is_still_idle(&key));
        assert!(pins.expired(&idle, start + GRACE).is_empty());
    }
}
