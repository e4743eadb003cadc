//! Requests in quick succession to a Service's address, each from a port of its own: when it answers, and when it does not.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tokio::time::{sleep_until, timeout};

use crate::clock::{eventually, now};
use crate::kv::load::lock;

/// The pause between two requests.
const PAUSE: Duration = Duration::from_millis(10);

/// How long a request may take, repetitions included.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// How long a TFTP client waits before it repeats itself.
const REPEAT_AFTER: Duration = Duration::from_secs(1);

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// A file of less than a block, by TFTP.
    File(String),
    /// A key, consistently, by HTTP.
    Key(String),
}

/// One request.
#[derive(Debug, Clone, Copy)]
pub struct Request {
    /// When it was sent first.
    pub sent: Instant,
    /// When the good answer came; none when there was none.
    pub answered: Option<Instant>,
}

/// A thread that asks again and again.
#[derive(Debug)]
pub struct Probe {
    requests: Arc<Mutex<Vec<Request>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<anyhow::Result<()>>>,
}

impl Probe {
    /// Starts to ask at an address.
    #[must_use]
    pub fn start(address: SocketAddr, asked: Asked) -> Self {
        let (requests, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (all, end) = (requests.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .context("starting a runtime")?;
            runtime.block_on(ask_on(address, &asked, &all, &end));
            Ok(())
        });
        Self {
            requests,
            stop,
            thread: Some(thread),
        }
    }

    /// Waits until so many answers to requests that were sent after `since` have come.
    pub fn await_answers_since(&self, since: Instant, count: usize, within: Duration) -> anyhow::Result<()> {
        eventually("the Service answers", within, || {
            let requests = lock(&self.requests);
            let answered = requests
                .iter()
                .filter(|request| request.sent >= since && request.answered.is_some());
            let answered = answered.count();
            ensure!(answered >= count, "{answered} answers");
            Ok(())
        })
    }

    /// Ends it after the requests under way; everything that was asked, in order.
    pub fn finish(mut self) -> anyhow::Result<Vec<Request>> {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().map_err(|_| anyhow!("the probe panicked"))??;
        }
        let mut requests = std::mem::take(&mut *lock(&self.requests));
        requests.sort_by_key(|request| request.sent);
        Ok(requests)
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

async fn ask_on(address: SocketAddr, asked: &Asked, all: &Arc<Mutex<Vec<Request>>>, end: &AtomicBool) {
    let mut under_way = JoinSet::new();
    let mut next = now();
    while !end.load(Ordering::Relaxed) {
        let (all, asked) = (all.clone(), asked.clone());
        under_way.spawn(async move {
            let sent = now();
            let answer = timeout(ANSWER_WITHIN, ask(address, &asked)).await;
            let answered = matches!(answer, Ok(Ok(()))).then(now);
            lock(&all).push(Request { sent, answered });
        });
        while under_way.try_join_next().is_some() {}
        // A machine that fell behind asks less often rather than in bursts.
        next = (next + PAUSE).max(now());
        sleep_until(next.into()).await;
    }
    while under_way.join_next().await.is_some() {}
}

async fn ask(address: SocketAddr, asked: &Asked) -> anyhow::Result<()> {
    match asked {
        Asked::File(name) => fetch(address, name).await,
        Asked::Key(key) => get(address, key).await,
    }
}

/// RFC 1350: RRQ, DATA 1 of less than a block, ACK 1.
async fn fetch(address: SocketAddr, name: &str) -> anyhow::Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:0").await.context("making a socket")?;
    socket.connect(address).await.context("naming the server")?;
    let request = [b"\0\x01", name.as_bytes(), b"\0octet\0"].concat();
    let mut buffer = [0; 600];
    loop {
        // What ICMP says of a pod that is gone is no answer.
        socket.send(&request).await.ok();
        match timeout(REPEAT_AFTER, socket.recv(&mut buffer)).await {
            Ok(Ok(length)) if buffer[..length].starts_with(&[0, 3, 0, 1]) => break,
            Ok(Ok(length)) => return Err(anyhow!("not DATA 1: {:?}", &buffer[..length])),
            Ok(Err(_)) => tokio::time::sleep(REPEAT_AFTER).await,
            Err(_) => {}
        }
    }
    socket.send(&[0, 4, 0, 1]).await.context("acknowledging")?;
    Ok(())
}

/// A read with a quorum, on a connection of its own.
async fn get(address: SocketAddr, key: &str) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect(address).await.context("connecting")?;
    let request =
        format!("GET /v1/kv/{key}?timeoutMs=4000 HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.context("asking")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.context("reading")?;
    ensure!(
        answer.starts_with("HTTP/1.1 200") && answer.contains(r#""valid":true"#),
        "{answer}"
    );
    Ok(())
}
