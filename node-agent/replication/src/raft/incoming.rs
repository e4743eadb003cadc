//! The peer port's connections: bounded in number, and closed when nothing is heard from them. Members answer HTTP/2
//! pings, so only strangers and the dead are silent; they must not use up the process's file descriptors.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::{Future as _, Stream, stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
#[cfg(not(simulation))]
pub(crate) use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};
use tonic::transport::server::Connected;
#[cfg(not(simulation))]
use tonic::transport::server::TcpConnectInfo;
#[cfg(simulation)]
pub(crate) use turmoil::net::{TcpListener, TcpStream};

/// A member holds a handful of connections to each other one; further ones wait in the listener's backlog.
const CONNECTIONS_MAX: usize = 256;
/// Three of the server's pings ([`PING_EVERY`]) unanswered, or nothing said after connecting.
const SILENCE_MAX: Duration = Duration::from_secs(15);
/// How often a quiet connection is pinged.
pub(crate) const PING_EVERY: Duration = Duration::from_secs(5);
/// After a failed accept, such as one for want of file descriptors.
const ACCEPT_RETRY_AFTER: Duration = Duration::from_millis(100);

/// One accepted connection.
pub(crate) struct Connection {
    stream: TcpStream,
    silence: Pin<Box<Sleep>>,
    _slot: OwnedSemaphorePermit,
}

/// Accepts for ever.
pub(crate) fn accept(listener: TcpListener) -> impl Stream<Item = io::Result<Connection>> {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    stream::unfold((listener, slots), async |(listener, slots)| {
        let slot = slots.clone().acquire_owned().await.ok()?;
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    // Only latency suffers without it.
                    stream.set_nodelay(true).ok();
                    let connection = Connection {
                        stream,
                        silence: Box::pin(tokio::time::sleep(SILENCE_MAX)),
                        _slot: slot,
                    };
                    return Some((Ok(connection), (listener, slots)));
                }
                Err(error) => {
                    tracing::warn!(%error, "accepting a peer's connection");
                    tokio::time::sleep(ACCEPT_RETRY_AFTER).await;
                }
            }
        }
    })
}

#[cfg(simulation)]
impl Connected for Connection {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

#[cfg(not(simulation))]
impl Connected for Connection {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.stream.connect_info()
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
