//! When the log is folded into a snapshot, and how much of it stays behind. By bytes: an entry of a busy service holds a
//! thousand requests, and one of an idle service holds one.

use openraft::RaftMetrics;
use tracing::debug;

use crate::member::Running;
use crate::raft::types::{LogId, TypeConfig};

/// The log may grow to this much before it is folded, however small the state is. Less in tests, which would only take
/// longer.
const LOG_BYTES_MIN: u64 = if cfg!(test) { 1 << 20 } else { 16 << 20 };
/// And to so many times the last snapshot: writing snapshots costs a fraction of writing the log.
const LOG_BYTES_PER_SNAPSHOT_BYTE: u64 = 2;
/// And to so many entries: each costs memory, and time at the next start.
const LOG_ENTRIES_MAX: u64 = 50_000;
/// Kept behind a snapshot for followers that lag; one that lags more gets the snapshot. Next to nothing in a simulation, whose
/// logs are short.
const KEEP_BYTES: u64 = if cfg!(simulation) {
    4 << 10
} else if cfg!(test) {
    256 << 10
} else {
    8 << 20
};
/// Where no further segment can be had, the log is folded at this size, so that a segment becomes free and it can go on.
const TIGHT_LOG_BYTES: u64 = 1 << 20;
/// Kept then.
const TIGHT_KEEP_BYTES: u64 = 256 << 10;

/// What is to be done with the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Take a snapshot.
    Fold,
    /// Purge what the snapshot covers.
    Purge {
        /// The last entry of the snapshot.
        upto: u64,
        /// Bytes of the youngest entries up to there that stay.
        keep: u64,
    },
}

/// What a member knows of its log and its snapshot.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen {
    /// The last entry that the snapshot covers; 0 without one.
    pub(crate) snapshot: u64,
    /// The last entry that is applied.
    pub(crate) applied: u64,
    /// Bytes that were written to the log since it was opened.
    pub(crate) written: u64,
    /// Whether the disk has no room for another segment.
    pub(crate) is_tight: bool,
}

/// Decides it. Pure.
#[derive(Debug)]
pub(crate) struct Compaction {
    snapshot: u64,
    snapshot_bytes: u64,
    /// The last entry that was applied when a snapshot was asked for, or that an installed one covers.
    folded: u64,
    /// What had been written then, less what the log held when it was opened.
    written: i128,
    entries_max: u64,
}

impl Compaction {
    /// For a member whose snapshot ends at an entry and has so many bytes, and whose log holds `found` bytes behind it.
    pub(crate) fn new(snapshot: u64, snapshot_bytes: u64, found: u64) -> Self {
        Self {
            snapshot,
            snapshot_bytes,
            folded: snapshot,
            written: -i128::from(found),
            entries_max: LOG_ENTRIES_MAX,
        }
    }

    /// The log may grow to so many entries instead.
    #[cfg(simulation)]
    pub(crate) fn with_entries_max(self, entries_max: u64) -> Self {
        Self { entries_max, ..self }
    }

    /// What is to be done now; `snapshot_bytes` tells the size of the present snapshot.
    pub(crate) fn step(&mut self, seen: Seen, snapshot_bytes: impl FnOnce() -> u64) -> Option<Step> {
        let written = i128::from(seen.written);
        if seen.snapshot != self.snapshot {
            self.snapshot = seen.snapshot;
            self.snapshot_bytes = snapshot_bytes();
            if seen.snapshot > self.folded {
                (self.folded, self.written) = (seen.snapshot, written);
            }
            return Some(Step::Purge {
                upto: seen.snapshot,
                keep: if seen.is_tight {
                    TIGHT_KEEP_BYTES
                } else {
                    KEEP_BYTES
                },
            });
        }
        let entries = seen.applied.saturating_sub(self.folded);
        let bytes_max = if seen.is_tight {
            TIGHT_LOG_BYTES
        } else {
            LOG_BYTES_MIN.max(LOG_BYTES_PER_SNAPSHOT_BYTE * self.snapshot_bytes)
        };
        let is_large = written - self.written > bytes_max.into() || entries > self.entries_max;
        if entries == 0 || !is_large {
            return None;
        }
        (self.folded, self.written) = (seen.applied, written);
        Some(Step::Fold)
    }
}

impl Running {
    /// What it knows of its log and its snapshot.
    pub(crate) fn seen(&self, metrics: &RaftMetrics<TypeConfig>) -> Seen {
        let index = |id: Option<LogId>| id.map_or(0, |id| id.index);
        Seen {
            snapshot: index(metrics.snapshot),
            applied: index(metrics.last_applied),
            written: self.wal.stats().bytes_written,
            is_tight: self.wal.space() != wal::Space::Ok,
        }
    }

    /// Carries a step out.
    pub(crate) async fn compact(&self, step: Step) {
        let trigger = self.raft.trigger();
        let asked = match step {
            Step::Fold => trigger.snapshot().await,
            Step::Purge { upto, keep } => {
                let upto = self.wal.before_youngest(upto, keep);
                trigger.purge_log(upto).await
            }
        };
        if let Err(error) = asked {
            debug!(%error, "not asked: Raft is stopping");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So that the log may have 16 of them.
    const PART: u64 = LOG_BYTES_MIN / 16;

    fn seen(snapshot: u64, applied: u64, written: u64) -> Seen {
        Seen {
            snapshot,
            applied,
            written,
            is_tight: false,
        }
    }

    const fn purge(upto: u64) -> Step {
        Step::Purge {
            upto,
            keep: KEEP_BYTES,
        }
    }

    fn step(compaction: &mut Compaction, seen: Seen) -> Option<Step> {
        compaction.step(seen, || 20 * PART)
    }

    #[test]
    fn a_log_is_folded_once_when_it_is_large_and_then_purged() {
        let mut log = Compaction::new(0, 0, 0);
        assert_eq!(step(&mut log, seen(0, 10, 16 * PART)), None);
        assert_eq!(step(&mut log, seen(0, 11, 17 * PART)), Some(Step::Fold));
        assert_eq!(step(&mut log, seen(0, 12, 18 * PART)), None);
        assert_eq!(step(&mut log, seen(11, 12, 18 * PART)), Some(purge(11)));
        // The snapshot has 20 parts, so that the log may have 40 behind entry 11.
        assert_eq!(step(&mut log, seen(11, 13, 57 * PART)), None);
        assert_eq!(step(&mut log, seen(11, 14, 58 * PART)), Some(Step::Fold));
    }

    #[test]
    fn many_small_entries_are_folded_too() {
        let mut log = Compaction::new(5, 0, 0);
        assert_eq!(step(&mut log, seen(5, 5 + LOG_ENTRIES_MAX, 1)), None);
        assert_eq!(step(&mut log, seen(5, 6 + LOG_ENTRIES_MAX, 1)), Some(Step::Fold));
    }

    #[test]
    fn what_the_log_held_at_the_start_counts_and_what_an_installed_snapshot_covers_does_not() {
        let mut log = Compaction::new(5, 0, 15 * PART);
        assert_eq!(step(&mut log, seen(900, 900, PART)), Some(purge(900)));
        assert_eq!(step(&mut log, seen(900, 901, 2 * PART)), None);
        let mut log = Compaction::new(5, 0, 16 * PART);
        assert_eq!(step(&mut log, seen(5, 6, 1)), Some(Step::Fold));
    }

    #[test]
    fn without_room_for_another_segment_the_log_is_folded_early_and_little_is_kept() {
        let mut log = Compaction::new(5, 0, 0);
        let tight = |snapshot| Seen {
            is_tight: true,
            ..seen(snapshot, 6, TIGHT_LOG_BYTES + 1)
        };
        assert_eq!(step(&mut log, tight(5)), Some(Step::Fold));
        let keep = TIGHT_KEEP_BYTES;
        assert_eq!(step(&mut log, tight(6)), Some(Step::Purge { upto: 6, keep }));
    }

    #[test]
    fn nothing_new_is_not_folded() {
        let mut log = Compaction::new(5, 0, 99 * PART);
        assert_eq!(step(&mut log, seen(5, 5, 1)), None);
    }
}
