//! Connections to the other members: three a peer, so that bulk never delays a heartbeat.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
#[cfg(not(simulation))]
use std::io;
#[cfg(not(simulation))]
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
#[cfg(not(simulation))]
use hyper_util::rt::TokioIo;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
#[cfg(not(simulation))]
use tokio_util::either::Either;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
#[cfg(not(simulation))]
use tonic::Code;
use tonic::metadata::{AsciiMetadataValue, MetadataMap};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
#[cfg(not(simulation))]
use tonic::transport::Uri;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use tracing::debug;

use crate::identity::Identity;
#[cfg(not(simulation))]
use crate::raft::proto;
use crate::raft::proto::Message;
use crate::raft::proto::peer_client::PeerClient;
#[cfg(not(simulation))]
use crate::raft::whereabouts::Whereabouts;
use crate::tls::Certificates;
use crate::{AskError, NodeId, ReplyStream};

/// Metadata that names the group, the caller and the member that is called.
pub(crate) const GROUP: &str = "quorate-group";
pub(crate) const FROM: &str = "quorate-from";
pub(crate) const TO: &str = "quorate-to";
/// The largest message between peers: one read of the log plus one large entry fits.
pub(crate) const MESSAGE_BYTES_MAX: usize = 128 << 20;
/// How long a connection may take to open.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);
/// Beyond that, for both sides' signatures.
const HELLO_TIMEOUT: Duration = Duration::from_millis(500);
/// Connections that lead to another member are kept for so long at least.
const RECONNECT_AFTER: Duration = Duration::from_secs(1);
/// How often an open connection is probed, and how long the probe may take.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(if SENDS_AGAIN { 2 } else { 1 });
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(if SENDS_AGAIN { 2 } else { 1 });
/// A simulated network never sends again what it lost: its connections break more often.
const SENDS_AGAIN: bool = cfg!(not(simulation));
/// Messages outside the log that wait for one slow peer; further ones are dropped.
const TELL_QUEUE_MAX: usize = 256;
/// How often a started member tells a peer that does not answer where it is, and how long it waits in between.
#[cfg(not(simulation))]
const ANNOUNCEMENTS_MAX: u32 = 60;
#[cfg(not(simulation))]
const ANNOUNCE_AGAIN: Duration = Duration::from_millis(500);
/// How long a teller waits before it connects again.
const TELL_RETRY: Duration = Duration::from_millis(100);

pub(crate) type Client = PeerClient<InterceptedService<Channel, Stamp>>;

/// Which of a peer's connections a call takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Lane {
    /// Log entries and votes.
    Log,
    /// Heartbeats.
    Heartbeat,
    /// Snapshots, and whatever services send.
    Bulk,
}

/// Marks each call with its group, caller and target.
#[derive(Clone)]
pub(crate) struct Stamp {
    group: AsciiMetadataValue,
    from: AsciiMetadataValue,
    to: AsciiMetadataValue,
}

impl Interceptor for Stamp {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let metadata: &mut MetadataMap = request.metadata_mut();
        metadata.insert(GROUP, self.group.clone());
        metadata.insert(FROM, self.from.clone());
        metadata.insert(TO, self.to.clone());
        Ok(request)
    }
}

/// The connections of one member to its peers; opened when first used, reopened when broken.
pub(crate) struct Peers {
    identity: Identity,
    tls: Option<Certificates>,
    links: Mutex<BTreeMap<NodeId, Link>>,
    /// Those that did not answer when they were last called.
    away: Mutex<BTreeSet<NodeId>>,
    #[cfg(not(simulation))]
    whereabouts: Arc<Whereabouts>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

struct Link {
    address: String,
    opened: Instant,
    lanes: [Channel; 3],
    teller: mpsc::Sender<Message>,
}

impl Peers {
    pub(crate) fn new(
        identity: Identity,
        tls: Option<Certificates>,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> Arc<Self> {
        Arc::new(Self {
            identity,
            tls,
            links: Mutex::default(),
            away: Mutex::default(),
            #[cfg(not(simulation))]
            whereabouts: Arc::default(),
            tasks,
            stop,
        })
    }

    /// A peer called from there.
    #[cfg(not(simulation))]
    pub(crate) fn heard(&self, peer: NodeId, from: IpAddr) {
        self.whereabouts.heard(peer, from);
    }

    pub(crate) fn note_away(&self, peer: NodeId, is_away: bool) {
        let mut away = self.away.lock().unwrap_or_else(PoisonError::into_inner);
        if is_away {
            away.insert(peer);
        } else {
            away.remove(&peer);
        }
    }

    pub(crate) fn is_away(&self, peer: NodeId) -> bool {
        self.away
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .contains(&peer)
    }

    #[cfg_attr(
        simulation,
        expect(unused_variables, reason = "a simulated network knows no other addresses")
    )]
    fn channel(&self, to: NodeId, address: &str) -> Result<Channel, tonic::transport::Error> {
        let connect_timeout = match self.tls {
            None => CONNECT_TIMEOUT,
            Some(_) => CONNECT_TIMEOUT + HELLO_TIMEOUT,
        };
        // Not `https`, for which tonic wants to speak TLS itself: with certificates that never change.
        let endpoint = Endpoint::from_shared(format!("http://{address}"))?
            .connect_timeout(connect_timeout)
            .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT);
        // By the real clock, which has no seed.
        #[cfg(simulation)]
        let endpoint = endpoint.http2_reset_stream_duration(Duration::from_secs(24 * 3600));
        #[cfg(simulation)]
        return Ok(endpoint.connect_with_connector_lazy(tower::service_fn(crate::simulation::connect)));
        #[cfg(not(simulation))]
        {
            let (whereabouts, tls) = (self.whereabouts.clone(), self.tls.clone());
            let connector = tower::service_fn(move |uri: Uri| {
                let (whereabouts, tls) = (whereabouts.clone(), tls.clone());
                async move {
                    let stream = whereabouts.connect(to, &uri).await?;
                    let stream = match tls {
                        None => Either::Left(stream),
                        Some(tls) => Either::Right(tls.connect(stream).await?),
                    };
                    io::Result::Ok(TokioIo::new(stream))
                }
            });
            Ok(endpoint.connect_with_connector_lazy(connector))
        }
    }

    fn stamp(&self, to: NodeId) -> Stamp {
        let ascii = |text: String| {
            AsciiMetadataValue::try_from(text).expect("a UUID and decimal numbers are valid metadata")
        };
        Stamp {
            group: ascii(self.identity.group_id.to_string()),
            from: ascii(self.identity.node_id.to_string()),
            to: ascii(to.to_string()),
        }
    }

    fn client_on(&self, channel: Channel, to: NodeId) -> Client {
        PeerClient::with_interceptor(channel, self.stamp(to))
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    fn with_link<T>(&self, to: NodeId, address: &str, with: impl FnOnce(&Link) -> T) -> Result<T, AskError> {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        if links.get(&to).is_none_or(|link| link.address != address) {
            let open = || {
                self.channel(to, address)
                    .map_err(|error| AskError(format!("peer {to} at {address}: {error}")))
            };
            let lanes = [open()?, open()?, open()?];
            let (teller, queue) = mpsc::channel(TELL_QUEUE_MAX);
            let client = self.client_on(lanes[Lane::Bulk as usize].clone(), to);
            self.tasks.spawn(deliver(client, queue, self.stop.clone()));
            links.insert(
                to,
                Link {
                    address: address.to_owned(),
                    opened: Instant::now(),
                    lanes,
                    teller,
                },
            );
        }
        Ok(with(&links[&to]))
    }

    /// Whoever is at the other end is not `to`: an address was given to somebody else. The next call looks for it anew, but not
    /// with each heartbeat to a member that lost its disk and its id.
    pub(crate) fn reconnect(&self, to: NodeId) {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        let is_old = |link: &Link| link.opened.elapsed() >= RECONNECT_AFTER;
        if links.get(&to).is_some_and(is_old) {
            links.remove(&to);
            #[cfg(not(simulation))]
            self.whereabouts.retain(|peer| peer != to);
        }
    }

    /// A client of `to`, on one of its connections. Does not wait: a broken connection shows in the call.
    pub(crate) fn client(&self, to: NodeId, address: &str, lane: Lane) -> Result<Client, AskError> {
        let channel = self.with_link(to, address, |link| link.lanes[lane as usize].clone())?;
        Ok(self.client_on(channel, to))
    }

    /// Queues a message for `to`, or drops it when the queue is full.
    pub(crate) fn tell(&self, to: NodeId, address: &str, message: Message) {
        let told = self.with_link(to, address, |link| link.teller.try_send(message));
        if !matches!(told, Ok(Ok(()))) {
            debug!(to, "message outside the log dropped: the peer is slow or away");
        }
    }

    /// Tells a peer where this member is, until it has heard it.
    #[cfg(not(simulation))]
    pub(crate) async fn announce(&self, to: NodeId, address: &str) {
        for _ in 0..ANNOUNCEMENTS_MAX {
            let Ok(mut client) = self.client(to, address, Lane::Bulk) else {
                return;
            };
            let said = tokio::select! {
                said = client.hello(proto::Empty {}) => said,
                () = self.stop.cancelled() => return,
            };
            match said {
                Err(status) if status.code() != Code::Unimplemented => {
                    debug!(to, %status, "a peer has not heard where this member is");
                }
                // An older version does not listen to it.
                Ok(_) | Err(_) => return,
            }
            tokio::select! {
                () = tokio::time::sleep(ANNOUNCE_AGAIN) => {}
                () = self.stop.cancelled() => return,
            }
        }
    }

    /// Asks `to`'s service.
    pub(crate) fn ask(
        &self,
        to: NodeId,
        address: &str,
        request: Bytes,
    ) -> impl Future<Output = Result<ReplyStream, AskError>> + Send + use<> {
        let client = self.client(to, address, Lane::Bulk);
        #[cfg(simulation)]
        if let Ok(client) = &client {
            crate::simulation::ask_again(client.clone(), request.clone());
        }
        async move {
            let failed = move |status: Status| AskError(format!("peer {to}: {}", status.message()));
            let answer = client?
                .ask(Message {
                    term: 0,
                    bytes: request,
                })
                .await
                .map_err(failed)?;
            let stream: ReplyStream = Box::pin(
                answer
                    .into_inner()
                    .map(move |part| part.map(|part| part.bytes).map_err(failed)),
            );
            Ok(stream)
        }
    }

    /// Forgets the connections of members that left.
    pub(crate) fn retain(&self, keep: impl Fn(NodeId) -> bool) {
        #[cfg(not(simulation))]
        self.whereabouts.retain(&keep);
        self.links
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|id, _| keep(*id));
    }
}

/// Keeps one long call open and sends what is told; reconnects after a pause. Ends when the link is dropped.
async fn deliver(mut client: Client, mut queue: mpsc::Receiver<Message>, stop: CancellationToken) {
    while !queue.is_closed() || !queue.is_empty() {
        let (forward, outgoing) = mpsc::channel(1);
        let pump = async {
            while let Some(message) = queue.recv().await {
                if forward.send(message).await.is_err() {
                    break;
                }
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = pump => {}
            ended = client.tell(ReceiverStream::new(outgoing)) => {
                debug!(?ended, "a call for messages outside the log ended");
                tokio::time::sleep(TELL_RETRY).await;
            }
        }
    }
}
