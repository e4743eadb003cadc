use std::net::SocketAddr;

use expect_test::{Expect, expect};
use proptest::prelude::*;

use super::*;

fn at(index: u64) -> LogTime {
    LogTime {
        unix_ms: 1_700_000_000_000 + index,
        index,
    }
}

fn path(name: &str) -> FilePath {
    FilePath::try_new(name).unwrap()
}

fn hash(byte: u8) -> ContentHash {
    ContentHash([byte; 32])
}

fn put(name: &str, byte: u8, size: u64) -> Command {
    put_within(name, byte, size, 100, 1 << 20)
}

fn put_within(name: &str, byte: u8, size: u64, files_max: u32, content_bytes_max: u64) -> Command {
    let files = vec![NewFile {
        path: path(name),
        content: hash(byte),
        size,
    }];
    Command::Put {
        files,
        files_max,
        content_bytes_max,
    }
}

fn put_at(version: u64) -> Outcome {
    Outcome::Put {
        version,
        modified_unix_ms: at(version).unix_ms,
    }
}

fn remove(name: &str) -> Command {
    Command::Remove { path: path(name) }
}

fn put_from(source: &str, name: &str, byte: u8, size: u64) -> Command {
    Command::PutFrom {
        source: source.to_owned(),
        file: NewFile {
            path: path(name),
            content: hash(byte),
            size,
        },
        files_max: 100,
        content_bytes_max: 1 << 20,
    }
}

fn put_new(name: &str, byte: u8, size: u64) -> Command {
    Command::PutNew {
        file: NewFile {
            path: path(name),
            content: hash(byte),
            size,
        },
        files_max: 100,
        content_bytes_max: 1 << 20,
    }
}

fn remove_from(source: &str, name: &str) -> Command {
    Command::RemoveFrom {
        source: source.to_owned(),
        path: path(name),
    }
}

fn session(peer: &str, byte: u8, mode: TransferMode) -> NewSession {
    let local: SocketAddr = "192.0.2.1:69".parse().unwrap();
    NewSession {
        key: SessionKey::new(peer.parse().unwrap(), local),
        path: path("boot/image"),
        content: hash(byte),
        mode,
        size: 1000,
        block_size: 1468,
        window_size: 4,
        timeout_ms: 1000,
        oack: b"\x00\x06blksize\x001428\x00".to_vec(),
    }
}

fn open(peer: &str, byte: u8) -> Command {
    open_within(peer, byte, 100, 10)
}

fn open_within(peer: &str, byte: u8, sessions_max: u32, sessions_per_client_max: u32) -> Command {
    let session = session(peer, byte, TransferMode::Octet);
    Command::Open {
        session,
        sessions_max,
        sessions_per_client_max,
    }
}

/// Applies commands as the entries 1, 2, 3, ...
fn apply_all(commands: Vec<Command>) -> (TftpState, Vec<Outcome>) {
    let mut state = TftpState::default();
    let outcomes = (1..)
        .zip(commands)
        .map(|(index, command)| state.apply(at(index), command))
        .collect();
    (state, outcomes)
}

fn check_outcomes(commands: Vec<Command>, expected: &[Outcome]) -> TftpState {
    let (state, outcomes) = apply_all(commands);
    assert_eq!(outcomes, expected);
    state
}

const ID_2: SessionId = SessionId(2);

#[test]
fn file_is_put_replaced_and_removed() {
    let state = check_outcomes(vec![put("a", 1, 10), put("a", 2, 20)], &[put_at(1), put_at(2)]);
    let expected = FileVersion {
        content: hash(2),
        size: 20,
        version: 2,
        modified_unix_ms: at(2).unix_ms,
    };
    assert_eq!(state.lookup(&path("/a")), Some(expected));
    assert_eq!(state.referenced().collect::<Vec<_>>(), [(hash(2), 20)]);
    assert_eq!((state.content_bytes(), state.content_changed()), (20, 2));

    let state = check_outcomes(
        vec![put("a", 1, 10), remove("a"), remove("a")],
        &[put_at(1), Outcome::Removed, Outcome::NotFound],
    );
    assert_eq!(
        (
            state.files().len(),
            state.referenced().len(),
            state.content_bytes()
        ),
        (0, 0, 0)
    );
}

#[test]
fn put_is_all_or_nothing_within_its_limits() {
    let two = |files_max, content_bytes_max| Command::Put {
        files: vec![
            NewFile {
                path: path("b"),
                content: hash(2),
                size: 50,
            },
            NewFile {
                path: path("c"),
                content: hash(2),
                size: 50,
            },
        ],
        files_max,
        content_bytes_max,
    };
    check_outcomes(
        vec![put("a", 1, 60), two(2, 1000), two(3, 109), two(3, 110)],
        &[
            put_at(1),
            Outcome::TooManyFiles,
            Outcome::ContentTooLarge { bytes: 110 },
            put_at(4),
        ],
    );
    // A lowered limit refuses what adds, not what replaces a file by known content.
    check_outcomes(
        vec![put("a", 1, 60), put("b", 2, 60), put_within("b", 1, 60, 0, 0)],
        &[put_at(1), put_at(2), put_at(3)],
    );
}

#[test]
fn session_keeps_its_content_when_the_file_goes() {
    let commands = vec![
        put("a", 1, 10),
        open("10.0.0.1:1000", 1),
        put("a", 2, 20),
        remove("a"),
        open("10.0.0.1:1001", 2),
    ];
    let mut state = check_outcomes(
        commands,
        &[
            put_at(1),
            Outcome::Opened { id: ID_2 },
            put_at(3),
            Outcome::Removed,
            Outcome::FileGone,
        ],
    );
    assert_eq!(state.referenced().collect::<Vec<_>>(), [(hash(1), 10)]);
    assert_eq!(
        state.apply(
            at(6),
            Command::Close {
                sessions: vec![ID_2, ID_2, SessionId(99)]
            }
        ),
        Outcome::Closed
    );
    assert_eq!(
        (
            state.referenced().len(),
            state.sessions().len(),
            state.content_changed()
        ),
        (0, 0, 6)
    );
}

#[test]
fn session_of_the_same_ends_replaces_the_older() {
    let commands = vec![
        put("a", 1, 10),
        open_within("10.0.0.1:1000", 1, 1, 1),
        open_within("10.0.0.1:1000", 1, 1, 1),
        open_within("10.0.0.1:1001", 1, 1, 1),
        open_within("10.0.0.1:1001", 1, 2, 1),
        open_within("10.0.0.2:1000", 1, 2, 1),
    ];
    let state = check_outcomes(
        commands,
        &[
            put_at(1),
            Outcome::Opened { id: ID_2 },
            Outcome::Opened { id: SessionId(3) },
            Outcome::TooManySessions,
            Outcome::TooManySessionsOfClient,
            Outcome::Opened { id: SessionId(6) },
        ],
    );
    let key = session("10.0.0.1:1000", 1, TransferMode::Octet).key;
    assert_eq!(state.session_by_key(&key).unwrap().id, SessionId(3));
    assert!(state.session(ID_2).is_none());
    assert_eq!(state.sessions_of_client(key.client()), 1);
}

#[test]
fn checkpoint_only_grows_and_tells_the_oack_from_nothing() {
    let (mut state, _) = apply_all(vec![put("a", 1, 10), open("10.0.0.1:1000", 1)]);
    assert_eq!(state.session(ID_2).unwrap().acked, None);
    for (index, (position, expected)) in (3..).zip([(0, 0), (70_000, 70_000), (5, 70_000)]) {
        let positions = vec![(SessionId(99), 1), (ID_2, position)];
        assert_eq!(
            state.apply(at(index), Command::Checkpoint { positions }),
            Outcome::Checkpointed
        );
        assert_eq!(state.session(ID_2).unwrap().acked, Some(expected));
    }
}

#[test]
fn netascii_content_is_listed_while_a_session_needs_it() {
    let (mut state, _) = apply_all(vec![put("a", 1, 10)]);
    let session = session("10.0.0.1:1000", 1, TransferMode::Netascii);
    state.apply(
        at(2),
        Command::Open {
            session,
            sessions_max: 9,
            sessions_per_client_max: 9,
        },
    );
    assert_eq!(state.netascii_contents().collect::<Vec<_>>(), [hash(1)]);
    assert_eq!(state.content_changed(), 2);
    // An octet session of the same content changes nothing that a keeper of content must do.
    state.apply(at(3), open("10.0.0.1:1001", 1));
    assert_eq!(state.content_changed(), 2);
    state.apply(at(4), Command::Close { sessions: vec![ID_2] });
    assert_eq!(
        (state.netascii_contents().count(), state.content_changed()),
        (0, 4)
    );
}

#[test]
fn link_local_clients_of_two_interfaces_are_two() {
    let local = "[fe80::1]:69".parse().unwrap();
    let peer = |flow, scope| {
        SocketAddr::V6(std::net::SocketAddrV6::new(
            "fe80::2".parse().unwrap(),
            1000,
            flow,
            scope,
        ))
    };
    let key = SessionKey::new(peer(7, 2), local);
    assert_eq!(key, SessionKey::new(peer(0, 2), local));
    assert_ne!(key, SessionKey::new(peer(0, 3), local));
    let bytes = postcard::to_allocvec(&key).unwrap();
    assert_eq!(postcard::from_bytes::<SessionKey>(&bytes).unwrap(), key);
}

#[test]
fn session_is_small() {
    let record = size_of::<SessionRecord>() + size_of::<SessionKey>() + size_of::<(IpAddr, u32)>();
    assert!(record < 512, "{record}");
}

fn check_golden(command: &Command, expected: Expect) {
    let bytes = postcard::to_allocvec(command).unwrap();
    expected.assert_eq(&hex::encode(&bytes));
    assert_eq!(&postcard::from_bytes::<Command>(&bytes).unwrap(), command);
}

#[test]
fn stored_commands_keep_their_bytes() {
    check_golden(
        &put("boot/a", 0xaa, 300),
        expect![
            "000106626f6f742f61aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaac0264808040"
        ],
    );
    check_golden(&remove("a"), expect!["010161"]);
    check_golden(
        &open("10.0.0.1:1000", 0xbb),
        expect![
            "02000a000001e8070000c000020145000a626f6f742f696d616765bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb00e807bc0b04e8070f0006626c6b73697a65003134323800640a"
        ],
    );
    let mut v6 = session("[fe80::2%3]:1000", 0xcc, TransferMode::Netascii);
    v6.oack = Vec::new();
    check_golden(
        &Command::Open {
            session: v6,
            sessions_max: 1,
            sessions_per_client_max: 1,
        },
        expect![
            "0201fe800000000000000000000000000002e8070300c000020145000a626f6f742f696d616765cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc01e807bc0b04e807000101"
        ],
    );
    check_golden(
        &Command::Checkpoint {
            positions: vec![(ID_2, 70_000)],
        },
        expect!["030102f0a204"],
    );
    check_golden(
        &Command::Close {
            sessions: vec![ID_2, SessionId(300)],
        },
        expect!["040202ac02"],
    );
    check_golden(
        &put_from("boot", "a", 0xaa, 300),
        expect![
            "0504626f6f740161aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaac0264808040"
        ],
    );
    check_golden(&remove_from("boot", "a"), expect!["0604626f6f740161"]);
    check_golden(
        &put_new("a", 0xaa, 300),
        expect!["070161aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaac0264808040"],
    );
}

fn check_golden_outcome(outcome: &Outcome, expected: Expect) {
    expected.assert_eq(&hex::encode(postcard::to_allocvec(outcome).unwrap()));
}

#[test]
fn outcomes_keep_their_bytes() {
    check_golden_outcome(
        &Outcome::Put {
            version: 300,
            modified_unix_ms: 1,
        },
        expect!["00ac0201"],
    );
    check_golden_outcome(&Outcome::TooManyFiles, expect!["01"]);
    check_golden_outcome(&Outcome::ContentTooLarge { bytes: 1 }, expect!["0201"]);
    check_golden_outcome(&Outcome::Removed, expect!["03"]);
    check_golden_outcome(&Outcome::NotFound, expect!["04"]);
    check_golden_outcome(&Outcome::Opened { id: ID_2 }, expect!["0502"]);
    check_golden_outcome(&Outcome::TooManySessions, expect!["06"]);
    check_golden_outcome(&Outcome::TooManySessionsOfClient, expect!["07"]);
    check_golden_outcome(&Outcome::FileGone, expect!["08"]);
    check_golden_outcome(&Outcome::Checkpointed, expect!["09"]);
    check_golden_outcome(&Outcome::Closed, expect!["0a"]);
    check_golden_outcome(&Outcome::OfAnother, expect!["0b"]);
    check_golden_outcome(&Outcome::Exists, expect!["0c"]);
}

#[test]
fn snapshot_keeps_its_bytes() {
    let (state, _) = apply_all(vec![
        put("a", 0x11, 10),
        open("10.0.0.1:1000", 0x11),
        Command::Checkpoint {
            positions: vec![(ID_2, 9)],
        },
        put("a", 0x22, 20),
    ]);
    let bytes = state.snapshot();
    expect!["010211111111111111111111111111111111111111111111111111111111111111110a222222222222222222222222222222222222222222222222222222222222222214040101612222222222222222222222222222222222222222222222222222222222222222140484d095ffbc31010282d095ffbc310109000a000001e8070000c000020145000a626f6f742f696d616765111111111111111111111111111111111111111111111111111111111111111100e807bc0b04e8070f0006626c6b73697a65003134323800"].assert_eq(&hex::encode(&bytes));
    let restored = TftpState::restore(&bytes).unwrap();
    check_same(&state, &restored);
}

#[test]
fn damaged_snapshots_are_refused() {
    let (state, _) = apply_all(vec![put("a", 1, 10), open("10.0.0.1:1000", 1)]);
    let good = state.snapshot();
    let refused = |bytes: &[u8]| TftpState::restore(bytes).unwrap_err().reason;
    assert!(refused(&[]).contains("empty"));
    assert!(refused(&[9]).contains("version 9"));
    assert!(refused(&[good.clone(), vec![0]].concat()).contains("1 bytes follow"));
    for end in 1..good.len() {
        assert!(TftpState::restore(&good[..end]).is_err(), "cut to {end}");
    }
    // Content that a file names and the list lacks.
    let mut unlisted = good;
    unlisted[2] ^= 1;
    assert!(refused(&unlisted).contains("not listed"));
}

/// Equal in what is stored and in all that is derived from it.
fn check_same(left: &TftpState, right: &TftpState) {
    assert_eq!(left.files, right.files);
    assert_eq!(left.sessions, right.sessions);
    assert_eq!(left.contents, right.contents);
    assert_eq!(left.by_key, right.by_key);
    assert_eq!(left.by_client, right.by_client);
    assert_eq!(
        (left.content_bytes, left.content_changed),
        (right.content_bytes, right.content_changed)
    );
    assert_eq!(left.snapshot(), right.snapshot());
}

/// Counts everything that the state counts as it goes.
fn check_counts(state: &TftpState) {
    let mut clients = BTreeMap::<_, u32>::new();
    let mut contents = BTreeMap::<_, Content>::new();
    for version in state.files.values() {
        contents.entry(version.content).or_default().files += 1;
    }
    for record in state.sessions() {
        *clients.entry(record.fixed.key.client()).or_default() += 1;
        let content = contents.entry(record.fixed.content).or_default();
        *content.count(Holder::Session(record.fixed.mode)) += 1;
        assert_eq!(state.session_by_key(&record.fixed.key).unwrap().id, record.id);
    }
    for (hash, content) in &mut contents {
        content.size = state.content_size(hash).unwrap();
    }
    assert_eq!(state.by_client, clients);
    assert_eq!(state.by_key.len(), state.sessions.len());
    assert_eq!(state.contents, contents);
    assert_eq!(
        state.content_bytes(),
        contents.values().map(|content| content.size).sum::<u64>()
    );
}

#[test]
fn snapshot_with_sources_keeps_its_bytes() {
    let (state, _) = apply_all(vec![put_from("boot", "a", 0x11, 10)]);
    let bytes = state.snapshot();
    expect!["020111111111111111111111111111111111111111111111111111111111111111110a0101016111111111111111111111111111111111111111111111111111111111111111110a0181d095ffbc310001016104626f6f74"].assert_eq(&hex::encode(&bytes));
    let restored = TftpState::restore(&bytes).unwrap();
    check_same(&state, &restored);
    assert_eq!(restored.origin(&path("a")), Some("boot"));
    // Once no file comes from a source, an older program can read it again.
    let (state, _) = apply_all(vec![put_from("boot", "a", 0x11, 10), put("a", 0x11, 10)]);
    assert_eq!(state.snapshot()[0], SNAPSHOT_VERSION);
}

#[test]
fn source_changes_only_what_it_brought() {
    let (state, outcomes) = apply_all(vec![
        put("hand", 1, 10),
        put_from("boot", "hand", 2, 10),
        put_from("boot", "a", 2, 10),
        put_from("boot", "a", 3, 10),
        put_from("other", "a", 4, 10),
        remove_from("other", "a"),
        remove_from("boot", "hand"),
        remove_from("boot", "nothing"),
    ]);
    use Outcome::OfAnother;
    let expected = [
        put_at(1),
        OfAnother,
        put_at(3),
        put_at(4),
        OfAnother,
        OfAnother,
        OfAnother,
        OfAnother,
    ];
    assert_eq!(outcomes, expected);
    assert_eq!(state.lookup(&path("hand")).unwrap().content, hash(1));
    assert_eq!(
        (state.origin(&path("hand")), state.origin(&path("a"))),
        (None, Some("boot"))
    );
    let sourced: Vec<_> = state
        .sourced()
        .map(|(path, version, source)| (path.as_str(), version.content, source))
        .collect();
    assert_eq!(sourced, [("a", hash(3), "boot")]);
}

#[test]
fn who_puts_or_removes_by_hand_takes_a_file_from_its_source() {
    let (state, outcomes) = apply_all(vec![
        put_from("boot", "a", 1, 10),
        put("a", 2, 10),
        remove_from("boot", "a"),
        put_from("boot", "b", 1, 10),
        remove("b"),
        put_from("boot", "b", 1, 10),
        remove_from("boot", "b"),
    ]);
    assert_eq!(outcomes[2], Outcome::OfAnother);
    assert_eq!(outcomes[4..], [Outcome::Removed, put_at(6), Outcome::Removed]);
    assert_eq!(state.lookup(&path("a")).unwrap().content, hash(2));
    assert_eq!(state.sourced().count(), 0);
}

fn any_command() -> impl Strategy<Value = Command> {
    let name = prop_oneof![Just("a"), Just("b"), Just("c")];
    let mode = prop_oneof![Just(TransferMode::Octet), Just(TransferMode::Netascii)];
    prop_oneof![
        (name.clone(), 0_u8..4, 0_u32..4, 0_u64..300).prop_map(|(name, byte, files_max, bytes_max)| {
            put_within(name, byte, 10 * u64::from(byte), files_max, bytes_max)
        }),
        name.clone().prop_map(remove),
        (name.clone(), 0_u8..4, any::<bool>()).prop_map(|(name, byte, boot)| {
            put_from(
                if boot { "boot" } else { "other" },
                name,
                byte,
                10 * u64::from(byte),
            )
        }),
        name.prop_map(|name| remove_from("boot", name)),
        (0_u8..3, 1_u16..4, 0_u8..4, mode, 0_u32..6, 0_u32..4).prop_map(
            |(client, port, byte, mode, all, each)| {
                let session = session(&format!("10.0.0.{client}:{port}"), byte, mode);
                Command::Open {
                    session,
                    sessions_max: all,
                    sessions_per_client_max: each,
                }
            }
        ),
        (0_u64..40, 0_u64..100).prop_map(|(id, acked)| Command::Checkpoint {
            positions: vec![(SessionId(id), acked)]
        }),
        (0_u64..40).prop_map(|id| Command::Close {
            sessions: vec![SessionId(id)]
        }),
    ]
}

proptest! {
    #[test]
    fn counts_stay_true_and_replicas_equal(commands in prop::collection::vec(any_command(), 0..40)) {
        let mut state = TftpState::default();
        let mut other = TftpState::default();
        for (index, command) in (1..).zip(commands) {
            let bytes = postcard::to_allocvec(&command).unwrap();
            let changed = (state.referenced().collect::<Vec<_>>(), state.netascii_contents().collect::<Vec<_>>());
            let outcome = state.apply(at(index), command);
            check_counts(&state);
            if changed != (state.referenced().collect::<Vec<_>>(), state.netascii_contents().collect::<Vec<_>>()) {
                prop_assert_eq!(state.content_changed(), index);
            }
            // The other replica takes a snapshot after each entry and starts again from it.
            let same = other.apply(at(index), postcard::from_bytes(&bytes).unwrap());
            prop_assert_eq!(outcome, same);
            other = TftpState::restore(&other.snapshot()).unwrap();
            check_same(&state, &other);
        }
    }

    #[test]
    fn arbitrary_bytes_are_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = postcard::from_bytes::<Command>(&bytes);
        let _ = TftpState::restore(&[vec![SNAPSHOT_VERSION], bytes.clone()].concat());
        let _ = TftpState::restore(&[vec![SNAPSHOT_VERSION_SOURCED], bytes].concat());
    }
}

#[test]
fn new_file_never_replaces_one() {
    let (state, outcomes) = apply_all(vec![put_new("a", 1, 10), put_new("a", 2, 20), put("b", 3, 30)]);
    assert!(matches!(outcomes[0], Outcome::Put { .. }));
    assert_eq!(outcomes[1], Outcome::Exists);
    assert_eq!(state.lookup(&path("a")).unwrap().content, hash(1));
}
