//! What members ask each other about content: `Fetch` and `Hold`. Both ends.
//!
//! ```text
//! request   | version u8 = 1 | postcard Request |
//! answer    one message postcard Answer, then to a Fetch the bytes from `offset` on, in messages of any size
//! ```
//! While a peer works on a `Hold` it sends `Working` now and then, so that silence means that it is gone.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{FutureExt, StreamExt, stream};
use replication::{Answerer, AskError, Leadership, NodeId, ReplyStream};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use super::{FilesOf, Group, Inner, Pin};
use crate::content::{BlobKey, BlobWriter, CHUNK_BYTES, ContentError};
use crate::state::ContentHash;

const REQUEST_VERSION: u8 = 1;

/// A peer that says nothing for this long is given up: five times what it takes to say `Working`.
const SILENCE_MAX: Duration = Duration::from_secs(5);

/// How often a peer that works on a `Hold` says so.
const WORKING_EVERY: Duration = Duration::from_secs(1);

/// A wire format between members of different versions: variants are only appended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Request {
    /// Send the content's bytes from `offset` on.
    Fetch { content: ContentHash, offset: u64 },
    /// Make sure that you have the content on disk, from `source` or anybody.
    Hold {
        content: ContentHash,
        size: u64,
        source: NodeId,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Answer {
    /// The bytes follow; the content has this many in all.
    Found { size: u64 },
    /// The content is not here.
    Absent,
    /// Still fetching.
    Working,
    /// The content is here, synced.
    Held,
    /// It could not be done.
    Failed { reason: String },
}

/// Why content did not come.
#[derive(Debug, Clone, thiserror::Error)]
pub enum FetchError {
    /// Nobody who can be reached has it whole.
    #[error("no member could send content {content}: {}", tried(.attempts))]
    Unavailable {
        /// The content.
        content: ContentHash,
        /// What each peer's attempt came to.
        attempts: Vec<(NodeId, String)>,
    },
    /// This member's disk refused.
    #[error("content could not be stored")]
    Storage(#[source] ContentError),
}

/// What one peer's attempt came to.
enum Pulled {
    /// All bytes are there.
    All,
    /// This peer cannot go on; what it sent is kept.
    Stuck(String),
}

fn tried(attempts: &[(NodeId, String)]) -> String {
    if attempts.is_empty() {
        return "this member knows no other".to_owned();
    }
    attempts
        .iter()
        .map(|(id, reason)| format!("member {id}: {reason}"))
        .collect::<Vec<_>>()
        .join("; ")
}

pub(super) fn encode_request(request: &Request) -> Bytes {
    postcard::to_extend(request, vec![REQUEST_VERSION])
        .expect("a vector takes any bytes")
        .into()
}

fn decode_request(bytes: &[u8]) -> Result<Request, String> {
    match bytes.split_first() {
        Some((&REQUEST_VERSION, body)) => {
            postcard::from_bytes(body).map_err(|error| format!("request does not decode: {error}"))
        }
        Some((version, _)) => Err(format!(
            "request has version {version}, this member reads {REQUEST_VERSION}"
        )),
        None => Err("request is empty".to_owned()),
    }
}

pub(super) fn encode_answer(answer: &Answer) -> Bytes {
    postcard::to_stdvec(answer)
        .expect("a vector takes any bytes")
        .into()
}

/// The next message of an answer; silence and the end of the stream are errors.
pub(super) async fn next_message(replies: &mut ReplyStream) -> Result<Bytes, String> {
    match timeout(SILENCE_MAX, replies.next()).await {
        Ok(Some(Ok(message))) => Ok(message),
        Ok(Some(Err(error))) => Err(error.to_string()),
        Ok(None) => Err("answer ended early".to_owned()),
        Err(_) => Err(format!("silent for {} s", SILENCE_MAX.as_secs())),
    }
}

async fn next_answer(replies: &mut ReplyStream) -> Result<Answer, String> {
    let message = next_message(replies).await?;
    postcard::from_bytes(&message).map_err(|error| format!("answer does not decode: {error}"))
}

impl<G: Group> FilesOf<G> {
    /// The handler of the other members' requests for content. It keeps nothing alive.
    #[must_use]
    pub fn answerer(&self) -> Answerer {
        let weak = Arc::downgrade(&self.inner);
        Arc::new(move |request| match weak.upgrade() {
            Some(inner) => Self { inner }.answer(&request),
            None => refused("member is stopping"),
        })
    }

    fn answer(&self, request: &[u8]) -> ReplyStream {
        match decode_request(request) {
            Ok(Request::Fetch { content, offset }) => self.answer_fetch(content, offset),
            Ok(Request::Hold {
                content,
                size,
                source,
            }) => self.answer_hold(content, size, source),
            Err(reason) => refused(&reason),
        }
    }

    fn answer_fetch(&self, content: ContentHash, offset: u64) -> ReplyStream {
        let pin = self.pin(content);
        let Some(size) = self.inner.store.size(&content) else {
            return stream::iter([Ok(encode_answer(&Answer::Absent))]).boxed();
        };
        let head = stream::iter([Ok(encode_answer(&Answer::Found { size }))]);
        let bytes =
            read_from(pin, size, offset).map(|piece| piece.map_err(|error| AskError(error.to_string())));
        head.chain(bytes).boxed()
    }

    fn answer_hold(&self, content: ContentHash, size: u64, source: NodeId) -> ReplyStream {
        let files = self.clone();
        let work = async move {
            let _pin = files.pin(content);
            match files.obtain(content, Some(size), Some(source)).await {
                Ok(()) => Answer::Held,
                Err(error) => Answer::Failed {
                    reason: super::with_causes(&error),
                },
            }
        };
        // The work goes on only while the asker listens; one who asks again finds what is complete.
        stream::unfold(Some(work.boxed()), |work| async move {
            let mut work = work?;
            Some(match timeout(WORKING_EVERY, &mut work).await {
                Ok(answer) => (Ok(encode_answer(&answer)), None),
                Err(_) => (Ok(encode_answer(&Answer::Working)), Some(work)),
            })
        })
        .boxed()
    }

    /// Asks a peer to hold content, and waits until it does.
    pub(super) async fn ask_hold(&self, peer: NodeId, content: ContentHash, size: u64) -> Result<(), String> {
        let request = encode_request(&Request::Hold {
            content,
            size,
            source: self.inner.group.id(),
        });
        let mut replies = self.ask(peer, request).await?;
        loop {
            match next_answer(&mut replies).await? {
                Answer::Working => {}
                Answer::Held => return Ok(()),
                Answer::Failed { reason } => return Err(reason),
                other => return Err(format!("unexpected answer {other:?}")),
            }
        }
    }

    async fn ask(&self, peer: NodeId, request: Bytes) -> Result<ReplyStream, String> {
        match timeout(SILENCE_MAX, self.inner.group.ask(peer, request)).await {
            Ok(asked) => asked.map_err(|error| error.to_string()),
            Err(_) => Err(format!("silent for {} s", SILENCE_MAX.as_secs())),
        }
    }

    /// Makes sure that content is on this disk with the right length, fetching it if need be. Concurrent callers for
    /// the same content share one fetch.
    pub(super) async fn obtain(
        &self,
        content: ContentHash,
        size: Option<u64>,
        source: Option<NodeId>,
    ) -> Result<(), FetchError> {
        let flight = Flight::board(&self.inner, content);
        let _only = flight.lock.lock().await;
        let here = self.inner.store.size(&content);
        if here.is_some() && size.is_none_or(|size| here == Some(size)) {
            return Ok(());
        }
        self.fetch(content, size, source).await
    }

    /// Fetches content from whoever has it: from `source` first, then from the leader, then from the rest. A peer that
    /// breaks off is followed by the next one from where it stopped.
    async fn fetch(
        &self,
        content: ContentHash,
        size: Option<u64>,
        source: Option<NodeId>,
    ) -> Result<(), FetchError> {
        let size_max = size.unwrap_or(self.inner.limits.content_bytes_max);
        let new_writer = || async {
            self.inner
                .store
                .writer_of(content, size_max)
                .await
                .map_err(FetchError::Storage)
        };
        let mut writer = new_writer().await?;
        let mut attempts = Vec::new();
        for peer in self.sources(source) {
            // A second time alone, when the bytes turn out wrong and others had a part in them.
            loop {
                let is_alone = writer.size() == 0;
                match self.pull(peer, &mut writer, content, size).await? {
                    Pulled::Stuck(reason) => {
                        attempts.push((peer, reason));
                        break;
                    }
                    Pulled::All => match writer.commit().await {
                        Ok(_) => return Ok(()),
                        Err(error @ ContentError::Mismatch { .. }) => {
                            attempts.push((peer, error.to_string()));
                            writer = new_writer().await?;
                            if is_alone {
                                break;
                            }
                        }
                        Err(error) => return Err(FetchError::Storage(error)),
                    },
                }
            }
        }
        Err(FetchError::Unavailable { content, attempts })
    }

    fn sources(&self, first: Option<NodeId>) -> Vec<NodeId> {
        let leader = match *self.inner.group.leadership().borrow() {
            Leadership::Follower { leader } => leader,
            Leadership::Leader { .. } => None,
        };
        let mut ids: Vec<_> = self.inner.group.peers().into_iter().map(|peer| peer.id).collect();
        ids.sort_by_key(|id| (Some(*id) != first, Some(*id) != leader, *id));
        ids
    }

    /// Appends what `peer` has from where the writer stands. An error is this disk's only.
    async fn pull(
        &self,
        peer: NodeId,
        writer: &mut BlobWriter,
        content: ContentHash,
        expected: Option<u64>,
    ) -> Result<Pulled, FetchError> {
        let request = encode_request(&Request::Fetch {
            content,
            offset: writer.size(),
        });
        let mut replies = match self.ask(peer, request).await {
            Ok(replies) => replies,
            Err(reason) => return Ok(Pulled::Stuck(reason)),
        };
        let size = match next_answer(&mut replies).await {
            Ok(Answer::Found { size }) => size,
            Ok(Answer::Absent) => return Ok(Pulled::Stuck("does not have it".to_owned())),
            Ok(other) => return Ok(Pulled::Stuck(format!("unexpected answer {other:?}"))),
            Err(reason) => return Ok(Pulled::Stuck(reason)),
        };
        let size_max = self.inner.limits.content_bytes_max;
        if expected.map_or(size > size_max, |expected| size != expected) {
            return Ok(Pulled::Stuck(format!(
                "has {size} bytes under that name, expected {}",
                expected.unwrap_or(size_max)
            )));
        }
        while writer.size() < size {
            match next_message(&mut replies).await {
                Ok(piece) if piece.len() as u64 > size - writer.size() => {
                    return Ok(Pulled::Stuck("sent more than it promised".to_owned()));
                }
                Ok(piece) => writer.write(piece).await.map_err(FetchError::Storage)?,
                Err(reason) => return Ok(Pulled::Stuck(format!("{reason} after {} bytes", writer.size()))),
            }
        }
        Ok(Pulled::All)
    }
}

/// The bytes of content from `offset` on, in chunks; pinned while the stream lives.
pub(super) fn read_from<G: Group>(
    pin: Pin<G>,
    size: u64,
    offset: u64,
) -> impl futures::Stream<Item = Result<Bytes, ContentError>> + Send + 'static {
    stream::try_unfold((pin, offset), move |(pin, offset)| async move {
        if offset >= size {
            return Ok(None);
        }
        let mut chunk = pin
            .inner
            .store
            .load(&BlobKey::Raw(pin.hash), offset / CHUNK_BYTES)
            .await?;
        let within = usize::try_from(offset % CHUNK_BYTES).unwrap_or(usize::MAX);
        if within >= chunk.len() {
            return Err(ContentError::Missing(pin.hash));
        }
        let piece = chunk.split_off(within);
        let next = offset + piece.len() as u64;
        Ok(Some((piece, (pin, next))))
    })
}

fn refused(reason: &str) -> ReplyStream {
    stream::iter([Err(AskError(reason.to_owned()))]).boxed()
}

/// A fetch that is under way; whoever wants the same content waits for it.
struct Flight<'a, G: Group> {
    inner: &'a Inner<G>,
    content: ContentHash,
    lock: Arc<tokio::sync::Mutex<()>>,
}

impl<'a, G: Group> Flight<'a, G> {
    fn board(inner: &'a Inner<G>, content: ContentHash) -> Self {
        let lock = super::lock(&inner.flights).entry(content).or_default().clone();
        Self { inner, content, lock }
    }
}

impl<G: Group> Drop for Flight<'_, G> {
    fn drop(&mut self) {
        let mut flights = super::lock(&self.inner.flights);
        // Two are the map's and ours: the last one aboard closes the flight.
        if Arc::strong_count(&self.lock) <= 2 {
            flights.remove(&self.content);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_keep_their_bytes() {
        let content = ContentHash([0xaa; 32]);
        let aa = "aa".repeat(32);
        for (request, expected) in [
            (Request::Fetch { content, offset: 300 }, format!("0100{aa}ac02")),
            (
                Request::Hold {
                    content,
                    size: 300,
                    source: 2,
                },
                format!("0101{aa}ac0202"),
            ),
        ] {
            let bytes = encode_request(&request);
            assert_eq!(hex::encode(&bytes), expected);
            assert_eq!(decode_request(&bytes), Ok(request));
        }
        for (answer, expected) in [
            (Answer::Found { size: 300 }, "00ac02"),
            (Answer::Absent, "01"),
            (Answer::Working, "02"),
            (Answer::Held, "03"),
            (
                Answer::Failed {
                    reason: "no".to_owned(),
                },
                "04026e6f",
            ),
        ] {
            assert_eq!(hex::encode(encode_answer(&answer)), expected);
        }
    }

    #[test]
    fn unknown_requests_are_named() {
        assert!(decode_request(&[]).unwrap_err().contains("empty"));
        assert!(decode_request(&[9, 0]).unwrap_err().contains("version 9"));
        assert!(decode_request(&[1, 9]).unwrap_err().contains("does not decode"));
    }
}
