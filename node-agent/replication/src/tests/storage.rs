//! openraft's storage suite on the write-ahead log and the state machine.

use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use tempfile::TempDir;
use wal::Wal;

use super::Ledger;
use crate::raft::log_store::LogStore;
use crate::raft::snapshot::SnapshotFile;
use crate::raft::state_machine::{Applied, StateMachine};
use crate::raft::types::TypeConfig;

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
