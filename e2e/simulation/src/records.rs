//! A log whose records are handed out once, and a journal to which entries are appended once, by clients that repeat under
//! one number what was not answered.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kv::request::{Answer, Terms};
use kv::state::{Change, Value};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::clients::session;
use crate::member::{Inside, Machine, NoAnswer, Reply};
use crate::world::{World, lock};

/// Callers that take records, and clients that append entries.
const CALLERS: u64 = 3;
const APPENDERS: u64 = 2;
const SERVER: &str = "server";
const JOURNAL: &str = "journal";
const PAUSE: Duration = Duration::from_millis(60);
const TIMEOUT: Duration = Duration::from_millis(500);
const ANSWER_WITHIN: Duration = Duration::from_secs(6);
/// For the last requests of all.
const PATIENCE: Duration = Duration::from_secs(40);
/// A caller's copy of the log lacks so many of the last lines, at most.
const OLDER_MAX: usize = 12;
/// One in so many copies lacks its first lines.
const BEGINNING_LOST: u32 = 3;
/// Lines of such a copy that were handed out before, at least.
const KNOWN_LINES: usize = 20;
/// Entries of one page.
const PAGE: usize = 50;

/// What is known of both.
#[derive(Default)]
pub(crate) struct Records {
    /// The server's log as it is.
    lines: Mutex<Vec<String>>,
    /// The places of the lines that were handed out.
    handed: Mutex<BTreeSet<usize>>,
    /// The journal's entries, by their numbers, as anybody saw them.
    entries: Mutex<BTreeMap<u64, String>>,
    /// Entries whose clients were told that they never will be there.
    never: Mutex<BTreeSet<String>>,
}

impl Records {
    pub(crate) fn handed_out(&self) -> usize {
        lock(&self.handed).len()
    }

    pub(crate) fn entries(&self) -> usize {
        lock(&self.entries).len()
    }
}

/// Starts all of them.
pub(crate) fn start(world: &Arc<World>) -> Vec<tokio::task::JoinHandle<()>> {
    let mut tasks = Vec::new();
    for number in 0..CALLERS {
        tasks.push(tokio::task::spawn_local(call(world.clone(), number)));
    }
    for number in 0..APPENDERS {
        tasks.push(tokio::task::spawn_local(append(world.clone(), number)));
    }
    tasks.push(tokio::task::spawn_local(read_along(world.clone())));
    tasks
}

/// What became of a request.
#[derive(Debug)]
pub(crate) enum Certain {
    Answer(Box<Answer>),
    /// What it is about is not there.
    NotThere,
}

/// Sends a numbered request to one member after the other until it is certain what became of it: an answer, or that what it
/// is about is not there. None when its session is lost.
pub(crate) async fn certain(
    world: &World,
    rng: &mut StdRng,
    request: (u64, u64),
    ask: impl AsyncFn(&Machine, Terms) -> Reply,
) -> Option<Certain> {
    let mut first = true;
    loop {
        let machine: &Machine = &world.machines[rng.random_range(0..world.machines.len())];
        let terms = Terms {
            request: Some(request),
            first,
            timeout: Some(TIMEOUT),
            ..Terms::default()
        };
        match ask(machine, terms).await {
            Reply::Answer(answer) if !answer.unknown => return Some(Certain::Answer(Box::new(answer))),
            Reply::Refused(404, _) => return Some(Certain::NotThere),
            Reply::Refused(410, why) => {
                world.broke(format!("session {} was refused: {why}", request.0));
                return None;
            }
            Reply::Refused(..) | Reply::NoAnswer(NoAnswer::Closed) => {}
            Reply::Answer(_) | Reply::NoAnswer(_) => first = false,
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn extract(machine: &Machine, copy: String, terms: Terms, within: Duration) -> Reply {
    let asked = machine.ask(within, move |inside: Inside| {
        Box::pin(async move { inside.front.extract(SERVER, copy.as_bytes(), &terms).await })
    });
    asked.await.into()
}

/// Lets the log grow, and takes what is new in copies of it.
async fn call(world: Arc<World>, number: u64) {
    let mut rng = StdRng::seed_from_u64(world.plan.seed ^ (0x10 + number) << 32);
    let Some(session) = session(&world, &mut rng).await else {
        return;
    };
    for seq in 1.. {
        if world.stopped() {
            return;
        }
        let copy = copy(&world, &mut rng);
        let ask = async |machine: &Machine, terms: Terms| {
            extract(machine, copy.lines.concat(), terms, ANSWER_WITHIN).await
        };
        match certain(&world, &mut rng, (session, seq), ask).await {
            Some(Certain::Answer(answer)) => take(&world, &copy, &answer, &format!("caller {number}")),
            Some(refused) => world.broke(format!("caller {number} was answered {refused:?}")),
            None => return,
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// A caller's copy of the log.
struct Copy {
    /// How many of the log's first lines it lacks.
    lacks: usize,
    lines: Vec<String>,
}

/// The log once it has grown, without some of its last lines, or of its first ones.
fn copy(world: &World, rng: &mut StdRng) -> Copy {
    let known = lock(&world.records.handed).last().map_or(0, |last| last + 1);
    let mut lines = lock(&world.records.lines);
    for _ in 0..rng.random_range(0..4) {
        let line = match rng.random_range(0..4) {
            0 => "again\n".to_owned(),
            _ => format!("line {}\n", lines.len()),
        };
        lines.push(line);
    }
    let older = rng.random_range(0..OLDER_MAX).saturating_sub(OLDER_MAX / 2);
    let end = lines.len().saturating_sub(older);
    let most = known.min(end).saturating_sub(KNOWN_LINES);
    let lacks = if rng.random_ratio(1, BEGINNING_LOST) && most > 0 {
        rng.random_range(0..most)
    } else {
        0
    };
    Copy {
        lacks,
        lines: lines[lacks..end].to_vec(),
    }
}

/// Takes what an answer hands out. A time-out hands out nothing.
fn take(world: &World, Copy { lacks, lines }: &Copy, answer: &Answer, who: &str) {
    if answer.timeout {
        return;
    }
    let start = answer.start.and_then(|start| usize::try_from(start).ok());
    let Some(new) = start.and_then(|start| lines.get(start..)) else {
        return world.broke(format!(
            "{who} sent {} lines, and was answered {answer:?}",
            lines.len()
        ));
    };
    if answer.gap || new.concat() != answer.value {
        world.broke(format!(
            "{who} sent {} lines, and was answered {answer:?}",
            lines.len()
        ));
    }
    let mut handed = lock(&world.records.handed);
    for place in lines.len() - new.len()..lines.len() {
        let place = lacks + place;
        if !handed.insert(place) {
            world.broke(format!(
                "{who} was handed record {place}, as another one was before"
            ));
        }
    }
}

/// Appends one entry after the other.
async fn append(world: Arc<World>, number: u64) {
    let mut rng = StdRng::seed_from_u64(world.plan.seed ^ (0x20 + number) << 32);
    let Some(session) = session(&world, &mut rng).await else {
        return;
    };
    for seq in 1.. {
        if world.stopped() {
            return;
        }
        let text = format!("{number}-{seq}");
        let ask = async |machine: &Machine, terms: Terms| {
            let change = Change::Append {
                journal: JOURNAL.into(),
                value: Value::from(text.as_str()),
            };
            let asked = machine.ask(ANSWER_WITHIN, move |inside: Inside| {
                Box::pin(async move { inside.front.change(change, &terms).await })
            });
            Reply::from(asked.await)
        };
        match certain(&world, &mut rng, (session, seq), ask).await {
            Some(Certain::Answer(answer)) if answer.timeout => drop(lock(&world.records.never).insert(text)),
            Some(Certain::Answer(answer)) if answer.index.is_some() => {
                agree(&world, answer.index.unwrap_or_default(), &text, "its client");
            }
            Some(other) => world.broke(format!("entry {text} was answered {other:?}")),
            None => return,
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// All agree on what an entry says.
fn agree(world: &World, index: u64, text: &str, who: &str) {
    let mut entries = lock(&world.records.entries);
    let known = entries.entry(index).or_insert_with(|| text.to_owned());
    if known != text {
        world.broke(format!("entry {index} is {known:?}, and to {who} {text:?}"));
    }
}

/// Reads a page of the journal; none when the member does not answer.
async fn page(machine: &Machine, from: u64, mut terms: Terms, within: Duration) -> Option<Answer> {
    terms.more.from = Some(from);
    terms.more.limit = Some(PAGE);
    let asked = machine.ask(within, move |inside: Inside| {
        Box::pin(async move { inside.front.read_journal(JOURNAL, &terms).await })
    });
    match Reply::from(asked.await) {
        Reply::Answer(answer) if !answer.timeout => Some(answer),
        _ => None,
    }
}

/// The number behind the last entry of a page whose entries follow each other.
fn look(world: &World, answer: &Answer, from: u64, who: &str) -> u64 {
    let mut next = from;
    for row in answer.entries.iter().flatten() {
        if row.index != Some(next) {
            world.broke(format!(
                "{who} shows entry {:?} where {next} comes next",
                row.index
            ));
        }
        agree(world, next, &row.value, who);
        next += 1;
    }
    next
}

/// Reads the journal at one member after the other, without a quorum.
async fn read_along(world: Arc<World>) {
    let mut rng = StdRng::seed_from_u64(world.plan.seed ^ 0x30 << 32);
    let mut next = 1;
    while !world.stopped() {
        let machine = &world.machines[rng.random_range(0..world.machines.len())];
        let here = Terms {
            local: true,
            ..Terms::default()
        };
        // Entries that were seen are read again now and then.
        let from = u64::max(1, next - rng.random_range(0..next.min(10)));
        if let Some(answer) = page(machine, from, here, ANSWER_WITHIN).await {
            next = u64::max(next, look(&world, &answer, from, &machine.name));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// At the end every record was handed out, and every entry is there once, on all members.
pub(crate) async fn end(world: &World) {
    let copy = Copy {
        lacks: 0,
        lines: lock(&world.records.lines).clone(),
    };
    let blocking = Terms {
        blocking: true,
        ..Terms::default()
    };
    match extract(
        &world.machines[0],
        copy.lines.concat(),
        blocking.clone(),
        PATIENCE,
    )
    .await
    {
        Reply::Answer(answer) => take(world, &copy, &answer, "the last caller"),
        other => world.broke(format!("the last caller was answered {other:?}")),
    }
    let missing = {
        let handed = lock(&world.records.handed);
        (0..copy.lines.len()).find(|place| !handed.contains(place))
    };
    if let Some(place) = missing {
        world.broke(format!(
            "record {place} of {} was handed to nobody",
            copy.lines.len()
        ));
    }
    for machine in &world.machines {
        let mut next = 1;
        loop {
            let Some(answer) = page(machine, next, blocking.clone(), PATIENCE).await else {
                break world.broke(format!("{} does not show the journal", machine.name));
            };
            let from = next;
            next = look(world, &answer, from, &machine.name);
            if next == from {
                break;
            }
        }
        let known = lock(&world.records.entries)
            .last_key_value()
            .map_or(0, |(last, _)| *last);
        if next <= known {
            world.broke(format!("{} lacks entries from {next} on", machine.name));
        }
    }
    let (entries, never) = (lock(&world.records.entries), lock(&world.records.never));
    let mut seen = BTreeSet::new();
    for (index, text) in &*entries {
        if !seen.insert(text) {
            world.broke(format!("entry {index} is there twice: {text}"));
        }
        if never.contains(text) {
            world.broke(format!("entry {index} timed out, and is there: {text}"));
        }
    }
}
