//! Whole downloads: a [`Transfer`], a model of a client, and a seeded link between them that loses, repeats and
//! reorders, with changes of leader in between. Time is simulated. A failure names its case, seed included.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::client::{Answer, Client, Kind, Packet, content};
use super::*;

/// SplitMix64: small, seeded, the same on every machine.
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// One download.
#[derive(Debug, Clone)]
struct Case {
    seed: u64,
    kind: Kind,
    terms: Terms,
    loss_percent: u64,
    repeat_percent: u64,
    /// How much later than others a packet may come.
    jitter: Duration,
    one_way: Duration,
    commit: Duration,
    /// A new leader each time the client has this many blocks.
    fail_over_at: Vec<u64>,
    /// How old the position is that the new leader knows, in blocks: fewer than this.
    stale_below: u64,
    planned: bool,
}

/// What is to happen.
#[derive(Debug)]
enum Event {
    ToClient(Packet),
    ToServer(Answer),
    Committed { checkpoint: u64, leader: u32 },
    LeaderIsBack,
}

/// What a download cost.
#[derive(Debug, Default)]
struct Cost {
    blocks_sent: u64,
    client_timeouts: u32,
    took: Duration,
    /// The longest wait of the client for a new block.
    longest_gap: Duration,
}

struct Simulation {
    case: Case,
    random: Random,
    now: Duration,
    events: BTreeMap<(Duration, u64), Event>,
    sequence: u64,
    client: Client,
    /// `None` while no leader serves.
    server: Option<Transfer>,
    leader: u32,
    committed: Position,
    known: Known,
    last_progress: (u64, Duration),
    cost: Cost,
}

/// Patient enough for curl's 72 s.
const PATIENT: Limits = Limits {
    retransmissions_max: 40,
    idle_max: Duration::from_secs(300),
};
/// Between the death of a leader and the first packet of the next.
const ELECTION: Duration = Duration::from_millis(300);

impl Simulation {
    fn new(case: Case) -> Self {
        let terms = case.terms;
        let start = if terms.has_oack {
            Position::Unheard
        } else {
            Position::Acked(0)
        };
        Self {
            random: Random(case.seed),
            now: Duration::ZERO,
            events: BTreeMap::new(),
            sequence: 0,
            client: Client::new(
                case.kind,
                terms.length,
                terms.block_size,
                terms.window_size,
                terms.has_oack,
            ),
            server: Some(Transfer::open(terms, PATIENT, Duration::ZERO)),
            leader: 0,
            committed: start,
            known: Known {
                position: Position::Unheard,
                checkpoint: start,
                exact: false,
            },
            last_progress: (0, Duration::ZERO),
            cost: Cost::default(),
            case,
        }
    }

    fn run(mut self) -> Cost {
        self.case.fail_over_at.sort_by_key(|&block| Reverse(block));
        self.drain();
        while !self.client.finished {
            assert!(self.now < Duration::from_secs(100_000), "no end");
            self.step();
            if self.client.block != self.last_progress.0 {
                self.cost.longest_gap = self.cost.longest_gap.max(self.now - self.last_progress.1);
                self.last_progress = (self.client.block, self.now);
            }
            let due = self
                .case
                .fail_over_at
                .last()
                .is_some_and(|&block| self.client.block >= block);
            if due && self.server.is_some() {
                self.case.fail_over_at.pop();
                self.kill_leader();
            }
        }
        self.cost.client_timeouts = self.client.timeouts;
        self.cost.took = self.now;
        self.cost
    }

    /// The next thing that happens, wherever.
    fn step(&mut self) {
        let event_at = self
            .events
            .first_key_value()
            .map_or(Duration::MAX, |(&(at, _), _)| at);
        let server_at = self.server.as_ref().map_or(Duration::MAX, Transfer::deadline);
        let client_at = self.client.deadline();
        let now = event_at.min(server_at).min(client_at);
        assert!(now < Duration::MAX, "deadlock");
        self.now = self.now.max(now);
        if now == event_at {
            let (_, event) = self.events.pop_first().unwrap();
            self.handle_event(event);
        } else if now == server_at {
            self.tell_server(Input::Deadline);
        } else {
            let answer = self.client.handle_timeout(self.now);
            self.send(|| Event::ToServer(answer));
        }
    }

    fn handle_event(&mut self, event: Event) {
        match event {
            Event::ToClient(packet) => {
                if let Some(answer) = self.client.receive(&packet, self.now) {
                    self.send(|| Event::ToServer(answer));
                }
            }
            Event::ToServer(Answer::Request) => self.tell_server(Input::RepeatedRequest),
            Event::ToServer(Answer::Ack(number)) => self.tell_server(Input::Ack(number)),
            Event::Committed { checkpoint, leader } => {
                if leader == self.leader && self.server.is_some() {
                    self.committed = self.committed.max(Position::Acked(checkpoint));
                    self.tell_server(Input::CheckpointCommitted(checkpoint));
                } else if self.server.is_none() && self.random.chance(50) {
                    // The leader died before it learnt of the commit.
                    self.committed = self.committed.max(Position::Acked(checkpoint));
                }
            }
            Event::LeaderIsBack => {
                self.known.checkpoint = self.committed;
                let server = Transfer::resume(self.case.terms, PATIENT, self.known, self.now);
                self.server = Some(server);
                self.drain();
            }
        }
    }

    fn tell_server(&mut self, input: Input) {
        if let Some(server) = &mut self.server {
            server.handle(input, self.now);
            self.drain();
        }
    }

    fn drain(&mut self) {
        while let Some(output) = self.server.as_mut().and_then(Transfer::poll_output) {
            match output {
                Output::SendOack => self.send(|| Event::ToClient(Packet::Oack)),
                Output::SendData { first, count } => {
                    let limit = self.committed.block() + 32_767 - u64::from(self.case.terms.window_size);
                    assert!(
                        first + u64::from(count) - 1 <= limit,
                        "beyond what an ACK can tell"
                    );
                    for block in first..first + u64::from(count) {
                        self.cost.blocks_sent += 1;
                        let packet = self.block(block);
                        self.send(|| Event::ToClient(packet.clone()));
                    }
                }
                Output::Checkpoint(checkpoint) => {
                    let at = self.now + self.case.commit;
                    self.schedule(
                        at,
                        Event::Committed {
                            checkpoint,
                            leader: self.leader,
                        },
                    );
                }
                Output::Closed(end) => {
                    assert_eq!(end, End::Complete);
                    assert!(self.client.finished, "closed at block {}", self.client.block);
                }
            }
        }
    }

    fn block(&self, block: u64) -> Packet {
        let Terms {
            length, block_size, ..
        } = self.case.terms;
        let start = (block - 1) * u64::from(block_size);
        let end = (start + u64::from(block_size)).min(length);
        Packet::Data {
            number: wire_number(block),
            payload: (start..end).map(content).collect(),
        }
    }

    fn kill_leader(&mut self) {
        let server = self.server.take().unwrap();
        let real = server.position();
        let stale = if self.case.planned {
            0
        } else {
            self.random.below(self.case.stale_below)
        };
        let block = real.block().saturating_sub(stale);
        let nothing_heard = real == Position::Unheard || block == 0 && !self.case.terms.has_oack;
        let unsure = block == 0 && self.committed == Position::Unheard && self.random.chance(50);
        let position = if nothing_heard || unsure {
            Position::Unheard
        } else {
            Position::Acked(block)
        };
        self.known = Known {
            position,
            checkpoint: self.committed,
            exact: self.case.planned,
        };
        self.leader += 1;
        let gap = if self.case.planned {
            self.case.one_way
        } else {
            ELECTION
        };
        self.schedule(self.now + gap, Event::LeaderIsBack);
    }

    /// Over the link: lost, repeated, late.
    fn send(&mut self, event: impl Fn() -> Event) {
        let copies = 1 + u32::from(self.random.chance(self.case.repeat_percent));
        for _ in 0..copies {
            if self.random.chance(self.case.loss_percent) {
                continue;
            }
            let late = self
                .random
                .below(1 + u64::try_from(self.case.jitter.as_micros()).unwrap());
            self.schedule(
                self.now + self.case.one_way + Duration::from_micros(late),
                event(),
            );
        }
    }

    fn schedule(&mut self, at: Duration, event: Event) {
        self.sequence += 1;
        self.events.insert((at, self.sequence), event);
    }
}

/// Runs the download; a panic inside names the case first.
fn run(case: Case) -> Cost {
    let told = case.clone();
    catch_unwind(AssertUnwindSafe(|| Simulation::new(case).run())).unwrap_or_else(|panic| {
        eprintln!("this download failed: {told:?}");
        std::panic::resume_unwind(panic)
    })
}

const LOCKSTEP: [Kind; 5] = [Kind::Plain, Kind::Hpa, Kind::Curl, Kind::Grub, Kind::Uefi];
const WITH_WINDOW: [Kind; 2] = [Kind::Uefi, Kind::Windowed];

/// A perfect link of 1 ms there and back.
fn perfect(seed: u64, kind: Kind, length: u64, block_size: u16, window_size: u16, has_oack: bool) -> Case {
    Case {
        seed,
        kind,
        terms: Terms {
            length,
            block_size,
            window_size,
            timeout: None,
            has_oack,
            one_oack: kind == Kind::Atftp && has_oack,
        },
        loss_percent: 0,
        repeat_percent: 0,
        jitter: Duration::ZERO,
        one_way: Duration::from_micros(500),
        commit: ms(2),
        fail_over_at: vec![],
        stale_below: 1,
        planned: false,
    }
}

fn bad_link(case: Case) -> Case {
    Case {
        loss_percent: 5,
        repeat_percent: 5,
        jitter: ms(3),
        ..case
    }
}

/// All clients, with and without options, over sizes at the borders.
fn downloads(seed: u64) -> Vec<Case> {
    let mut cases = vec![];
    for (length, block_size) in [
        (0, 512),
        (1, 512),
        (511, 512),
        (512, 512),
        (5120, 512),
        (100_003, 1468),
        (4096, 8),
    ] {
        for kind in LOCKSTEP {
            for has_oack in [false, true] {
                cases.push(perfect(seed, kind, length, block_size, 1, has_oack));
            }
        }
        for kind in WITH_WINDOW {
            for window in [2, 8, 64] {
                cases.push(perfect(seed, kind, length, block_size, window, true));
            }
        }
    }
    cases
}

fn block_count(case: &Case) -> u64 {
    case.terms.length / u64::from(case.terms.block_size) + 1
}

#[track_caller]
fn at_most<T: PartialOrd + Debug>(value: T, max: T, what: &str, case: &Case) {
    assert!(value <= max, "{what}: {value:?} > {max:?} in {case:?}");
}

#[test]
fn perfect_link_sends_each_block_once() {
    for case in downloads(1) {
        let cost = run(case.clone());
        assert_eq!(cost.blocks_sent, block_count(&case), "{case:?}");
        assert_eq!(cost.client_timeouts, 0, "{case:?}");
    }
}

// RFC 1123 §4.2.3.1: each packet twice, and still each block is sent once.
#[test]
fn repeated_packets_raise_no_sorcerers_apprentice() {
    for case in downloads(2)
        .into_iter()
        .filter(|case| case.terms.window_size == 1)
    {
        let cost = run(Case {
            repeat_percent: 100,
            ..case.clone()
        });
        assert_eq!(cost.blocks_sent, block_count(&case), "{case:?}");
    }
}

#[test]
fn any_client_gets_its_file_over_a_bad_link() {
    for seed in 0..20 {
        for case in downloads(seed) {
            let cost = run(bad_link(case.clone()));
            // Each late packet looks like a lost one to a client with a window; yet nothing may run wild.
            at_most(
                cost.blocks_sent,
                20 + 10 * block_count(&case),
                "blocks sent",
                &case,
            );
        }
    }
}

/// Loss alone: a lost block costs about a burst, and no duplicates feed on themselves.
#[test]
fn loss_costs_little() {
    for (kind, window) in [
        (Kind::Curl, 1),
        (Kind::Uefi, 4),
        (Kind::Uefi, 16),
        (Kind::Windowed, 16),
        (Kind::Uefi, 64),
    ] {
        let case = Case {
            loss_percent: 1,
            ..perfect(7, kind, 512 * 10_000, 512, window, true)
        };
        let cost = run(case.clone());
        eprintln!(
            "{kind:?} {window} {} {:?} {}",
            cost.blocks_sent, cost.took, cost.client_timeouts
        );
        at_most(cost.blocks_sent, 13_000, "blocks sent", &case);
    }
}

#[test]
fn download_rolls_over_and_stays_identical() {
    for (kind, window) in [
        (Kind::Curl, 1),
        (Kind::Grub, 1),
        (Kind::Uefi, 16),
        (Kind::Windowed, 64),
    ] {
        let length = 8 * 140_000 + 3;
        let case = perfect(3, kind, length, 8, window, true);
        assert_eq!(run(case.clone()).blocks_sent, block_count(&case));
        run(Case {
            loss_percent: 1,
            fail_over_at: vec![65_500, 65_530, 65_540, 131_060],
            stale_below: 64,
            ..case
        });
    }
}

/// Leaders die at random points; positions are up to 64 blocks old.
#[test]
fn loss_of_leaders_on_a_bad_link_keeps_the_file() {
    for seed in 0..30 {
        for case in downloads(seed) {
            let blocks = block_count(&case);
            let mut random = Random(seed ^ 0xfa11);
            let fail_over_at = (0..3).map(|_| random.below(blocks)).collect();
            run(bad_link(Case {
                fail_over_at,
                stale_below: 65,
                ..case
            }));
        }
    }
}

/// Without loss, clients that never repeat an ACK notice nothing: no time-out of theirs, and no long wait.
#[test]
fn loss_of_a_leader_without_loss_of_packets_is_unnoticed() {
    for seed in 0..60 {
        for case in downloads(seed) {
            let blocks = block_count(&case);
            let mut random = Random(seed ^ 0x10ad);
            let fail_over_at = vec![random.below(blocks)];
            let case = Case {
                fail_over_at,
                stale_below: 65,
                ..case
            };
            let cost = run(case.clone());
            assert_eq!(cost.client_timeouts, 0, "{case:?}");
            at_most(cost.longest_gap, ELECTION + ms(80), "wait", &case);
            at_most(cost.blocks_sent, blocks + 2 * 128 + 64, "blocks sent", &case);
        }
    }
}

#[test]
fn client_that_bears_one_oack_outlives_leaders_that_die_in_the_handshake() {
    for seed in 0..200 {
        for leaders in [1, 3] {
            run(Case {
                fail_over_at: vec![0; leaders],
                jitter: ms(3),
                ..perfect(seed, Kind::Atftp, 100_003, 1468, 1, true)
            });
        }
    }
}

#[test]
fn planned_hand_over_costs_one_window_and_no_time() {
    for case in downloads(5) {
        let blocks = block_count(&case);
        let case = Case {
            fail_over_at: vec![blocks / 2],
            planned: true,
            ..case
        };
        let cost = run(case.clone());
        assert_eq!(cost.client_timeouts, 0, "{case:?}");
        at_most(cost.longest_gap, ms(10), "wait", &case);
        at_most(
            cost.blocks_sent,
            blocks + 3 * u64::from(case.terms.window_size),
            "blocks sent",
            &case,
        );
    }
}

/// A new leader that knows only the last checkpoint.
#[test]
fn position_as_old_as_a_checkpoint_is_found() {
    for seed in 0..4 {
        for (kind, window) in LOCKSTEP
            .map(|kind| (kind, 1))
            .into_iter()
            .chain([(Kind::Uefi, 8), (Kind::Windowed, 8)])
        {
            let case = perfect(seed, kind, 8 * 30_000, 8, window, true);
            let fail_over_at = vec![8_000 + seed * 2_000, 20_000];
            let case = Case {
                fail_over_at,
                stale_below: 9_000,
                ..case
            };
            run(case.clone());
            run(bad_link(case));
        }
    }
}
