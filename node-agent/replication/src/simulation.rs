//! What a simulation has in the place of a machine: a disk in memory, a network in memory, a clock, and chance from a
//! seed. Compiled with `--cfg simulation` only.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::sync::{Notify, mpsc};
use tonic::transport::Uri;
use wal::Wal;
use wal::simulation::Completion;
pub use wal::simulation::{Bug, Disk, is_planted, plant};

pub(crate) type AsyncRuntime =
    openraft_rt::deterministic_rng::DeterministicRng<openraft::impls::TokioRuntime>;

/// One member's machine.
#[derive(Clone)]
pub struct Simulated {
    /// Where its log is.
    pub disk: Disk,
    /// How far its clock is ahead of the simulation's, in milliseconds.
    pub skew_ms: Arc<AtomicI64>,
    /// Entries after which it takes a snapshot.
    pub snapshot_every: u64,
}

/// When nothing is written for so long, a commit index that moved is.
const COMMIT_IDLE: Duration = Duration::from_millis(200);
/// Small, so that a simulation goes through many.
const SEGMENT_BYTES: u64 = 64 << 10;

impl Simulated {
    pub(crate) fn unix_ms(&self) -> u64 {
        unix_ms(self.skew_ms.load(Ordering::Relaxed))
    }

    pub(crate) fn open_log(
        &self,
        path: &Path,
        options: wal::Options,
    ) -> Result<(Wal, wal::Recovered), wal::OpenError> {
        // Its being there says that the member has a log.
        std::fs::create_dir_all(path).map_err(|source| wal::OpenError::Io {
            doing: "create the directory".to_owned(),
            source,
        })?;
        let options = wal::Options {
            segment_bytes: SEGMENT_BYTES,
            ..options
        };
        let work = Arc::new(Notify::new());
        let wake = work.clone();
        let opened = Wal::open_simulated(&self.disk, options, Box::new(move || wake.notify_one()))?;
        let wal = opened.0.clone();
        let disk = self.disk.clone();
        let (sender, mut stored) = mpsc::unbounded_channel::<Completion>();
        tokio::spawn(async move {
            while let Some(Completion { at, done }) = stored.recv().await {
                // By the disk's clock: the member's own may jump.
                while let Some(left) = at.checked_sub(disk.now()).filter(|left| *left > 0) {
                    tokio::time::sleep(Duration::from_nanos(left)).await;
                }
                done();
            }
        });
        tokio::spawn(async move {
            loop {
                let idle = tokio::time::timeout(COMMIT_IDLE, work.notified()).await.is_err();
                for completion in wal.step(idle) {
                    if sender.send(completion).is_err() {
                        return;
                    }
                }
            }
        });
        Ok(opened)
    }
}

/// The simulation's clock, so many milliseconds ahead.
#[must_use]
pub fn unix_ms(skew_ms: i64) -> u64 {
    let since = turmoil::since_epoch().unwrap_or_default();
    u64::try_from(since.as_millis())
        .unwrap_or(u64::MAX)
        .saturating_add_signed(skew_ms)
}

/// One question in so many is heard twice.
const ASKED_AGAIN: u64 = 8;
/// The second time so much later, at most.
const LATER_MAX: u64 = 400;

/// Lets a peer hear some questions a second time, later: what repeats must act once.
pub(crate) fn ask_again(mut client: crate::raft::peers::Client, request: bytes::Bytes) {
    static ASKED: AtomicU64 = AtomicU64::new(0);
    // Chance, from the number alone: neighbours differ in all bits.
    let mut chance = ASKED.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
    chance = (chance ^ (chance >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    chance = (chance ^ (chance >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    chance ^= chance >> 31;
    if !chance.is_multiple_of(ASKED_AGAIN) {
        return;
    }
    let later = Duration::from_millis(chance / ASKED_AGAIN % LATER_MAX);
    let message = crate::raft::proto::Message {
        term: 0,
        bytes: request,
    };
    tokio::spawn(async move {
        tokio::time::sleep(later).await;
        // Nobody waits for this answer.
        if let Ok(answer) = client.ask(message).await {
            let mut parts = answer.into_inner();
            while let Ok(Some(_)) = parts.message().await {}
        }
    });
}

/// Connects to a member by the simulation's network.
pub(crate) async fn connect(to: Uri) -> io::Result<TokioIo<turmoil::net::TcpStream>> {
    let host = to.host().unwrap_or_default().to_owned();
    let stream = turmoil::net::TcpStream::connect((host, to.port_u16().unwrap_or_default())).await?;
    Ok(TokioIo::new(stream))
}

/// Runs something whose chance, as far as openraft draws it, comes from this seed.
pub fn with_seed<T>(seed: u64, run: impl FnOnce() -> T) -> T {
    futures::executor::block_on(AsyncRuntime::scope(seed, async { run() }))
}
