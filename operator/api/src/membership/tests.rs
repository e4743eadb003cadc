use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::ServiceKind;

const GROUP: &str = "g";

fn name(number: usize) -> String {
    format!("tftp-{number}")
}

fn wanted(count: usize) -> Vec<WantedMember> {
    (0..count)
        .map(|number| WantedMember {
            name: name(number),
            peer_address: format!("127.0.0.1:{}", 7401 + number),
            admin_address: format!("127.0.0.1:{}", 9401 + number),
        })
        .collect()
}

/// A member that answers: its id if it has one, and what it knows of the group.
fn status(name: &str, node_id: Option<u64>, leads: bool, members: &[GroupMember]) -> MemberStatus {
    MemberStatus {
        service: ServiceKind::Tftp,
        name: name.to_owned(),
        node_id,
        pid: Some(1),
        role: match (node_id, leads) {
            (None, _) => Role::Learner,
            (_, true) => Role::Leader,
            _ => Role::Follower,
        },
        term: 1,
        commit_index: 50,
        applied_index: 50,
        client_address: String::new(),
        admin_address: String::new(),
        detail: Some(MemberDetail {
            version: String::new(),
            group_id: node_id.map(|_| GROUP.to_owned()),
            leader_id: None,
            serving: leads,
            ready: true,
            first_log_index: 1,
            last_log_index: 50,
            snapshot_index: 0,
            members: members.to_vec(),
            alarm: None,
            peer_certificates: None,
            service_detail: serde_json::Value::Null,
        }),
    }
}

fn recorded(node_id: u64, number: usize, voter: bool) -> GroupMember {
    GroupMember {
        node_id,
        name: name(number),
        peer_address: String::new(),
        admin_address: String::new(),
        voter,
        matched_index: Some(50),
    }
}

/// A situation in short. Members: `down`, `empty`, an id, an id with `*` for the leader. The group: ids, by number of
/// the member, learners with `?`.
fn situation(mark: &str, members: &str, group: &str) -> Observed {
    let group: Vec<GroupMember> = group
        .split_whitespace()
        .map(|entry| {
            let (number, id) = entry.split_once('=').unwrap();
            let voter = !id.ends_with('?');
            recorded(
                id.trim_end_matches('?').parse().unwrap(),
                number.parse().unwrap(),
                voter,
            )
        })
        .collect();
    let answers = members
        .split_whitespace()
        .enumerate()
        .map(|(number, state)| {
            let name = name(number);
            let answer = match state {
                "down" => None,
                "empty" => Some(status(&name, None, false, &[])),
                id => {
                    let node_id = id.trim_end_matches('*').parse().unwrap();
                    Some(status(&name, Some(node_id), id.ends_with('*'), &group))
                }
            };
            (name, answer)
        })
        .collect();
    let group_id = GROUP.to_owned();
    Observed {
        initialization: match mark {
            "never" => Initialization::Never,
            "asked" => Initialization::Asked {
                group_id,
                member: name(0),
            },
            _ => Initialization::Done { group_id },
        },
        answers,
        offer: None,
    }
}

fn short(step: &Step) -> String {
    match step {
        Step::Wait { why } => format!("wait: {why}"),
        Step::Stuck { why } => format!("stuck: {why}"),
        Step::Initialize { member } => format!("initialize {member}"),
        Step::RecordInitialized { group_id } => format!("record {group_id}"),
        Step::AddLearner { leader, member } => format!("{leader}: add {}", member.name),
        Step::Join { member, identity } => format!("join {member} as {}", identity.node_id),
        Step::Promote { leader, node_id } => format!("{leader}: promote {node_id}"),
        Step::Remove { leader, node_id } => format!("{leader}: remove {node_id}"),
        Step::Transfer { leader, to } => format!("{leader}: transfer to {to}"),
        Step::Reset { member } => format!("reset {member}"),
        Step::Retire { member } => format!("retire {member}"),
        Step::Done => "done".to_owned(),
    }
}

/// Checks rows of (mark, members, group, wanted, step).
fn check(rows: &[(&str, &str, &str, usize, &str)]) {
    for (mark, members, group, count, step) in rows {
        let observed = situation(mark, members, group);
        assert_eq!(
            short(&plan(&observed, &wanted(*count))),
            *step,
            "{mark} | {members} | {group} | {count}"
        );
    }
}

#[test]
fn new_group_grows_member_by_member() {
    check(&[
        (
            "never",
            "down down down",
            "",
            3,
            "wait: waiting for tftp-0 to start",
        ),
        ("never", "empty down down", "", 3, "initialize tftp-0"),
        ("never", "empty 7 down", "", 3, "record g"),
        ("asked", "empty empty empty", "", 3, "initialize tftp-0"),
        (
            "asked",
            "down empty empty",
            "",
            3,
            "wait: waiting for tftp-0 to start",
        ),
        ("asked", "1* empty empty", "0=1", 3, "record g"),
        ("done", "1* empty empty", "0=1", 3, "tftp-0: add tftp-1"),
        ("done", "1* 4 empty", "0=1 1=4?", 3, "tftp-0: promote 4"),
        ("done", "1* 4 empty", "0=1 1=4", 3, "tftp-0: add tftp-2"),
        ("done", "1* 4 8", "0=1 1=4 2=8", 3, "done"),
        ("done", "1*", "0=1", 1, "done"),
    ]);
}

#[test]
fn group_without_a_leader_waits_unless_its_disks_are_lost() {
    check(&[
        (
            "done",
            "1 4 8",
            "0=1 1=4 2=8",
            3,
            "wait: no leader is elected yet",
        ),
        (
            "done",
            "1 down down",
            "0=1 1=4 2=8",
            3,
            "wait: no leader is elected yet, and no answer comes from tftp-1, tftp-2",
        ),
        (
            "done",
            "empty empty down",
            "",
            3,
            "wait: waiting for tftp-2 to start",
        ),
        (
            "done",
            "empty empty empty",
            "",
            3,
            "stuck: every member has lost its disk: the group's data is gone",
        ),
        (
            "done",
            "empty empty 8",
            "0=1 1=4 2=8",
            3,
            "stuck: tftp-0, tftp-1 have lost their disks, 2 of 3 voters: the others cannot elect a leader without \
             them, and cannot know what was acknowledged",
        ),
    ]);
}

#[test]
fn member_that_is_down_keeps_its_place_and_one_without_its_disk_does_not() {
    check(&[
        ("done", "1* 4 down", "0=1 1=4 2=8", 3, "done"),
        ("done", "1* 4 empty", "0=1 1=4 2=8", 3, "tftp-0: remove 8"),
        ("done", "1* 4 12", "0=1 1=4 2=8 2=12?", 3, "tftp-0: remove 8"),
        ("done", "1* 4 12", "0=1 1=4 2=12?", 3, "tftp-0: promote 12"),
    ]);
}

#[test]
fn id_that_never_arrived_is_removed() {
    check(&[("done", "1* 4 empty", "0=1 1=4 2=8?", 3, "tftp-0: remove 8")]);
}

#[test]
fn removed_id_is_cleared_from_its_disk() {
    check(&[
        ("done", "1* 4 8", "0=1 1=4", 3, "reset tftp-2"),
        (
            "done",
            "1* 4 51",
            "0=1 1=4",
            3,
            "wait: waiting for tftp-2 to catch up",
        ),
    ]);
}

#[test]
fn surplus_members_go_the_leader_last_while_a_quorum_answers() {
    check(&[
        (
            "done",
            "1* 4 8 11 15",
            "0=1 1=4 2=8 3=11 4=15",
            3,
            "tftp-0: remove 11",
        ),
        (
            "done",
            "1 4 8 11* 15",
            "0=1 1=4 2=8 3=11 4=15",
            3,
            "tftp-3: remove 15",
        ),
        (
            "done",
            "1 4 8 11*",
            "0=1 1=4 2=8 3=11",
            3,
            "tftp-3: transfer to 8",
        ),
        ("done", "1* 4 8 11", "0=1 1=4 2=8", 3, "retire tftp-3"),
        ("done", "1* 4 8 down", "0=1 1=4 2=8", 3, "retire tftp-3"),
        (
            "done",
            "1* down down 11 15",
            "0=1 1=4 2=8 3=11 4=15",
            3,
            "wait: tftp-3 (node id 11) has to go, but without it only 2 of 4 voters would answer",
        ),
    ]);
}

#[test]
fn surplus_members_stay_while_a_wanted_one_is_missing() {
    check(&[
        ("done", "1* 4 empty 11", "0=1 1=4 3=11", 3, "tftp-0: add tftp-2"),
        (
            "done",
            "1* 4 down 11",
            "0=1 1=4 3=11",
            3,
            "wait: waiting for tftp-2 to start",
        ),
    ]);
}

#[test]
fn offer_is_joined_only_by_an_empty_member_that_the_group_records() {
    let identity = Identity {
        group_id: GROUP.to_owned(),
        node_id: 8,
    };
    let check = |members: &str, group: &str| {
        let mut observed = situation("done", members, group);
        observed.offer = Some(Offer {
            member: name(2),
            identity: identity.clone(),
        });
        short(&plan(&observed, &wanted(3)))
    };
    assert_eq!(check("1* 4 empty", "0=1 1=4 2=8?"), "join tftp-2 as 8");
    assert_eq!(check("1* 4 8", "0=1 1=4 2=8?"), "tftp-0: promote 8");
    assert_eq!(check("1* 4 empty", "0=1 1=4"), "tftp-0: add tftp-2");
}

#[test]
fn learner_that_lags_waits() {
    let mut observed = situation("done", "1* 4 8", "0=1 1=4 2=8?");
    for status in observed.answers.values_mut().flatten() {
        status.commit_index = 1_000;
        if status.name != name(0) {
            status.applied_index = 0;
        }
        for member in &mut status.detail.as_mut().unwrap().members {
            member.matched_index = Some(899);
        }
    }
    assert_eq!(
        short(&plan(&observed, &wanted(3))),
        "wait: waiting for tftp-2 to catch up"
    );
    for status in observed.answers.values_mut().flatten() {
        for member in &mut status.detail.as_mut().unwrap().members {
            member.matched_index = Some(900);
        }
    }
    assert_eq!(short(&plan(&observed, &wanted(3))), "tftp-0: promote 8");
}

#[test]
fn member_of_another_group_is_not_touched() {
    let mut observed = situation("done", "1* 4 8", "0=1 1=4");
    let stranger = observed.answers.get_mut(&name(2)).unwrap().as_mut().unwrap();
    stranger.detail.as_mut().unwrap().group_id = Some("other".to_owned());
    let step = short(&plan(&observed, &wanted(3)));
    assert!(
        step.starts_with("stuck: tftp-2 belongs to the group other"),
        "{step}"
    );
}

/// A member in the model: a process and a disk.
#[derive(Debug, Clone, Default)]
struct Machine {
    up: bool,
    id: Option<u64>,
}

/// The simplest group that can go wrong in all the ways that matter to a driver.
#[derive(Debug, Default)]
struct World {
    machines: BTreeMap<String, Machine>,
    /// The committed membership; shared, since only a quorum can change it.
    members: Vec<GroupMember>,
    index: u64,
    leader: Option<String>,
    mark: Option<(bool, String)>,
    offer: Option<Offer>,
    /// Joins that are still on their way after the driver gave up waiting.
    late: Vec<(String, u64)>,
    /// Ids that were handed to a disk.
    joined: BTreeSet<u64>,
    founded: u32,
}

/// How a request of the driver ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Answered,
    LostOnTheWay,
    AnswerLost,
    /// It arrives when the driver no longer waits.
    Late,
}

#[derive(Debug, Clone)]
enum Event {
    Step(Fate),
    Kill(usize),
    Start(usize),
    Wipe(usize),
    RestartDriver,
    Scale(usize),
    Depose,
    DeliverLate,
}

impl World {
    fn live(&self, member: &GroupMember) -> bool {
        self.machines
            .get(&member.name)
            .is_some_and(|machine| machine.up && machine.id == Some(member.node_id))
    }

    fn has_quorum(&self) -> bool {
        let voters: Vec<_> = self.members.iter().filter(|member| member.voter).collect();
        let live = voters.iter().filter(|member| self.live(member)).count();
        is_quorum(live, voters.len())
    }

    /// Whether voters that still have their disks could ever elect a leader.
    fn can_recover(&self) -> bool {
        let voters: Vec<_> = self.members.iter().filter(|member| member.voter).collect();
        let kept = voters
            .iter()
            .filter(|voter| {
                self.machines
                    .get(&voter.name)
                    .is_some_and(|machine| machine.id == Some(voter.node_id))
            })
            .count();
        is_quorum(kept, voters.len())
    }

    fn elect(&mut self) {
        let is_fit = |name: &String| {
            self.members
                .iter()
                .any(|member| member.voter && member.name == *name && self.live(member))
        };
        if !self.has_quorum() {
            self.leader = None;
        } else if !self.leader.as_ref().is_some_and(is_fit) {
            let fit = self
                .members
                .iter()
                .rev()
                .find(|member| member.voter && self.live(member));
            self.leader = fit.map(|member| member.name.clone());
        }
    }

    fn observe(&mut self) -> Observed {
        self.elect();
        let answers = self
            .machines
            .iter()
            .map(|(name, machine)| {
                let leads = self.leader.as_ref() == Some(name);
                let answer = machine.up.then(|| {
                    let mut status = status(name, machine.id, leads, &self.members);
                    (status.commit_index, status.applied_index) = (self.index, self.index);
                    status
                });
                (name.clone(), answer)
            })
            .collect();
        Observed {
            initialization: match &self.mark {
                None => Initialization::Never,
                Some((false, member)) => Initialization::Asked {
                    group_id: GROUP.to_owned(),
                    member: member.clone(),
                },
                Some((true, _)) => Initialization::Done {
                    group_id: GROUP.to_owned(),
                },
            },
            answers,
            offer: self.offer.clone(),
        }
    }

    fn record(&mut self, name: &str, node_id: u64, voter: bool) {
        self.members.push(GroupMember {
            node_id,
            name: name.to_owned(),
            peer_address: String::new(),
            admin_address: String::new(),
            voter,
            matched_index: Some(self.index),
        });
    }

    fn take_identity(&mut self, name: &str, node_id: u64) {
        let machine = self.machines.get_mut(name).unwrap();
        if machine.up && machine.id.is_none() {
            machine.id = Some(node_id);
            assert!(self.joined.insert(node_id), "id {node_id} is on two disks");
        }
    }

    fn found(&mut self, member: &str, arrives: bool) {
        let is_done = self.mark.as_ref().is_some_and(|(done, _)| *done);
        assert!(!is_done, "initialised again");
        let founder = self
            .mark
            .get_or_insert_with(|| (false, member.to_owned()))
            .1
            .clone();
        assert_eq!(founder, member, "two founders");
        if arrives {
            self.founded += 1;
            self.index += 1;
            self.members.clear();
            self.record(member, self.index, true);
            self.take_identity(member, self.index);
        }
    }

    /// Carries a step out, as far as its fate lets it, and checks that it was allowed.
    fn perform(&mut self, step: &Step, fate: Fate) {
        let arrives = fate != Fate::LostOnTheWay;
        match step {
            Step::Initialize { member } => self.found(member, arrives),
            Step::RecordInitialized { .. } => self.mark = Some((true, String::new())),
            Step::AddLearner { member, .. } if arrives => {
                self.index += 1;
                self.record(&member.name, self.index, false);
                if fate == Fate::Answered {
                    self.offer = Some(Offer {
                        member: member.name.clone(),
                        identity: Identity {
                            group_id: GROUP.to_owned(),
                            node_id: self.index,
                        },
                    });
                }
            }
            Step::Join { member, identity } => {
                self.offer = None;
                if fate == Fate::Late {
                    self.late.push((member.clone(), identity.node_id));
                } else if arrives {
                    self.take_identity(member, identity.node_id);
                }
            }
            Step::Promote { node_id, .. } if arrives => {
                self.index += 1;
                let learner = self
                    .members
                    .iter_mut()
                    .find(|member| member.node_id == *node_id)
                    .unwrap();
                learner.voter = true;
                assert!(self.has_quorum(), "promotion stopped the group");
            }
            Step::Remove { node_id, .. } if arrives => {
                self.index += 1;
                self.members.retain(|member| member.node_id != *node_id);
                assert!(self.has_quorum(), "removal stopped the group");
            }
            Step::Transfer { to, .. } if arrives => {
                let heir = self.members.iter().find(|member| member.node_id == *to).unwrap();
                assert!(heir.voter && self.live(heir));
                self.leader = Some(heir.name.clone());
            }
            Step::Reset { member } | Step::Retire { member } if arrives => {
                let id = self.machines[member].id;
                assert!(
                    !self.members.iter().any(|other| Some(other.node_id) == id),
                    "disk of a member emptied"
                );
                if matches!(step, Step::Retire { .. }) {
                    self.machines.remove(member);
                } else {
                    self.machines.get_mut(member).unwrap().id = None;
                }
            }
            _ => {}
        }
    }

    fn happen(&mut self, event: &Event, count: &mut usize) {
        match event {
            Event::Step(fate) => {
                let observed = self.observe();
                let step = plan(&observed, &wanted(*count));
                self.perform(&step, *fate);
            }
            Event::Kill(number) => self.machine(*number, |machine| machine.up = false),
            Event::Start(number) => self.machine(*number, |machine| machine.up = true),
            Event::Wipe(number) => {
                let id = self.machines.get(&name(*number)).and_then(|machine| machine.id);
                self.machine(*number, |machine| machine.id = None);
                // The group must be able to go on, and the model's mark does not survive the loss of its only voter.
                if !self.members.is_empty() && !self.can_recover() {
                    self.machine(*number, |machine| machine.id = id);
                }
            }
            Event::RestartDriver => self.offer = None,
            Event::Scale(wanted) => {
                *count = *wanted;
                for number in 0..*wanted {
                    self.machines.entry(name(number)).or_default();
                }
            }
            Event::Depose => self.leader = None,
            Event::DeliverLate => {
                if let Some((member, id)) = self.late.pop()
                    && self.machines.contains_key(&member)
                {
                    self.take_identity(&member, id);
                }
            }
        }
    }

    fn machine(&mut self, number: usize, change: impl FnOnce(&mut Machine)) {
        if let Some(machine) = self.machines.get_mut(&name(number)) {
            change(machine);
        }
    }
}

fn event() -> impl Strategy<Value = Event> {
    let fate = prop_oneof![
        6 => Just(Fate::Answered),
        1 => Just(Fate::LostOnTheWay),
        1 => Just(Fate::AnswerLost),
        1 => Just(Fate::Late),
    ];
    prop_oneof![
        12 => fate.prop_map(Event::Step),
        2 => (0_usize..7).prop_map(Event::Kill),
        4 => (0_usize..7).prop_map(Event::Start),
        2 => (0_usize..7).prop_map(Event::Wipe),
        1 => Just(Event::RestartDriver),
        1 => prop::sample::select(vec![1_usize, 3, 5, 7]).prop_map(Event::Scale),
        1 => Just(Event::Depose),
        1 => Just(Event::DeliverLate),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn every_situation_converges_to_the_wanted_voters(events in prop::collection::vec(event(), 0..120)) {
        let (mut world, mut count) = (World::default(), 3);
        world.happen(&Event::Scale(count), &mut count);
        for number in 0..3 {
            world.happen(&Event::Start(number), &mut count);
        }
        for event in &events {
            world.happen(event, &mut count);
        }
        // Faults end: everything runs, what was late has arrived, every request is answered.
        for machine in world.machines.values_mut() {
            machine.up = true;
        }
        while !world.late.is_empty() {
            world.happen(&Event::DeliverLate, &mut count);
        }
        let mut steps = 0;
        loop {
            let observed = world.observe();
            let step = plan(&observed, &wanted(count));
            if step == Step::Done {
                break;
            }
            let is_progress = !matches!(step, Step::Wait { .. } | Step::Stuck { .. });
            prop_assert!(is_progress, "{step:?} in {world:#?}");
            steps += 1;
            prop_assert!(steps < 100, "no end: {step:?} in {world:#?}");
            world.perform(&step, Fate::Answered);
        }
        let voters: BTreeSet<String> = world.members.iter().map(|member| member.name.clone()).collect();
        prop_assert_eq!(voters, wanted(count).into_iter().map(|member| member.name).collect::<BTreeSet<_>>());
        prop_assert!(world.members.iter().all(|member| member.voter && world.live(member)));
        prop_assert_eq!(world.members.len(), count);
        prop_assert_eq!(world.machines.len(), count);
        prop_assert_eq!(world.founded, 1);
    }
}

#[test]
fn learner_that_still_fetches_content_does_not_vote_yet() {
    let mut observed = situation("done", "1* 2 3", "0=1 1=2 2=3?");
    assert!(matches!(
        plan(&observed, &wanted(3)),
        Step::Promote { node_id: 3, .. }
    ));
    let learner = observed
        .answers
        .get_mut(&name(2))
        .and_then(Option::as_mut)
        .unwrap();
    learner.detail.as_mut().unwrap().ready = false;
    assert!(matches!(plan(&observed, &wanted(3)), Step::Wait { .. }));
}
