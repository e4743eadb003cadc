//! HTTP/2 on the ports of HTTP/1.1: gRPC, and the same requests as there.
//!
//! A client that speaks it without TLS begins with a preface (RFC 9113 §3.4); with TLS it says so by ALPN.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Either;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use replication::Shutdown;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tracing::debug;

use super::{Context, grpc, http};

/// How the preface begins; no method of HTTP/1.1 does.
const PREFACE: &[u8; 4] = b"PRI ";
/// A client that sends the preface byte by byte is looked at so often.
const DRIBBLE: Duration = Duration::from_millis(10);
/// Requests of one connection that are under way at a time.
const STREAMS_MAX: u32 = 128;
/// Of a request's head.
const HEADER_LIST_BYTES_MAX: u32 = 16 << 10;
/// How often a client is asked whether it is still there, and how long it may take to say so.
const PING_EVERY: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// Whether the client begins with the preface. Nothing is taken from the stream.
pub(super) async fn is_spoken(stream: &TcpStream) -> io::Result<bool> {
    let mut begin = [0; PREFACE.len()];
    loop {
        let length = stream.peek(&mut begin).await?;
        if length == 0 || begin[..length] != PREFACE[..length] {
            return Ok(false);
        }
        if length == PREFACE.len() {
            return Ok(true);
        }
        tokio::time::sleep(DRIBBLE).await;
    }
}

/// The requests of one connection.
pub(super) async fn conversation(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    context: Arc<Context>,
    until: Shutdown,
) {
    let closing = until.clone();
    let service = service_fn(move |request| {
        let (context, until) = (context.clone(), closing.clone());
        async move {
            Ok::<_, Infallible>(if grpc::is_grpc(&request) {
                grpc::answer(context, request, until).await.map(Either::Right)
            } else {
                http::answer(&context, request, until).await.map(Either::Left)
            })
        }
    });
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEADER_LIST_BYTES_MAX)
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let outcome = tokio::select! {
        outcome = &mut connection => outcome,
        () = until.requested() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = outcome {
        debug!(%error, "a client's connection broke");
    }
}
