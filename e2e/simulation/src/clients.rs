//! Clients with consistent operations at all members. Every second one has a session and repeats what was not answered.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use kv::request::{Answer, Terms};
use kv::state::{Change, Value};
use linearizability::{Action, Operation, Outcome};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::local;
use crate::member::{Inside, Machine, NoAnswer, Reply};
use crate::world::World;

/// Keys in use at a time: few, so that clients meet.
const KEYS: u64 = 4;
/// New keys are taken after so many operations: the checker's work grows faster than a key's history.
const OPERATIONS_A_ROUND: u64 = 1500;
/// How long an answer may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(6);
/// The same for the last reads of all.
const PATIENCE: Duration = Duration::from_secs(40);

/// Asks a member.
pub(crate) async fn ask(
    machine: &Machine,
    action: Action,
    key: &str,
    terms: Terms,
    within: Duration,
) -> Reply {
    let key = key.to_owned();
    let asked = machine.ask(within, move |inside: Inside| {
        Box::pin(async move {
            let front = inside.front;
            let change = match action {
                Action::Get => return Ok(front.get(&key, &terms).await),
                Action::Set(value) => Change::Set {
                    key: key.into(),
                    value: Value::from(value.as_str()),
                },
                Action::Delete => Change::Delete { key: key.into() },
                Action::Swap { old, new } => Change::Swap {
                    key: key.into(),
                    old: Value::from(old.as_str()),
                    new: Value::from(new.as_str()),
                },
            };
            front.change(change, &terms).await
        })
    });
    asked.await.into()
}

/// Opens a session at any member; none when the simulation ends before.
pub(crate) async fn session(world: &World, rng: &mut StdRng) -> Option<u64> {
    while !world.stopped() {
        let machine = &world.machines[rng.random_range(0..world.machines.len())];
        let opened = machine.ask(ANSWER_WITHIN, |inside: Inside| {
            Box::pin(async move { inside.front.open_session(&Terms::default()).await })
        });
        if let Ok(Ok(Answer {
            session: Some(session),
            ..
        })) = opened.await
        {
            return Some(session);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    None
}

/// What a reply promises of a consistent operation.
fn outcome(reply: &Reply) -> Outcome {
    match reply {
        Reply::Answer(answer) if answer.unknown => Outcome::Unknown,
        Reply::Answer(answer) if answer.timeout => Outcome::Never,
        Reply::Answer(answer) => Outcome::Answered {
            valid: answer.valid,
            value: answer.value.clone(),
        },
        // What was refused, or never heard, has not acted.
        Reply::Refused(..) | Reply::NoAnswer(NoAnswer::Closed) => Outcome::Never,
        Reply::NoAnswer(_) => Outcome::Unknown,
    }
}

/// Runs all clients until the simulation ends, and reads every key once more at every member.
pub(crate) async fn run(world: &Arc<World>) {
    let mut tasks = Vec::new();
    for number in 0..world.plan.clients {
        tasks.push(tokio::task::spawn_local(Client::new(world.clone(), number).run()));
    }
    for member in 0..world.machines.len() {
        tasks.push(tokio::task::spawn_local(local::read_one_member(
            world.clone(),
            member,
        )));
        tasks.push(tokio::task::spawn_local(local::write_at_one_member(
            world.clone(),
            member,
        )));
    }
    tasks.push(tokio::task::spawn_local(local::watch_order(world.clone())));
    for task in tasks {
        if let Err(error) = task.await {
            world.broke(format!("a client ended: {error}"));
        }
    }
    let keys: BTreeSet<String> = world
        .history()
        .into_iter()
        .map(|operation| operation.key)
        .collect();
    for key in keys {
        for machine in &world.machines {
            let called = world.now();
            let terms = Terms {
                blocking: true,
                ..Terms::default()
            };
            let reply = ask(machine, Action::Get, &key, terms, PATIENCE).await;
            if !matches!(&reply, Reply::Answer(answer) if !answer.timeout) {
                world.broke(format!(
                    "{key} cannot be read at {} at the end: {reply:?}",
                    machine.name
                ));
            }
            world.note(Operation {
                client: format!("end at {}", machine.name),
                key: key.clone(),
                action: Action::Get,
                called,
                returned: world.now(),
                outcome: outcome(&reply),
            });
        }
    }
}

struct Client {
    world: Arc<World>,
    name: String,
    rng: StdRng,
    member: usize,
    session: Option<u64>,
    seq: u64,
    seen: BTreeMap<String, String>,
}

impl Client {
    fn new(world: Arc<World>, number: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(world.plan.seed.wrapping_mul(31).wrapping_add(number));
        Self {
            member: rng.random_range(0..world.machines.len()),
            name: format!("c{number}"),
            world,
            rng,
            session: None,
            seq: 0,
            seen: BTreeMap::new(),
        }
    }

    fn elsewhere(&mut self) {
        self.member = self.rng.random_range(0..self.world.machines.len());
    }

    async fn run(mut self) {
        if self.name.ends_with(['0', '2', '4', '6', '8']) {
            self.session = session(&self.world, &mut self.rng).await;
            self.name.push('s');
        }
        while !self.world.stopped() {
            if self.rng.random_bool(0.3) {
                self.elsewhere();
            }
            self.operate().await;
            let pause = self.rng.random_range(1..20);
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
    }

    fn draw(&mut self) -> (String, Action) {
        let number = self.world.begun.fetch_add(1, Ordering::Relaxed);
        let round = number / OPERATIONS_A_ROUND;
        let key = format!("r{round}-{}", self.rng.random_range(0..KEYS));
        let value = number.to_string();
        let action = match self.rng.random_range(0..100) {
            0..35 => Action::Get,
            35..58 => Action::Set(value),
            58..92 => Action::Swap {
                old: self.seen.get(&key).cloned().unwrap_or_default(),
                new: value,
            },
            _ => Action::Delete,
        };
        (key, action)
    }

    async fn operate(&mut self) {
        let (key, action) = self.draw();
        let mut terms = Terms::default();
        match self.rng.random_range(0..10) {
            0 => terms.blocking = true,
            1..5 => terms.timeout = Some(Duration::from_millis(self.rng.random_range(10..500))),
            _ => {}
        }
        if action != Action::Get {
            self.seq += 1;
            terms.request = self.session.map(|session| (session, self.seq));
        }
        let called = self.world.now();
        let mut doubtful = false;
        let (reply, outcome) = loop {
            terms.first = terms.request.is_some() && !doubtful;
            let machine = self.world.machines[self.member].clone();
            let reply = ask(&machine, action.clone(), &key, terms.clone(), ANSWER_WITHIN).await;
            let said = outcome(&reply);
            let refused = matches!(reply, Reply::Refused(..) | Reply::NoAnswer(NoAnswer::Closed));
            let again = said == Outcome::Unknown || refused && doubtful;
            if !again || terms.request.is_none() || self.world.stopped() {
                break (
                    reply,
                    if refused && doubtful {
                        Outcome::Unknown
                    } else {
                        said
                    },
                );
            }
            doubtful |= !refused;
            tokio::time::sleep(Duration::from_millis(20)).await;
            self.elsewhere();
        };
        self.learn(&key, &action, &outcome);
        if let (Reply::Answer(answer), Outcome::Answered { valid: true, .. }) = (&reply, &outcome) {
            local::agree(&self.world, &key, &action, answer, &self.name);
        }
        self.world.note(Operation {
            client: format!("{} at {}", self.name, self.member),
            key,
            action,
            called,
            returned: self.world.now(),
            outcome,
        });
        if !matches!(reply, Reply::Answer(_)) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn learn(&mut self, key: &str, action: &Action, outcome: &Outcome) {
        if let Outcome::Answered { valid, value } = outcome {
            let value = match (action, valid) {
                (Action::Set(value), _) | (Action::Swap { new: value, .. }, true) => value.clone(),
                (Action::Delete, _) => String::new(),
                _ => value.clone(),
            };
            self.seen.insert(key.to_owned(), value);
        }
    }
}
