use std::collections::BTreeMap;

use futures::{FutureExt, TryStreamExt, stream};
use replication::{Answerer, AskError, LogTime, Peer, ReplyStream, Shutdown, State};
use tempfile::TempDir;
use tokio::sync::watch;

use super::*;
use crate::content::BlobKey;
use crate::state::{NewSession, SessionId, SessionKey, TransferMode};

/// How a member answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    /// No answer at all.
    Down,
    /// The answer ends after so many messages.
    Truncates(usize),
    /// The first byte of every message but the first is wrong.
    Corrupts,
    /// As `Corrupts`, and it ends after so many messages.
    CorruptsAndTruncates(usize),
}

/// Members in one process, without Raft: an entry is applied everywhere at once.
struct Net {
    members: BTreeMap<NodeId, Member>,
    leader: NodeId,
    index: Mutex<u64>,
    asked: Mutex<Vec<NodeId>>,
}

struct Member {
    state: Mutex<TftpState>,
    applied: watch::Sender<u64>,
    leadership: watch::Sender<Leadership>,
    answerer: Mutex<Option<Answerer>>,
    fault: Mutex<Fault>,
}

#[derive(Clone)]
struct TestGroup {
    net: Arc<Net>,
    id: NodeId,
}

impl Net {
    fn new(members: NodeId) -> Arc<Self> {
        let role = |id| {
            if id == 1 {
                Leadership::Leader { term: 1 }
            } else {
                Leadership::Follower { leader: Some(1) }
            }
        };
        let member = |id| Member {
            state: Mutex::default(),
            applied: watch::Sender::new(0),
            leadership: watch::Sender::new(role(id)),
            answerer: Mutex::default(),
            fault: Mutex::new(Fault::None),
        };
        let members = (1..=members).map(|id| (id, member(id))).collect();
        Arc::new(Self {
            members,
            leader: 1,
            index: Mutex::new(0),
            asked: Mutex::default(),
        })
    }

    fn apply(&self, command: &Command) -> Outcome {
        let mut index = lock(&self.index);
        *index += 1;
        let at = LogTime {
            unix_ms: 1000 + *index,
            index: *index,
        };
        let mut outcomes = self.members.values().map(|member| {
            let outcome = lock(&member.state).apply(at, command.clone());
            member.applied.send_replace(at.index);
            outcome
        });
        let first = outcomes.next().unwrap();
        assert!(outcomes.all(|outcome| outcome == first));
        first
    }

    fn fail(&self, id: NodeId, fault: Fault) {
        *lock(&self.members[&id].fault) = fault;
    }
}

impl TestGroup {
    fn member(&self) -> &Member {
        &self.net.members[&self.id]
    }
}

impl Group for TestGroup {
    fn id(&self) -> NodeId {
        self.id
    }
    fn peers(&self) -> Vec<Peer> {
        let others = self.net.members.keys().filter(|id| **id != self.id);
        others
            .map(|id| Peer {
                id: *id,
                name: format!("tftp-{id}"),
                voter: true,
            })
            .collect()
    }
    fn is_quorum(&self, ids: &BTreeSet<NodeId>) -> bool {
        ids.len() * 2 > self.net.members.len()
    }
    fn leadership(&self) -> watch::Receiver<Leadership> {
        self.member().leadership.subscribe()
    }
    fn applied(&self) -> watch::Receiver<u64> {
        self.member().applied.subscribe()
    }
    fn local<T>(&self, read: impl FnOnce(&TftpState) -> T) -> T {
        read(&lock(&self.member().state))
    }
    async fn propose(&self, command: Command) -> Result<Outcome, ProposeError> {
        if self.id == self.net.leader {
            return Ok(self.net.apply(&command));
        }
        Err(ProposeError::NotLeader {
            leader: Some(self.net.leader),
        })
    }
    async fn ask(&self, peer: NodeId, request: Bytes) -> Result<ReplyStream, AskError> {
        lock(&self.net.asked).push(peer);
        let member = &self.net.members[&peer];
        let fault = *lock(&member.fault);
        let answerer = lock(&member.answerer).clone();
        let (Some(answerer), true) = (answerer, fault != Fault::Down) else {
            return Err(AskError("connection refused".to_owned()));
        };
        let replies = answerer(request);
        let corrupt = |(number, message): (usize, Result<Bytes, AskError>)| {
            let mut message = message?.to_vec();
            if number > 0 {
                message[0] ^= 1;
            }
            Ok(message.into())
        };
        Ok(match fault {
            Fault::None | Fault::Down => replies,
            Fault::Truncates(messages) => replies.take(messages).boxed(),
            Fault::Corrupts => replies.enumerate().map(corrupt).boxed(),
            Fault::CorruptsAndTruncates(messages) => replies.enumerate().map(corrupt).take(messages).boxed(),
        })
    }
}

struct Fixture {
    net: Arc<Net>,
    files: BTreeMap<NodeId, FilesOf<TestGroup>>,
    dir: TempDir,
}

const LIMITS: FileLimits = FileLimits {
    files_max: 3,
    content_bytes_max: 2_000_000,
};

async fn fixture(members: NodeId) -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let net = Net::new(members);
    let mut files = BTreeMap::new();
    for (id, member) in &net.members {
        let store = ContentStore::open(dir.path().join(id.to_string()), 0)
            .await
            .unwrap();
        let of_member = FilesOf::new(
            TestGroup {
                net: Arc::clone(&net),
                id: *id,
            },
            store,
            LIMITS,
        );
        *lock(&member.answerer) = Some(of_member.answerer());
        files.insert(*id, of_member);
    }
    Fixture { net, files, dir }
}

impl Fixture {
    fn store(&self, id: NodeId) -> &ContentStore {
        &self.files[&id].inner.store
    }

    /// Who has it.
    fn holders(&self, content: &ContentHash) -> Vec<NodeId> {
        self.files
            .keys()
            .copied()
            .filter(|id| self.store(*id).contains(content))
            .collect()
    }

    async fn put(&self, name: &str, bytes: &[u8]) -> Result<FileVersion, PutError> {
        self.files[&1]
            .put(path(name), pieces(bytes), Some(bytes.len() as u64))
            .await
    }

    /// Content on one member's disk that the others do not know of.
    async fn plant(&self, id: NodeId, bytes: &[u8]) -> ContentHash {
        let mut writer = self.store(id).writer(u64::MAX).await.unwrap();
        writer.write(Bytes::copy_from_slice(bytes)).await.unwrap();
        writer.commit().await.unwrap().0
    }

    async fn read(&self, id: NodeId, content: ContentHash) -> Vec<u8> {
        let size = self.store(id).size(&content).unwrap();
        let pieces: Vec<Bytes> = peer::read_from(self.files[&id].pin(content), size, 0)
            .try_collect()
            .await
            .unwrap();
        pieces.concat()
    }

    fn enter(&self, name: &str, content: ContentHash, size: usize) {
        let files = vec![NewFile {
            path: path(name),
            content,
            size: size as u64,
        }];
        self.net.apply(&Command::Put {
            files,
            files_max: 9,
            content_bytes_max: u64::MAX,
        });
    }
}

fn path(name: &str) -> FilePath {
    FilePath::try_new(name).unwrap()
}

fn pieces(bytes: &[u8]) -> impl Stream<Item = Result<Bytes, String>> + Send + 'static {
    stream::iter(
        bytes
            .chunks(10_000)
            .map(|piece| Ok(Bytes::copy_from_slice(piece)))
            .collect::<Vec<_>>(),
    )
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| at.to_le_bytes()[at % 3]).collect()
}

/// Waits for something that a background task must bring about.
async fn until_true(mut is_true: impl FnMut() -> bool) {
    let waited = async {
        while !is_true() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), waited)
        .await
        .expect("it never came true");
}

#[tokio::test]
async fn acknowledged_file_is_on_a_majority() {
    let fixture = fixture(5).await;
    for down in [2, 3] {
        fixture.net.fail(down, Fault::Down);
    }
    let bytes = pattern(600_000);
    let version = fixture.put("boot/image", &bytes).await.unwrap();
    assert_eq!(
        (version.size, version.version, version.modified_unix_ms),
        (600_000, 1, 1001)
    );
    assert_eq!(fixture.holders(&version.content), [1, 4, 5]);
    assert_eq!(fixture.files[&3].list(), [(path("boot/image"), version)]);
    for id in [4, 5] {
        assert!(fixture.read(id, version.content).await == bytes);
    }
}

#[tokio::test]
async fn put_waits_for_a_majority() {
    let fixture = fixture(3).await;
    fixture.net.fail(2, Fault::Down);
    fixture.net.fail(3, Fault::Down);
    let mut put = Box::pin(fixture.put("a", b"bytes"));
    let asked_both = until_true(|| lock(&fixture.net.asked).len() >= 4);
    tokio::select! {
        done = &mut put => panic!("put without a majority: {done:?}"),
        () = asked_both => {}
    }
    assert!(fixture.files[&1].list().is_empty());
    fixture.net.fail(3, Fault::None);
    let version = put.await.unwrap();
    assert_eq!(fixture.holders(&version.content), [1, 3]);
}

#[tokio::test]
async fn deposed_leader_gives_a_put_up() {
    let fixture = fixture(3).await;
    fixture.net.fail(2, Fault::Down);
    fixture.net.fail(3, Fault::Down);
    let mut put = Box::pin(fixture.put("a", b"bytes"));
    tokio::select! {
        done = &mut put => panic!("put without a majority: {done:?}"),
        () = until_true(|| lock(&fixture.net.asked).len() >= 2) => {}
    }
    fixture.net.members[&1]
        .leadership
        .send_replace(Leadership::Follower { leader: Some(2) });
    let error = put.await.unwrap_err();
    assert!(
        matches!(
            error,
            PutError::Propose(ProposeError::NotLeader { leader: Some(2) })
        ),
        "{error}"
    );
}

#[tokio::test]
async fn follower_refuses_a_put_and_names_the_leader() {
    let fixture = fixture(3).await;
    let error = fixture.files[&2]
        .put(path("a"), pieces(b"x"), None)
        .await
        .unwrap_err();
    assert!(
        matches!(
            error,
            PutError::Propose(ProposeError::NotLeader { leader: Some(1) })
        ),
        "{error}"
    );
    assert!(fixture.store(2).list().is_empty());
}

#[tokio::test]
async fn putting_known_content_again_moves_no_bytes() {
    let fixture = fixture(3).await;
    let bytes = pattern(500_000);
    let first = fixture.put("a", &bytes).await.unwrap();
    fixture.net.fail(1, Fault::Down);
    // Nobody can fetch from the leader, and nobody needs to.
    let second = fixture.put("b", &bytes).await.unwrap();
    assert_eq!((first.content, second.version), (second.content, 2));
}

#[tokio::test]
async fn broken_puts_leave_nothing() {
    let fixture = fixture(1).await;
    let files = &fixture.files[&1];
    let broken = stream::iter([Ok(Bytes::from_static(b"half")), Err("connection reset")]);
    let error = files.put(path("a"), broken, None).await.unwrap_err();
    assert!(
        matches!(&error, PutError::Receive(reason) if reason == "connection reset"),
        "{error}"
    );
    let error = files.put(path("a"), pieces(b"abc"), Some(4)).await.unwrap_err();
    assert!(
        matches!(
            error,
            PutError::SizeDiffers {
                declared: 4,
                received: 3
            }
        ),
        "{error}"
    );
    for declared in [None, Some(2_000_001)] {
        let error = files
            .put(path("a"), pieces(&pattern(2_000_001)), declared)
            .await
            .unwrap_err();
        assert!(
            matches!(error, PutError::TooLarge { free: 2_000_000, .. }),
            "{error}"
        );
    }
    assert!(fixture.store(1).list().is_empty() && files.list().is_empty());
}

#[tokio::test]
async fn limits_hold_and_replacing_by_the_same_needs_no_room() {
    let fixture = fixture(1).await;
    let large = pattern(1_500_000);
    fixture.put("a", &large).await.unwrap();
    let error = fixture.put("b", &pattern(600_000)).await.unwrap_err();
    assert!(
        matches!(error, PutError::TooLarge { free: 500_000, .. }),
        "{error}"
    );
    fixture.put("a", &large).await.unwrap();
    fixture.put("b", b"b").await.unwrap();
    fixture.put("c", b"c").await.unwrap();
    let error = fixture.put("d", b"c").await.unwrap_err();
    assert!(
        matches!(error, PutError::TooManyFiles { files_max: 3 }),
        "{error}"
    );
    fixture.files[&1].remove(path("c")).await.unwrap();
    let error = fixture.files[&1].remove(path("c")).await.unwrap_err();
    assert!(matches!(error, RemoveError::NotFound(_)), "{error}");
}

#[tokio::test]
async fn any_member_reads_a_file_and_fetches_it_first() {
    let fixture = fixture(3).await;
    fixture.net.fail(3, Fault::Down);
    let bytes = pattern(600_000);
    fixture.put("a", &bytes).await.unwrap();
    fixture.net.fail(3, Fault::None);
    let (version, stream) = fixture.files[&3].get(&path("a")).await.unwrap();
    // Removed in the middle, and long ago: the stream keeps the bytes here.
    fixture.net.apply(&Command::Remove { path: path("a") });
    let later = keeper::now() + 10 * pins::GRACE;
    fixture.files[&3].collect(true, later);
    fixture.files[&3].collect(true, later + pins::GRACE);
    let read: Vec<Bytes> = stream.try_collect().await.unwrap();
    assert!(read.concat() == bytes);
    assert_eq!(fixture.holders(&version.content), [1, 2, 3]);
    assert!(matches!(
        fixture.files[&3].get(&path("b")).await.map(|_| ()),
        Err(GetError::NotFound(_))
    ));
}

/// Member 1 fetches content that 2 and 3 have, while 2 misbehaves.
async fn check_fetch_despite(fault: Fault) {
    let fixture = fixture(3).await;
    let bytes = pattern(1_200_000);
    for id in [2, 3] {
        fixture.plant(id, &bytes).await;
    }
    let content = fixture.plant(2, &bytes).await;
    fixture.net.fail(2, fault);
    fixture.enter("a", content, bytes.len());
    assert_eq!(
        fixture.files[&1].ensure(content).await.unwrap(),
        1_200_000,
        "{fault:?}"
    );
    assert!(fixture.read(1, content).await == bytes, "{fault:?}");
    assert!(fixture.store(1).verify(content).await.unwrap());
    let asked = lock(&fixture.net.asked).clone();
    assert_eq!(asked[..2], [2, 3], "{fault:?}");
}

#[tokio::test]
async fn fetch_goes_on_with_another_peer() {
    for fault in [
        Fault::Down,
        Fault::Truncates(0),
        Fault::Truncates(1),
        Fault::Truncates(3),
        Fault::Corrupts,
        Fault::CorruptsAndTruncates(2),
    ] {
        check_fetch_despite(fault).await;
    }
}

#[tokio::test]
async fn content_that_nobody_has_whole_is_refused() {
    let fixture = fixture(3).await;
    let content = fixture.plant(2, b"bytes").await;
    fixture.enter("a", content, 5);
    fixture.net.fail(2, Fault::Corrupts);
    let error = fixture.files[&1].ensure(content).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains("member 2: content has the SHA-256"), "{text}");
    assert!(text.contains("member 3: does not have it"), "{text}");
    assert!(fixture.store(1).list().is_empty());
    assert!(lock(&fixture.files[&1].inner.flights).is_empty());
}

#[tokio::test]
async fn concurrent_wishes_share_one_fetch() {
    let fixture = fixture(2).await;
    let bytes = pattern(700_000);
    let content = fixture.plant(1, &bytes).await;
    fixture.enter("a", content, bytes.len());
    let wishes = (0..20).map(|_| fixture.files[&2].ensure(content));
    futures::future::try_join_all(wishes).await.unwrap();
    assert_eq!(*lock(&fixture.net.asked), [1]);
    assert!(lock(&fixture.files[&2].inner.flights).is_empty());
}

#[tokio::test]
async fn hold_says_that_it_works_while_it_works() {
    let fixture = fixture(2).await;
    let content = ContentHash([7; 32]);
    // Somebody is fetching it already, and takes his time.
    let flight = lock(&fixture.files[&2].inner.flights)
        .entry(content)
        .or_default()
        .clone();
    let running = flight.lock().await;
    let request = peer::encode_request(&peer::Request::Hold {
        content,
        size: 1,
        source: 1,
    });
    let mut replies = fixture.files[&2].answerer()(request);
    assert_eq!(
        replies.next().await.unwrap().unwrap(),
        peer::encode_answer(&peer::Answer::Working)
    );
    assert!(lock(&fixture.files[&2].inner.pins).is_pinned(&content));
    drop(running);
    let message = replies.next().await.unwrap().unwrap();
    assert!(
        String::from_utf8_lossy(&message).contains("does not have it"),
        "{message:?}"
    );
    assert!(replies.next().await.is_none());
    assert!(!lock(&fixture.files[&2].inner.pins).is_pinned(&content));
}

#[tokio::test]
async fn idle_content_goes_after_its_grace_and_nothing_else() {
    let fixture = fixture(1).await;
    let files = &fixture.files[&1];
    let kept = fixture.put("a", b"kept").await.unwrap().content;
    let session = fixture.put("b", b"old\n").await.unwrap().content;
    let opened = NewSession {
        key: SessionKey::new("10.0.0.1:1".parse().unwrap(), "10.0.0.2:69".parse().unwrap()),
        path: path("b"),
        content: session,
        mode: TransferMode::Netascii,
        size: 5,
        block_size: 512,
        window_size: 1,
        timeout_ms: 1000,
        oack: Vec::new(),
    };
    fixture.net.apply(&Command::Open {
        session: opened,
        sessions_max: 1,
        sessions_per_client_max: 1,
    });
    fixture.put("b", b"new").await.unwrap();
    let idle = fixture.plant(1, b"idle").await;
    let pinned = fixture.plant(1, b"pinned").await;
    let pin = files.pin(pinned);
    for content in [kept, session] {
        fixture.store(1).netascii(content).await.unwrap();
    }

    let start = keeper::now();
    files.collect(true, start);
    files.collect(true, start + pins::GRACE - Duration::from_millis(1));
    assert_eq!(fixture.store(1).list().len(), 7);
    // Without a leader nobody knows what is referenced: the grace starts anew.
    files.collect(false, start + pins::GRACE);
    files.collect(true, start + pins::GRACE);
    assert_eq!(fixture.store(1).list().len(), 7);
    files.collect(true, start + 2 * pins::GRACE);
    let has = |key: BlobKey| fixture.store(1).length(&key).is_some();
    assert!(!has(BlobKey::Raw(idle)) && !has(BlobKey::Netascii(kept)));
    assert!(has(BlobKey::Raw(kept)) && has(BlobKey::Raw(pinned)));
    assert!(has(BlobKey::Raw(session)) && has(BlobKey::Netascii(session)));
    // The grace of what was pinned starts when the pin ends, that of a session's content with the session.
    drop(pin);
    fixture.net.apply(&Command::Close {
        sessions: vec![SessionId(3)],
    });
    files.collect(true, start + 3 * pins::GRACE);
    assert!(has(BlobKey::Raw(pinned)) && has(BlobKey::Raw(session)));
    files.collect(true, start + 4 * pins::GRACE);
    assert!(!has(BlobKey::Raw(pinned)) && !has(BlobKey::Raw(session)) && !has(BlobKey::Netascii(session)));
    assert_eq!(fixture.store(1).list().len(), 2);
}

#[tokio::test]
async fn member_fetches_what_it_lacks_and_heals_what_rots() {
    let fixture = fixture(3).await;
    fixture.net.fail(3, Fault::Down);
    let bytes = pattern(300_000);
    let content = fixture.put("a", &bytes).await.unwrap().content;
    assert_eq!(fixture.holders(&content), [1, 2]);
    let (files, until) = (&fixture.files[&3], Shutdown::new());
    assert_eq!(files.missing(), BTreeMap::from([(content, 300_000)]));
    let test = async {
        until_true(|| files.missing().is_empty()).await;
        assert!(fixture.store(3).contains(&content));
        // Put while it runs: it hears of it by the entry.
        let second = fixture.put("b", b"second").await.unwrap().content;
        until_true(|| fixture.store(3).contains(&second)).await;
        // A bit flips on its disk.
        let name = content.to_string();
        let stored = fixture.dir.path().join("3").join(&name[..2]).join(&name);
        let mut rotten = bytes.clone();
        rotten[1000] ^= 1;
        std::fs::write(&stored, rotten).unwrap();
        files.scrub().await;
        until_true(|| fixture.store(3).contains(&content)).await;
        assert!(fixture.store(3).verify(content).await.unwrap());
        // It shrinks, and is not in memory: whoever reads it learns that it is missing and has it fetched.
        fixture.store(3).remove(&BlobKey::Raw(content)).unwrap();
        files.ensure(content).await.unwrap();
        std::fs::write(&stored, "short").unwrap();
        let read = fixture.store(3).load(&BlobKey::Raw(content), 0).await;
        assert!(
            matches!(read, Err(ContentError::Missing(missing)) if missing == content),
            "{read:?}"
        );
        files.ensure(content).await.unwrap();
        assert!(fixture.store(3).verify(content).await.unwrap());
        until.request();
    };
    tokio::join!(files.run(until.clone()), test);
}

#[tokio::test]
async fn failed_fetch_is_tried_again() {
    let fixture = fixture(2).await;
    let content = fixture.plant(1, b"bytes").await;
    fixture.net.fail(1, Fault::Down);
    fixture.enter("a", content, 5);
    let until = Shutdown::new();
    let test = async {
        until_true(|| !lock(&fixture.net.asked).is_empty()).await;
        fixture.net.fail(1, Fault::None);
        until_true(|| fixture.store(2).contains(&content)).await;
        until.request();
    };
    tokio::join!(fixture.files[&2].run(until.clone()), test);
}

#[tokio::test]
async fn new_leader_finds_the_conversion_of_a_running_session() {
    let fixture = fixture(2).await;
    let content = fixture.put("a", b"text\n").await.unwrap().content;
    let until = Shutdown::new();
    let test = async {
        let session = NewSession {
            key: SessionKey::new("10.0.0.1:1".parse().unwrap(), "10.0.0.2:69".parse().unwrap()),
            path: path("a"),
            content,
            mode: TransferMode::Netascii,
            size: 6,
            block_size: 512,
            window_size: 1,
            timeout_ms: 1000,
            oack: Vec::new(),
        };
        fixture.net.apply(&Command::Open {
            session,
            sessions_max: 1,
            sessions_per_client_max: 1,
        });
        until_true(|| fixture.store(2).length(&BlobKey::Netascii(content)) == Some(6)).await;
        until.request();
    };
    tokio::join!(fixture.files[&2].run(until.clone()), test);
}

#[tokio::test]
async fn answerer_keeps_nothing_alive() {
    let mut fixture = fixture(1).await;
    let answerer = fixture.files[&1].answerer();
    fixture.files.clear();
    let error = answerer(Bytes::new())
        .next()
        .now_or_never()
        .unwrap()
        .unwrap()
        .unwrap_err();
    assert!(error.to_string().contains("stopping"), "{error}");
}

#[test]
fn work_on_files_can_move_between_threads() {
    fn is_send<T: Send>(_: T) {}
    // Never called: that it compiles is the fact.
    let _ = |files: &Files, content: ContentHash| {
        is_send(files.put(path("a"), pieces(b""), None));
        is_send(files.remove(path("a")));
        is_send(files.ensure(content));
        is_send(files.run(Shutdown::new()));
        is_send(async {
            let found = files.get(&path("a")).await;
            is_send(found.map(|(_, stream)| stream));
        });
    };
}
