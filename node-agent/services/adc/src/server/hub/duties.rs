//! What a member does unasked: it feels the other fronts' pulse, and, when it leads, gives lost ones up and ends what is
//! over.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use replication::{NodeId, Replica};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use tracing::warn;

use super::super::link::Link;
use super::{Client, Hub};
use crate::message::Sid;
use crate::state::{AdcState, Command, Event, Front, Limits, LinkId};

/// How often a front is asked whether it is there.
const PULSE: Duration = Duration::from_millis(200);
/// How often a front that did not answer is asked.
const PULSE_AGAIN: Duration = Duration::from_millis(60);
/// A front that was heard so recently is there.
const SURELY: Duration = Duration::from_millis(500);
/// A front that cannot be reached for so many questions in a row is lost. A front that is given up by mistake takes its
/// users back, and nobody notices.
const REFUSALS_MAX: u32 = 3;
/// A front that says nothing for so long is lost.
const SILENCE_MAX: Duration = Duration::from_secs(4);
/// How often the directory is asked for what is over.
const EXPIRE: Duration = Duration::from_secs(1);
/// How often the directory and the connections are compared.
const HEAL: Duration = Duration::from_secs(1);

/// What a member does unasked.
pub(super) struct Duties {
    link: Arc<Link>,
    me: NodeId,
    limits: Limits,
    peers: BTreeMap<NodeId, Pulse>,
    pulses: mpsc::Sender<(NodeId, bool)>,
    expire_at: Instant,
    /// Held by the command that is under way.
    is_busy: Arc<tokio::sync::Semaphore>,
    tasks: TaskTracker,
}

#[derive(Debug)]
struct Pulse {
    heard: Instant,
    ask_at: Instant,
    is_asked: bool,
    refusals: u32,
    /// Whether it ever answered this member.
    is_known: bool,
    /// Its last run that was seen, and whether that was given up.
    run: Option<(u64, bool)>,
    /// It began, or took its users back, and has not been reached since. That it could do so proves that it is there: the
    /// way to it may be another one now, as with a pod that came back under another address.
    is_new: bool,
}

impl Pulse {
    const fn new(now: Instant) -> Self {
        Self {
            heard: now,
            ask_at: now,
            is_asked: false,
            refusals: 0,
            is_known: false,
            run: None,
            is_new: false,
        }
    }

    /// It answered, or not.
    fn answered(&mut self, is_there: bool, now: Instant) {
        self.is_asked = false;
        if is_there {
            self.heard = now;
            (self.is_known, self.is_new) = (true, false);
            self.refusals = 0;
            self.ask_at = now + PULSE;
        } else {
            self.refusals += 1;
            self.ask_at = now + PULSE_AGAIN;
        }
    }

    /// What the directory says of it.
    fn seen(&mut self, front: Front, now: Instant) {
        let run = (front.epoch, front.lost);
        let before = self.run.replace(run);
        if !front.lost && before.is_some_and(|before| before != run) {
            self.is_new = true;
            self.refusals = 0;
            self.heard = now;
        }
    }

    fn is_lost(&self, now: Instant) -> bool {
        let refuses = self.refusals >= REFUSALS_MAX && !self.is_new;
        refuses || now.saturating_duration_since(self.heard) > SILENCE_MAX
    }
}

impl Duties {
    pub(super) fn new(
        link: Arc<Link>,
        me: NodeId,
        limits: Limits,
        tasks: TaskTracker,
    ) -> (Self, mpsc::Receiver<(NodeId, bool)>) {
        let (pulses, results) = mpsc::channel(64);
        let duties = Self {
            link,
            me,
            limits,
            peers: BTreeMap::new(),
            pulses,
            expire_at: Instant::now(),
            is_busy: Arc::new(tokio::sync::Semaphore::new(1)),
            tasks,
        };
        (duties, results)
    }

    /// Whether a front answered a moment ago.
    pub(super) fn is_surely_there(&self, front: NodeId) -> bool {
        self.peers
            .get(&front)
            .is_some_and(|pulse| pulse.is_known && pulse.refusals == 0 && pulse.heard.elapsed() < SURELY)
    }

    /// A front answered, or not.
    pub(super) fn pulse(&mut self, (peer, is_there): (NodeId, bool)) {
        if let Some(pulse) = self.peers.get_mut(&peer) {
            pulse.answered(is_there, Instant::now());
        }
    }

    pub(super) fn tick(&mut self, replica: &Replica<AdcState>, fronts: &[(NodeId, Front)]) {
        let members: Vec<NodeId> = replica.peers().into_iter().map(|peer| peer.id).collect();
        self.feel(&members);
        let now = Instant::now();
        for (id, front) in fronts {
            if let Some(pulse) = self.peers.get_mut(id) {
                pulse.seen(*front, now);
            }
        }
        if !self.link.leads() || !replica.lease().is_valid() {
            return;
        }
        let lost: Vec<(NodeId, u64)> = fronts
            .iter()
            .filter(|(id, front)| *id != self.me && !front.lost && self.is_lost(*id))
            .map(|(id, front)| (*id, front.epoch))
            .collect();
        if !lost.is_empty() {
            let limits = self.limits;
            if self.order(Command::Lose {
                fronts: lost.clone(),
                limits,
            }) {
                warn!(?lost, "fronts are lost; the places of their users are kept");
            }
        } else if self.expire_at <= Instant::now() {
            self.expire_at = Instant::now() + EXPIRE;
            if replica.local(|state| state.is_due(unix_ms())) {
                self.order(Command::Expire);
            }
        }
    }

    fn is_lost(&self, front: NodeId) -> bool {
        match self.peers.get(&front) {
            // It was removed from the group.
            None => true,
            Some(pulse) => pulse.is_lost(Instant::now()),
        }
    }

    /// Asks the members that are to be asked.
    fn feel(&mut self, members: &[NodeId]) {
        let now = Instant::now();
        self.peers.retain(|id, _| members.contains(id));
        for id in members {
            let pulse = self.peers.entry(*id).or_insert(Pulse::new(now));
            if pulse.is_asked || pulse.ask_at > now {
                continue;
            }
            pulse.is_asked = true;
            let (link, pulses, id) = (self.link.clone(), self.pulses.clone(), *id);
            self.tasks.spawn(async move {
                let is_there = link.ping(id).await;
                // Fails when the service has ended.
                pulses.send((id, is_there)).await.ok();
            });
        }
    }

    /// Orders a command, unless another one is under way.
    fn order(&self, command: Command) -> bool {
        let Ok(permit) = self.is_busy.clone().try_acquire_owned() else {
            return false;
        };
        let link = self.link.clone();
        self.tasks.spawn(async move {
            // What was not ordered is found again.
            link.order(command).await;
            drop(permit);
        });
        true
    }
}

impl Hub {
    /// Looks whether the directory and the connections agree.
    pub(super) fn check_front(&mut self) {
        let (front, is_told) = self
            .replica
            .local(|state| (state.front(self.me), state.next_effect() == self.cursor));
        if front.is_some_and(|front| front.lost) && self.conveyor.is_open() {
            warn!(
                front = self.me,
                "the front was given up by mistake; it takes its users back"
            );
            self.conveyor.lost();
        }
        if self.conveyor.is_empty() && is_told && self.heal_at <= Instant::now() {
            self.heal_at = Instant::now() + HEAL;
            self.heal();
            self.tidy_seconds();
        }
    }

    /// Nothing is under way, so users and connections have to be the same. They are, unless a batch came so late that its
    /// number was another's.
    fn heal(&mut self) {
        let me = self.me;
        let users: BTreeMap<LinkId, Sid> = self.replica.local(|state| {
            let links = state
                .users()
                .filter_map(|user| Some((user.home.link()?, user.sid)));
            links
                .filter(|((front, _), _)| *front == me)
                .map(|((_, link), sid)| (link, sid))
                .collect()
        });
        for (link, sid) in &users {
            if !self.clients.contains_key(link) {
                let departure = crate::state::Departure::Left;
                self.conveyor.put(Event::Leave { sid: *sid, departure });
            }
        }
        let is_missing = |(link, client): &(&LinkId, &Client)| {
            matches!(client, Client::User { .. }) && !users.contains_key(link)
        };
        if self.clients.iter().any(|client| is_missing(&client)) {
            let claims = self.claims_of_users();
            for claim in claims {
                let has_place = matches!(&claim, Event::Claim(claim) if users.contains_key(&claim.link));
                if !has_place {
                    self.conveyor.put(claim);
                }
            }
        }
    }
}

/// The clock of bans and of grace.
#[expect(
    clippy::disallowed_methods,
    reason = "a driver compares the log's time with the clock"
)]
pub(super) fn unix_ms() -> u64 {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn front_that_came_back_is_not_given_up_before_the_way_to_it_is_known() {
        let begin = Instant::now();
        let front = |epoch, lost| Front { epoch, next: 0, lost };
        let mut pulse = Pulse::new(begin);
        pulse.seen(front(1, false), begin);
        pulse.answered(true, begin);
        for _ in 0..REFUSALS_MAX {
            assert!(!pulse.is_lost(begin));
            pulse.answered(false, begin);
        }
        assert!(pulse.is_lost(begin), "nobody is there");
        pulse.seen(front(1, true), begin);
        // Another run of it begins; its old address still refuses.
        pulse.seen(front(2, false), begin);
        for _ in 0..10 * REFUSALS_MAX {
            pulse.answered(false, begin);
            pulse.seen(front(2, false), begin);
            assert!(!pulse.is_lost(begin), "it has just begun");
        }
        assert!(pulse.is_lost(begin + SILENCE_MAX * 2), "and was gone at once");
        pulse.answered(true, begin);
        for _ in 0..REFUSALS_MAX {
            pulse.answered(false, begin);
        }
        assert!(pulse.is_lost(begin), "once it was reached it counts as any other");
    }
}
