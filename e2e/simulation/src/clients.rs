//! Clients with consistent operations at all members. Every second one has a session and repeats what was not answered.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use kv::request::{Answer, Terms};
use kv::state::{Change, Lifetime, Value};
use linearizability::{Action, Operation, Outcome};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::member::{Inside, Machine, NoAnswer, Reply};
use crate::world::World;
use crate::{leases, local, pairs, records, watchers};

/// Keys in use at a time: few, so that clients meet.
const KEYS: u64 = 4;
/// The same of keys that end by themselves.
const ENDING_KEYS: u64 = 2;
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
            if pairs::is_pair(&key) {
                return pairs::ask(&front, &action, &key, &terms).await;
            }
            match change(action, key.clone(), terms.more.lifetime()) {
                Some(change) => front.change(change, &terms).await,
                None => Ok(front.get(&key, &terms).await),
            }
        })
    });
    asked.await.into()
}

/// What an action changes; none of a read.
fn change(action: Action, key: String, lifetime: Lifetime) -> Option<Change> {
    let (key, is_lasting) = (key.into(), lifetime == Lifetime::Forever);
    let value = |text: String| Value::from(text.as_str());
    Some(match action {
        Action::Get => return None,
        Action::Delete => Change::Delete { key },
        Action::Set(text) if is_lasting => Change::Set {
            key,
            value: value(text),
        },
        Action::Set(text) => Change::SetFor {
            key,
            value: value(text),
            lifetime,
        },
        Action::Swap { old, new } if is_lasting => Change::Swap {
            key,
            old: value(old),
            new: value(new),
        },
        Action::Swap { old, new } => Change::SwapFor {
            key,
            old: value(old),
            new: value(new),
            lifetime,
        },
    })
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

/// Runs all clients until the simulation ends, and reads every key once more at every member; watchers see all of it.
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
    tasks.extend(records::start(world));
    tasks.extend(leases::start(world));
    let watchers = watchers::start(world);
    ended(world, tasks).await;
    read_all(world).await;
    watchers::end(world).await;
    ended(world, watchers).await;
    watchers::compare(world);
}

async fn ended(world: &World, tasks: Vec<tokio::task::JoinHandle<()>>) {
    for task in tasks {
        if let Err(error) = task.await {
            world.broke(format!("a client ended: {error}"));
        }
    }
}

/// Reads every key at every member.
async fn read_all(world: &World) {
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
        // Plain keys, pairs, and keys that end by themselves.
        let kind = match self.rng.random_range(0..10) {
            0..6 => 'r',
            6..8 => 'p',
            _ => 't',
        };
        let keys = if kind == 't' { ENDING_KEYS } else { KEYS };
        let key = format!("{kind}{round}-{}", self.rng.random_range(0..keys));
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
        if key.starts_with('t') && matches!(action, Action::Set(_) | Action::Swap { .. }) {
            let ttl = Duration::from_millis(self.rng.random_range(50..1500));
            terms.more.ttl = self.rng.random_bool(0.7).then_some(ttl);
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
        if let (Reply::Answer(answer), Outcome::Answered { valid: true, .. }) = (&reply, &outcome)
            && !pairs::is_pair(&key)
        {
            local::agree(&self.world, &key, &action, answer, &self.name);
        }
        if terms.more.ttl.is_some()
            && !matches!(outcome, Outcome::Never | Outcome::Answered { valid: false, .. })
        {
            // It ends at any time: clocks jump.
            self.world.note(Operation {
                client: "time".to_owned(),
                key: key.clone(),
                action: Action::Delete,
                called,
                returned: called,
                outcome: Outcome::Unknown,
            });
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
