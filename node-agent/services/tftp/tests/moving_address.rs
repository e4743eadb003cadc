//! Clients whose packets still reach the old leader, as those of a Kubernetes Service do until its nodes have learned of the
//! new one. Real members with ports of their own in one process; a client that says nothing twice.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use prometheus::Registry;
use replication::{
    Durability, Leadership, Node, NodeOptions, Replica, ServeError, Service as _, Shutdown, Timing,
};
use tempfile::TempDir;
use tftp::content::ContentStore;
use tftp::files::{FileLimits, Files};
use tftp::path::FilePath;
use tftp::state::TftpState;
use tftp::transfer::Limits;
use tftp::{Metrics, MovingAddress, Options, Tftp, Uploads};
use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::task::JoinSet;
use uuid::Uuid;

/// Long enough for any machine; reaching it is a failure, not a measurement.
const PATIENCE: Duration = Duration::from_secs(60);

const BLOCK_BYTES: usize = 512;

/// Of clients that do say things twice.
const REPEAT_AFTER: Duration = Duration::from_millis(200);

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what} did not happen within {PATIENCE:?}"),
    }
}

/// Whether clients are led to a member: only as often as it may be asked.
#[derive(Clone)]
struct Led {
    asked: watch::Sender<usize>,
    times: Arc<AtomicUsize>,
}

impl Led {
    fn always() -> Self {
        Self {
            asked: watch::channel(0).0,
            times: Arc::new(AtomicUsize::new(usize::MAX)),
        }
    }

    fn ask(&self) -> bool {
        let mut is_led = false;
        self.asked.send_modify(|asked| {
            *asked += 1;
            is_led = *asked <= self.times.load(Ordering::SeqCst);
        });
        is_led
    }

    /// Says yes so many times `more`, and then no.
    fn only(&self, more: usize) {
        let times = self.asked.borrow().saturating_add(more);
        self.times.store(times, Ordering::SeqCst);
    }

    async fn was_asked(&self, times: usize) {
        let mut asked = self.asked.subscribe();
        within("a question", asked.wait_for(|asked| *asked >= times))
            .await
            .unwrap();
    }
}

struct Member {
    led: Led,
    node: Node,
    replica: Replica<TftpState>,
    files: Files,
    listen: SocketAddr,
    peer: SocketAddr,
}

impl Member {
    fn leads(&self) -> bool {
        matches!(*self.replica.leadership().borrow(), Leadership::Leader { .. })
    }

    async fn await_leadership(&self) {
        let mut leadership = self.replica.leadership();
        let leads = leadership.wait_for(|now| matches!(now, Leadership::Leader { .. }));
        within("an election", leads).await.unwrap();
    }

    async fn transferred_to(&self, other: &Self) {
        let to = other.replica.id();
        within("a transfer", async {
            while self.leads() {
                // Refused while the other one is behind.
                self.node.transfer(Some(to)).await.ok();
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
}

struct Group {
    members: Vec<Member>,
    services: JoinSet<Result<(), ServeError>>,
    _directory: TempDir,
}

impl Group {
    /// Three members, the first of which leads, each with an address of its own but the same port.
    async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut services = JoinSet::new();
        let port = common_port();
        let mut members = Vec::new();
        for number in 0..3 {
            members.push(start_member(&directory, &mut services, number, port).await);
        }
        members[0].node.initialize(Uuid::new_v4()).await.unwrap();
        members[0].await_leadership().await;
        for member in &members[1..] {
            let name = format!("m-{}", member.peer);
            let peer = member.peer.to_string();
            let identity = members[0]
                .node
                .add_learner(name, peer.clone(), peer)
                .await
                .unwrap();
            member.node.join(identity).await.unwrap();
            members[0].node.promote(identity.node_id).await.unwrap();
        }
        Self {
            members,
            services,
            _directory: directory,
        }
    }

    /// Puts a file, and sees to it that the first member leads, also when a busy machine elected another one; its bytes.
    async fn put(&self, name: &str, blocks: usize) -> Vec<u8> {
        let content: Vec<u8> = (0..BLOCK_BYTES * blocks - 1)
            .map(|at| (at * 31 / 7).to_le_bytes()[0])
            .collect();
        let path = FilePath::try_new(name).unwrap();
        let mut members = self.members.iter().cycle();
        within("a file", async {
            for member in &mut members {
                let body = stream::iter([Ok::<_, std::io::Error>(Bytes::from(content.clone()))]);
                if member.files.put(path.clone(), body, None).await.is_ok() {
                    break;
                }
                tokio::task::yield_now().await;
            }
        })
        .await;
        let first = &self.members[0];
        within("leadership of the first member", async {
            while !first.leads() {
                for member in &self.members {
                    // Only the leader can.
                    member.node.transfer(Some(first.replica.id())).await.ok();
                }
                tokio::task::yield_now().await;
            }
        })
        .await;
        content
    }

    async fn stop(mut self) {
        self.services.shutdown().await;
        for member in &self.members {
            member.node.stop().await;
        }
    }
}

/// A UDP port that is free at all of the members' addresses.
fn common_port() -> u16 {
    let free = |port: u16| (1..=3).all(|number| std::net::UdpSocket::bind((address(number), port)).is_ok());
    let mut ports = (0..100).map(|_| {
        std::net::UdpSocket::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port()
    });
    ports
        .find(|port| free(*port))
        .expect("a port that is free on three addresses")
}

fn address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 0, number)
}

fn free_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .unwrap()
}

async fn start_member(
    directory: &TempDir,
    services: &mut JoinSet<Result<(), ServeError>>,
    number: u8,
    port: u16,
) -> Member {
    let data_dir = directory.path().join(number.to_string());
    let peer = free_port();
    let options = NodeOptions {
        name: format!("m-{peer}"),
        data_dir: data_dir.clone(),
        peer_listen: peer,
        peer_advertise: peer.to_string(),
        admin_advertise: peer.to_string(),
        timing: Timing::Lan,
        durability: Durability::Strict,
        tls: None,
        restore: None,
    };
    let (node, replica) = Node::start::<TftpState>(options).await.unwrap();
    let store = ContentStore::open(data_dir.join("content"), 1 << 24)
        .await
        .unwrap();
    let limits = FileLimits {
        files_max: 10,
        content_bytes_max: 1 << 24,
    };
    let files = Files::new(replica.clone(), store.clone(), limits);
    let listen = SocketAddrV4::new(address(number + 1), port).into();
    let led = Led::always();
    let asked = led.clone();
    let options = Options {
        listen,
        socket: None,
        address_moves: Some(MovingAddress {
            leads_to: Vec::new(),
            gets_back: Arc::new(move || asked.ask()),
        }),
        files: files.clone(),
        store,
        sessions_max: 10,
        sessions_per_client_max: 10,
        limits: Limits {
            retransmissions_max: 5,
            idle_max: PATIENCE,
        },
        block_size_max: 1468,
        window_size_max: 8,
        uploads: Uploads {
            rules: Vec::new(),
            bytes_max: 1,
        },
        metrics: Metrics::register(&Registry::new()).unwrap(),
    };
    services.spawn(Tftp::serve(options, replica.clone(), Shutdown::new()));
    Member {
        led,
        node,
        replica,
        files,
        listen,
        peer,
    }
}

/// Downloads in lockstep, and sends each packet once.
struct Client {
    socket: UdpSocket,
    content: Vec<u8>,
    acknowledged: u16,
    /// A new leader that heard late how far the client is sends once more what it has.
    may_get_a_repeat: bool,
}

impl Client {
    /// Asks for a file, at one member.
    async fn ask(member: &Member, file: &str) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let request = [b"\0\x01", file.as_bytes(), b"\0octet\0"].concat();
        socket.send_to(&request, member.listen).await.unwrap();
        Self {
            socket,
            content: Vec::new(),
            acknowledged: 0,
            may_get_a_repeat: false,
        }
    }

    /// Has some blocks of a file, the last one not acknowledged, when leadership moves.
    async fn half_way(old: &Member, new: &Member) -> Self {
        let mut client = Self::ask(old, "boot").await;
        for _ in 0..20 {
            assert!(!client.take(old).await);
            client.acknowledge(old).await;
        }
        assert!(!client.take(old).await);
        old.transferred_to(new).await;
        client.may_get_a_repeat = true;
        client
    }

    /// Takes the next block, which has to come from a member; whether it is the last.
    async fn take(&mut self, from: &Member) -> bool {
        let mut buffer = [0; 4 + BLOCK_BYTES];
        let number = self.acknowledged + 1;
        let data = |number: u16| [[0, 3], number.to_be_bytes()].concat();
        let what = format!("block {number} from {}", from.listen);
        let length = loop {
            let (length, sender) = within(&what, self.socket.recv_from(&mut buffer)).await.unwrap();
            assert_eq!(
                sender, from.listen,
                "an answer from elsewhere does not reach a client"
            );
            let is_repeat = buffer[..4] == data(number - 1);
            if !(is_repeat && std::mem::take(&mut self.may_get_a_repeat)) {
                break length;
            }
        };
        assert_eq!(buffer[..4], data(number), "DATA {number}");
        self.content.extend_from_slice(&buffer[4..length]);
        self.acknowledged = number;
        length < buffer.len()
    }

    /// Acknowledges the last block, to a member.
    async fn acknowledge(&self, to: &Member) {
        let number = self.acknowledged;
        let packet = [[0, 4], number.to_be_bytes()].concat();
        self.socket.send_to(&packet, to.listen).await.unwrap();
    }

    /// The same, as clients do when no answer comes.
    async fn acknowledge_until_answered(&self, to: &Member) {
        within("an answer", async {
            self.acknowledge(to).await;
            while !client_is_answered(&self.socket).await {
                self.acknowledge(to).await;
            }
        })
        .await;
    }

    async fn finish(mut self, at: &Member) -> Vec<u8> {
        while !self.take(at).await {
            self.acknowledge(at).await;
        }
        self.acknowledge(at).await;
        self.content
    }
}

/// Whether something comes before the client repeats itself.
async fn client_is_answered(socket: &UdpSocket) -> bool {
    let answer = tokio::time::timeout(REPEAT_AFTER, socket.readable());
    answer.await.is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_says_nothing_twice_is_served_by_way_of_the_old_leader() {
    let group = Group::start().await;
    let content = group.put("boot", 60).await;
    let [old, new, _] = &group.members[..] else {
        unreachable!()
    };
    let mut client = Client::half_way(old, new).await;
    // Still led to the old leader, whether or not the new one is there already.
    client.acknowledge(old).await;
    for _ in 0..10 {
        assert!(!client.take(old).await);
        client.acknowledge(old).await;
    }
    assert!(!client.take(old).await);
    // Now the nodes have learned of the new one.
    client.acknowledge(new).await;
    assert!(!client.take(new).await);
    // An old packet that was under way for long does not lead the client back.
    client.acknowledge(old).await;
    client.acknowledge(new).await;
    let whole = client.finish(new).await;
    assert_eq!(whole.len(), content.len());
    assert!(whole == content, "the bytes differ");
    group.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_reaches_a_follower_is_answered_from_there() {
    let group = Group::start().await;
    let content = group.put("boot", 5).await;
    let client = Client::ask(&group.members[2], "boot").await;
    let whole = client.finish(&group.members[2]).await;
    assert!(whole == content, "the bytes differ");
    group.stop().await;
}

/// What is sent from a member that clients are not led to any more reaches them from an address that they do not know.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_leaves_from_a_member_that_clients_are_not_led_to() {
    let group = Group::start().await;
    let content = group.put("boot", 5).await;
    let follower = &group.members[2];
    follower.led.only(1);
    let held_back = Client::ask(follower, "boot").await;
    // Whether to pass it on, and whether to send the answer.
    follower.led.was_asked(2).await;
    let not_passed_on = Client::ask(follower, "boot").await;
    follower.led.was_asked(3).await;
    follower.led.only(usize::MAX);
    let answered = Client::ask(follower, "boot").await.finish(follower).await;
    assert!(answered == content, "the bytes differ");
    for client in [not_passed_on, held_back] {
        let nothing = client.socket.try_recv(&mut [0; 4]);
        assert_eq!(
            nothing.map_err(|error| error.kind()),
            Err(std::io::ErrorKind::WouldBlock)
        );
    }
    group.stop().await;
}

/// A node's address translation may give the client's packets another port, when its own is taken there.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_heard_from_another_port_after_a_move_goes_on_there() {
    let group = Group::start().await;
    let content = group.put("boot", 60).await;
    let [old, new, _] = &group.members[..] else {
        unreachable!()
    };
    let mut client = Client::half_way(old, new).await;
    let other = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let own = std::mem::replace(&mut client.socket, other);
    client.acknowledge_until_answered(new).await;
    for _ in 0..10 {
        assert!(!client.take(new).await);
        client.acknowledge(new).await;
    }
    assert!(!client.take(new).await);
    // By its own port, and by the other one again.
    let other = std::mem::replace(&mut client.socket, own);
    client.acknowledge(new).await;
    assert!(!client.take(new).await);
    client.socket = other;
    client.acknowledge(new).await;
    let whole = client.finish(new).await;
    assert!(whole == content, "the bytes differ");
    group.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ack_that_may_be_of_several_clients_is_nobodys() {
    let group = Group::start().await;
    group.put("boot", 30).await;
    let [old, new, _] = &group.members[..] else {
        unreachable!()
    };
    let mut clients = [Client::ask(old, "boot").await, Client::ask(old, "boot").await];
    for client in &mut clients {
        client.take(old).await;
        client.acknowledge(old).await;
        client.take(old).await;
    }
    old.transferred_to(new).await;
    let stranger = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for _ in 0..3 {
        stranger.send_to(&[0, 4, 0, 2], new.listen).await.unwrap();
        assert!(!client_is_answered(&stranger).await);
    }
    // Both still wait for their own clients.
    for client in clients {
        client.acknowledge_until_answered(new).await;
    }
    group.stop().await;
}
