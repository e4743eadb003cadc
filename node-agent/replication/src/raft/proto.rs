//! The peers' protocol as generated, and its conversions to and from openraft's types.

#![expect(
    private_interfaces,
    reason = "the generated types are public in a private module"
)]

use bytes::Bytes;
use openraft::entry::RaftEntry as _;
use openraft::raft::{AppendEntriesRequest, StreamAppendError, VoteRequest as RaftVoteRequest, VoteResponse};
use tonic::Status;

use crate::raft::codec;
use crate::raft::types::{self, TypeConfig};

#[allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    clippy::allow_attributes_without_reason,
    clippy::too_many_lines,
    clippy::disallowed_types,
    reason = "generated code"
)]
mod generated {
    tonic::include_proto!("quorate.peer.v1");
}

pub(crate) use generated::*;

/// What openraft says of an appended batch: stored up to here, or why not.
pub(crate) type Appended = openraft::raft::StreamAppendResult<TypeConfig>;

fn missing(field: &str) -> Status {
    Status::invalid_argument(format!("the message lacks its field {field}"))
}

impl From<&types::LogId> for LogId {
    fn from(id: &types::LogId) -> Self {
        let position = codec::position(id);
        Self {
            term: position.term,
            node: position.node,
            index: position.index,
        }
    }
}

impl From<LogId> for types::LogId {
    fn from(id: LogId) -> Self {
        codec::log_id(wal::Position {
            term: id.term,
            node: id.node,
            index: id.index,
        })
    }
}

impl From<&types::Vote> for VoteValue {
    fn from(vote: &types::Vote) -> Self {
        let stored = codec::stored_vote(vote);
        Self {
            term: stored.term,
            node: stored.node,
            committed: stored.committed,
        }
    }
}

impl From<VoteValue> for types::Vote {
    fn from(vote: VoteValue) -> Self {
        codec::vote(wal::Vote {
            term: vote.term,
            node: vote.node,
            committed: vote.committed,
        })
    }
}

impl From<AppendEntriesRequest<TypeConfig>> for AppendRequest {
    fn from(request: AppendEntriesRequest<TypeConfig>) -> Self {
        let entries = request.entries.iter().map(|entry| Entry {
            id: Some((&entry.log_id).into()),
            payload: codec::encode(&entry.payload),
        });
        Self {
            vote: Some((&request.vote).into()),
            prev: request.prev_log_id.as_ref().map(Into::into),
            entries: entries.collect(),
            leader_commit: request.leader_commit.as_ref().map(Into::into),
        }
    }
}

impl TryFrom<AppendRequest> for AppendEntriesRequest<TypeConfig> {
    type Error = Status;

    fn try_from(request: AppendRequest) -> Result<Self, Status> {
        let entries = request.entries.into_iter().map(|entry| {
            let id = entry.id.ok_or_else(|| missing("entries.id"))?;
            let payload: &Bytes = &entry.payload;
            let payload =
                codec::decode(payload).map_err(|error| Status::invalid_argument(error.to_string()))?;
            Ok(types::Entry::new(id.into(), payload))
        });
        Ok(Self {
            vote: request.vote.ok_or_else(|| missing("vote"))?.into(),
            prev_log_id: request.prev.map(Into::into),
            entries: entries.collect::<Result<_, Status>>()?,
            leader_commit: request.leader_commit.map(Into::into),
        })
    }
}

impl From<Appended> for AppendReply {
    fn from(appended: Appended) -> Self {
        let result = match &appended {
            Ok(None) => append_reply::Result::Success(Empty {}),
            Ok(Some(id)) => append_reply::Result::Partial(id.into()),
            Err(StreamAppendError::Conflict(id)) => append_reply::Result::Conflict(id.into()),
            Err(StreamAppendError::HigherVote(vote)) => append_reply::Result::HigherVote(vote.into()),
        };
        Self { result: Some(result) }
    }
}

impl TryFrom<AppendReply> for Appended {
    type Error = Status;

    fn try_from(reply: AppendReply) -> Result<Self, Status> {
        Ok(match reply.result.ok_or_else(|| missing("result"))? {
            append_reply::Result::Success(Empty {}) => Ok(None),
            append_reply::Result::Partial(id) => Ok(Some(id.into())),
            append_reply::Result::Conflict(id) => Err(StreamAppendError::Conflict(id.into())),
            append_reply::Result::HigherVote(vote) => Err(StreamAppendError::HigherVote(vote.into())),
        })
    }
}

impl From<RaftVoteRequest<TypeConfig>> for VoteRequest {
    fn from(request: RaftVoteRequest<TypeConfig>) -> Self {
        Self {
            vote: Some((&request.vote).into()),
            last: request.last_log_id.as_ref().map(Into::into),
            leadership_transfer: request.leadership_transfer,
        }
    }
}

impl TryFrom<VoteRequest> for RaftVoteRequest<TypeConfig> {
    type Error = Status;

    fn try_from(request: VoteRequest) -> Result<Self, Status> {
        let vote = request.vote.ok_or_else(|| missing("vote"))?.into();
        let mut converted = Self::new(vote, request.last.map(Into::into));
        converted.leadership_transfer = request.leadership_transfer;
        Ok(converted)
    }
}

impl From<VoteResponse<TypeConfig>> for VoteReply {
    fn from(response: VoteResponse<TypeConfig>) -> Self {
        Self {
            vote: Some((&response.vote).into()),
            granted: response.vote_granted,
            last: response.last_log_id.as_ref().map(Into::into),
        }
    }
}

impl TryFrom<VoteReply> for VoteResponse<TypeConfig> {
    type Error = Status;

    fn try_from(reply: VoteReply) -> Result<Self, Status> {
        let vote: types::Vote = reply.vote.ok_or_else(|| missing("vote"))?.into();
        Ok(Self::new(vote, reply.last.map(Into::into), reply.granted))
    }
}
