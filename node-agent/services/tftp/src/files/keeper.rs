//! What goes on in the background: fetching what is missing, deleting what is idle, making the conversions that
//! running sessions need, looking for rot.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use futures::{StreamExt, stream};
use replication::{Leadership, Shutdown};
use tokio::time::sleep;

use super::{FilesOf, Group, Inner, lock, with_causes};
use crate::content::{BlobKey, ContentError};
use crate::state::{ContentHash, TftpState};

/// Fetches in the background at the same time: the disk and the link are there for transfers first.
const FETCHES_MAX: usize = 2;

/// Entries come in bursts; what they changed is looked at this often at most.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Even when nothing changed: a file may have been lost below us.
const RECHECK_EVERY: Duration = Duration::from_secs(10);

/// The first pause after a fetch failed. It doubles up to [`RETRY_MAX`].
const RETRY_FIRST: Duration = Duration::from_millis(500);

/// The longest pause between two attempts to fetch the same content.
const RETRY_MAX: Duration = Duration::from_secs(30);

/// How often idle content is looked for; small beside the grace it is given.
const COLLECT_EVERY: Duration = Duration::from_secs(10);

/// When content is hashed again for the first time after a start: not while members come up and catch up.
const SCRUB_FIRST_AFTER: Duration = Duration::from_secs(60);

/// How often all content is hashed again.
const SCRUB_EVERY: Duration = Duration::from_secs(24 * 60 * 60);

/// How fast, on average: a fraction of what any disk and one core can do.
const SCRUB_BYTES_PER_SECOND: u64 = 16 << 20;

/// Content whose fetch failed.
#[derive(Debug, Clone, Copy)]
struct Retry {
    at: Instant,
    pause: Duration,
}

impl<G: Group> FilesOf<G> {
    /// Keeps this member's disk in step with the replicated map, until told to stop.
    pub async fn run(&self, until: Shutdown) {
        tokio::select! {
            () = until.requested() => {}
            () = self.keep_fetching() => {}
            () = self.keep_converting() => {}
            () = self.keep_collecting() => {}
            () = self.keep_scrubbing() => {}
        }
    }

    /// The referenced content that is not on this member's disk, with its size. While there is some, this member cannot
    /// replace another one that has it.
    #[must_use]
    pub fn missing(&self) -> BTreeMap<ContentHash, u64> {
        let referenced: Vec<_> = self.inner.group.local(|state| state.referenced().collect());
        referenced
            .into_iter()
            .filter(|(hash, size)| self.inner.store.size(hash) != Some(*size))
            .collect()
    }

    /// How many contents this member lacks, so that it does not count as a copy of them. What is on its way does not
    /// count.
    #[must_use]
    pub fn lacking(&self) -> usize {
        let changed = self.inner.group.local(TftpState::content_changed);
        if lock(&self.inner.lag).is_complete_at(changed) {
            return 0;
        }
        let missing = self.missing();
        lock(&self.inner.lag).lacking(&missing, changed, now())
    }

    async fn keep_fetching(&self) {
        let mut applied = self.inner.group.applied();
        let mut retries = BTreeMap::new();
        loop {
            let seen = self.inner.group.local(TftpState::content_changed);
            self.fetch_missing(&mut retries).await;
            let now = now();
            let next_retry = retries
                .values()
                .map(|retry: &Retry| retry.at.saturating_duration_since(now))
                .min();
            let changed = async {
                while self.inner.group.local(TftpState::content_changed) == seen {
                    if applied.changed().await.is_err() {
                        return std::future::pending().await;
                    }
                    sleep(LOOK_EVERY).await;
                }
            };
            tokio::select! {
                () = changed => {}
                () = self.inner.lost.notified() => {}
                () = sleep(next_retry.unwrap_or(RECHECK_EVERY).min(RECHECK_EVERY)) => {}
            }
        }
    }

    /// Tries to fetch all that is missing and not waiting for its next attempt.
    async fn fetch_missing(&self, retries: &mut BTreeMap<ContentHash, Retry>) {
        let missing = self.missing();
        retries.retain(|hash, _| missing.contains_key(hash));
        let started = now();
        let due: Vec<_> = missing
            .into_iter()
            .filter(|(hash, _)| retries.get(hash).is_none_or(|retry| retry.at <= started))
            .collect();
        let mut fetches = stream::iter(due)
            .map(|(hash, size)| async move { (hash, self.obtain(hash, Some(size), None).await) })
            .buffer_unordered(FETCHES_MAX);
        while let Some((content, fetched)) = fetches.next().await {
            let Err(error) = fetched else {
                tracing::info!(%content, "content fetched");
                retries.remove(&content);
                continue;
            };
            let pause = retries
                .get(&content)
                .map_or(RETRY_FIRST, |retry| (retry.pause * 2).min(RETRY_MAX));
            tracing::warn!(%content, error = with_causes(&error), again_in = ?pause, "content not fetched");
            retries.insert(
                content,
                Retry {
                    at: now() + pause,
                    pause,
                },
            );
        }
    }

    /// A session's netascii conversion is made on every member, so that a new leader has it at once.
    async fn keep_converting(&self) {
        let mut applied = self.inner.group.applied();
        loop {
            let wanted: Vec<_> = self
                .inner
                .group
                .local(|state| state.netascii_contents().collect());
            for content in wanted {
                match self.inner.store.netascii(content).await {
                    // What is missing is being fetched; it is converted when it is here.
                    Ok(_) | Err(ContentError::Missing(_)) => {}
                    Err(error) => {
                        tracing::warn!(%content, error = with_causes(&error), "content not converted")
                    }
                }
            }
            tokio::select! {
                changed = applied.changed() => if changed.is_err() { return std::future::pending().await },
                () = sleep(RECHECK_EVERY) => {}
            }
            sleep(LOOK_EVERY).await;
        }
    }

    async fn keep_collecting(&self) {
        loop {
            sleep(COLLECT_EVERY).await;
            let knows_leader = !matches!(
                *self.inner.group.leadership().borrow(),
                Leadership::Follower { leader: None }
            );
            let files = self.clone();
            let now = now();
            // A panic in there is a bug that the next round shows again; it must not end the rest.
            if tokio::task::spawn_blocking(move || files.collect(knows_leader, now))
                .await
                .is_err()
            {
                tracing::error!("looking for idle content panicked");
            }
        }
    }

    /// Deletes what has been idle for the grace; blocks.
    ///
    /// Only while there is a leader: without one, the entry that references what a put made us hold may be in the log
    /// but not committed, for as long as the quorum is gone.
    pub(super) fn collect(&self, knows_leader: bool, now: Instant) {
        let Inner {
            group, store, pins, ..
        } = &*self.inner;
        if !knows_leader {
            lock(pins).restart_grace();
            return;
        }
        let used: BTreeSet<_> = group.local(|state| {
            let raw = state.referenced().map(|(hash, _)| BlobKey::Raw(hash));
            raw.chain(state.netascii_contents().map(BlobKey::Netascii))
                .collect()
        });
        let idle: BTreeSet<_> = store
            .list()
            .into_iter()
            .map(|(key, _)| key)
            .filter(|key| !used.contains(key))
            .collect();
        let expired = lock(pins).expired(&idle, now);
        for key in expired {
            // Held to the end, so that nobody pins it in between and then finds it gone.
            let pins = lock(pins);
            let is_used = group.local(|state| match key {
                BlobKey::Raw(hash) => state.content_size(&hash).is_some(),
                BlobKey::Netascii(hash) => state.netascii_contents().any(|used| used == hash),
            });
            if is_used || !pins.is_still_idle(&key) {
                continue;
            }
            match store.remove(&key) {
                Ok(()) => tracing::debug!(?key, "idle content deleted"),
                Err(error) => tracing::warn!(?key, error = with_causes(&error), "idle content not deleted"),
            }
        }
    }

    async fn keep_scrubbing(&self) {
        sleep(SCRUB_FIRST_AFTER).await;
        loop {
            self.scrub().await;
            sleep(SCRUB_EVERY).await;
        }
    }

    /// Hashes all content again, slowly. What has rotted is deleted and fetched again.
    pub async fn scrub(&self) {
        let referenced: Vec<_> = self.inner.group.local(|state| state.referenced().collect());
        for (content, size) in referenced {
            if !self.inner.store.contains(&content) {
                continue;
            }
            match self.inner.store.verify(content).await {
                Ok(true) => {}
                Ok(false) => self.discard_rotten(content),
                Err(error) => tracing::error!(%content, error = with_causes(&error), "content unreadable"),
            }
            sleep(Duration::from_millis(
                size.saturating_mul(1000) / SCRUB_BYTES_PER_SECOND,
            ))
            .await;
        }
    }

    fn discard_rotten(&self, content: ContentHash) {
        tracing::error!(%content, "content on disk is not what was stored: deleted here, to be fetched from a peer");
        if let Err(error) = self.inner.store.remove(&BlobKey::Raw(content)) {
            tracing::error!(%content, error = with_causes(&error), "rotten content not deleted");
        }
        self.inner.lost.notify_one();
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "this is the driver of the background work: time enters here"
)]
pub(super) fn now() -> Instant {
    Instant::now()
}
