//! Runs one local group from its start to ctrl-C: the only place that orders its steps.
//!
//! One loop waits for one thing at a time: a member's process, the members' answers, the end of a step, a signal. What
//! takes long runs in tasks of its own, one of a kind at a time. A step is decided only on answers that were asked for
//! after the last step had ended.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context;
use futures::future::join_all;
use operator_api::MemberStatus;
use operator_api::membership::{Initialization, Observed, Offer, Step, WantedMember, plan, serving_leader};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::agent::Agent;
use super::import::{Imported, import};
use super::layout::{Layout, MemberPlace};
use super::listener::check_free;
use super::membership::{Answers, Places, ask, observe};
use super::screen::Screen;
use super::supervisor::{Event, Order, Supervised, ordered};
use crate::client::leader::Leader;
use crate::client::{AdminClient, ClientError};
use crate::group;

/// A running local group.
pub(crate) struct Driver {
    layout: Layout,
    agent: Agent,
    token: String,
    client: AdminClient,
    screen: Screen,
    places: Places,
    wanted: Vec<WantedMember>,
    members: BTreeMap<String, Supervised>,
    pids: BTreeMap<String, u32>,
    /// The last answer of each member.
    statuses: BTreeMap<String, MemberStatus>,
    initialization: Initialization,
    offer: Option<Offer>,
    events: (mpsc::UnboundedSender<Event>, mpsc::UnboundedReceiver<Event>),
    began: Instant,
    /// When something last happened; soon after, answers are asked for more often.
    moved: Instant,
    is_ready: bool,
    note: String,
    /// The last complaint, so that it is not repeated four times a second.
    complaint: String,
    tasks: Tasks,
}

/// What runs beside the loop, at most one of each.
#[derive(Default)]
struct Tasks {
    look: JoinSet<Answers>,
    /// Whether the running look began before the last step ended.
    is_look_stale: bool,
    step: JoinSet<StepEnd>,
    import: JoinSet<anyhow::Result<Imported>>,
    has_imported: bool,
}

/// How a step ended.
enum StepEnd {
    Asked(Result<Option<Offer>, ClientError>),
    /// The member's process is gone, so that its disk can be emptied.
    Stopped {
        name: String,
        for_good: bool,
    },
}

impl Driver {
    /// A group that is not started yet, once its ports are known to be free.
    pub(crate) fn prepare(layout: Layout, agent: Agent, screen: Screen) -> anyhow::Result<Self> {
        let wanted = layout.wanted();
        let places: Places = wanted
            .iter()
            .cloned()
            .chain(layout.surplus())
            .map(|place| (place.name.clone(), place))
            .collect();
        let all: Vec<_> = places.values().cloned().collect();
        check_free(&all)?;
        let now = Instant::now();
        Ok(Self {
            initialization: layout.initialization()?,
            token: String::new(),
            client: AdminClient::new("", None)?,
            wanted: wanted.iter().map(MemberPlace::wanted).collect(),
            layout,
            agent,
            screen,
            places,
            members: BTreeMap::new(),
            pids: BTreeMap::new(),
            statuses: BTreeMap::new(),
            offer: None,
            events: mpsc::unbounded_channel(),
            began: now,
            moved: now,
            is_ready: false,
            note: String::new(),
            complaint: String::new(),
            tasks: Tasks::default(),
        })
    }

    /// Starts every member.
    pub(crate) fn start(mut self) -> anyhow::Result<Self> {
        self.layout.save()?;
        let all: Vec<_> = self.places.values().cloned().collect();
        self.layout.describe(&all)?;
        self.token = group::read_token(&self.layout.directory().token_file())?;
        self.client = AdminClient::new("", Some(self.token.clone()))?;
        for place in &all {
            self.start_member(place)?;
        }
        self.greet();
        Ok(self)
    }

    /// Runs until it is ordered to stop, then stops every member.
    pub(crate) async fn run(mut self, mut order: watch::Receiver<Order>) -> anyhow::Result<()> {
        let mut look_at = Instant::now();
        let mut rotation = tokio::time::interval(LOG_CHECK_INTERVAL);
        let outcome = loop {
            let handled = tokio::select! {
                () = ordered(&mut order, Order::Stop) => break Ok(()),
                Some(event) = self.events.1.recv() => {
                    self.on_event(event);
                    look_at = Instant::now();
                    Ok(())
                }
                Some(answers) = self.tasks.look.join_next() => {
                    let handled = self.on_answers(answers.unwrap_or_default());
                    look_at = self.next_look();
                    handled
                }
                Some(end) = self.tasks.step.join_next() => {
                    self.tasks.is_look_stale = !self.tasks.look.is_empty();
                    self.moved = Instant::now();
                    look_at = self.moved;
                    end.context("a membership step broke").and_then(|end| self.on_step_end(end))
                }
                Some(imported) = self.tasks.import.join_next() => {
                    self.on_imported(imported.context("the import broke").and_then(|imported| imported));
                    Ok(())
                }
                () = tokio::time::sleep_until(look_at), if self.tasks.look.is_empty() => {
                    self.look();
                    Ok(())
                }
                _ = rotation.tick() => {
                    self.rotate_logs();
                    Ok(())
                }
            };
            if handled.is_err() {
                break handled;
            }
        };
        self.stop(order).await;
        outcome
    }

    fn greet(&mut self) {
        let directory = self.layout.directory();
        let kept = if directory.is_temporary() {
            "until it ends; --dir DIR keeps them"
        } else {
            "for the next start"
        };
        self.screen.say(&format!(
            "{} {} members start; their data and logs are in {} ({kept})",
            self.places.len(),
            self.layout.service(),
            directory.path().display()
        ));
    }

    fn start_member(&mut self, place: &MemberPlace) -> anyhow::Result<()> {
        let program = self.agent.program(place, self.layout.directory().token_file())?;
        let supervised = Supervised::start(program, self.events.0.clone());
        self.members.insert(place.name.clone(), supervised);
        Ok(())
    }

    fn on_event(&mut self, event: Event) {
        self.moved = Instant::now();
        match event {
            Event::Started { name, pid } => {
                self.pids.insert(name, pid);
            }
            Event::Died {
                name,
                how,
                restart_after,
            } => {
                self.pids.remove(&name);
                self.screen.say(&format!(
                    "{name} {how}; it starts again in {:.1} s",
                    restart_after.as_secs_f64()
                ));
            }
            Event::Stopped { name } => {
                self.pids.remove(&name);
            }
        }
    }

    fn look(&mut self) {
        let look = observe(self.client.clone(), self.places.clone(), self.pids.clone());
        self.tasks.look.spawn(look);
    }

    /// Often while the group moves, else as often as people can read.
    fn next_look(&self) -> Instant {
        let now = Instant::now();
        let is_moving = !self.is_ready && now - self.moved < MOVING;
        now + if is_moving {
            LOOK_INTERVAL_MOVING
        } else {
            LOOK_INTERVAL
        }
    }

    fn on_answers(&mut self, answers: Answers) -> anyhow::Result<()> {
        for (name, status) in &answers {
            if let Some(status) = status {
                self.statuses.insert(name.clone(), status.clone());
            }
        }
        let is_stale = std::mem::take(&mut self.tasks.is_look_stale);
        let decided = if is_stale || !self.tasks.step.is_empty() {
            Ok(())
        } else {
            self.decide(answers)
        };
        self.show();
        decided
    }

    fn decide(&mut self, answers: Answers) -> anyhow::Result<()> {
        let observed = Observed {
            initialization: self.initialization.clone(),
            answers,
            offer: self.offer.clone(),
        };
        let step = plan(&observed, &self.wanted);
        let is_serving = serving_leader(&observed).is_some();
        self.note.clear();
        match &step {
            Step::Done => self.on_complete(),
            Step::Wait { why } => {
                self.note.clone_from(why);
                // A member that cannot start must not keep the others' files away.
                if is_serving && Instant::now() - self.moved > MOVING {
                    self.start_import()?;
                }
            }
            Step::Stuck { why } => {
                self.note = format!(
                    "{why}. Nothing was overwritten. To start anew without the old data, stop this with ctrl-C and \
                     remove {}",
                    self.layout.directory().path().display()
                );
            }
            _ => {}
        }
        if step == Step::Done && is_serving {
            self.start_import()?;
        }
        self.begin(step)
    }

    fn begin(&mut self, step: Step) -> anyhow::Result<()> {
        match &step {
            Step::Done | Step::Wait { .. } | Step::Stuck { .. } => return Ok(()),
            Step::RecordInitialized { group_id } => {
                return self.record(Initialization::Done {
                    group_id: group_id.clone(),
                });
            }
            Step::Reset { member } | Step::Retire { member } => {
                let (name, for_good) = (member.clone(), matches!(step, Step::Retire { .. }));
                let supervised = self.members.remove(member);
                self.tasks.step.spawn(async move {
                    if let Some(supervised) = supervised {
                        supervised.stop().await;
                    }
                    StepEnd::Stopped { name, for_good }
                });
                return Ok(());
            }
            Step::Initialize { member } if self.initialization == Initialization::Never => {
                self.record(Initialization::Asked {
                    group_id: uuid::Uuid::new_v4().to_string(),
                    member: member.clone(),
                })?;
            }
            // It is handed over at most once.
            Step::Join { .. } => self.offer = None,
            _ => {}
        }
        let group_id = match &self.initialization {
            Initialization::Never => String::new(),
            Initialization::Asked { group_id, .. } | Initialization::Done { group_id } => group_id.clone(),
        };
        let asking = ask(self.client.clone(), self.places.clone(), group_id, step);
        self.tasks.step.spawn(async move { StepEnd::Asked(asking.await) });
        Ok(())
    }

    fn record(&mut self, mark: Initialization) -> anyhow::Result<()> {
        self.layout.record_initialization(&mark)?;
        self.initialization = mark;
        Ok(())
    }

    fn on_step_end(&mut self, end: StepEnd) -> anyhow::Result<()> {
        match end {
            StepEnd::Asked(Ok(offer)) => {
                if offer.is_some() {
                    self.offer = offer;
                }
                self.complaint.clear();
            }
            // The next answers show what came of it.
            StepEnd::Asked(Err(error)) => {
                let complaint = format!("{:#}", anyhow::Error::new(error));
                if complaint != self.complaint {
                    self.screen
                        .say(&format!("a membership step is tried again: {complaint}"));
                    self.complaint = complaint;
                }
            }
            StepEnd::Stopped { name, for_good } => {
                self.pids.remove(&name);
                self.statuses.remove(&name);
                if let Some(place) = self.places.get(&name).cloned() {
                    if for_good {
                        place.remove()?;
                        self.places.remove(&name);
                        let left: Vec<_> = self.places.values().cloned().collect();
                        self.layout.describe(&left)?;
                    } else {
                        place.empty()?;
                        self.start_member(&place)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn on_complete(&mut self) {
        if std::mem::replace(&mut self.is_ready, true) {
            return;
        }
        let seconds = self.began.elapsed().as_secs_f64();
        self.screen.say(&format!(
            "{} ready in {seconds:.2} s: {} (ctrl-C stops)",
            self.layout.service(),
            self.agent.service.try_it()
        ));
    }

    fn start_import(&mut self) -> anyhow::Result<()> {
        let Some(root) = self.agent.service.root.clone() else {
            return Ok(());
        };
        if std::mem::replace(&mut self.tasks.has_imported, true) {
            return Ok(());
        }
        let members = self
            .places
            .values()
            .map(|place| place.admin.to_string())
            .collect();
        let leader = Leader::new(members, Some(self.token.clone()), IMPORT_WAIT)?;
        self.tasks.import.spawn(import(leader, root));
        Ok(())
    }

    fn on_imported(&mut self, imported: anyhow::Result<Imported>) {
        let root = self.agent.service.root.clone().unwrap_or_default();
        self.screen.say(&match imported {
            Ok(imported) => imported.sentence(&root),
            Err(error) => format!(
                "{} was not imported: {error:#}; `quorate-agent files import {}` tries again",
                root.display(),
                root.display()
            ),
        });
    }

    fn show(&self) {
        self.screen.show(self.layout.service(), self.rows(), &self.note);
    }

    /// Every member, as far as is known.
    fn rows(&self) -> Vec<MemberStatus> {
        let places = self.places.values();
        places
            .map(|place| {
                let known = self.statuses.get(&place.name);
                let pid = self.pids.get(&place.name).copied();
                match known {
                    // One that does not answer at the moment is as it last was.
                    Some(status) if pid.is_some() && status.pid == pid => MemberStatus {
                        detail: None,
                        ..status.clone()
                    },
                    _ => MemberStatus {
                        service: self.layout.service(),
                        name: place.name.clone(),
                        node_id: known.and_then(|status| status.node_id),
                        pid,
                        role: operator_api::Role::default(),
                        term: 0,
                        commit_index: 0,
                        applied_index: 0,
                        client_address: self.layout.client().to_string(),
                        admin_address: place.admin.to_string(),
                        detail: None,
                    },
                }
            })
            .collect()
    }

    fn rotate_logs(&mut self) {
        for place in self.places.values() {
            if let Err(error) = place.rotate_log() {
                self.note = format!("the log of {} cannot be cut: {error}", place.name);
            }
        }
    }

    /// Stops the followers, then the leader: no member has to stand for election on the way. A second signal kills.
    async fn stop(&mut self, mut order: watch::Receiver<Order>) {
        self.note = "stopping; ctrl-C again kills".to_owned();
        self.show();
        self.tasks.import.shutdown().await;
        self.tasks.look.shutdown().await;
        // A member that is being reset is stopped by its step already; dropping the step kills it.
        self.tasks.step.shutdown().await;
        let orders: Vec<_> = self.members.values().map(Supervised::orders).collect();
        let (leaders, others): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.members)
                .into_iter()
                .partition(|(name, _)| {
                    let status = self.statuses.get(name);
                    status.is_some_and(|status| status.role == operator_api::Role::Leader)
                });
        let stopping = async {
            join_all(others.into_iter().map(|(_, member)| member.stop())).await;
            join_all(leaders.into_iter().map(|(_, member)| member.stop())).await;
        };
        let kill = async {
            ordered(&mut order, Order::Kill).await;
            for order in &orders {
                order.send_replace(Order::Kill);
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = stopping => {}
            () = kill => {}
        }
        self.pids.clear();
        self.note.clear();
        self.show();
    }
}

/// As often as a person sees a change.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// While members join, each step waits for the last one to show.
const LOOK_INTERVAL_MOVING: Duration = Duration::from_millis(20);

/// How long after the last event something is expected to happen at once.
const MOVING: Duration = Duration::from_secs(3);

/// Some thousand log lines at most.
const LOG_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// For a leader to be found, for each file.
const IMPORT_WAIT: Duration = Duration::from_secs(30);
