//! openraft's calls to other members, over gRPC. Every call has a deadline.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt as _, stream};
use openraft::base::{BoxFuture, BoxStream};
use openraft::error::{NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2, stream_append_sequential};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult, TransferLeaderRequest,
    VoteRequest, VoteResponse,
};
use openraft::{OptionalSend, RPCTypes};
use tonic::{Code, Status, Streaming};
use wal::Wal;

use crate::NodeId;
use crate::raft::peers::{Client, Lane, Peers};
use crate::raft::proto::{self, Appended};
use crate::raft::types::{MemberNode, Snapshot, TypeConfig, Vote};

/// How long a pipelined append may stay without an answer before the stream is opened anew. A follower answers after
/// its disk has synced, so this is generous; heartbeats have their own connection and deadline.
const APPEND_STALL: Duration = Duration::from_secs(1);
/// Bytes of a snapshot in one message.
const SNAPSHOT_PART_BYTES: usize = 1 << 20;

type RpcError = RPCError<TypeConfig>;

/// Makes the connections that openraft asks for.
#[derive(Clone)]
pub(crate) struct Network {
    peers: Arc<Peers>,
    from: NodeId,
    wal: Wal,
}

impl Network {
    /// `wal` is this member's log.
    pub(crate) fn new(peers: Arc<Peers>, from: NodeId, wal: Wal) -> Self {
        Self { peers, from, wal }
    }

    fn link(&self, target: NodeId, node: &MemberNode, lane: Lane) -> Link {
        Link {
            peers: self.peers.clone(),
            from: self.from,
            wal: self.wal.clone(),
            target,
            address: node.peer_address.clone(),
            lane,
        }
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Link;

    async fn new_client(&mut self, target: NodeId, node: &MemberNode) -> Link {
        self.link(target, node, Lane::Log)
    }

    async fn new_heartbeat_client(&mut self, target: NodeId, node: &MemberNode) -> Link {
        self.link(target, node, Lane::Heartbeat)
    }

    async fn new_snapshot_client(&mut self, target: NodeId, node: &MemberNode) -> Link {
        self.link(target, node, Lane::Bulk)
    }
}

/// One of openraft's connections to one member.
pub(crate) struct Link {
    peers: Arc<Peers>,
    from: NodeId,
    wal: Wal,
    target: NodeId,
    address: String,
    lane: Lane,
}

impl Link {
    fn client(&self) -> Result<Client, RpcError> {
        self.peers
            .client(self.target, &self.address, self.lane)
            .map_err(|error| Unreachable::new(&error).into())
    }

    /// Runs one call under its deadline and sorts its errors.
    async fn call<T>(
        &self,
        action: RPCTypes,
        deadline: Duration,
        call: impl Future<Output = Result<tonic::Response<T>, Status>>,
    ) -> Result<T, RpcError> {
        match tokio::time::timeout(deadline, call).await {
            Ok(Ok(response)) => {
                self.peers.note_away(self.target, false);
                Ok(response.into_inner())
            }
            Ok(Err(status)) => {
                self.peers
                    .note_away(self.target, status.code() == Code::Unavailable);
                if status.code() == Code::PermissionDenied {
                    self.peers.reconnect(self.target);
                }
                Err(sort(&status))
            }
            Err(_) => {
                self.peers.note_away(self.target, true);
                Err(self.timed_out(action, deadline).into())
            }
        }
    }

    fn timed_out(&self, action: RPCTypes, timeout: Duration) -> Timeout<TypeConfig> {
        Timeout {
            action,
            id: self.from,
            target: self.target,
            timeout,
        }
    }
}

/// A peer that is away is worth a pause; anything else may be tried again at once.
fn sort(status: &Status) -> RpcError {
    match status.code() {
        Code::Unavailable | Code::FailedPrecondition | Code::ResourceExhausted | Code::PermissionDenied => {
            Unreachable::from_string(status).into()
        }
        _ => NetworkError::from_string(status).into(),
    }
}

fn converted<T>(value: Result<T, Status>) -> Result<T, RpcError> {
    value.map_err(|status| sort(&status))
}

/// Whether a request is empty because what its target needs next was purged. openraft sends such a one when that happens
/// beneath a stream, and would for ever: only when the stream fails does it see that the target needs a snapshot.
fn lacks_what_follows(request: &AppendEntriesRequest<TypeConfig>, purged: Option<wal::Position>) -> bool {
    let next = request.prev_log_id.map_or(0, |prev| prev.index + 1);
    request.entries.is_empty() && purged.is_some_and(|purged| next <= purged.index)
}

/// A pipelined append: requests that were taken, replies that came, and the stream of replies.
struct Pipeline {
    taken: Arc<AtomicU64>,
    /// The requests ended: [`lacks_what_follows`].
    lacking: Arc<AtomicBool>,
    answered: u64,
    replies: Streaming<proto::AppendReply>,
    stalled: Timeout<TypeConfig>,
}

impl Pipeline {
    /// The next reply; none when the peer closed the stream. An error ends the stream.
    async fn next(&mut self) -> Option<Result<StreamAppendResult<TypeConfig>, RpcError>> {
        loop {
            return match tokio::time::timeout(APPEND_STALL, self.replies.message()).await {
                Ok(Ok(Some(reply))) => {
                    self.answered += 1;
                    Some(converted(Appended::try_from(reply)))
                }
                Ok(Ok(None)) if self.lacking.load(Ordering::Relaxed) => {
                    let why = "what follows was purged: a snapshot is needed";
                    Some(Err(NetworkError::from_string(why).into()))
                }
                Ok(Ok(None)) => None,
                Ok(Err(status)) => Some(Err(sort(&status))),
                // Nothing was asked, so nothing is missing.
                Err(_) if self.taken.load(Ordering::Relaxed) == self.answered => continue,
                Err(_) => Some(Err(self.stalled.clone().into())),
            };
        }
    }
}

impl RaftNetworkV2<TypeConfig> for Link {
    type SnapshotData = Bytes;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RpcError> {
        let mut client = self.client()?;
        let call = client.append(proto::AppendRequest::from(rpc));
        let reply = self
            .call(RPCTypes::AppendEntries, option.hard_ttl(), call)
            .await?;
        Ok(converted(Appended::try_from(reply))?.into())
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<'s, Result<BoxStream<'s, Result<StreamAppendResult<TypeConfig>, RpcError>>, RpcError>>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        if self.lane == Lane::Heartbeat {
            // A heartbeat is one request: a unary call costs less than a stream.
            return stream_append_sequential(self, input, option);
        }
        Box::pin(async move {
            let mut input = input;
            // openraft waits out its back-off while it makes the first request: without asking for one, a peer that
            // cannot be reached would be called again at once, for ever.
            let Some(first) = input.next().await else {
                let nothing: BoxStream<'s, _> = Box::pin(stream::empty());
                return Ok(nothing);
            };
            let (taken, lacking) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
            let (counter, lacks, wal) = (taken.clone(), lacking.clone(), self.wal.clone());
            let requests = stream::iter([first]).chain(input);
            let requests = requests.take_while(move |request| {
                let is_lacking = lacks_what_follows(request, wal.purged());
                lacks.fetch_or(is_lacking, Ordering::Relaxed);
                futures::future::ready(!is_lacking)
            });
            let requests = requests.map(move |request| {
                counter.fetch_add(1, Ordering::Relaxed);
                proto::AppendRequest::from(request)
            });
            let mut client = self.client()?;
            let replies = self
                .call(
                    RPCTypes::AppendEntries,
                    APPEND_STALL,
                    client.append_stream(requests),
                )
                .await?;
            let stalled = self.timed_out(RPCTypes::AppendEntries, APPEND_STALL);
            let pipeline = Pipeline {
                taken,
                lacking,
                answered: 0,
                replies,
                stalled,
            };
            let replies = stream::unfold(Some(pipeline), |pipeline| async move {
                let mut pipeline = pipeline?;
                let reply = pipeline.next().await?;
                let rest = reply.is_ok().then_some(pipeline);
                Some((reply, rest))
            });
            let replies: BoxStream<'s, _> = Box::pin(replies);
            Ok(replies)
        })
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        let mut client = self.client()?;
        let reply = self
            .call(
                RPCTypes::Vote,
                option.hard_ttl(),
                client.vote(proto::VoteRequest::from(rpc)),
            )
            .await?;
        converted(VoteResponse::try_from(reply))
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        let mut client = self.client()?;
        let call = client.pre_vote(proto::VoteRequest::from(rpc));
        converted(VoteResponse::try_from(
            self.call(RPCTypes::Vote, option.hard_ttl(), call).await?,
        ))
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let mut client = self.client()?;
        let bytes = snapshot.snapshot;
        let first = proto::SnapshotPart {
            vote: Some((&vote).into()),
            bytes: Bytes::new(),
        };
        let parts = (0..bytes.len())
            .step_by(SNAPSHOT_PART_BYTES)
            .map(move |start| proto::SnapshotPart {
                vote: None,
                bytes: bytes.slice(start..bytes.len().min(start + SNAPSHOT_PART_BYTES)),
            });
        let call = client.snapshot(stream::iter(std::iter::once(first).chain(parts)));
        let reply = tokio::select! {
            closed = cancel => return Err(closed.into()),
            reply = self.call(RPCTypes::InstallSnapshot, option.hard_ttl(), call) => reply?,
        };
        Ok(SnapshotResponse::new(reply.into()))
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<openraft::raft::TransferLeaderResponse<TypeConfig>, RpcError> {
        let mut client = self.client()?;
        let call = client.transfer_leader(proto::TransferRequest {
            from: Some(request.from_leader().into()),
            to: *request.to_node_id(),
            last: request.last_log_id().map(Into::into),
        });
        let reply = self
            .call(RPCTypes::TransferLeader, option.hard_ttl(), call)
            .await?;
        if reply.refused.is_empty() {
            Ok(Ok(()))
        } else {
            // openraft only logs the reason.
            Err(NetworkError::from_string(reply.refused).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::codec;
    use crate::raft::types::{Entry, EntryPayload};
    use openraft::entry::RaftEntry as _;

    #[test]
    fn a_stream_ends_where_what_follows_was_purged_and_not_before() {
        let position = |index| wal::Position {
            term: 1,
            node: 1,
            index,
        };
        let request = |prev: Option<u64>, entries: &[u64]| AppendEntriesRequest::<TypeConfig> {
            vote: Vote::new(1, 1),
            prev_log_id: prev.map(|index| codec::log_id(position(index))),
            entries: entries
                .iter()
                .map(|index| Entry::new(codec::log_id(position(*index)), EntryPayload::Blank))
                .collect(),
            leader_commit: None,
        };
        let lacks = |prev, entries: &[u64], purged: Option<u64>| {
            lacks_what_follows(&request(prev, entries), purged.map(position))
        };
        assert!(lacks(Some(399), &[], Some(400)));
        assert!(lacks(None, &[], Some(0)));
        // What follows is there, or was read before it was purged, or nothing was purged.
        assert!(!lacks(Some(400), &[], Some(400)));
        assert!(!lacks(Some(399), &[400], Some(400)));
        assert!(!lacks(Some(399), &[], None));
    }
}
