//! Raft's own threads: a busy service must not delay a heartbeat.

use std::io;

use tokio::runtime::{Builder, Handle, Runtime};

/// As many as the Raft core and its connections keep busy.
const THREADS: usize = 2;

/// Raft's own runtime; dropping it in another runtime's context must not block.
pub(crate) struct RaftRuntime {
    handle: Handle,
    runtime: Option<Runtime>,
}

impl RaftRuntime {
    /// Starts the threads.
    pub(crate) fn start() -> io::Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("raft")
            .enable_all()
            .build()?;
        Ok(Self {
            handle: runtime.handle().clone(),
            runtime: Some(runtime),
        })
    }

    /// What starts tasks there.
    pub(crate) fn handle(&self) -> Handle {
        self.handle.clone()
    }
}

impl Drop for RaftRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
