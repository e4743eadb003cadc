//! Lines from users of this member for users of others, and the reverse: outside the log, in order, each once.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use replication::NodeId;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::link::{Incoming, Link};
use crate::peer::{Question, Relayed};
use crate::state::Front;

/// Bytes that wait for one peer; further lines are dropped.
const QUEUE_BYTES_MAX: usize = 16 << 20;
/// Lines, and bytes, that go together.
const BATCH_LINES_MAX: usize = 8192;
const BATCH_BYTES_MAX: usize = 1 << 20;
/// How long a batch waits that did not come through.
const RETRY: Duration = Duration::from_millis(100);

/// What came of a batch: the peer, and the number of the line that it waits for now, if it came through.
pub(super) type Passed = (NodeId, Option<u64>);

/// The ways to the peers.
pub(super) struct Relays {
    link: Arc<Link>,
    me: NodeId,
    epoch: u64,
    queues: Queues,
    /// For each peer, its run, and the number of the line that comes next.
    expected: BTreeMap<NodeId, (u64, u64)>,
    passed: mpsc::Sender<Passed>,
    tasks: TaskTracker,
}

/// What waits for each peer.
#[derive(Debug, Default)]
struct Queues {
    peers: BTreeMap<NodeId, Outgoing>,
    /// Numbers below are spent: a peer that was forgotten, and is there again, waits for the next one.
    spent: u64,
}

#[derive(Debug, Default)]
struct Outgoing {
    /// The peer's run.
    epoch: u64,
    /// Its front is not given up.
    is_open: bool,
    first: u64,
    lines: VecDeque<Relayed>,
    bytes: usize,
    is_busy: bool,
    retry_at: Option<Instant>,
}

impl Relays {
    /// Ways without peers, and what comes of batches.
    pub(super) fn new(
        link: Arc<Link>,
        me: NodeId,
        epoch: u64,
        tasks: TaskTracker,
    ) -> (Self, mpsc::Receiver<Passed>) {
        // Each peer has one batch under way.
        let (passed, results) = mpsc::channel(64);
        let relays = Self {
            link,
            me,
            epoch,
            queues: Queues::default(),
            expected: BTreeMap::new(),
            passed,
            tasks,
        };
        (relays, results)
    }

    /// Takes note of the fronts of others. As soon as the directory has them: a user that was told of somebody can reach it.
    pub(super) fn set_peers(&mut self, fronts: impl Iterator<Item = (NodeId, Front)> + Clone) {
        let me = self.me;
        self.queues.set_peers(fronts.filter(move |(id, _)| *id != me));
    }

    /// Queues a line for the users of one peer.
    pub(super) fn put(&mut self, peer: NodeId, relayed: Relayed) {
        if let Some(peer) = self.queues.peers.get_mut(&peer) {
            peer.put(relayed);
        }
    }

    /// Queues a line for the users of all peers.
    pub(super) fn put_to_all(&mut self, relayed: &Relayed) {
        for peer in self.queues.peers.values_mut().filter(|peer| peer.is_open) {
            peer.put(relayed.clone());
        }
    }

    /// Sends what waits for peers to which nothing is under way. `seen` is how many effects were told here.
    pub(super) fn start(&mut self, seen: u64) {
        let now = Instant::now();
        for (id, peer) in &mut self.queues.peers {
            let is_put_off = peer.retry_at.is_some_and(|at| at > now);
            if !peer.is_open || peer.is_busy || peer.lines.is_empty() || is_put_off {
                continue;
            }
            peer.retry_at = None;
            peer.is_busy = true;
            let question = Question::Relay {
                epoch: self.epoch,
                first: peer.first,
                seen,
                from: self.me,
                lines: peer.batch(),
            };
            let (link, passed, id) = (self.link.clone(), self.passed.clone(), *id);
            self.tasks.spawn(async move {
                let next = link.relay(id, &question).await;
                // Fails when the service has ended.
                passed.send((id, next)).await.ok();
            });
        }
    }

    /// Takes note of what came of a batch.
    pub(super) fn passed(&mut self, (peer, next): Passed) {
        let Some(peer) = self.queues.peers.get_mut(&peer) else {
            return;
        };
        peer.is_busy = false;
        match next {
            None => peer.retry_at = Some(Instant::now() + RETRY),
            Some(next) => {
                while peer.first < next
                    && let Some(line) = peer.lines.pop_front()
                {
                    peer.bytes -= size(&line);
                    peer.first += 1;
                }
            }
        }
    }

    /// The lines of a batch that are new, and the number of the next one.
    pub(super) fn new_lines(&mut self, incoming: &mut Incoming) -> (Vec<Relayed>, u64) {
        let (first, epoch) = (incoming.first, incoming.epoch);
        let (known, next) = *self.expected.get(&incoming.from).unwrap_or(&(epoch, first));
        let next = if known == epoch { next } else { first };
        let lines = std::mem::take(&mut incoming.lines);
        let end = first.saturating_add(lines.len() as u64).max(next);
        self.expected.insert(incoming.from, (epoch, end));
        let skipped = usize::try_from(next.saturating_sub(first)).unwrap_or(usize::MAX);
        (lines.into_iter().skip(skipped).collect(), end)
    }
}

impl Queues {
    /// What waits for another run of one was for users that are gone. A front that is given up gets nothing new, but what
    /// waited, if it takes its users back.
    fn set_peers(&mut self, fronts: impl Iterator<Item = (NodeId, Front)> + Clone) {
        for (id, front) in fronts.clone() {
            let first = self.spent;
            let peer = self.peers.entry(id).or_insert_with(|| Outgoing {
                epoch: front.epoch,
                first,
                ..Outgoing::default()
            });
            if peer.epoch != front.epoch {
                peer.epoch = front.epoch;
                peer.first = peer.end();
                peer.lines.clear();
                peer.bytes = 0;
            }
            peer.is_open = !front.lost;
        }
        if self.peers.len() > fronts.clone().count() {
            let forgotten = |id: &NodeId| fronts.clone().all(|(front, _)| front != *id);
            for (_, peer) in self.peers.extract_if(.., |id, _| forgotten(id)) {
                self.spent = self.spent.max(peer.end());
            }
        }
    }
}

impl Outgoing {
    /// The number of the line that is put next.
    fn end(&self) -> u64 {
        self.first + self.lines.len() as u64
    }

    fn put(&mut self, line: Relayed) {
        let size = size(&line);
        if self.is_open && self.bytes + size <= QUEUE_BYTES_MAX {
            self.bytes += size;
            self.lines.push_back(line);
        }
    }

    fn batch(&self) -> Vec<Relayed> {
        let mut bytes = 0;
        let has_room = |line: &&Relayed| {
            let room = bytes < BATCH_BYTES_MAX;
            bytes += size(line);
            room
        };
        let taken = self.lines.iter().take(BATCH_LINES_MAX);
        taken.take_while(has_room).cloned().collect()
    }
}

fn size(relayed: &Relayed) -> usize {
    const FIXED: usize = 64;
    FIXED + relayed.line.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::Reach;

    const PEER: NodeId = 2;

    fn line(text: &str) -> Relayed {
        Relayed {
            reach: Reach::All,
            line: text.to_owned(),
        }
    }

    fn front(epoch: u64, lost: bool) -> (NodeId, Front) {
        (PEER, Front { epoch, next: 1, lost })
    }

    fn waiting(queues: &Queues) -> (u64, Vec<&str>) {
        let peer = &queues.peers[&PEER];
        (
            peer.first,
            peer.lines.iter().map(|line| line.line.as_str()).collect(),
        )
    }

    #[test]
    fn a_front_that_takes_its_users_back_waits_for_the_same_numbers() {
        let mut queues = Queues::default();
        queues.set_peers([front(7, false)].into_iter());
        for text in ["a", "b"] {
            queues.peers.get_mut(&PEER).unwrap().put(line(text));
        }
        queues.set_peers([front(7, true)].into_iter());
        queues.peers.get_mut(&PEER).unwrap().put(line("to nobody"));
        queues.set_peers([front(7, false)].into_iter());
        queues.peers.get_mut(&PEER).unwrap().put(line("c"));
        assert_eq!(waiting(&queues), (0, vec!["a", "b", "c"]));
    }

    #[test]
    fn another_run_gets_nothing_old_and_no_number_twice() {
        let mut queues = Queues::default();
        queues.set_peers([front(7, false)].into_iter());
        queues.peers.get_mut(&PEER).unwrap().put(line("a"));
        queues.set_peers([front(8, false)].into_iter());
        queues.peers.get_mut(&PEER).unwrap().put(line("b"));
        assert_eq!(waiting(&queues), (1, vec!["b"]));
        queues.set_peers(std::iter::empty());
        assert!(queues.peers.is_empty());
        queues.set_peers([front(8, false)].into_iter());
        queues.peers.get_mut(&PEER).unwrap().put(line("c"));
        assert_eq!(waiting(&queues), (2, vec!["c"]));
    }
}
