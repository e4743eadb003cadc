//! Real members in one process: real logs, real connections on loopback, real time, no timed assertions.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use tempfile::TempDir;
use uuid::Uuid;

use super::Ledger;
use crate::{
    Durability, Identity, Leadership, MembershipError, Node, NodeId, NodeOptions, PeerTls, ProposeError,
    Replica, RestoreFrom, Role, Timing,
};

mod backup;
mod certificates;
mod reading;

/// Long enough for any machine; reaching it is a failure, not a measurement.
const PATIENCE: Duration = Duration::from_secs(60);

struct Member {
    node: Node,
    replica: Replica<Ledger>,
    options: NodeOptions,
}

/// A group in one directory.
struct Group {
    directory: TempDir,
    members: BTreeMap<usize, Member>,
    group_id: Uuid,
    tls: Option<PeerTls>,
    restore: Option<RestoreFrom>,
    durability: Durability,
}

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what} did not happen within {PATIENCE:?}"),
    }
}

fn free_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("a free port")
}

impl Group {
    fn new() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
            members: BTreeMap::new(),
            group_id: Uuid::new_v4(),
            tls: None,
            restore: None,
            durability: Durability::Strict,
        }
    }

    async fn start(&mut self, number: usize) {
        let peer = free_port();
        let options = NodeOptions {
            name: format!("m-{number}"),
            data_dir: self.directory.path().join(number.to_string()),
            peer_listen: peer,
            peer_advertise: peer.to_string(),
            admin_advertise: format!("admin-{number}"),
            timing: Timing::Lan,
            durability: self.durability,
            tls: self.tls.clone(),
            restore: self.restore.clone(),
        };
        self.start_with(number, options).await;
    }

    async fn start_with(&mut self, number: usize, options: NodeOptions) {
        let (node, replica) = Node::start::<Ledger>(options.clone()).await.unwrap();
        self.members.insert(
            number,
            Member {
                node,
                replica,
                options,
            },
        );
    }

    async fn stop(&mut self, number: usize) -> NodeOptions {
        let member = self.members.remove(&number).unwrap();
        member.node.stop().await;
        member.options
    }

    /// A group of three with a leader.
    async fn of_three(mut self) -> Self {
        for number in 0..3 {
            self.start(number).await;
        }
        self.members[&0].node.initialize(self.group_id).await.unwrap();
        for number in 1..3 {
            self.admit(number).await;
        }
        self
    }

    async fn admit(&self, number: usize) -> Identity {
        let leader = self.leader().await;
        let options = self.members[&number].options.clone();
        let identity = leader
            .node
            .add_learner(options.name, options.peer_advertise, options.admin_advertise)
            .await
            .unwrap();
        self.members[&number].node.join(identity).await.unwrap();
        leader.node.promote(identity.node_id).await.unwrap();
        identity
    }

    async fn leader(&self) -> &Member {
        within("an election", async {
            loop {
                let mut changes = Vec::new();
                for member in self.members.values() {
                    let mut leadership = member.replica.leadership();
                    if matches!(*leadership.borrow_and_update(), Leadership::Leader { .. }) {
                        return member;
                    }
                    changes.push(Box::pin(async move { leadership.changed().await }));
                }
                let _ = futures::future::select_all(changes).await;
            }
        })
        .await
    }

    /// Proposes until it is taken; a doubtful outcome is left as it is.
    async fn propose(&self, line: &str) {
        within("a proposal", async {
            loop {
                match self.leader().await.replica.propose(line.to_owned()).await {
                    Ok(_) => return,
                    Err(ProposeError::NotLeader { .. } | ProposeError::OutcomeUnknown) => {}
                    Err(error) => panic!("{error}"),
                }
                tokio::task::yield_now().await;
            }
        })
        .await;
    }

    async fn everyone_has(&self, line: &str) {
        self.has(line, |_| true).await;
    }

    /// Waits until all of these members show the line.
    async fn has(&self, line: &str, which: impl Fn(&Member) -> bool) {
        for member in self.members.values().filter(|member| which(member)) {
            let mut applied = member.replica.applied();
            within("replication", async {
                while !member
                    .replica
                    .local(|ledger| ledger.lines.iter().any(|have| have == line))
                {
                    applied.changed().await.unwrap();
                }
            })
            .await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_commands_survive_a_stopped_leader_and_a_restart_of_all() {
    let mut group = Group::new().of_three().await;
    group.propose("one").await;
    let first = group.leader().await.options.name.clone();
    let number = first.trim_start_matches("m-").parse().unwrap();
    let options = group.stop(number).await;
    group.propose("two").await;
    group.start_with(number, options).await;
    group.everyone_has("two").await;
    let stopped: Vec<_> = [0, 1, 2].into_iter().collect();
    let mut all = Vec::new();
    for number in stopped {
        all.push((number, group.stop(number).await));
    }
    for (number, options) in all {
        group.start_with(number, options).await;
    }
    group.propose("three").await;
    group.everyone_has("three").await;
    for member in group.members.values() {
        assert_eq!(
            member.replica.local(|ledger| ledger.lines.clone()),
            ["one", "two", "three"]
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn leadership_moves_on_request_and_the_old_leader_is_fenced() {
    let group = Group::new().of_three().await;
    group.propose("before").await;
    let old = group.leader().await;
    let lease = old.replica.lease();
    assert!(lease.is_valid());
    old.node.transfer(None).await.unwrap();
    assert!(!lease.is_valid());
    let new = group.leader().await;
    assert_ne!(new.replica.id(), old.replica.id());
    let Leadership::Leader { term } = *new.replica.leadership().borrow() else {
        unreachable!("it leads")
    };
    assert_eq!(new.node.handed_over_by(term), Some(old.replica.id()));
    assert_eq!(
        new.node.handed_over_by(term + 1),
        None,
        "that was another election"
    );
    assert_eq!(old.node.handed_over_by(term), None);
    let refused = old.replica.propose("late".to_owned()).await.unwrap_err();
    assert_eq!(
        refused,
        ProposeError::NotLeader {
            leader: Some(new.replica.id())
        }
    );
    group.propose("after").await;
    assert_eq!(
        new.replica.read(|ledger| ledger.lines.clone()).await.unwrap(),
        ["before", "after"]
    );
    assert!(old.replica.read(|_| ()).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_without_a_quorum_serves_nothing() {
    let mut group = Group::new().of_three().await;
    let leader = group.leader().await.replica.id();
    let others: Vec<usize> = group
        .members
        .iter()
        .filter(|(_, member)| member.replica.id() != leader)
        .map(|(number, _)| *number)
        .collect();
    let mut leadership = group.leader().await.replica.leadership();
    let (replica, lease) = {
        let leader = group.leader().await;
        (leader.replica.clone(), leader.replica.lease())
    };
    for number in others {
        group.stop(number).await;
    }
    within(
        "the end of the lease",
        leadership.wait_for(|now| matches!(now, Leadership::Follower { .. })),
    )
    .await
    .unwrap();
    assert!(!lease.is_valid());
    assert!(replica.propose("lost".to_owned()).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_disk_is_a_new_member_under_a_new_id() {
    let mut group = Group::new().of_three().await;
    group.propose("kept").await;
    let leader = group.leader().await.replica.id();
    let (number, lost) = group
        .members
        .iter()
        .map(|(number, member)| (*number, member.replica.id()))
        .find(|(_, id)| *id != leader)
        .unwrap();
    let options = group.stop(number).await;
    std::fs::remove_dir_all(&options.data_dir).unwrap();
    group.start_with(number, options).await;
    let status = group.members[&number].node.status();
    assert_eq!(
        (status.node_id, status.role, status.ready),
        (None, Role::Learner, false)
    );
    group.leader().await.node.remove(lost).await.unwrap();
    let identity = group.admit(number).await;
    assert!(identity.node_id > lost, "{} is a used id", identity.node_id);
    group.everyone_has("kept").await;
    let members = group.leader().await.node.status().members;
    assert_eq!(members.len(), 3);
    assert!(members.iter().all(|member| member.voter && member.id != lost));
}

#[tokio::test(flavor = "multi_thread")]
async fn membership_refuses_what_makes_no_sense() {
    let group = Group::new().of_three().await;
    let leader = group.leader().await;
    let id = leader.replica.id();
    let invalid = |error: MembershipError| matches!(error, MembershipError::Invalid(_));
    assert!(
        invalid(leader.node.remove(id).await.unwrap_err()),
        "a leader does not remove itself"
    );
    assert!(invalid(leader.node.transfer(Some(99)).await.unwrap_err()));
    assert!(invalid(leader.node.promote(99).await.unwrap_err()));
    assert!(
        invalid(leader.node.initialize(Uuid::new_v4()).await.unwrap_err()),
        "a member founds no second group"
    );
    let follower = group
        .members
        .values()
        .find(|member| member.replica.id() != id)
        .unwrap();
    let Err(MembershipError::NotLeader {
        leader_admin_address: Some(address),
    }) = follower.node.remove(id).await
    else {
        panic!("a follower changes no membership");
    };
    assert_eq!(address, leader.options.admin_advertise);
}

#[tokio::test(flavor = "multi_thread")]
async fn members_of_another_group_are_refused() {
    let group = Group::new().of_three().await;
    group.propose("ours").await;
    let mut stranger = Group::new();
    let port = free_port();
    let options = NodeOptions {
        name: "stranger".into(),
        data_dir: stranger.directory.path().join("s"),
        peer_listen: port,
        peer_advertise: port.to_string(),
        admin_advertise: String::new(),
        timing: Timing::Lan,
        durability: Durability::Strict,
        tls: None,
        restore: None,
    };
    stranger.start_with(0, options).await;
    stranger.members[&0]
        .node
        .initialize(stranger.group_id)
        .await
        .unwrap();
    // The stranger is told that a member of the other group is its learner: its entries must not arrive there.
    let victim = group.members.values().next().unwrap();
    let before = victim.replica.local(Clone::clone);
    let added = stranger.leader().await.node.add_learner(
        "victim".into(),
        victim.options.peer_advertise.clone(),
        String::new(),
    );
    let identity = within("the stranger's own change", added).await.unwrap();
    let asked = stranger
        .leader()
        .await
        .replica
        .ask(identity.node_id, Bytes::new())
        .await;
    assert!(asked.err().is_some_and(|error| error.0.contains("another group")));
    assert_eq!(victim.replica.local(Clone::clone), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_and_questions_reach_the_peers() {
    let group = Group::new().of_three().await;
    let leader = group.leader().await;
    let peer = group
        .members
        .values()
        .find(|member| member.replica.id() != leader.replica.id())
        .unwrap();
    peer.replica.answer_with(Arc::new(|question| {
        let parts = [Ok(question), Ok(Bytes::from_static(b"!"))];
        Box::pin(futures::stream::iter(parts))
    }));
    let mut told = peer.replica.told().unwrap();
    assert!(peer.replica.told().is_none());
    leader.replica.tell(Bytes::from_static(b"psst"));
    let heard = within("a message", told.recv()).await.unwrap();
    assert_eq!(
        (heard.from, &heard.message[..]),
        (leader.replica.id(), &b"psst"[..])
    );
    let answer = leader
        .replica
        .ask(peer.replica.id(), Bytes::from_static(b"well"))
        .await
        .unwrap();
    let parts: Vec<Bytes> = answer.map(Result::unwrap).collect().await;
    assert_eq!(parts.concat(), b"well!");
    let ids = group
        .members
        .values()
        .map(|member| member.replica.id())
        .take(2)
        .collect();
    assert!(leader.replica.is_quorum(&ids));
    assert!(!leader.replica.is_quorum(&[leader.replica.id()].into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_missed_a_snapshot_gets_it() {
    let mut group = Group::new().of_three().await;
    let leader = group.leader().await.replica.id();
    let number = *group
        .members
        .iter()
        .find(|(_, member)| member.replica.id() != leader)
        .unwrap()
        .0;
    let options = group.stop(number).await;
    // More than a snapshot's worth of entries, in parallel so that it does not take long.
    let replica = group.leader().await.replica.clone();
    let writes = (0..6_500_u32).map(|line| {
        let replica = replica.clone();
        async move { replica.propose(format!("{line:0400}")).await.unwrap() }
    });
    within(
        "many commands",
        futures::stream::iter(writes)
            .buffer_unordered(256)
            .collect::<Vec<_>>(),
    )
    .await;
    let mut changes = group.leader().await.node.watch();
    within("a purged log", async {
        while group.leader().await.node.status().first_log_index <= 1_000 {
            changes.changed().await.unwrap();
        }
    })
    .await;
    group.start_with(number, options).await;
    group.propose("last").await;
    group.everyone_has("last").await;
    // A new member gets it too, and an empty disk in the place of a known one.
    group.start(3).await;
    group.admit(3).await;
    group.everyone_has("last").await;
    let ledgers: Vec<Ledger> = group
        .members
        .values()
        .map(|member| member.replica.local(Clone::clone))
        .collect();
    assert!(ledgers.iter().all(|ledger| *ledger == ledgers[0]));
    assert_eq!(ledgers[0].lines.len(), 6_501);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relaxed_member_whose_machine_went_down_gives_its_id_up() {
    let mut group = Group::new();
    group.durability = Durability::Relaxed;
    let mut group = group.of_three().await;
    group.propose("kept").await;
    let leader = group.leader().await.replica.id();
    let (number, id): (usize, NodeId) = group
        .members
        .iter()
        .map(|(number, member)| (*number, member.replica.id()))
        .find(|(_, id)| *id != leader)
        .unwrap();
    let options = group.stop(number).await;
    let boot = options.data_dir.join("boot.json");
    let text = std::fs::read_to_string(&boot).unwrap();
    let mut mark: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(mark["clean"], true, "a clean stop is marked: {text}");
    mark["clean"] = false.into();
    mark["bootId"] = "of another boot".into();
    std::fs::write(&boot, mark.to_string()).unwrap();
    group.start_with(number, options).await;
    let status = group.members[&number].node.status();
    assert_eq!(status.node_id, None);
    assert!(
        status
            .alarm
            .is_some_and(|alarm| alarm.contains(&format!("node {id} gave up")))
    );
    group.leader().await.node.remove(id).await.unwrap();
    group.admit(number).await;
    group.everyone_has("kept").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_corrupt_log_is_never_voted_on() {
    let mut group = Group::new().of_three().await;
    for line in 0..50 {
        group.propose(&format!("line {line}")).await;
    }
    let leader = group.leader().await.replica.id();
    let number = *group
        .members
        .iter()
        .find(|(_, member)| member.replica.id() != leader)
        .unwrap()
        .0;
    let options = group.stop(number).await;
    damage(&options.data_dir.join("log"));
    group.start_with(number, options).await;
    let status = group.members[&number].node.status();
    assert_eq!(status.node_id, None);
    assert!(status.alarm.is_some_and(|alarm| alarm.contains("corrupt")));
}

/// Flips a bit early in every file of the log that holds `line 1`.
fn damage(log: &Path) {
    let mut damaged = 0;
    for file in std::fs::read_dir(log).unwrap() {
        let path = file.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        if let Some(at) = bytes.windows(6).position(|window| window == b"line 1") {
            bytes[at] ^= 1;
            std::fs::write(&path, bytes).unwrap();
            damaged += 1;
        }
    }
    assert_eq!(damaged, 1, "the log of a follower holds the line once");
}
