//! The log in a simulation: no threads, a disk in memory, virtual time. Compiled with `--cfg simulation` only.
//!
//! What is written and synced is so at once, as far as the program sees; but a sync ends at a virtual time of its own,
//! and what waits for it is told then. When the power fails, everything from the first sync on that had not ended
//! counts as never issued, and of what was not synced each sector is kept or lost by chance.

use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::disk::{self, File};
use crate::sim::SimDisk;
use crate::writer::Writer;
use crate::{Done, Vote};

/// A bug that is planted on purpose, to see that the simulation finds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Bug {
    /// None.
    None,
    /// What is written counts as stored before it is synced.
    AcknowledgeBeforeSync,
    /// A repeated request is carried out again.
    NoDeduplication,
    /// A consistent read is answered with what the member asked knows.
    LocalRead,
    /// A swap is decided by the member asked, and stored as a set.
    SwapDecidedOutside,
    /// What is remembered is merged again when it arrives again.
    OutboxReplayedTwice,
    /// A vote counts as stored before it is.
    VoteNotSynced,
    /// What timed out is left as it is, without a cancellation.
    TimeoutWithoutCancel,
    /// The first operation of a transaction is carried out before the others.
    TransactionInParts,
    /// A watch begins with what changes after it was asked for, wherever it is to resume.
    WatchFromNow,
    /// A consistent read does not show what has ended by the reader's own clock.
    EndsByOwnClock,
    /// Snapshots lack how much of each log was handed out.
    MarksNotInSnapshot,
    /// Snapshots lack the journals.
    JournalsNotInSnapshot,
    /// Snapshots lack the leases.
    LeasesNotInSnapshot,
    /// A lease that ends leaves one of its keys behind.
    LeaseLeavesKey,
    /// A lease that has ended is kept alive like others.
    EndedLeaseKeptAlive,
}

impl Bug {
    /// All bugs, and their names.
    pub const ALL: [(&'static str, Self); 15] = [
        ("acknowledge-before-sync", Self::AcknowledgeBeforeSync),
        ("no-deduplication", Self::NoDeduplication),
        ("local-read", Self::LocalRead),
        ("swap-decided-outside", Self::SwapDecidedOutside),
        ("outbox-replayed-twice", Self::OutboxReplayedTwice),
        ("vote-not-synced", Self::VoteNotSynced),
        ("timeout-without-cancel", Self::TimeoutWithoutCancel),
        ("transaction-in-parts", Self::TransactionInParts),
        ("watch-from-now", Self::WatchFromNow),
        ("ends-by-own-clock", Self::EndsByOwnClock),
        ("marks-not-in-snapshot", Self::MarksNotInSnapshot),
        ("journals-not-in-snapshot", Self::JournalsNotInSnapshot),
        ("leases-not-in-snapshot", Self::LeasesNotInSnapshot),
        ("lease-leaves-key", Self::LeaseLeavesKey),
        ("ended-lease-kept-alive", Self::EndedLeaseKeptAlive),
    ];
}

static PLANTED: AtomicU32 = AtomicU32::new(0);

/// Plants a bug in this process.
pub fn plant(bug: Bug) {
    PLANTED.store(bug as u32, Ordering::Relaxed);
}

/// Whether this bug is planted.
#[must_use]
pub fn is_planted(bug: Bug) -> bool {
    PLANTED.load(Ordering::Relaxed) == bug as u32
}

/// Virtual nanoseconds since the simulation began.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;
/// How many nanoseconds the next sync takes.
pub type Latency = Box<dyn FnMut() -> u64 + Send>;

/// One member's disk; it outlives the member.
#[derive(Clone)]
pub struct Disk(Arc<Mutex<Held>>);

struct Held {
    sim: SimDisk,
    /// Of each sync: how many events there were before it, and when it ends.
    syncs: Vec<(usize, u64)>,
    busy_until: u64,
    clock: Clock,
    latency: Latency,
    /// What each sync takes longer.
    slower_ns: u64,
    /// The newest vote that was to be stored, and when.
    vote: Option<(Vote, u64)>,
}

impl std::fmt::Debug for Disk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Disk")
    }
}

impl Disk {
    /// An empty disk.
    #[must_use]
    pub fn new(clock: Clock, latency: Latency) -> Self {
        Self(Arc::new(Mutex::new(Held {
            sim: SimDisk::default(),
            syncs: Vec::new(),
            busy_until: 0,
            clock,
            latency,
            slower_ns: 0,
            vote: None,
        })))
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The program that uses the disk has ended. `keep` says of each unsynced piece whether it reached the disk: always
    /// true when only the program was killed.
    pub fn cut(&self, keep: &mut dyn FnMut() -> bool) {
        let mut held = self.held();
        let now = (held.clock)();
        let image = {
            let sim = held.sim.lock();
            let unfinished = held.syncs.iter().find(|(_, ends)| *ends > now);
            let count = unfinished.map_or(sim.events.len(), |(before, _)| *before);
            sim.cut(count, keep)
        };
        held.sim = SimDisk::new(&image);
        held.syncs.clear();
        held.busy_until = now;
    }

    /// All is lost.
    pub fn empty(&self) {
        let mut held = self.held();
        held.sim = SimDisk::default();
        held.syncs.clear();
    }

    /// Lets the disk be full, or have space again.
    pub fn set_full(&self, full: bool) {
        self.held().sim.lock().bytes_max = full.then_some(0);
    }

    /// Whether it is full.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.held().sim.lock().bytes_max.is_some()
    }

    /// Lets each sync take so many nanoseconds longer.
    pub fn set_slower(&self, by_ns: u64) {
        self.held().slower_ns = by_ns;
    }

    /// The newest vote that the member wanted to store, and when; it may not be stored yet.
    #[must_use]
    pub fn vote(&self) -> Option<(Vote, u64)> {
        self.held().vote
    }

    fn note_vote(&self, vote: Vote) {
        let mut held = self.held();
        let now = (held.clock)();
        held.vote = Some((vote, now));
    }

    /// Lets the next sync fail.
    pub fn fail_next_sync(&self) {
        self.held().sim.lock().fail_sync_in = Some(0);
    }

    /// Damages one byte of what is stored, `place` drawn by chance; false when there is nothing.
    pub fn damage(&self, place: u64) -> bool {
        let mut held = self.held();
        let mut image = held.sim.image();
        let used: Vec<String> = image
            .keys()
            .filter(|name| name.ends_with(".wal"))
            .cloned()
            .collect();
        let mut candidates = Vec::new();
        for name in used {
            let bytes = &image[&name];
            candidates.extend(
                (0..bytes.len())
                    .filter(|at| bytes[*at] != 0)
                    .map(|at| (name.clone(), at)),
            );
        }
        if candidates.is_empty() {
            return false;
        }
        let at = usize::try_from(place % candidates.len() as u64).unwrap_or_default();
        let (name, at) = &candidates[at];
        if let Some(byte) = image.get_mut(name).and_then(|bytes| bytes.get_mut(*at)) {
            *byte ^= 0x10;
        }
        held.sim = SimDisk::new(&image);
        held.syncs.clear();
        true
    }

    fn sim(&self) -> SimDisk {
        self.held().sim.clone()
    }

    fn busy_until(&self) -> u64 {
        let held = self.held();
        held.busy_until.max((held.clock)())
    }

    /// Nanoseconds of its clock.
    #[must_use]
    pub fn now(&self) -> u64 {
        (self.held().clock)()
    }

    fn note_sync(&self, sim: &SimDisk) {
        let mut held = self.held();
        let began = held.busy_until.max((held.clock)());
        held.busy_until = began + (held.latency)() + held.slower_ns;
        let ends = held.busy_until;
        let events = sim.lock().events.len();
        held.syncs.push((events.saturating_sub(1), ends));
    }
}

struct TimedFile {
    disk: Disk,
    sim: SimDisk,
    file: Arc<dyn File>,
}

impl File for TimedFile {
    fn bytes(&self) -> io::Result<u64> {
        self.file.bytes()
    }

    fn set_bytes(&self, bytes: u64) -> io::Result<()> {
        self.file.set_bytes(bytes)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_at(buffer, offset)
    }

    fn write_at(&self, buffer: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_at(buffer, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync()?;
        self.disk.note_sync(&self.sim);
        Ok(())
    }

    fn forget_cached(&self) {}
}

impl Disk {
    fn timed(&self, sim: SimDisk, file: Arc<dyn File>) -> Arc<dyn File> {
        Arc::new(TimedFile {
            disk: self.clone(),
            sim,
            file,
        })
    }
}

impl disk::Disk for Disk {
    fn names(&self) -> io::Result<Vec<String>> {
        self.sim().names()
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let sim = self.sim();
        let file = sim.open(name)?;
        Ok(self.timed(sim, file))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let sim = self.sim();
        let file = sim.create(name)?;
        Ok(self.timed(sim, file))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.sim().rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.sim().remove(name)
    }

    fn sync_names(&self) -> io::Result<()> {
        let sim = self.sim();
        sim.sync_names()?;
        self.note_sync(&sim);
        Ok(())
    }
}

/// Something that a caller waits for, and when it counts as stored.
pub struct Completion {
    /// When, in nanoseconds of the disk's clock.
    pub at: u64,
    /// Tells the caller.
    pub done: Box<dyn FnOnce() + Send>,
}

type Answers = Arc<Mutex<Vec<(io::Result<()>, Done)>>>;

/// The writer, and what it has answered in this step.
pub(crate) struct Stepper {
    writer: Mutex<Writer>,
    answers: Answers,
    disk: Disk,
    wake: Box<dyn Fn() + Send + Sync>,
}

impl Stepper {
    pub(crate) fn new(writer: Writer, disk: Disk, wake: Box<dyn Fn() + Send + Sync>) -> Self {
        Self {
            writer: Mutex::new(writer),
            answers: Arc::default(),
            disk,
            wake,
        }
    }

    pub(crate) fn defer(&self, done: Done) -> Done {
        let answers = self.answers.clone();
        Box::new(move |result| {
            let mut answers = answers.lock().unwrap_or_else(PoisonError::into_inner);
            answers.push((result, done));
        })
    }

    pub(crate) fn wake(&self) {
        (self.wake)();
    }

    pub(crate) fn note_vote(&self, vote: Vote) {
        self.disk.note_vote(vote);
    }

    pub(crate) fn step(&self, idle: bool) -> Vec<Completion> {
        self.writer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .step(idle);
        let at = if is_planted(Bug::AcknowledgeBeforeSync) {
            self.disk.now()
        } else {
            self.disk.busy_until()
        };
        let answers = std::mem::take(&mut *self.answers.lock().unwrap_or_else(PoisonError::into_inner));
        let completion = |(result, done): (io::Result<()>, Done)| Completion {
            at,
            done: Box::new(move || done(result)),
        };
        answers.into_iter().map(completion).collect()
    }
}
