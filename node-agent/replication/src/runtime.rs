//! Raft's own threads: a busy service must not delay a heartbeat.

use std::io;

#[cfg(not(simulation))]
use tokio::runtime::Builder;
use tokio::runtime::{Handle, Runtime};

/// Raft is a chain of tasks that wait for each other: with more threads, each step wakes another one, which costs a commit a
/// sixth of its processor time and of its latency. What takes long runs elsewhere ([`blocking`]).
#[cfg(not(simulation))]
const THREADS: usize = 1;

/// Raft's own runtime; dropping it in another runtime's context must not block.
pub(crate) struct RaftRuntime {
    handle: Handle,
    runtime: Option<Runtime>,
}

impl RaftRuntime {
    /// In a simulation everything runs in the one thread that there is.
    #[cfg(simulation)]
    pub(crate) fn start() -> io::Result<Self> {
        Ok(Self {
            handle: Handle::current(),
            runtime: None,
        })
    }

    /// Starts the threads.
    #[cfg(not(simulation))]
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

/// Runs what blocks on the disk where it delays nobody.
#[cfg(not(simulation))]
pub(crate) async fn blocking<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(run).await.map_err(io::Error::other)
}

/// In a simulation there is nobody to be delayed, and threads have no seed.
#[cfg(simulation)]
pub(crate) async fn blocking<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    Ok(run())
}
