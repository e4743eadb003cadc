//! The leader's loop: wait for one event, hand it to the session it is about, carry out what the session says.

mod blocks;
mod ports;
mod record;
mod timers;
mod uploads;
mod way;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, StreamExt as _};
use replication::{Leadership, ProposeError, Shutdown};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tracing::{info, warn};

use crate::content::ContentError;
use crate::packet::{self, ErrorCode, Packet, Request, RequestKind};
use crate::server::Context;
use crate::server::metrics::end_name;
use crate::server::open::{self, Opened, Refusal};
use crate::server::relay::Relayed;
use crate::server::session::Session;
use crate::server::socket::{Batch, DATAGRAM_BYTES_MAX, Datagram, ServerSocket, unspecified};
use crate::state::{Outcome, SessionId, SessionKey};
use crate::transfer::{End, Input, Output};
use uploads::{Incoming, Progress};
use way::Way;

/// Requests that may be on their way to a session at once; further ones are dropped, and their clients ask again.
const OPENING_MAX: usize = 1024;
/// For how long datagrams are taken in before timers and finished work get their turn.
const TURN_MAX: Duration = Duration::from_micros(500);
/// Datagrams that follow each other within this are worth looking for the next one.
const QUICK: Duration = Duration::from_micros(100);
/// For how long it is looked for; the processor does nothing else for us meanwhile.
const LOOK_MAX: Duration = Duration::from_micros(50);
/// How often the other members are told how far the clients are. A new leader is behind by this much, and by what the
/// network takes.
const TELL_INTERVAL: Duration = Duration::from_millis(2);
/// How long ended sessions wait to be recorded again after that failed.
const CLOSE_RETRY: Duration = Duration::from_secs(1);
/// A timer that fires this late was held up with everything else: answers may wait that make it needless.
const LATE: Duration = Duration::from_millis(20);

/// What a job of the leader found out.
enum Done {
    Opened {
        key: SessionKey,
        opened: Opened,
        since: Duration,
    },
    Checkpointed(Vec<(SessionId, u64)>, Result<Outcome, ProposeError>),
    Closed(Vec<SessionId>, Result<Outcome, ProposeError>),
    Loaded(SessionKey, Result<(), ContentError>),
    LoadedAhead,
    Uploading(SessionKey, u64, Progress),
}

#[expect(
    clippy::large_enum_variant,
    reason = "one at a time, on the stack: boxing would allocate for each job"
)]
enum Event {
    Stop,
    Look,
    Readable,
    Timer,
    Done(Done),
    Relayed(Relayed),
}

/// The front while this member leads.
pub(crate) struct Leader {
    context: Arc<Context>,
    way: Way,
    term: u64,
    /// Times are counted from here.
    epoch: Instant,
    sessions: BTreeMap<SessionKey, Session>,
    keys: BTreeMap<SessionId, SessionKey>,
    opening: BTreeSet<SessionKey>,
    /// Each session is in here at least once, at its deadline or earlier.
    timers: BinaryHeap<Reverse<(Duration, SessionId)>>,
    jobs: FuturesUnordered<BoxFuture<'static, Done>>,
    closing: Vec<SessionId>,
    close_runs: bool,
    /// Not before this: the last attempt failed.
    close_at: Duration,
    checkpoints: BTreeMap<SessionId, u64>,
    checkpoint_runs: bool,
    moved: Vec<SessionKey>,
    told_at: Duration,
    /// When datagrams came last.
    heard_at: Duration,
    scratch: Vec<u8>,
    incoming: Incoming,
}

impl Leader {
    pub(crate) fn new(context: Arc<Context>, socket: ServerSocket, term: u64) -> Self {
        Self {
            way: Way::new(socket, context.replica.lease()),
            context,
            term,
            epoch: Instant::now(),
            sessions: BTreeMap::new(),
            keys: BTreeMap::new(),
            opening: BTreeSet::new(),
            timers: BinaryHeap::new(),
            jobs: FuturesUnordered::new(),
            closing: Vec::new(),
            close_runs: false,
            close_at: Duration::ZERO,
            checkpoints: BTreeMap::new(),
            checkpoint_runs: false,
            moved: Vec::new(),
            told_at: Duration::ZERO,
            heard_at: Duration::ZERO,
            scratch: Vec::with_capacity(DATAGRAM_BYTES_MAX),
            incoming: Incoming::default(),
        }
    }

    fn now(&self) -> Duration {
        self.epoch.elapsed()
    }

    /// Serves until this member no longer leads, or stops.
    pub(crate) async fn run(
        mut self,
        leadership: &mut watch::Receiver<Leadership>,
        relayed: &mut mpsc::Receiver<Relayed>,
        until: &Shutdown,
    ) {
        let address_moves = self.context.options.address_moves.is_some();
        let mut batch = self.context.options.batch();
        self.take_over(&mut batch);
        let timer = tokio::time::sleep_until(self.epoch);
        tokio::pin!(timer);
        // Outside the loop: to wait anew costs a lock, with each packet.
        let stop = until.requested();
        tokio::pin!(stop);
        loop {
            self.propose();
            self.tell();
            let timer_due = self.next_wake();
            let wake = self.epoch + timer_due;
            if timer.deadline() != wake {
                timer.as_mut().reset(wake);
            }
            let event = tokio::select! {
                biased;
                () = &mut stop => Event::Stop,
                changed = leadership.changed() => if changed.is_ok() { Event::Look } else { Event::Stop },
                Some(done) = self.jobs.next(), if !self.jobs.is_empty() => Event::Done(done),
                // Before the socket: under a flood it is always readable.
                () = &mut timer => Event::Timer,
                Some(relayed) = relayed.recv(), if address_moves => Event::Relayed(relayed),
                readable = self.way.socket.readable() => match readable {
                    Ok(()) => Event::Readable,
                    Err(error) => {
                        warn!(%error, "the listener failed");
                        Event::Stop
                    }
                },
            };
            // Before anything is read or sent: a process that was paused finds out here that it was deposed.
            let leads = *leadership.borrow() == Leadership::Leader { term: self.term };
            if !leads || !self.way.is_lease_valid() {
                break;
            }
            match event {
                Event::Stop => break,
                Event::Look => {}
                Event::Readable => self.receive(&mut batch),
                Event::Timer => {
                    if self.epoch.elapsed() > timer_due + LATE {
                        self.receive(&mut batch);
                    }
                    self.way.is_unasked = true;
                    self.fire();
                    self.fire_uploads();
                    self.way.is_unasked = false;
                }
                Event::Done(done) => self.finish_job(done),
                Event::Relayed(relayed) => self.take_relayed(&relayed),
            }
        }
        let leads_on = *leadership.borrow() == Leadership::Leader { term: self.term };
        self.say_last_words(until.is_requested() || !leads_on);
    }

    /// Takes over every live session and sends at once what its client may be waiting for. What clients sent since the
    /// old leader died is read first: an ACK that waits there says better than anything where its client is.
    fn take_over(&mut self, batch: &mut Batch) {
        let records: Vec<_> = self
            .context
            .replica
            .local(|state| state.sessions().cloned().collect());
        let exact = self.context.board.is_exact_for(self.term);
        // Behind a Service the client speaks first: a packet from here would take the place that the nodes' address
        // translation needs to lead the client to this member under its own port.
        let speaks_first = self.context.options.address_moves.is_some();
        let limits = self.context.options.limits;
        if !records.is_empty() {
            info!(
                term = self.term,
                sessions = records.len(),
                exact,
                "taking transfers over"
            );
        }
        for record in records {
            let now = self.now();
            let told = self.context.board.position(record.id);
            let session = Session::resume(&record, told, exact, speaks_first, limits, now);
            self.context.options.metrics.resumed();
            self.enter(record.fixed.key, session);
        }
        if self.way.is_lease_valid() {
            self.receive(batch);
            for key in self.keys.values().copied().collect::<Vec<_>>() {
                self.carry_out(key);
            }
        }
    }

    /// Enters a session and does what it says first.
    fn admit(&mut self, key: SessionKey, session: Session) {
        self.enter(key, session);
        self.carry_out(key);
    }

    fn enter(&mut self, key: SessionKey, session: Session) {
        self.keys.insert(session.id, key);
        if let Some(replaced) = self.sessions.insert(key, session) {
            self.keys.remove(&replaced.id);
        }
        self.context.options.metrics.sessions(self.sessions.len());
    }

    /// Takes datagrams in and answers them. When they follow each other quickly, it looks for the next one for a moment
    /// instead of going to sleep: to be woken up takes longer than a client on a fast network takes to answer.
    fn receive(&mut self, batch: &mut Batch) {
        let began = self.now();
        let mut now = began;
        let mut looks_until = now;
        // The lease, because the look lasts: see `run`.
        while now < began + TURN_MAX && self.way.is_lease_valid() {
            if let Err(error) = self.way.socket.try_receive(batch) {
                return warn!(%error, "receiving failed");
            }
            let mut packets = 0;
            for datagram in batch.datagrams(self.way.socket.bound()) {
                packets += 1;
                self.way.straight(SessionKey::new(datagram.peer, datagram.local));
                self.handle_datagram(datagram);
            }
            if packets > 0 {
                self.context.options.metrics.received(packets);
                if now.saturating_sub(self.heard_at) < QUICK {
                    looks_until = now + LOOK_MAX;
                }
                self.heard_at = now;
            } else if self.way.socket.is_drained() {
                std::thread::yield_now();
            }
            now = self.now();
            // What others must know goes out before the next look: a client waits for it, and so does a new leader.
            let waits = !self.checkpoints.is_empty() && !self.checkpoint_runs;
            if waits || (self.way.socket.is_drained() && now >= looks_until) {
                return;
            }
        }
    }

    /// What came to another member.
    fn take_relayed(&mut self, relayed: &Relayed) {
        if relayed.back.is_closed() {
            return;
        }
        let local = unspecified(self.way.socket.bound());
        for (peer, bytes) in &relayed.datagrams {
            let (peer, key) = (*peer, SessionKey::new(*peer, local));
            // One that was heard here already is led here: this is an old one that was under way for long.
            let is_late = self.sessions.get(&key).is_some_and(|session| session.is_led_here);
            if !is_late && self.way.by(key, &relayed.back) {
                self.handle_datagram(Datagram { peer, local, bytes });
            }
        }
    }

    fn handle_datagram(&mut self, datagram: Datagram<'_>) {
        let key = SessionKey::new(datagram.peer, datagram.local);
        let input = match Packet::decode(datagram.bytes) {
            Ok(Packet::Ack(block)) => Input::Ack(block),
            Ok(Packet::Error { code, .. }) if self.handle_upload_error(key, code) => return,
            Ok(Packet::Error { code, .. }) => Input::PeerError { code },
            Ok(Packet::Data { block, payload }) => return self.handle_block(key, block, payload),
            Ok(Packet::Request(request)) => return self.handle_request(key, request),
            // Nobody sends an OACK to a server; to answer would invite loops.
            Ok(Packet::Oack(_)) => return,
            Err(error) => {
                // Only what looks like a request is answered: an ERROR must never be (RFC 1350 §7).
                if let Some(code) = error.error_code()
                    && open::is_answered(&key)
                {
                    self.context.options.metrics.request("malformed");
                    self.send_error(key, code, &error.to_string());
                }
                return;
            }
        };
        // An unknown client is not told "unknown transfer": right after a change of leader, or on a packet that was
        // long under way, the ERROR would end a transfer that is well.
        self.way.ports.is_at_its_own(key);
        if !self.hear(key, input)
            && let Some(session) = self.session_behind(key, input)
        {
            self.hear(session, input);
        }
    }

    /// What a session's client says; whether there is the session.
    fn hear(&mut self, key: SessionKey, input: Input) -> bool {
        let now = self.now();
        let Some(session) = self.sessions.get_mut(&key) else {
            return false;
        };
        session.wake(now);
        session.is_led_here |= self.way.is_straight(key);
        session.transfer.handle(input, now);
        self.carry_out(key);
        true
    }

    fn handle_request(&mut self, key: SessionKey, request: Request) {
        if !open::is_answered(&key) {
            return self.context.options.metrics.request("ignored");
        }
        if request.kind == RequestKind::Write {
            return self.handle_write(key, &request);
        }
        let (path, mode) = match open::check(&request) {
            Ok(checked) => checked,
            Err(refusal) => return self.refuse(key, &refusal),
        };
        if let Some(session) = self.sessions.get_mut(&key)
            && session.acked().is_none()
            && session.fixed.path == path
            && session.fixed.mode == mode
        {
            // The first answer was lost, or is slow.
            session.wake(self.epoch.elapsed());
            session
                .transfer
                .handle(Input::RepeatedRequest, self.epoch.elapsed());
            return self.carry_out(key);
        }
        if self.opening.len() >= OPENING_MAX || !self.opening.insert(key) {
            return;
        }
        let (context, since) = (self.context.clone(), self.now());
        let job = async move {
            Done::Opened {
                key,
                opened: open::open(context, key, request, path, mode).await,
                since,
            }
        };
        self.jobs.push(job.boxed());
    }

    fn refuse(&self, key: SessionKey, refusal: &Refusal) {
        self.context.options.metrics.request(refusal.result);
        info!(peer = %key.peer(), reason = refusal.message, "request refused");
        self.send_error(key, refusal.code, &refusal.message);
    }

    fn send_error(&self, key: SessionKey, code: ErrorCode, message: &str) {
        let bytes = packet::encode_error(code, message);
        self.way.send(key, &bytes, bytes.len());
    }

    fn finish_job(&mut self, done: Done) {
        match done {
            Done::Opened { key, opened, since } => {
                self.opening.remove(&key);
                match opened {
                    Opened::Session { id, fixed } => {
                        let now = self.now();
                        self.context.options.metrics.request("opened");
                        self.context
                            .options
                            .metrics
                            .opened_after((now - since).as_secs_f64());
                        self.admit(key, Session::open(id, fixed, self.context.options.limits, now));
                    }
                    Opened::Refused(refusal) => self.refuse(key, &refusal),
                    Opened::Nothing => self.context.options.metrics.request("unknown"),
                }
            }
            Done::Checkpointed(positions, result) => {
                self.checkpoint_runs = false;
                // What was not stored is asked for again by the transfers themselves.
                if result.is_ok() {
                    for (id, block) in positions {
                        self.handle(id, Input::CheckpointCommitted(block));
                    }
                }
            }
            Done::Closed(ids, result) => {
                self.close_runs = false;
                if result.is_err() {
                    self.closing.extend(ids);
                    self.close_at = self.now() + CLOSE_RETRY;
                }
            }
            Done::Loaded(key, loaded) => self.finish_load(key, loaded),
            Done::LoadedAhead => {}
            Done::Uploading(key, id, progress) => self.finish_upload_job(key, id, progress),
        }
    }

    fn handle(&mut self, id: SessionId, input: Input) {
        let now = self.now();
        if let Some(key) = self.keys.get(&id).copied()
            && let Some(session) = self.sessions.get_mut(&key)
        {
            session.transfer.handle(input, now);
            self.carry_out(key);
        }
    }

    /// Does what a session says until it says no more, and sets its timer.
    fn carry_out(&mut self, key: SessionKey) {
        while let Some(session) = self.sessions.get_mut(&key).filter(|session| !session.is_asleep()) {
            let Some(output) = session.transfer.poll_output() else {
                break;
            };
            match output {
                Output::SendOack => {
                    let oack = session.fixed.oack.clone();
                    self.way.send(key, &oack, oack.len());
                    self.context.options.metrics.sent(1, 0);
                }
                Output::SendData { first, count } => self.send_data(key, first, count),
                Output::Checkpoint(block) => {
                    self.checkpoints.insert(session.id, block);
                }
                Output::Closed(end) => return self.end(key, end),
            }
        }
        let Some(session) = self.sessions.get_mut(&key) else {
            return;
        };
        if session.acked().is_some() && !session.moved {
            session.moved = true;
            self.moved.push(key);
            if session.acked() == Some(0) {
                // Whether the OACK was acknowledged is the one position that a new leader cannot find out by trying.
                self.told_at = Duration::ZERO;
            }
        }
        let deadline = session.deadline();
        if deadline < session.scheduled {
            session.scheduled = deadline;
            self.timers.push(Reverse((deadline, session.id)));
        }
    }

    fn end(&mut self, key: SessionKey, end: End) {
        let Some(session) = self.sessions.remove(&key) else {
            return;
        };
        self.keys.remove(&session.id);
        self.way.straight(key);
        self.way.ports.forget(key);
        self.closing.push(session.id);
        self.context.options.metrics.ended(end);
        self.context.options.metrics.sessions(self.sessions.len());
        let seconds = (self.now() - session.since).as_secs_f64();
        info!(
            peer = %key.peer(),
            file = %session.fixed.path,
            bytes = session.fixed.size,
            blocks_sent = session.sent,
            seconds,
            end = end_name(end),
            "transfer ended"
        );
    }
}
