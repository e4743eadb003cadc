//! The client's connection: one thread, one socket, one UDP socket for answers to its searches.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpStream, ToSocketAddrs, UdpSocket};
use std::sync::mpsc::{Receiver, TryRecvError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};

use super::super::line::escape;
use super::super::tls::client_config;
use super::AirOptions;
use super::view::{Back, Reaction, View};
use crate::clock::now;

/// How long one look at the socket takes at most.
const LOOK: Duration = Duration::from_millis(10);

/// How long connecting and writing may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// AirDC++'s own delay before it connects again, counted from the last sign of life (`Client::connect`).
const RECONNECT_SECONDS: std::ops::Range<u64> = 120..180;

/// The silence after which AirDC++ sends an empty line.
const KEEP_ALIVE: Duration = Duration::from_secs(120);

/// What the client is told to do.
#[derive(Debug)]
pub(super) enum Order {
    Say(String),
    Tell { nick: String, text: String },
    Search(String),
    Raw(String),
    Stop,
}

pub(super) struct Worker {
    options: AirOptions,
    view: Arc<Mutex<View>>,
    orders: Receiver<Order>,
    udp: Option<UdpSocket>,
    last_activity: Instant,
    /// Given before it was logged in.
    waiting: Vec<Order>,
    token: u64,
}

/// Why the loop of one connection ended.
enum End {
    Lost,
    Stopped,
}

trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

impl Worker {
    pub(super) fn new(
        options: AirOptions,
        view: Arc<Mutex<View>>,
        orders: Receiver<Order>,
    ) -> anyhow::Result<Self> {
        let udp = options
            .active
            .then(|| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)))
            .transpose()
            .context("binding a UDP port")?;
        if let Some(udp) = &udp {
            udp.set_nonblocking(true).context("preparing the UDP port")?;
            let port = udp.local_addr().context("reading the UDP port")?.port();
            view.lock().unwrap_or_else(PoisonError::into_inner).udp_port = Some(port);
        }
        Ok(Self {
            options,
            view,
            orders,
            udp,
            last_activity: now(),
            waiting: Vec::new(),
            token: 0,
        })
    }

    pub(super) fn run(mut self) {
        loop {
            let end = match self.connect() {
                Ok(stream) => self.converse(stream),
                Err(error) => {
                    self.view().note(format!("! {error:#}"));
                    // A refused connection makes AirDC++ forget what the hub asked for.
                    self.view().back = Back::Later;
                    End::Lost
                }
            };
            if matches!(end, End::Stopped) || !self.rest() {
                return;
            }
        }
    }

    fn view(&self) -> MutexGuard<'_, View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn connect(&mut self) -> anyhow::Result<Box<dyn Stream>> {
        self.last_activity = now();
        let (secure, rest) = match self.options.url.split_once("://") {
            Some(("adc", rest)) => (false, rest),
            Some(("adcs", rest)) => (true, rest),
            _ => bail!("{} is no address of a hub", self.options.url),
        };
        let (host, query) = rest.split_once('?').unwrap_or((rest, ""));
        let host = host.trim_end_matches('/');
        let address = host
            .to_socket_addrs()
            .ok()
            .and_then(|mut all| all.next())
            .with_context(|| format!("{host} is no address"))?;
        let stream = TcpStream::connect_timeout(&address, PATIENCE).context("connecting")?;
        stream.set_nodelay(true).context("preparing the socket")?;
        stream
            .set_read_timeout(Some(LOOK))
            .context("preparing the socket")?;
        stream
            .set_write_timeout(Some(PATIENCE))
            .context("preparing the socket")?;
        if !secure {
            return Ok(Box::new(stream));
        }
        let config = client_config(query.strip_prefix("kp="))?;
        let name = ServerName::IpAddress(address.ip().into());
        let connection = ClientConnection::new(config, name).context("beginning TLS")?;
        Ok(Box::new(StreamOwned::new(connection, stream)))
    }

    fn converse(&mut self, mut stream: Box<dyn Stream>) -> End {
        let greeting = self.view().connected();
        let mut out = Vec::new();
        self.put(&mut out, &greeting);
        let mut unread = Vec::new();
        let mut chunk = vec![0; 64 << 10];
        loop {
            match self.take_orders(&mut out) {
                Ok(()) => {}
                Err(end) => return end,
            }
            if !out.is_empty() {
                // What a stream that only looks for a moment did not take is written in the next round.
                if write(&mut *stream, &mut out).is_err() {
                    self.view().lost();
                    return End::Lost;
                }
                self.last_activity = now();
            }
            let read = match stream.read(&mut chunk) {
                Ok(0) => None,
                Ok(count) => Some(count),
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                    ) =>
                {
                    Some(0)
                }
                Err(_) => None,
            };
            let Some(count) = read else {
                self.view().lost();
                return End::Lost;
            };
            unread.extend_from_slice(&chunk[..count]);
            if self.read_lines(&mut unread, &mut out) {
                self.view().lost();
                return End::Lost;
            }
            self.read_datagrams();
        }
    }

    /// Handles the whole lines that have come; true when the client leaves.
    fn read_lines(&mut self, unread: &mut Vec<u8>, out: &mut Vec<u8>) -> bool {
        let Some(end) = unread.iter().rposition(|byte| *byte == b'\n') else {
            if self.last_activity.elapsed() > KEEP_ALIVE {
                out.push(b'\n');
                self.last_activity = now();
            }
            return false;
        };
        let whole: Vec<u8> = unread.drain(..=end).collect();
        self.last_activity = now();
        for line in whole.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let line = String::from_utf8_lossy(line).into_owned();
            let reactions = self.view().received(&line, now());
            for reaction in reactions {
                match reaction {
                    Reaction::Send(line) => self.put(out, &line),
                    Reaction::Datagram(line, to) => self.throw(&line, &to),
                    Reaction::Leave => return true,
                }
            }
        }
        false
    }

    fn read_datagrams(&self) {
        let mut packet = [0; 2048];
        while let Some(Ok(length)) = self.udp.as_ref().map(|udp| udp.recv(&mut packet)) {
            let line = String::from_utf8_lossy(&packet[..length]).trim_end().to_owned();
            self.view().note(format!("< {line}"));
        }
    }

    fn throw(&self, line: &str, to: &str) {
        self.view().sent(line);
        if let (Ok(socket), Ok(Some(to))) = (
            UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)),
            to.to_socket_addrs().map(|mut all| all.next()),
        ) {
            socket.send_to(format!("{line}\n").as_bytes(), to).ok();
        }
    }

    fn put(&self, out: &mut Vec<u8>, line: &str) {
        self.view().sent(line);
        out.extend_from_slice(line.as_bytes());
        out.push(b'\n');
    }

    fn take_orders(&mut self, out: &mut Vec<u8>) -> Result<(), End> {
        loop {
            match self.orders.try_recv() {
                Ok(Order::Stop) | Err(TryRecvError::Disconnected) => return Err(End::Stopped),
                Ok(order) => self.waiting.push(order),
                Err(TryRecvError::Empty) => break,
            }
        }
        let (normal, sid) = {
            let view = self.view();
            (view.is_normal(), view.sid.clone().unwrap_or_default())
        };
        if normal {
            for order in std::mem::take(&mut self.waiting) {
                for line in self.lines_of(order, &sid) {
                    self.put(out, &line);
                }
            }
        }
        Ok(())
    }

    fn lines_of(&mut self, order: Order, sid: &str) -> Vec<String> {
        match order {
            Order::Say(text) => vec![format!("BMSG {sid} {}", escape(&text))],
            Order::Tell { nick, text } => {
                let to = self.view().user(&nick).map(|user| user.sid.clone());
                // Who is not there is told nothing.
                to.map(|to| format!("EMSG {sid} {to} {} PM{sid}", escape(&text)))
                    .into_iter()
                    .collect()
            }
            Order::Search(word) => {
                self.token += 1;
                let what = format!("AN{} TO{}", escape(&word), self.token);
                if self.udp.is_some() {
                    vec![format!("BSCH {sid} {what}")]
                } else {
                    vec![
                        format!("FSCH {sid} +TCP4-NAT0 {what}"),
                        format!("FSCH {sid} +NAT0 {what}"),
                    ]
                }
            }
            Order::Raw(line) => vec![line.replace("{sid}", sid)],
            Order::Stop => Vec::new(),
        }
    }

    /// Waits until it is time to come back; false when the client is stopped before.
    fn rest(&mut self) -> bool {
        let back = self.view().back;
        let (since, delay) = match back {
            Back::After(seconds) => (now(), Duration::from_secs(seconds)),
            Back::Later => {
                let delay = Duration::from_secs(rand::random_range(RECONNECT_SECONDS));
                (self.last_activity, delay.mul_f64(self.options.delays))
            }
            Back::Never => (now(), Duration::MAX),
        };
        while since.elapsed() < delay {
            match self.orders.recv_timeout(LOOK) {
                Ok(Order::Stop) => return false,
                Ok(order) => self.waiting.push(order),
                Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => return false,
                Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {}
            }
        }
        true
    }
}

fn write(stream: &mut dyn Stream, out: &mut Vec<u8>) -> std::io::Result<()> {
    while !out.is_empty() {
        match stream.write(out) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(count) => drop(out.drain(..count)),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return Ok(());
            }
            Err(error) => return Err(error),
        }
    }
    stream.flush().or_else(|error| match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => Ok(()),
        _ => Err(error),
    })
}
