//! How an entry's payload is written to the log and to peers. Ours, because openraft promises no stable format.
//!
//! ```text
//!  1 byte   the rest
//! | 0x00 | nothing                                      a blank entry
//! | 0x01 | stamp u64 LE (ms since the epoch) | command  the service's command (postcard)
//! | 0x02 | membership (postcard, MembershipV1)          voters and addresses
//! ```
//! A kind is never given a second meaning; a new format gets a new kind. The golden bytes are in the tests.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{BufMut, Bytes, BytesMut};
use openraft::EntryPayload;
use serde::{Deserialize, Serialize};

use crate::NodeId;
use crate::raft::types::{LeaderId, LogId, MemberNode, Membership, Proposal, Vote};

const KIND_BLANK: u8 = 0;
const KIND_COMMAND: u8 = 1;
const KIND_MEMBERSHIP: u8 = 2;
/// Kind and stamp.
const COMMAND_HEADER_BYTES: usize = 9;

pub(crate) type Payload = EntryPayload<Proposal, NodeId, MemberNode>;

/// Bytes that are no entry payload of a known kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("entry payload unreadable: {0}")]
pub(crate) struct PayloadUnreadable(pub(crate) String);

#[derive(Serialize, Deserialize)]
struct MembershipV1 {
    configs: Vec<BTreeSet<NodeId>>,
    nodes: BTreeMap<NodeId, NodeV1>,
}

#[derive(Serialize, Deserialize)]
struct NodeV1 {
    name: String,
    peer_address: String,
    admin_address: String,
}

/// Encodes a command with its stamp.
pub(crate) fn encode_command(unix_ms: u64, command: &[u8]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(COMMAND_HEADER_BYTES + command.len());
    bytes.put_u8(KIND_COMMAND);
    bytes.put_u64_le(unix_ms);
    bytes.put_slice(command);
    bytes.freeze()
}

/// The stamp and the command's bytes of an encoded command.
pub(crate) fn decode_command(payload: &Bytes) -> Result<(u64, Bytes), PayloadUnreadable> {
    if payload.first() != Some(&KIND_COMMAND) || payload.len() < COMMAND_HEADER_BYTES {
        return Err(PayloadUnreadable(format!(
            "{} bytes that are no command",
            payload.len()
        )));
    }
    let mut stamp = [0; 8];
    stamp.copy_from_slice(&payload[1..COMMAND_HEADER_BYTES]);
    Ok((u64::from_le_bytes(stamp), payload.slice(COMMAND_HEADER_BYTES..)))
}

/// Encodes what an entry carries; a command's bytes are shared, not copied.
pub(crate) fn encode(payload: &Payload) -> Bytes {
    match payload {
        EntryPayload::Blank => Bytes::from_static(&[KIND_BLANK]),
        EntryPayload::Normal(proposal) => proposal.payload().clone(),
        EntryPayload::Membership(membership) => {
            let mut bytes = vec![KIND_MEMBERSHIP];
            bytes.extend(encode_membership(membership));
            bytes.into()
        }
    }
}

/// The inverse of [`encode`].
pub(crate) fn decode(payload: &Bytes) -> Result<Payload, PayloadUnreadable> {
    match payload.first() {
        Some(&KIND_BLANK) if payload.len() == 1 => Ok(EntryPayload::Blank),
        Some(&KIND_COMMAND) if payload.len() >= COMMAND_HEADER_BYTES => {
            Ok(EntryPayload::Normal(Proposal::from_payload(payload.clone())))
        }
        Some(&KIND_MEMBERSHIP) => Ok(EntryPayload::Membership(decode_membership(&payload[1..])?)),
        kind => Err(PayloadUnreadable(format!(
            "{} bytes of kind {kind:?}",
            payload.len()
        ))),
    }
}

/// A membership in postcard.
pub(crate) fn encode_membership(membership: &Membership) -> Vec<u8> {
    let value = MembershipV1 {
        configs: membership.get_joint_config().clone(),
        nodes: membership
            .nodes()
            .map(|(id, node)| {
                let node = NodeV1 {
                    name: node.name.clone(),
                    peer_address: node.peer_address.clone(),
                    admin_address: node.admin_address.clone(),
                };
                (*id, node)
            })
            .collect(),
    };
    postcard::to_allocvec(&value).expect("sets, maps and strings in memory always serialise")
}

/// The inverse of [`encode_membership`].
pub(crate) fn decode_membership(bytes: &[u8]) -> Result<Membership, PayloadUnreadable> {
    let value: MembershipV1 =
        postcard::from_bytes(bytes).map_err(|error| PayloadUnreadable(format!("membership: {error}")))?;
    if value.configs.is_empty() && value.nodes.is_empty() {
        return Ok(Membership::default());
    }
    let nodes: BTreeMap<NodeId, MemberNode> = value
        .nodes
        .into_iter()
        .map(|(id, node)| {
            let node = MemberNode {
                name: node.name,
                peer_address: node.peer_address,
                admin_address: node.admin_address,
            };
            (id, node)
        })
        .collect();
    Membership::new(value.configs, nodes).map_err(|error| PayloadUnreadable(format!("membership: {error}")))
}

/// openraft's log id as the log stores it.
pub(crate) fn position(id: &LogId) -> wal::Position {
    wal::Position {
        term: id.leader_id.term,
        node: id.leader_id.node_id,
        index: id.index,
    }
}

/// The inverse of [`position`].
pub(crate) fn log_id(position: wal::Position) -> LogId {
    LogId::new(
        LeaderId {
            term: position.term,
            node_id: position.node,
        },
        position.index,
    )
}

/// openraft's vote as the log stores it.
pub(crate) fn stored_vote(vote: &Vote) -> wal::Vote {
    wal::Vote {
        term: vote.leader_id.term,
        node: vote.leader_id.node_id,
        committed: vote.committed,
    }
}

/// The inverse of [`stored_vote`].
pub(crate) fn vote(stored: wal::Vote) -> Vote {
    Vote {
        leader_id: LeaderId {
            term: stored.term,
            node_id: stored.node,
        },
        committed: stored.committed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn membership() -> Membership {
        let node = MemberNode {
            name: "tftp-0".into(),
            peer_address: "127.0.0.1:7401".into(),
            admin_address: "127.0.0.1:9401".into(),
        };
        Membership::new(vec![BTreeSet::from([1])], BTreeMap::from([(1, node)])).unwrap()
    }

    #[test]
    fn golden_bytes_of_every_kind() {
        assert_eq!(&encode(&EntryPayload::Blank)[..], [0]);
        let command = EntryPayload::Normal(Proposal::new(0x0102, b"hi"));
        assert_eq!(&encode(&command)[..], [1, 2, 1, 0, 0, 0, 0, 0, 0, b'h', b'i']);
        let bytes = encode(&EntryPayload::Membership(membership()));
        let mut golden = vec![2, 1, 1, 1, 1, 1, 6];
        golden.extend(b"tftp-0\x0e127.0.0.1:7401\x0e127.0.0.1:9401");
        assert_eq!(&bytes[..], golden);
    }

    #[test]
    fn every_kind_survives_a_round_trip() {
        let command = EntryPayload::Normal(Proposal::new(7, b"command"));
        for payload in [
            EntryPayload::Blank,
            command,
            EntryPayload::Membership(membership()),
        ] {
            assert_eq!(decode(&encode(&payload)).unwrap(), payload);
        }
    }

    #[test]
    fn unknown_kinds_and_short_payloads_are_refused() {
        for bytes in [&[][..], &[9], &[1, 2], &[2, 255], &[0, 1]] {
            assert!(decode(&Bytes::copy_from_slice(bytes)).is_err(), "{bytes:?}");
        }
    }
}
