//! openraft's log storage on the write-ahead log.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, Range, RangeBounds};

use openraft::entry::RaftEntry as _;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use tokio::sync::oneshot;
use wal::Wal;

use crate::raft::codec;
use crate::raft::types::{Entry, LogId, TypeConfig, Vote};
use crate::runtime::blocking;

/// Bytes of entries that one read for a peer returns at most; at least one entry is returned.
const READ_BYTES_MAX: usize = 2 << 20;

/// One member's log, shared by the Raft core and the tasks that replicate it.
#[derive(Clone)]
pub(crate) struct LogStore {
    wal: Wal,
}

impl LogStore {
    pub(crate) fn new(wal: Wal) -> Self {
        Self { wal }
    }

    async fn read(&self, range: Range<u64>, bytes_max: usize) -> io::Result<Vec<Entry>> {
        if self.wal.is_in_memory(range.start) {
            return decoded(&self.wal, range, bytes_max);
        }
        // Heartbeats do not wait for the disk.
        let wal = self.wal.clone();
        blocking(move || decoded(&wal, range, bytes_max)).await?
    }
}

fn decoded(wal: &Wal, range: Range<u64>, bytes_max: usize) -> io::Result<Vec<Entry>> {
    wal.entries(range, bytes_max)?.iter().map(decode).collect()
}

/// Waits until the log has stored what `submit` queued.
pub(crate) async fn stored(
    wal: &Wal,
    submit: impl FnOnce(&Wal, wal::Done) -> io::Result<()>,
) -> io::Result<()> {
    let (sender, receiver) = oneshot::channel();
    submit(wal, Box::new(move |result| drop(sender.send(result))))?;
    receiver
        .await
        .unwrap_or_else(|_| Err(io::Error::other("the log's writer ended")))
}

fn decode(entry: &wal::Entry) -> io::Result<Entry> {
    let payload = codec::decode(&entry.payload).map_err(|error| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("log entry {}: {error}", entry.position.index),
        )
    })?;
    Ok(Entry::new(codec::log_id(entry.position), payload))
}

fn bounds(range: &impl RangeBounds<u64>) -> Range<u64> {
    let start = match range.start_bound() {
        Bound::Included(index) => *index,
        Bound::Excluded(index) => index + 1,
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(index) => index + 1,
        Bound::Excluded(index) => *index,
        Bound::Unbounded => u64::MAX,
    };
    start..end
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + Send>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<Entry>> {
        self.read(bounds(&range), usize::MAX).await
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        let entries = self.read(start..end, READ_BYTES_MAX).await?;
        // The first ones may have been purged meanwhile. openraft would send the others as if they followed: a gap.
        let is_whole = entries.first().is_none_or(|first| first.log_id.index == start);
        Ok(if is_whole { entries } else { Vec::new() })
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.wal.vote().map(codec::vote))
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        Ok(LogState {
            last_purged_log_id: self.wal.purged().map(codec::log_id),
            last_log_id: self.wal.last().map(codec::log_id),
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        let vote = codec::stored_vote(vote);
        #[cfg(simulation)]
        if crate::simulation::is_planted(crate::simulation::Bug::VoteNotSynced) {
            return self.wal.save_vote(vote, Box::new(|_| ()));
        }
        stored(&self.wal, |wal, done| wal.save_vote(vote, done)).await
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        self.wal.save_committed(committed.as_ref().map(codec::position));
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        Ok(self.wal.committed().map(codec::log_id))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + Send,
        I::IntoIter: Send,
    {
        let entries = entries
            .into_iter()
            .map(|entry| wal::Entry {
                position: codec::position(&entry.log_id()),
                payload: codec::encode(&entry.payload),
            })
            .collect();
        self.wal
            .append(entries, Box::new(move |result| callback.io_completed(result)))
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        let last = last.as_ref().map(codec::position);
        stored(&self.wal, |wal, done| wal.truncate_after(last, done)).await
    }

    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        let upto = codec::position(&upto);
        stored(&self.wal, |wal, done| wal.purge(upto, done)).await
    }
}
