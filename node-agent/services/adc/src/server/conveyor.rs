//! Carries what happens at this member's front to the leader, in order and numbered: whatever waits while a batch is
//! under way goes together. A batch whose fate is unknown is sent again; it counts once.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use replication::NodeId;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::link::Link;
use crate::state::{Command, Event, Front, Limits};

/// Events in one log entry.
const BATCH_EVENTS_MAX: usize = 1024;
/// Bytes of one log entry, beyond which no further event is added.
const BATCH_BYTES_MAX: usize = 512 << 10;
/// Chat and updates that wait; further ones are dropped. Without a leader, that is.
const EVENTS_MAX: usize = 16_384;
/// How long a batch waits that was not ordered, before it is sent again.
const RETRY: Duration = Duration::from_millis(20);

/// What came of a batch: none when it was not ordered, or nobody knows.
pub(super) type Carried = Option<Option<Front>>;

/// What the front has to do now.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Opened {
    /// Nothing.
    Unchanged,
    /// Its users are orphans, and have to be claimed again.
    Anew,
}

/// The way to the log.
pub(super) struct Conveyor {
    link: Arc<Link>,
    front: NodeId,
    epoch: u64,
    limits: Limits,
    events: VecDeque<Event>,
    /// The number of the first event that waits.
    first: u64,
    is_open: bool,
    is_busy: bool,
    retry_at: Option<Instant>,
    carried: mpsc::Sender<Carried>,
    tasks: TaskTracker,
}

impl Conveyor {
    /// One for a front that is not open yet, and what comes of its batches.
    pub(super) fn new(
        link: Arc<Link>,
        front: NodeId,
        epoch: u64,
        limits: Limits,
        tasks: TaskTracker,
    ) -> (Self, mpsc::Receiver<Carried>) {
        // One is under way at a time.
        let (carried, results) = mpsc::channel(1);
        let conveyor = Self {
            link,
            front,
            epoch,
            limits,
            events: VecDeque::new(),
            first: 0,
            is_open: false,
            is_busy: false,
            retry_at: None,
            carried,
            tasks,
        };
        (conveyor, results)
    }

    /// Puts an event on it.
    pub(super) fn put(&mut self, event: Event) {
        let may_be_dropped = matches!(event, Event::Say { .. } | Event::Update { .. });
        if !may_be_dropped || self.events.len() < EVENTS_MAX {
            self.events.push_back(event);
        }
    }

    /// Puts events before all that wait; only right after the front was opened anew, when nothing is under way.
    pub(super) fn put_first(&mut self, events: Vec<Event>) {
        debug_assert!(!self.is_busy, "the numbers of the events would change");
        for event in events.into_iter().rev() {
            self.events.push_front(event);
        }
    }

    /// Whether everything was ordered.
    pub(super) fn is_empty(&self) -> bool {
        self.is_open && self.events.is_empty()
    }

    /// Whether the front is open.
    pub(super) const fn is_open(&self) -> bool {
        self.is_open
    }

    /// Whether the front is open in this run, as a directory says.
    pub(super) fn is_open_in(&self, front: Option<Front>) -> bool {
        front.is_some_and(|front| front.epoch == self.epoch && !front.lost)
    }

    /// The front was given up, as the directory says.
    pub(super) fn lost(&mut self) {
        self.is_open = false;
    }

    /// Sends what waits, unless something is under way.
    pub(super) fn start(&mut self) {
        let waits = self.retry_at.is_some_and(|at| at > Instant::now());
        if self.is_busy || waits || (self.is_open && self.events.is_empty()) {
            return;
        }
        self.retry_at = None;
        self.is_busy = true;
        let (front, epoch, limits) = (self.front, self.epoch, self.limits);
        let command = if self.is_open {
            Command::Batch {
                front,
                epoch,
                first: self.first,
                events: self.batch(),
                limits,
            }
        } else {
            Command::Open { front, epoch, limits }
        };
        let (link, carried) = (self.link.clone(), self.carried.clone());
        self.tasks.spawn(async move {
            // Fails when the service has ended.
            carried.send(link.order(command).await).await.ok();
        });
    }

    fn batch(&self) -> Vec<Event> {
        let mut bytes = 0;
        let has_room = |event: &&Event| {
            let room = bytes < BATCH_BYTES_MAX;
            bytes += size(event);
            room
        };
        let taken = self.events.iter().take(BATCH_EVENTS_MAX);
        taken.take_while(has_room).cloned().collect()
    }

    /// Takes note of what came of a batch.
    pub(super) fn carried(&mut self, carried: Carried) -> Opened {
        self.is_busy = false;
        let Some(front) = carried else {
            self.retry_at = Some(Instant::now() + RETRY);
            return Opened::Unchanged;
        };
        let was_open = self.is_open;
        match front.filter(|front| front.epoch == self.epoch) {
            Some(front) => {
                while self.first < front.next && self.events.pop_front().is_some() {
                    self.first += 1;
                }
                self.is_open = !front.lost;
            }
            None => self.is_open = false,
        }
        if self.is_open && !was_open {
            Opened::Anew
        } else {
            Opened::Unchanged
        }
    }
}

/// About how many bytes an event takes.
fn size(event: &Event) -> usize {
    const FIXED: usize = 32;
    FIXED
        + match event {
            Event::Claim(claim) => claim.nick.len() + claim.inf.len() + claim.offer.len() + 64,
            Event::Update { fields, .. } => fields.len(),
            Event::Say { text, .. } => text.len(),
            _ => 0,
        }
}
