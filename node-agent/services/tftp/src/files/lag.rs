//! How far this member's content is behind the replicated map. Decides whether it counts as a copy.
//!
//! While files are put, every member that was not in the quorum of a put lacks its content for a moment. That must not
//! make it look unfit: under a steady load it would never be fit. So content counts as lacking when it has been away
//! for longer than a fetch should take, or when there is so much of it that this can only be catching up.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::state::ContentHash;

/// For how long content may be on its way.
const ON_ITS_WAY_MAX: Duration = Duration::from_secs(1);
/// How many contents, and how many bytes, may be on their way.
const CONTENTS_ON_THEIR_WAY_MAX: usize = 64;
const BYTES_ON_THEIR_WAY_MAX: u64 = 16 << 20;

/// What was missing when it was last looked, and since when.
#[derive(Debug, Default)]
pub(super) struct Lag {
    since: BTreeMap<ContentHash, Instant>,
    /// The state's `content_changed` at the last look, if nothing was missing then.
    complete_at: Option<u64>,
}

impl Lag {
    /// Whether nothing was missing at this version of the content, so that nobody need look again.
    pub(super) fn is_complete_at(&self, content_changed: u64) -> bool {
        self.complete_at == Some(content_changed)
    }

    /// How many contents are lacking, of those that are `missing` at `now`.
    pub(super) fn lacking(
        &mut self,
        missing: &BTreeMap<ContentHash, u64>,
        content_changed: u64,
        now: Instant,
    ) -> usize {
        self.complete_at = missing.is_empty().then_some(content_changed);
        self.since.retain(|hash, _| missing.contains_key(hash));
        for hash in missing.keys() {
            self.since.entry(*hash).or_insert(now);
        }
        let bytes = missing
            .values()
            .fold(0_u64, |sum, size| sum.saturating_add(*size));
        let overdue = self
            .since
            .values()
            .any(|since| now.duration_since(*since) > ON_ITS_WAY_MAX);
        let catching_up = missing.len() > CONTENTS_ON_THEIR_WAY_MAX || bytes > BYTES_ON_THEIR_WAY_MAX;
        if overdue || catching_up { missing.len() } else { 0 }
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "an instant to count from")]
mod tests {
    use super::*;

    fn missing(contents: u8, size: u64) -> BTreeMap<ContentHash, u64> {
        (0..contents)
            .map(|number| (ContentHash([number; 32]), size))
            .collect()
    }

    #[test]
    fn content_that_has_just_been_put_is_no_lack() {
        let (mut lag, now) = (Lag::default(), Instant::now());
        assert_eq!(lag.lacking(&missing(3, 10), 1, now), 0);
        // Others are missing now: the first ones have come.
        let later = now + 2 * ON_ITS_WAY_MAX;
        let others = missing(3, 10)
            .into_keys()
            .map(|hash| (ContentHash([hash.0[0] + 9; 32]), 10))
            .collect();
        assert_eq!(lag.lacking(&others, 2, later), 0);
        assert_eq!(lag.lacking(&others, 2, later + 2 * ON_ITS_WAY_MAX), 3);
    }

    #[test]
    fn much_content_is_a_lack_at_once() {
        let (mut lag, now) = (Lag::default(), Instant::now());
        assert_eq!(lag.lacking(&missing(65, 1), 1, now), 65);
        assert_eq!(lag.lacking(&missing(1, BYTES_ON_THEIR_WAY_MAX + 1), 2, now), 1);
    }

    #[test]
    fn nobody_looks_again_at_what_is_complete() {
        let (mut lag, now) = (Lag::default(), Instant::now());
        assert_eq!(lag.lacking(&BTreeMap::new(), 7, now), 0);
        assert!(lag.is_complete_at(7));
        assert!(!lag.is_complete_at(8));
        assert_eq!(lag.lacking(&missing(1, 1), 8, now), 0);
        assert!(!lag.is_complete_at(8));
    }
}
