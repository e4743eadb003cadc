//! The peer port's connections: bounded in number, and closed when nothing is heard from them. Members answer HTTP/2
//! pings, so only strangers and the dead are silent; they must not use up the process's file descriptors.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::{Stream, StreamExt as _, stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
#[cfg(not(simulation))]
pub(crate) use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};
#[cfg(not(simulation))]
use tokio_rustls::TlsStream;
#[cfg(not(simulation))]
use tokio_util::either::Either;
use tonic::transport::server::Connected;
#[cfg(not(simulation))]
use tonic::transport::server::TcpConnectInfo;
#[cfg(simulation)]
pub(crate) use turmoil::net::{TcpListener, TcpStream};

use crate::tls::Certificates;

/// A member holds a handful of connections to each other one; further ones wait in the listener's backlog.
const CONNECTIONS_MAX: usize = 256;
/// Three of the server's pings ([`PING_EVERY`]) unanswered, or nothing said after connecting.
const SILENCE_MAX: Duration = Duration::from_secs(15);
/// How often a quiet connection is pinged.
pub(crate) const PING_EVERY: Duration = Duration::from_secs(5);
/// After a failed accept, such as one for want of file descriptors.
const ACCEPT_RETRY_AFTER: Duration = Duration::from_millis(100);

/// How long a caller may take to show its certificate.
#[cfg(not(simulation))]
const HELLO_MAX: Duration = Duration::from_secs(5);

#[cfg(not(simulation))]
type Wire = Either<TcpStream, Box<TlsStream<TcpStream>>>;
#[cfg(not(simulation))]
type From = TcpConnectInfo;
#[cfg(simulation)]
type Wire = TcpStream;
#[cfg(simulation)]
type From = ();

/// One accepted connection.
pub(crate) struct Connection {
    stream: Wire,
    from: From,
    silence: Pin<Box<Sleep>>,
    _slot: OwnedSemaphorePermit,
}

/// Accepts for ever. Nobody waits for another one's hello.
pub(crate) fn accept(
    listener: TcpListener,
    certificates: Option<Certificates>,
) -> impl Stream<Item = io::Result<Connection>> {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let accepted = stream::unfold((listener, slots), async |(listener, slots)| {
        let slot = slots.clone().acquire_owned().await.ok()?;
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    // Only latency suffers without it.
                    stream.set_nodelay(true).ok();
                    return Some(((stream, slot), (listener, slots)));
                }
                Err(error) => {
                    tracing::warn!(%error, "accepting a peer's connection");
                    tokio::time::sleep(ACCEPT_RETRY_AFTER).await;
                }
            }
        }
    });
    accepted
        .map(move |(stream, slot)| open(stream, slot, certificates.clone()))
        .buffer_unordered(CONNECTIONS_MAX)
        .filter_map(async |opened| match opened {
            Ok(connection) => Some(Ok(connection)),
            Err(error) => {
                tracing::debug!(%error, "a caller at the peer port is no member");
                None
            }
        })
}

/// Makes a connection of an accepted stream.
#[cfg(not(simulation))]
async fn open(
    stream: TcpStream,
    slot: OwnedSemaphorePermit,
    certificates: Option<Certificates>,
) -> io::Result<Connection> {
    let from = stream.connect_info();
    let stream = match certificates {
        None => Either::Left(stream),
        Some(certificates) => {
            let hello = tokio::time::timeout(HELLO_MAX, certificates.accept(stream));
            Either::Right(Box::new(hello.await??))
        }
    };
    Ok(Connection::new(stream, from, slot))
}

/// A simulated network has no certificates.
#[cfg(simulation)]
async fn open(
    stream: TcpStream,
    slot: OwnedSemaphorePermit,
    _certificates: Option<Certificates>,
) -> io::Result<Connection> {
    Ok(Connection::new(stream, (), slot))
}

impl Connection {
    fn new(stream: Wire, from: From, slot: OwnedSemaphorePermit) -> Self {
        Self {
            stream,
            from,
            silence: Box::pin(tokio::time::sleep(SILENCE_MAX)),
            _slot: slot,
        }
    }
}

impl Connected for Connection {
    type ConnectInfo = From;

    fn connect_info(&self) -> From {
        self.from.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if read.is_ready() {
            let deadline = Instant::now() + SILENCE_MAX;
            self.silence.as_mut().reset(deadline);
            return read;
        }
        match self.silence.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
