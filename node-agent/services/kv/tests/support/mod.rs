//! Groups of members, and the plainest of HTTP clients.

#![allow(dead_code, reason = "not every test binary uses everything here")]
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::collections::BTreeMap;
use std::future::Future;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::Duration;

use kv::server::Shown;
use kv::state::{KvState, Policy};
use kv::{AccessFiles, Kv, Metrics, Options};
use prometheus::{Registry, TextEncoder};
use replication::{
    Durability, Leadership, MembershipError, Node, NodeOptions, Replica, ServeError, Service as _, Shutdown,
    Timing,
};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use uuid::Uuid;

/// The largest value of the groups here.
pub(crate) const VALUE_BYTES_MAX: usize = 64 << 10;

/// What the groups here hold.
pub(crate) const QUOTA_BYTES: u64 = 1 << 20;

/// Long enough for any machine; reaching it is a failure, not a measurement.
const PATIENCE: Duration = Duration::from_secs(120);

struct Member {
    registry: Registry,
    node: Node,
    replica: Replica<KvState>,
    until: Shutdown,
    service: JoinHandle<Result<(), ServeError>>,
}

/// A group of three in one directory.
pub(crate) struct Group {
    directory: TempDir,
    leaders: TcpListener,
    addresses: Vec<(SocketAddr, SocketAddr)>,
    members: BTreeMap<usize, Member>,
    access: AccessFiles,
}

/// What a member answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Whether the member closes the connection after it.
    pub(crate) closes: bool,
    pub(crate) json: Value,
}

impl Answer {
    pub(crate) fn valid(&self) -> bool {
        self.json["valid"] == true
    }

    pub(crate) fn timeout(&self) -> bool {
        self.json["timeout"] == true
    }

    pub(crate) fn value(&self) -> &str {
        self.json["value"].as_str().unwrap()
    }

    pub(crate) fn error(&self) -> &str {
        self.json["error"].as_str().unwrap_or_default()
    }
}

fn free_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .unwrap()
}

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what} did not happen within {PATIENCE:?}"),
    }
}

/// Asks until it is so.
pub(crate) async fn eventually(what: &str, is_so: impl AsyncFn() -> bool) {
    within(what, async {
        while !is_so().await {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

impl Group {
    /// Three voters, one of which leads.
    pub(crate) async fn of_three() -> Self {
        Self::with(|_| AccessFiles::default()).await
    }

    /// The same, whose members let in whom the files in the group's directory say.
    pub(crate) async fn with(access: impl FnOnce(&Path) -> AccessFiles) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut group = Self {
            access: access(directory.path()),
            directory,
            leaders: TcpListener::bind("127.0.0.1:0").unwrap(),
            addresses: (0..3).map(|_| (free_port(), free_port())).collect(),
            members: BTreeMap::new(),
        };
        for number in 0..3 {
            group.start(number).await;
        }
        group.members[&0].node.initialize(Uuid::new_v4()).await.unwrap();
        for number in 1..3 {
            let identity = within("an admission", async {
                // On a busy machine a leader loses its lease now and then.
                loop {
                    let leader = &group.members[&group.leader().await].node;
                    let peer = group.addresses[number].0.to_string();
                    let admitted =
                        leader.add_learner(format!("kv-{number}"), peer, format!("admin-{number}"));
                    match admitted.await {
                        Ok(identity) => return identity,
                        Err(MembershipError::NotLeader { .. }) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            })
            .await;
            group.members[&number].node.join(identity).await.unwrap();
            within("a promotion", async {
                loop {
                    let leader = &group.members[&group.leader().await].node;
                    match leader.promote(identity.node_id).await {
                        Ok(()) => return,
                        Err(MembershipError::NotLeader { .. }) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            })
            .await;
        }
        group
    }

    /// Starts a member, with what it has on its disk.
    pub(crate) async fn start(&mut self, number: usize) {
        let (peer, own) = self.addresses[number];
        let data_dir = self.data_dir(number);
        let node_options = NodeOptions {
            name: format!("kv-{number}"),
            data_dir: data_dir.clone(),
            peer_listen: peer,
            peer_advertise: peer.to_string(),
            admin_advertise: format!("admin-{number}"),
            timing: Timing::Lan,
            durability: Durability::Strict,
            tls: None,
            restore: None,
        };
        let (node, replica) = within("a start", async {
            loop {
                match Node::start::<KvState>(node_options.clone()).await {
                    Ok(started) => return started,
                    // What a stopped member left running in this process still holds its log or its port.
                    Err(error) if is_held(&error.to_string()) => tokio::task::yield_now().await,
                    Err(error) => panic!("{error}"),
                }
            }
        })
        .await;
        let (registry, shown) = (Registry::new(), Shown::default());
        let options = Options {
            listen: self.leaders.local_addr().unwrap(),
            socket: Some(self.leaders.try_clone().unwrap()),
            member_listen: own,
            value_bytes_max: VALUE_BYTES_MAX,
            quota_bytes: QUOTA_BYTES,
            connections_max: 64,
            doubt: Duration::from_secs(30),
            policies: vec![("kept/".to_owned(), Policy::KeepQuorum)],
            outbox_file: data_dir.join("outbox"),
            access: self.access.clone(),
            metrics: Metrics::register(&registry, shown.clone()).unwrap(),
            shown,
        };
        let until = Shutdown::new();
        let (served, stop) = (replica.clone(), until.clone());
        // As in a process of its own: what it started ends with it.
        let service = std::thread::spawn(move || {
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = runtime.enable_all().build().unwrap();
            runtime.block_on(Kv::serve(options, served, stop))
        });
        let member = Member {
            registry,
            node,
            replica,
            until,
            service,
        };
        self.members.insert(number, member);
    }

    /// Asks a member to stop, and waits until it lets nobody in any more.
    pub(crate) async fn begin_stop(&self, number: usize) {
        self.members[&number].until.request();
        within("the end of its listener", async {
            while TcpStream::connect(self.address(number)).await.is_ok() {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }

    /// Stops a member.
    pub(crate) async fn stop(&mut self, number: usize) {
        let member = self.members.remove(&number).unwrap();
        member.until.request();
        tokio::task::spawn_blocking(|| member.service.join().unwrap().unwrap())
            .await
            .unwrap();
        member.node.stop().await;
    }

    /// Stops a member; when it is started again, it has on its disk what it has there now.
    pub(crate) async fn cut_power(&mut self, number: usize) {
        let data = self.data_dir(number);
        let now = self.directory.path().join("now");
        copy_files(&data, &now);
        self.stop(number).await;
        // What the stopped member left running in this process still holds its log for a moment.
        eventually("the old files are gone", async || {
            std::fs::remove_dir_all(&data).is_ok()
        })
        .await;
        std::fs::rename(&now, &data).unwrap();
    }

    /// Where a member's files are.
    pub(crate) fn data_dir(&self, number: usize) -> PathBuf {
        self.directory.path().join(number.to_string())
    }

    /// The numbers of the members that run.
    pub(crate) fn running(&self) -> Vec<usize> {
        self.members.keys().copied().collect()
    }

    /// The number of the member that leads.
    pub(crate) async fn leader(&self) -> usize {
        within("an election", async {
            loop {
                let leads = |member: &Member| {
                    matches!(*member.replica.leadership().borrow(), Leadership::Leader { .. })
                };
                if let Some((number, _)) = self.members.iter().find(|(_, member)| leads(member)) {
                    return *number;
                }
                tokio::task::yield_now().await;
            }
        })
        .await
    }

    /// Asks one member.
    pub(crate) async fn ask(&self, number: usize, method: &str, path: &str, body: &str) -> Answer {
        ask(self.addresses[number].1, method, path, body).await
    }

    /// Asks at the leader's address.
    pub(crate) async fn ask_leader(&self, method: &str, path: &str, body: &str) -> Answer {
        ask(self.leaders.local_addr().unwrap(), method, path, body).await
    }

    /// A member's metrics, in Prometheus' text format.
    pub(crate) fn metrics(&self, number: usize) -> String {
        let families = self.members[&number].registry.gather();
        TextEncoder::new().encode_to_string(&families).unwrap()
    }

    /// Where the group's files are.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// A member's own address for clients.
    pub(crate) fn address(&self, number: usize) -> SocketAddr {
        self.addresses[number].1
    }

    /// Sends these bytes to one member.
    pub(crate) async fn send(&self, number: usize, bytes: &str) -> Answer {
        send(self.addresses[number].1, bytes).await
    }
}

pub(crate) async fn ask(address: SocketAddr, method: &str, path: &str, body: &str) -> Answer {
    let length = body.len();
    send(
        address,
        &format!("{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n{body}"),
    )
    .await
}

/// Server-sent events of one connection.
pub(crate) struct Events {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Events {
    /// Asks for them.
    pub(crate) async fn of(address: SocketAddr, path: &str, headers: &str) -> Self {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        Self {
            stream,
            buffer: Vec::new(),
        }
    }

    /// The next line that begins so, without its beginning.
    pub(crate) async fn next(&mut self, begin: &str) -> String {
        within("an event", async {
            loop {
                if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                    let line: Vec<u8> = self.buffer.drain(..=end).collect();
                    let line = String::from_utf8(line).unwrap();
                    if let Some(rest) = line.trim_end().strip_prefix(begin) {
                        return rest.to_owned();
                    }
                    continue;
                }
                let length = self.stream.read_buf(&mut self.buffer).await.unwrap();
                assert!(length > 0, "the events ended");
            }
        })
        .await
    }

    /// The next event's data.
    pub(crate) async fn data(&mut self) -> Value {
        serde_json::from_str(&self.next("data: ").await).unwrap()
    }
}

async fn send(address: SocketAddr, bytes: &str) -> Answer {
    within("an answer", async {
        let stream = connect(address).await;
        exchange(stream, bytes).await
    })
    .await
}

/// A member that was just started may not listen yet.
pub(crate) async fn connect(address: SocketAddr) -> TcpStream {
    loop {
        match TcpStream::connect(address).await {
            Ok(stream) => return stream,
            Err(_) => tokio::task::yield_now().await,
        }
    }
}

/// Sends a request and reads its answer.
pub(crate) async fn exchange(stream: impl AsyncRead + AsyncWrite, bytes: &str) -> Answer {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let sending = writer.write_all(bytes.as_bytes());
    let reading = async {
        let mut buffer = Vec::new();
        loop {
            let mut piece = [0; 4096];
            let length = reader.read(&mut piece).await.unwrap();
            assert!(length > 0, "closed after {:?}", String::from_utf8_lossy(&buffer));
            buffer.extend_from_slice(&piece[..length]);
            if let Some(answer) = parse(&buffer) {
                return answer;
            }
        }
    };
    // A server may answer and close before it has read everything.
    let (_, answer) = tokio::join!(sending, reading);
    answer
}

/// The answer, once it is complete.
fn parse(bytes: &[u8]) -> Option<Answer> {
    let text = std::str::from_utf8(bytes).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length")
            .then(|| value.trim().parse::<usize>().unwrap())
    })?;
    let closes = head
        .lines()
        .any(|line| line.eq_ignore_ascii_case("connection: close"));
    (body.len() >= length).then(|| Answer {
        closes,
        status: head.split(' ').nth(1).unwrap().parse().unwrap(),
        json: serde_json::from_str(&body[..length]).unwrap(),
    })
}

/// Files may be renamed and removed meanwhile, as segments of a log are that are used again.
fn copy_files(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_files(&entry.path(), &target);
        } else if let Err(error) = std::fs::copy(entry.path(), target) {
            assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{error}");
        }
    }
}

fn is_held(error: &str) -> bool {
    ["another process uses", "Address already in use"]
        .iter()
        .any(|reason| error.contains(reason))
}
