//! Watchers of all keys: each is told every change once, in the order of the revisions, at whatever member it resumes.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt as _;
use kv::request::Terms;
use kv::state::{Compacted, Event};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use crate::member::{Inside, Machine, NoAnswer};
use crate::world::{World, lock};

/// Watchers that go from member to member.
const WATCHERS: u64 = 2;
const PAUSE: Duration = Duration::from_millis(20);
const ANSWER_WITHIN: Duration = Duration::from_secs(6);
/// For the last revision.
const PATIENCE: Duration = Duration::from_secs(40);

/// What all watchers were told.
#[derive(Default)]
pub(crate) struct Watched {
    /// By revision.
    events: Mutex<BTreeMap<u64, Event>>,
    /// The revision up to which every watcher must come; 0 as long as it is not known.
    last: AtomicU64,
}

impl Watched {
    pub(crate) fn count(&self) -> usize {
        lock(&self.events).len()
    }

    fn is_over(&self, next: u64) -> bool {
        let last = self.last.load(Ordering::Relaxed);
        last != 0 && next > last
    }
}

/// Starts them.
pub(crate) fn start(world: &Arc<World>) -> Vec<tokio::task::JoinHandle<()>> {
    let watcher = |number| tokio::task::spawn_local(watch(world.clone(), number));
    (0..WATCHERS).map(watcher).collect()
}

/// Watches at one member for a while, then at another, from where it was.
async fn watch(world: Arc<World>, number: u64) {
    let mut rng = StdRng::seed_from_u64(world.plan.seed ^ (0x77 + number) << 24);
    let mut next = 1;
    while !world.watched.is_over(next) {
        let member = rng.random_range(0..world.machines.len());
        let until = Instant::now() + Duration::from_millis(rng.random_range(50..900));
        match begin(&world.machines[member], next).await {
            Ok(Some(mut told)) => {
                while !world.watched.is_over(next)
                    && let Ok(Some(told)) = timeout_at(until, told.recv()).await
                {
                    match told {
                        Ok(events) => {
                            for event in events {
                                take(
                                    &world,
                                    event,
                                    next,
                                    &format!("watcher {number} at member {member}"),
                                );
                                next += 1;
                            }
                        }
                        Err(Compacted { oldest }) => world.broke(format!(
                            "member {member} has forgotten change {next}, and knows {oldest} and later ones"
                        )),
                    }
                }
            }
            Ok(None) => world.broke(format!("member {member} has forgotten change {next}")),
            Err(_) => {}
        }
        tokio::time::sleep(PAUSE).await;
    }
}

type Told = mpsc::UnboundedReceiver<Result<Vec<Event>, Compacted>>;

/// Asks a member for the changes from one on; none when it has forgotten some of them.
async fn begin(machine: &Machine, from: u64) -> Result<Option<Told>, NoAnswer> {
    let (sender, told) = mpsc::unbounded_channel();
    let asked = machine.ask(ANSWER_WITHIN, move |inside: Inside| {
        Box::pin(async move {
            let mut changes = match inside.front.watch(from).await {
                Ok(changes) => changes,
                Err(refusal) => return refusal.oldest.is_none(),
            };
            tokio::task::spawn_local(async move {
                while let Some(piece) = changes.next().await {
                    if sender.send(piece).is_err() {
                        return;
                    }
                }
            });
            true
        })
    });
    Ok(asked.await?.then_some(told))
}

fn take(world: &World, event: Event, next: u64, who: &str) {
    if event.revision != next {
        world.broke(format!(
            "{who} was told of change {} where {next} comes next",
            event.revision
        ));
    }
    let mut events = lock(&world.watched.events);
    let known = events.entry(next).or_insert_with(|| event.clone());
    if *known != event {
        world.broke(format!("{who} was told {event:?}, another one {known:?}"));
    }
}

/// Tells the watchers where the end is, once nobody changes anything any more.
pub(crate) async fn end(world: &World) {
    for machine in &world.machines {
        let asked = machine.ask(PATIENCE, |inside: Inside| {
            Box::pin(async move {
                let terms = Terms {
                    blocking: true,
                    ..Terms::default()
                };
                inside.front.range(&terms).await.revision
            })
        });
        if let Ok(Some(revision)) = asked.await {
            world.watched.last.fetch_max(revision, Ordering::Relaxed);
        }
    }
    if world.watched.last.load(Ordering::Relaxed) == 0 {
        world.broke("no member says which change is the last".to_owned());
        world.watched.last.store(1, Ordering::Relaxed);
    }
}

/// What clients were answered is what watchers were told.
pub(crate) fn compare(world: &World) {
    let events = lock(&world.watched.events);
    for ((key, revision), value) in world.local.sightings() {
        let told = events.get(&revision);
        let is_same = told.is_some_and(|event| {
            let held = event.value.as_ref().map(AsRef::as_ref);
            *event.key == *key && held == Some(value.as_bytes())
        });
        if !is_same {
            world.broke(format!(
                "revision {revision} of {key} is {value:?}, and watchers were told {told:?}"
            ));
        }
    }
}
