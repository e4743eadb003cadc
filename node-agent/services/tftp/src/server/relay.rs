//! Datagrams that reach a member that does not lead go to the leader, and its answers come back and leave from here.
//!
//! Behind a Service the clients' packets reach the old leader until every node has learned of the new one: kube-proxy
//! writes changes down once a second. Only a packet from where the client's own went gets back to it through the nodes'
//! address translation, so the leader cannot answer these itself.
//!
//! ```text
//! request | version u8 = 2 | postcard Request |
//! answer  to Open: for each packet a message, postcard Answer; to Pass: nothing
//! ```
//! A request of another first byte is about content; see [`crate::files`].

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt as _, stream};
use replication::{Answerer, AskError, NodeId, Replica, ReplyStream};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tracing::debug;

use crate::files::Files;
use crate::packet::{ErrorCode, Packet};
use crate::server::metrics::Metrics;
use crate::server::pulse::Pulse;
use crate::server::socket::{Batch, Datagram, ServerSocket, is_to_many, unspecified};
use crate::state::TftpState;

/// The first byte of a request.
const REQUEST_VERSION: u8 = 2;
/// Batches of datagrams that wait for the leader's loop; what comes beyond is lost, as on any network.
const WAITING_MAX: usize = 256;
/// Packets that wait for their way back; what comes beyond is lost, too. Some full windows.
const ANSWERS_MAX: usize = 256;
/// Members whose datagrams one leader takes at a time.
const OPEN_MAX: usize = 16;
/// How long the leader may take to accept.
const ACCEPTED_WITHIN: Duration = Duration::from_secs(1);
/// An answer that comes this long after the last datagram is not sent: this process was paused, or the client has been led to
/// the leader meanwhile.
const ANSWERED_WITHIN: Duration = Duration::from_secs(1);

/// A wire format between members of different versions: variants are only appended.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Request<'a> {
    /// Send the answers to what this member passes on from now on.
    Open { from: NodeId },
    /// These datagrams have come: who sent them, and what they say.
    Pass {
        from: NodeId,
        #[serde(borrow)]
        datagrams: Vec<(SocketAddr, &'a [u8])>,
    },
}

/// A packet on its way back: for whom, and what it says.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Answer<'a>(SocketAddr, &'a [u8]);

/// The way back to one member.
pub(super) type WayBack = mpsc::Sender<Bytes>;

/// Datagrams that another member received.
#[derive(Debug)]
pub(super) struct Relayed {
    pub(super) datagrams: Vec<(SocketAddr, Vec<u8>)>,
    /// Where the answers go.
    pub(super) back: WayBack,
}

fn encode(request: &Request<'_>) -> Bytes {
    postcard::to_extend(request, vec![REQUEST_VERSION])
        .expect("a vector takes any bytes")
        .into()
}

/// A packet in the form in which it goes back.
pub(super) fn encode_answer(client: SocketAddr, packet: &[u8]) -> Bytes {
    postcard::to_stdvec(&Answer(client, packet))
        .expect("a vector takes any bytes")
        .into()
}

/// What answers the other members' requests, and the datagrams that they pass on.
pub(super) fn answerer(files: &Files) -> (Answerer, mpsc::Receiver<Relayed>) {
    let of_files = files.answerer();
    let (sender, receiver) = mpsc::channel(WAITING_MAX);
    let desk = Desk {
        open: Mutex::default(),
        relayed: sender,
    };
    let answerer: Answerer = Arc::new(move |request: Bytes| match request.split_first() {
        Some((&REQUEST_VERSION, body)) => match desk.answer(body) {
            Ok(answers) => answers,
            Err(reason) => stream::iter([Err(AskError(reason))]).boxed(),
        },
        _ => of_files(request),
    });
    (answerer, receiver)
}

/// Where other members hand in what came to them.
struct Desk {
    open: Mutex<BTreeMap<NodeId, WayBack>>,
    relayed: mpsc::Sender<Relayed>,
}

impl Desk {
    fn answer(&self, request: &[u8]) -> Result<ReplyStream, String> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        match postcard::from_bytes(request).map_err(|error| format!("request does not decode: {error}"))? {
            Request::Open { from } => {
                open.retain(|_, back| !back.is_closed());
                if open.len() >= OPEN_MAX {
                    return Err(format!("{OPEN_MAX} members pass datagrams on already"));
                }
                let (back, answers) = mpsc::channel(ANSWERS_MAX);
                open.insert(from, back);
                Ok(tokio_stream::wrappers::ReceiverStream::new(answers)
                    .map(Ok)
                    .boxed())
            }
            Request::Pass { from, datagrams } => {
                let back = open.get(&from).cloned().ok_or("nobody waits for the answers")?;
                let datagrams = datagrams.into_iter();
                let relayed = Relayed {
                    datagrams: datagrams.map(|(peer, bytes)| (peer, bytes.to_vec())).collect(),
                    back,
                };
                if self.relayed.try_send(relayed).is_err() {
                    debug!(
                        "datagrams from another member dropped: this one does not keep up, or does not lead"
                    );
                }
                Ok(stream::empty().boxed())
            }
        }
    }
}

/// Why the leader gets nothing from here.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    #[error("the port failed")]
    Port(#[from] io::Error),
    #[error("the leader does not take it: {0}")]
    Leader(String),
}

impl From<AskError> for Broken {
    fn from(error: AskError) -> Self {
        Self::Leader(error.to_string())
    }
}

/// When datagrams are passed on, and answers sent.
pub(super) struct Conditions<'a> {
    /// Not what waited through a pause of this process: its clients have asked again, or are gone.
    pub(super) pulse: &'a Pulse,
    /// Not once the nodes have forgotten the flows to this member: an answer would reach its client from an address and a
    /// port that it does not know. Some end the transfer then, and some send all further packets there.
    pub(super) gets_back: &'a (dyn Fn() -> bool + Send + Sync),
}

/// Passes on to `leader` what comes, and sends what it answers, until that fails. What came a moment before waits in the
/// socket, and is passed on, too.
pub(super) async fn run(
    replica: &Replica<TftpState>,
    leader: NodeId,
    (socket, batch): (&mut ServerSocket, &mut Batch),
    Conditions { pulse, gets_back }: &Conditions<'_>,
    metrics: &Metrics,
) -> Result<(), Broken> {
    let from = replica.id();
    let open = encode(&Request::Open { from });
    let mut answers = within_time(replica.ask(leader, open)).await?;
    let mut passed_at = Instant::now();
    loop {
        tokio::select! {
            readable = socket.readable() => {
                readable?;
                socket.try_receive(batch)?;
                if pulse.is_doubtful() {
                    continue;
                }
                let datagrams = batch.datagrams(socket.bound()).filter(is_passed_on);
                let datagrams: Vec<_> = datagrams.map(|datagram| (datagram.peer, datagram.bytes)).collect();
                if !datagrams.is_empty() && gets_back() {
                    metrics.relayed(datagrams.len() as u64);
                    passed_at = Instant::now();
                    let pass = Request::Pass { from, datagrams };
                    within_time(async {
                        // Its end says that the leader has them.
                        let mut taken = replica.ask(leader, encode(&pass)).await?;
                        taken.next().await.transpose()
                    })
                    .await?;
                }
            }
            answer = answers.next() => {
                let answer = answer.ok_or_else(|| Broken::Leader("its answers ended".to_owned()))??;
                let Answer(client, packet) = postcard::from_bytes(&answer)
                    .map_err(|error| Broken::Leader(format!("an answer does not decode: {error}")))?;
                if passed_at.elapsed() < ANSWERED_WITHIN && gets_back() {
                    socket.send(client, unspecified(socket.bound()), packet, packet.len());
                }
            }
        }
    }
}

/// Waits no longer for the leader than it may take.
async fn within_time<T>(asked: impl Future<Output = Result<T, AskError>>) -> Result<T, Broken> {
    match timeout(ACCEPTED_WITHIN, asked).await {
        Ok(answered) => Ok(answered?),
        Err(_) => Err(Broken::Leader("it is silent".to_owned())),
    }
}

/// Not what was sent to many. And not that a packet reached a client from where it expects none: that is about this member's
/// way to it, and no reason to end its transfer.
fn is_passed_on(datagram: &Datagram<'_>) -> bool {
    let unknown_transfer = matches!(
        Packet::decode(datagram.bytes),
        Ok(Packet::Error { code, .. }) if code == ErrorCode::UnknownTransferId as u16
    );
    !is_to_many(datagram.local.ip()) && !unknown_transfer
}
