//! Bodies of the agent's admin API (`/v1/...` on the admin port).

pub mod hub;

use serde::{Deserialize, Serialize};

use crate::config::ServiceKind;

/// A member's part in its group, as Raft names it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Orders the group's commands, and serves clients while a quorum hears it.
    Leader,
    /// Holds a copy and votes.
    Follower,
    /// Holds a copy and does not vote; also a member that has not joined yet.
    #[default]
    Learner,
    /// Asks for votes.
    Candidate,
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Leader => "leader",
            Self::Follower => "follower",
            Self::Learner => "learner",
            Self::Candidate => "candidate",
        })
    }
}

/// What a member says of itself: `GET /v1/status`, and a row of `quorate-agent status --json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MemberStatus {
    /// The service the group runs.
    pub service: ServiceKind,
    /// The member's name.
    pub name: String,
    /// Its Raft node id; none before it has joined the group.
    pub node_id: Option<u64>,
    /// Its process; none when it is down.
    pub pid: Option<u32>,
    /// Its part in the group.
    pub role: Role,
    /// The highest term it knows.
    pub term: u64,
    /// The last log index it knows to be committed.
    pub commit_index: u64,
    /// The last log index it has applied.
    pub applied_index: u64,
    /// Where clients reach the leader of this group.
    pub client_address: String,
    /// Where this member's admin port is.
    pub admin_address: String,
    /// Everything below is present only in the member's own answer.
    #[serde(flatten, default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<MemberDetail>,
}

/// The longer part of a member's own answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MemberDetail {
    /// The version of its program; empty where that is older than this field.
    #[serde(default)]
    pub version: String,
    /// The group's UUID; none before it has joined.
    pub group_id: Option<String>,
    /// The node id of the leader it knows.
    pub leader_id: Option<u64>,
    /// Whether it is the leader and a quorum heard it within the lease, so that it serves clients.
    pub serving: bool,
    /// Whether it has joined and has applied all that it knows to be committed: `/readyz`.
    pub ready: bool,
    /// The first log index it still holds.
    pub first_log_index: u64,
    /// The last log index it holds.
    pub last_log_index: u64,
    /// The last log index of its newest snapshot; 0 without one.
    pub snapshot_index: u64,
    /// The members it knows, in the order of their node ids.
    pub members: Vec<GroupMember>,
    /// Why it needs help, in a sentence (its log is corrupt, its disk is full); none when it is well.
    pub alarm: Option<String>,
    /// Which authorities and which certificate chain its new connections to peers count by: SHA-256 over `peerTls.caFile`
    /// and `peerTls.certFile`, each behind its length (64 bits, little-endian), in hexadecimal. None without TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_certificates: Option<String>,
    /// What the service adds, for the status page (running transfers and the like).
    pub service_detail: serde_json::Value,
}

/// A member as the group's membership records it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GroupMember {
    /// Its Raft node id.
    pub node_id: u64,
    /// Its name.
    pub name: String,
    /// Where peers reach it.
    pub peer_address: String,
    /// Where its admin port is.
    pub admin_address: String,
    /// Whether it votes.
    pub voter: bool,
    /// The last log index it is known to hold; only the leader knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub matched_index: Option<u64>,
}

/// `POST /v1/membership/initialize`: makes this member the only voter of a new group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Initialize {
    /// A fresh UUID that names the group for ever.
    pub group_id: String,
}

/// `POST /v1/membership/add-learner`, to the leader: admits a member that has an empty disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AddLearner {
    /// The new member's name.
    pub name: String,
    /// Where peers will reach it.
    pub peer_address: String,
    /// Where its admin port is.
    pub admin_address: String,
}

/// The leader's answer to [`AddLearner`], and the body of `POST /v1/membership/join` to the new member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    /// The group's UUID.
    pub group_id: String,
    /// The member's node id: the index of the log entry that admitted it, never used again.
    pub node_id: u64,
}

/// `POST /v1/membership/promote|remove|transfer`, to the leader. `transfer` without a node id lets the leader choose.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MemberRef {
    /// The member meant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_id: Option<u64>,
}

/// The body of every answer that is not a success.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// What went wrong and what to do, in a sentence.
    pub error: String,
    /// Where the leader's admin port is, when the request has to go there (status 421).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader_admin_address: Option<String>,
}

/// A file of the TFTP service: `GET /v1/files` answers a list of these, sorted by path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FileInfo {
    /// The name that clients ask for, without a leading slash.
    pub path: String,
    /// Its length in bytes.
    pub size: u64,
    /// The SHA-256 of its bytes, in hexadecimal.
    pub sha256: String,
    /// The log index of its last change.
    pub version: u64,
    /// The source that it came from; none when somebody put it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
}
