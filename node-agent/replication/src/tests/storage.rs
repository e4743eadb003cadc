//! openraft's storage suite on the write-ahead log and the state machine.

use openraft::StorageError;
use openraft::storage::RaftLogReader as _;
use openraft::testing::log::{StoreBuilder, Suite};
use tempfile::TempDir;
use wal::Wal;

use super::Ledger;
use crate::raft::codec;
use crate::raft::log_store::LogStore;
use crate::raft::snapshot::SnapshotFile;
use crate::raft::state_machine::{Applied, StateMachine};
use crate::raft::types::{EntryPayload, TypeConfig};

struct Builder;

impl StoreBuilder<TypeConfig, LogStore, StateMachine, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, LogStore, StateMachine), StorageError<TypeConfig>> {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let (wal, _) =
            Wal::open(&directory.path().join("log"), wal::Options::default()).expect("a fresh log opens");
        let state_machine = StateMachine::new(Applied::<Ledger>::new(), SnapshotFile::new(directory.path()));
        Ok((directory, LogStore::new(wal), state_machine))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn openrafts_storage_suite_passes() {
    Suite::test_all(Builder).await.expect("the suite passes");
}

#[tokio::test]
async fn read_for_a_peer_whose_beginning_is_purged_meanwhile_returns_nothing() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (wal, _) =
        Wal::open(&directory.path().join("log"), wal::Options::default()).expect("a fresh log opens");
    let position = |index| wal::Position {
        term: 1,
        node: 1,
        index,
    };
    let blank = |index| wal::Entry {
        position: position(index),
        payload: codec::encode(&EntryPayload::Blank),
    };
    wal.append((1..=4).map(blank).collect(), Box::new(drop))
        .expect("the log takes entries");
    wal.purge(position(2), Box::new(drop)).expect("the log purges");
    let mut store = LogStore::new(wal);
    let mut indexes = async |start| -> Vec<u64> {
        let entries = store.limited_get_log_entries(start, 5).await;
        let entries = entries.expect("the log can be read");
        entries.iter().map(|entry| entry.log_id.index).collect()
    };
    // The rest would be sent as if it followed what is gone: a gap in the peer's log.
    assert!(indexes(1).await.is_empty());
    assert!(indexes(2).await.is_empty());
    assert_eq!(indexes(3).await, [3, 4]);
    assert!(indexes(5).await.is_empty());
}
