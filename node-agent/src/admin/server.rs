//! The admin port's socket: a bounded number of connections, each with limits on how slow its client may be.
//!
//! `axum::serve` has neither, and a port that also answers the kubelet's probes must not be filled up by a bad client.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use replication::Shutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Binds the admin port.
pub(crate) async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| {
        format!(
            "binding the admin port {address} (admin.listen): is another process using it? `ss -ltnp` shows"
        )
    })
}

/// Serves until shutdown is requested, then lets running answers end within [`DRAIN_TIMEOUT`].
pub(crate) async fn serve(listener: TcpListener, routes: Router, until: Shutdown) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let accept = async {
            // Waiting clients stay in the listener's backlog until a slot is free.
            let slot = Arc::clone(&slots).acquire_owned().await;
            (slot, listener.accept().await)
        };
        let (slot, accepted) = tokio::select! {
            () = until.requested() => break,
            accepted = accept => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let (routes, until) = (routes.clone(), until.clone());
                connections.spawn(async move {
                    connection(stream, routes, until).await;
                    drop(slot);
                });
            }
            Err(error) => {
                // Out of file descriptors, or a client that was gone at once: neither is a reason to end.
                tracing::warn!(%error, "accepting an admin connection");
                tokio::time::sleep(ACCEPT_RETRY_AFTER).await;
            }
        }
    }
    drop(listener);
    let ended = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(DRAIN_TIMEOUT, ended).await.is_err() {
        tracing::debug!("admin connections were cut at the end");
    }
}

async fn connection(stream: TcpStream, routes: Router, until: Shutdown) {
    stream.set_nodelay(true).ok();
    // Ends a connection whose client does not take its answer: the kernel counts unacknowledged bytes and closed
    // windows alike (tcp(7), TCP_USER_TIMEOUT).
    socket2::SockRef::from(&stream)
        .set_tcp_user_timeout(Some(WRITE_TIMEOUT))
        .ok();
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_headers(HEADERS_MAX)
        .max_buf_size(BUFFER_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes));
    tokio::pin!(connection);
    let outcome = tokio::select! {
        outcome = &mut connection => outcome,
        () = until.requested() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(%error, "an admin connection broke");
    }
}

/// Probes, scrapes, an operator, and some people: many more is a mistake or an attack.
const CONNECTIONS_MAX: usize = 256;

/// For the head of a request, and for the pause between two requests on one connection. A probe that waits behind
/// clients which say nothing waits for so long at most.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// A client that takes nothing for so long is gone.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// Nobody of ours sends more than ten.
const HEADERS_MAX: usize = 64;

/// Of each connection, for heads and for pieces of bodies.
const BUFFER_BYTES_MAX: usize = 64 << 10;

/// After a failed accept.
const ACCEPT_RETRY_AFTER: Duration = Duration::from_millis(100);

/// For answers that are under way when the process ends.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn garbage_does_not_end_the_server_and_shutdown_does() {
        let listener = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let until = Shutdown::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(
            listener,
            Router::new().route("/", get(async || "hello")),
            until.clone(),
        ));

        let mut bad = TcpStream::connect(address).await.unwrap();
        bad.write_all(b"\x00\xff garbage\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        bad.read_to_end(&mut answer).await.ok();

        let mut good = TcpStream::connect(address).await.unwrap();
        good.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            .await
            .unwrap();
        let mut answer = String::new();
        good.read_to_string(&mut answer).await.unwrap();
        assert!(
            answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with("hello"),
            "{answer}"
        );

        let idle = TcpStream::connect(address).await.unwrap();
        until.request();
        tasks.join_next().await.unwrap().unwrap();
        drop(idle);
    }

    #[tokio::test]
    async fn port_that_is_taken_is_named() {
        let first = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = first.local_addr().unwrap();
        let error = bind(address).await.unwrap_err();
        assert!(error.to_string().contains(&address.to_string()), "{error}");
    }
}
