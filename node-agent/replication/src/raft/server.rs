//! The gRPC server of one member: checks that a call is meant for it, hands it to Raft or to the service.

use std::pin::Pin;
use std::sync::Arc;

use bytes::BytesMut;
use futures::{Stream, StreamExt as _};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, StreamAppendError, TransferLeaderRequest, VoteRequest,
};
use tonic::{Request, Response, Status, Streaming};

use crate::member::{Member, Running};
use crate::raft::peers::{FROM, GROUP, TO};
use crate::raft::proto::{self, Appended, peer_server};
use crate::raft::snapshot;
use crate::raft::types::{Snapshot, TypeConfig};
use crate::runtime::blocking;
use crate::{NodeId, Told};

type Reply<T> = Result<Response<T>, Status>;
type ReplyStreamOf<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

pub(crate) struct PeerServer {
    member: Arc<Member>,
}

impl PeerServer {
    pub(crate) fn new(member: Arc<Member>) -> Self {
        Self { member }
    }

    /// The running member and the caller's id, when the call is meant for this member of this group.
    fn accept<T>(&self, request: &Request<T>) -> Result<(&Running, NodeId), Status> {
        let running = self
            .member
            .running()
            .ok_or_else(|| Status::failed_precondition("this member has not joined a group yet"))?;
        let text = |key: &str| {
            request
                .metadata()
                .get(key)
                .and_then(|value| value.to_str().ok())
                .unwrap_or_default()
        };
        let identity = &running.identity;
        if text(GROUP) != identity.group_id.to_string() {
            return Err(Status::permission_denied("the call is for another group"));
        }
        if text(TO) != identity.node_id.to_string() {
            return Err(Status::permission_denied(format!(
                "the call is for node {}, and this is node {}",
                text(TO),
                identity.node_id
            )));
        }
        let from = text(FROM)
            .parse()
            .map_err(|_| Status::invalid_argument("the caller's node id is no number"))?;
        #[cfg(not(simulation))]
        if let Some(address) = request.remote_addr() {
            running.peers.heard(from, address.ip());
        }
        Ok((running, from))
    }
}

/// A member whose disk is full takes no more entries, so that its log never fails in the middle; the leader tries
/// again until there is space.
fn refuse_without_space(running: &Running, request: &AppendEntriesRequest<TypeConfig>) -> Result<(), Status> {
    if !request.entries.is_empty() && running.wal.space() == wal::Space::Full {
        return Err(Status::resource_exhausted("the disk of this member is full"));
    }
    Ok(())
}

fn stopped(error: impl std::fmt::Display) -> Status {
    Status::unavailable(format!("this member is stopping: {error}"))
}

#[tonic::async_trait]
impl peer_server::Peer for PeerServer {
    async fn append(&self, request: Request<proto::AppendRequest>) -> Reply<proto::AppendReply> {
        let (running, _) = self.accept(&request)?;
        let request = AppendEntriesRequest::try_from(request.into_inner())?;
        refuse_without_space(running, &request)?;
        let conflict = request.prev_log_id;
        let appended: Appended = match running.raft.append_entries(request).await.map_err(stopped)? {
            AppendEntriesResponse::Success => Ok(None),
            AppendEntriesResponse::PartialSuccess(id) => Ok(id),
            AppendEntriesResponse::HigherVote(vote) => Err(StreamAppendError::HigherVote(vote)),
            AppendEntriesResponse::Conflict => {
                let id = conflict.ok_or_else(|| Status::internal("a conflict without a previous entry"))?;
                Err(StreamAppendError::Conflict(id))
            }
        };
        Ok(Response::new(appended.into()))
    }

    type AppendStreamStream = ReplyStreamOf<proto::AppendReply>;

    async fn append_stream(
        &self,
        request: Request<Streaming<proto::AppendRequest>>,
    ) -> Reply<Self::AppendStreamStream> {
        let (running, _) = self.accept(&request)?;
        let checked = running.clone();
        // A request that cannot be read, or for which there is no space, ends the stream: the leader begins anew.
        let requests = futures::stream::unfold(request.into_inner(), move |mut requests| {
            let checked = checked.clone();
            async move {
                let request = AppendEntriesRequest::try_from(requests.message().await.ok()??).ok()?;
                refuse_without_space(&checked, &request).ok()?;
                Some((request, requests))
            }
        });
        let replies = running.raft.stream_append(requests);
        let replies = replies.map(|reply| reply.map(proto::AppendReply::from).map_err(stopped));
        Ok(Response::new(Box::pin(replies)))
    }

    async fn vote(&self, request: Request<proto::VoteRequest>) -> Reply<proto::VoteReply> {
        let (running, _) = self.accept(&request)?;
        let request = VoteRequest::try_from(request.into_inner())?;
        let response = running.raft.vote(request).await.map_err(stopped)?;
        Ok(Response::new(response.into()))
    }

    async fn pre_vote(&self, request: Request<proto::VoteRequest>) -> Reply<proto::VoteReply> {
        let (running, _) = self.accept(&request)?;
        let request = VoteRequest::try_from(request.into_inner())?;
        let response = running.raft.pre_vote(request).await.map_err(stopped)?;
        Ok(Response::new(response.into()))
    }

    async fn snapshot(&self, request: Request<Streaming<proto::SnapshotPart>>) -> Reply<proto::VoteValue> {
        let (running, _) = self.accept(&request)?;
        let mut parts = request.into_inner();
        let first = parts
            .message()
            .await?
            .ok_or_else(|| Status::invalid_argument("an empty snapshot call"))?;
        let vote = first
            .vote
            .ok_or_else(|| Status::invalid_argument("the snapshot call lacks its vote"))?;
        let mut bytes = BytesMut::from(first.bytes);
        while let Some(part) = parts.message().await? {
            if bytes.len() + part.bytes.len() > snapshot::SNAPSHOT_BYTES_MAX {
                return Err(Status::out_of_range(
                    "the snapshot is larger than this member takes",
                ));
            }
            bytes.extend_from_slice(&part.bytes);
        }
        let bytes = bytes.freeze();
        // Damaged on the way or of an unknown version: refused here, where it harms nobody.
        let (applied, checked) = (self.member.applied.clone(), bytes.clone());
        let parts = blocking(move || {
            let parts = snapshot::decode(&checked).map_err(|error| error.to_string())?;
            applied.check(&parts.state).map_err(|error| error.to_string())?;
            Ok::<_, String>(parts)
        })
        .await
        .map_err(stopped)?
        .map_err(Status::data_loss)?;
        running.check_space_for(bytes.len())?;
        let snapshot = Snapshot {
            meta: parts.meta,
            snapshot: bytes,
        };
        let response = running
            .raft
            .install_full_snapshot(vote.into(), snapshot)
            .await
            .map_err(stopped)?;
        Ok(Response::new((&response.vote).into()))
    }

    async fn transfer_leader(&self, request: Request<proto::TransferRequest>) -> Reply<proto::TransferReply> {
        let (running, sender) = self.accept(&request)?;
        let request = request.into_inner();
        let from = request
            .from
            .ok_or_else(|| Status::invalid_argument("the transfer lacks its vote"))?;
        // All are told; one is meant.
        if request.to == running.identity.node_id {
            self.member.note_handed_over(from.term, sender);
        }
        let request = TransferLeaderRequest::new(from.into(), request.to, request.last.map(Into::into));
        let answer = running
            .raft
            .handle_transfer_leader(request)
            .await
            .map_err(stopped)?;
        let refused = answer.err().map(|error| error.to_string()).unwrap_or_default();
        Ok(Response::new(proto::TransferReply { refused }))
    }

    async fn tell(&self, request: Request<Streaming<proto::Message>>) -> Reply<proto::Empty> {
        let (_, from) = self.accept(&request)?;
        let mut messages = request.into_inner();
        while let Some(message) = messages.message().await? {
            self.member.hear(Told {
                from,
                term: message.term,
                message: message.bytes,
            });
        }
        Ok(Response::new(proto::Empty {}))
    }

    type AskStream = ReplyStreamOf<proto::Message>;

    async fn ask(&self, request: Request<proto::Message>) -> Reply<Self::AskStream> {
        self.accept(&request)?;
        let answerer = self
            .member
            .answerer()
            .ok_or_else(|| Status::unavailable("the service of this member is not up yet"))?;
        let parts = answerer(request.into_inner().bytes).map(|part| match part {
            Ok(bytes) => Ok(proto::Message { term: 0, bytes }),
            Err(error) => Err(Status::aborted(error.to_string())),
        });
        Ok(Response::new(Box::pin(parts)))
    }

    async fn hello(&self, request: Request<proto::Empty>) -> Reply<proto::Empty> {
        self.accept(&request)?;
        Ok(Response::new(proto::Empty {}))
    }
}
