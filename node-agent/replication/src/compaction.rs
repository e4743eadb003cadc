//! When the log is folded into a snapshot, and how much of it stays behind. By bytes: an entry of a busy service holds a
//! thousand requests, and one of an idle service holds one.

/// The log may grow to this much before it is folded, however small the state is.
const LOG_BYTES_MIN: u64 = 16 << 20;
/// And to so many times the last snapshot: writing snapshots costs a fraction of writing the log.
const LOG_BYTES_PER_SNAPSHOT_BYTE: u64 = 2;
/// And to so many entries: each costs memory, and time at the next start.
const LOG_ENTRIES_MAX: u64 = 50_000;
/// Kept behind a snapshot for followers that lag; one that lags more gets the snapshot.
pub(crate) const KEEP_BYTES: u64 = 8 << 20;

/// What is to be done with the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Take a snapshot.
    Fold,
    /// Purge what the snapshot at this index covers, but for what is kept.
    Purge(u64),
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
}

impl Compaction {
    /// For a member whose snapshot ends at an entry and has so many bytes, and whose log holds `found` bytes behind it.
    pub(crate) fn new(snapshot: u64, snapshot_bytes: u64, found: u64) -> Self {
        Self {
            snapshot,
            snapshot_bytes,
            folded: snapshot,
            written: -i128::from(found),
        }
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
            return Some(Step::Purge(seen.snapshot));
        }
        let entries = seen.applied.saturating_sub(self.folded);
        let bytes_max = LOG_BYTES_MIN.max(LOG_BYTES_PER_SNAPSHOT_BYTE * self.snapshot_bytes);
        let is_large = written - self.written > bytes_max.into() || entries > LOG_ENTRIES_MAX;
        if entries == 0 || !is_large {
            return None;
        }
        (self.folded, self.written) = (seen.applied, written);
        Some(Step::Fold)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn seen(snapshot: u64, applied: u64, written: u64) -> Seen {
        Seen {
            snapshot,
            applied,
            written,
        }
    }

    fn step(compaction: &mut Compaction, seen: Seen) -> Option<Step> {
        compaction.step(seen, || 20 * MIB)
    }

    #[test]
    fn a_log_is_folded_once_when_it_is_large_and_then_purged() {
        let mut log = Compaction::new(0, 0, 0);
        assert_eq!(step(&mut log, seen(0, 10, 16 * MIB)), None);
        assert_eq!(step(&mut log, seen(0, 11, 17 * MIB)), Some(Step::Fold));
        assert_eq!(step(&mut log, seen(0, 12, 18 * MIB)), None);
        assert_eq!(step(&mut log, seen(11, 12, 18 * MIB)), Some(Step::Purge(11)));
        // The snapshot has 20 MiB, so that the log may have 40 MiB behind entry 11.
        assert_eq!(step(&mut log, seen(11, 13, 57 * MIB)), None);
        assert_eq!(step(&mut log, seen(11, 14, 58 * MIB)), Some(Step::Fold));
    }

    #[test]
    fn many_small_entries_are_folded_too() {
        let mut log = Compaction::new(5, 0, 0);
        assert_eq!(step(&mut log, seen(5, 5 + LOG_ENTRIES_MAX, 1)), None);
        assert_eq!(step(&mut log, seen(5, 6 + LOG_ENTRIES_MAX, 1)), Some(Step::Fold));
    }

    #[test]
    fn what_the_log_held_at_the_start_counts_and_what_an_installed_snapshot_covers_does_not() {
        let mut log = Compaction::new(5, 0, 15 * MIB);
        assert_eq!(step(&mut log, seen(900, 900, MIB)), Some(Step::Purge(900)));
        assert_eq!(step(&mut log, seen(900, 901, 2 * MIB)), None);
        let mut log = Compaction::new(5, 0, 16 * MIB);
        assert_eq!(step(&mut log, seen(5, 6, 1)), Some(Step::Fold));
    }

    #[test]
    fn nothing_new_is_not_folded() {
        let mut log = Compaction::new(5, 0, 99 * MIB);
        assert_eq!(step(&mut log, seen(5, 5, 1)), None);
    }
}
