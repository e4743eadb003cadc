mod lifetimes;
mod owners;

use super::*;

fn apply(state: &mut KvState, change: Change) -> Outcome {
    request(state, 0, 0, change)
}

fn request(state: &mut KvState, session: u64, seq: u64, change: Change) -> Outcome {
    let request = Request {
        session,
        seq,
        floor: 0,
        change,
    };
    state
        .apply(LogTime::default(), Command::Batch(vec![request]))
        .remove(0)
}

fn set(key: &str, value: &str) -> Change {
    Change::Set {
        key: key.into(),
        value: value.into(),
    }
}

fn swap(key: &str, old: &str, new: &str) -> Change {
    Change::Swap {
        key: key.into(),
        old: old.into(),
        new: new.into(),
    }
}

fn remembered(number: u64, key: &str, value: Option<&str>, policy: Policy) -> Remembered {
    Remembered {
        number,
        session: 0,
        seq: 0,
        key: key.into(),
        value: value.map(Value::from),
        base: 0,
        after: 0,
        unix_ms: 10,
        policy,
    }
}

fn merge(state: &mut KvState, remembered: Vec<Remembered>) -> (u64, Vec<u64>) {
    match apply(
        state,
        Change::Merge {
            member: 5,
            remembered,
        },
    ) {
        Outcome::Merged { stored, dropped } => (stored, dropped),
        other => panic!("{other:?}"),
    }
}

fn value(state: &KvState, key: &str) -> Option<String> {
    let item = state.get(key)?;
    Some(String::from_utf8(item.value.as_ref().to_vec()).unwrap())
}

fn done(revision: u64) -> Outcome {
    Outcome::Done { revision }
}

fn is(value: &str, revision: u64) -> Outcome {
    Outcome::Differs {
        value: Some(value.into()),
        revision,
    }
}

#[test]
fn swap_changes_only_what_it_expects() {
    let mut state = KvState::default();
    assert_eq!(apply(&mut state, swap("k", "x", "y")), differs(None));
    // An absent key and an empty value are the same to a swap.
    assert_eq!(apply(&mut state, swap("k", "", "a")), done(1));
    assert_eq!(apply(&mut state, swap("k", "b", "c")), is("a", 1));
    assert_eq!(apply(&mut state, swap("k", "a", "b")), done(2));
    assert_eq!(state.get("k").unwrap().value, "b".into());
    assert_eq!(state.revision(), 2);
}

#[test]
fn delete_of_an_absent_key_changes_nothing() {
    let mut state = KvState::default();
    let delete = Change::Delete { key: "k".into() };
    assert_eq!(apply(&mut state, delete.clone()), differs(None));
    assert_eq!(apply(&mut state, set("k", "value")), done(1));
    assert_eq!(state.bytes(), 6);
    assert_eq!(apply(&mut state, set("k", "v")), done(2));
    assert_eq!(state.bytes(), 2);
    assert_eq!(apply(&mut state, delete), done(3));
    assert_eq!((state.keys(), state.bytes()), (0, 0));
}

#[test]
fn snapshot_is_read_back() {
    let mut state = KvState::default();
    apply(&mut state, set("b", "2"));
    apply(&mut state, set("a", "1"));
    let bytes = state.snapshot();
    let back = KvState::restore(&bytes).unwrap();
    assert_eq!(back.snapshot(), bytes);
    assert_eq!((back.revision(), back.bytes(), back.keys()), (2, 4, 2));
    assert!(KvState::restore(&bytes[..bytes.len() - 1]).is_err());
    assert!(KvState::restore(&[9]).unwrap_err().reason.contains("version 9"));
}

#[test]
fn golden_bytes() {
    let bytes = |change| {
        let request = Request {
            session: 7,
            seq: 300,
            floor: 9,
            change,
        };
        let bytes = postcard::to_allocvec(&Command::Batch(vec![request])).unwrap();
        assert_eq!(bytes[..6], [0, 1, 7, 0xac, 0x02, 9]);
        bytes[6..].to_vec()
    };
    assert_eq!(bytes(set("k", "v")), b"\x00\x01k\x01v");
    assert_eq!(bytes(Change::Delete { key: "k".into() }), b"\x01\x01k");
    assert_eq!(bytes(swap("k", "o", "n")), b"\x02\x01k\x01o\x01n");
    assert_eq!(bytes(Change::Open { member: Some(5) }), b"\x03\x01\x05");
    assert_eq!(bytes(Change::Cancel), b"\x04");
    let merge = Change::Merge {
        member: 5,
        remembered: vec![remembered(1, "k", Some("v"), Policy::Latest)],
    };
    assert_eq!(bytes(merge), b"\x05\x05\x01\x01\0\0\x01k\x01\x01v\0\0\x0a\x02");
    let mut state = KvState::default();
    apply(&mut state, set("k", "v"));
    let opened = apply(&mut state, Change::Open { member: None });
    assert_eq!(opened, Outcome::Opened { session: 1 });
    request(&mut state, 1, 3, Change::Cancel);
    assert_eq!(
        state.snapshot(),
        b"\x02\x01\x01\x01k\x01v\x01\0\0\0\x01\x01\x01\0\0\0\x01\x03\x03\0\0\
          \x04\0\x01\x01\x01k\x01\x01v"
    );
}

#[test]
fn golden_bytes_of_parts() {
    let bytes = |change: &Change| postcard::to_allocvec(change).unwrap();
    let extract = Change::Extract {
        server: "s".into(),
        digests: Value::from(&7_u64.to_le_bytes()[..]),
    };
    assert_eq!(bytes(&extract), b"\x06\x01s\x08\x07\0\0\0\0\0\0\0");
    let mut state = KvState::default();
    let extracted = apply(&mut state, extract);
    assert_eq!(postcard::to_allocvec(&extracted).unwrap(), b"\x07\0\0\x01");
    assert_eq!(postcard::to_allocvec(&Outcome::Full).unwrap(), b"\x08");
    apply(&mut state, set("k", "v"));
    merge(
        &mut state,
        vec![remembered(1, "k", Some("w"), Policy::KeepQuorum)],
    );
    assert_eq!(
        state.snapshot(),
        b"\x02\x01\x01\x01k\x01v\x01\0\0\0\0\0\x01\x05\x01\x01\
          \x01\x01\x05\x01\x01\
          \x02\x01\x01s\x01\x01\x01\x81\xe1\xb4\xc4\xa2\x82\x95\xc2\x53\x01\x07\x01\x07\
          \x04\0\x01\x01\x01k\x01\x01v"
    );
    let back = KvState::restore(&state.snapshot()).unwrap();
    assert_eq!(back.snapshot(), state.snapshot());
    let append = Change::Append {
        journal: "j".into(),
        value: "e".into(),
    };
    assert_eq!(bytes(&append), b"\x0e\x01j\x01e");
    let remove = Change::RemoveJournal { journal: "j".into() };
    assert_eq!(bytes(&remove), b"\x0f\x01j");
    let appended = apply(&mut state, append);
    assert_eq!(postcard::to_allocvec(&appended).unwrap(), b"\x0c\x01");
    assert!(state.snapshot().ends_with(b"\x05\x01\x01j\0\x01\0\x01e"));
    let later = [&state.snapshot()[..], b"\xff"].concat();
    assert!(
        KvState::restore(&later)
            .unwrap_err()
            .reason
            .contains("later version")
    );
}

#[test]
fn snapshot_of_the_first_version_is_read() {
    let first = b"\x01\x01\x01\x01k\x01v\x01\0\0\0\x01\x01\x01\0\0\0\x01\x03\x03\0\0";
    let state = KvState::restore(first).unwrap();
    assert_eq!(value(&state, "k").unwrap(), "v");
    assert_eq!((state.revision(), state.sessions()), (1, 1));
    assert_eq!(state.snapshot()[1..], first[1..]);
    assert!(KvState::restore(&[&first[..], b"\x01\0"].concat()).is_err());
}

#[test]
fn remembered_write_that_was_dropped_is_told_apart() {
    let mut state = KvState::default();
    apply(&mut state, set("k", "theirs"));
    let all = vec![
        remembered(1, "k", Some("mine"), Policy::KeepQuorum),
        remembered(2, "l", Some("mine"), Policy::KeepQuorum),
    ];
    assert_eq!(merge(&mut state, all), (1, vec![1]));
    let state = KvState::restore(&state.snapshot()).unwrap();
    assert_eq!([1, 2].map(|number| state.was_dropped(5, number)), [true, false]);
    assert!(!state.was_dropped(4, 1));
}

#[test]
fn request_sent_twice_acts_once() {
    let mut state = KvState::default();
    let Outcome::Opened { session } = apply(&mut state, Change::Open { member: None }) else {
        panic!();
    };
    assert_eq!(request(&mut state, session, 1, swap("k", "", "a")), done(1));
    assert_eq!(request(&mut state, session, 1, swap("k", "", "a")), done(1));
    assert_eq!(request(&mut state, session, 2, swap("k", "", "b")), is("a", 1));
    assert_eq!(apply(&mut state, set("k", "c")), done(2));
    // Also after a snapshot, and with what was there then.
    let mut state = KvState::restore(&state.snapshot()).unwrap();
    assert_eq!(request(&mut state, session, 1, swap("k", "", "a")), done(1));
    assert_eq!(request(&mut state, session, 2, swap("k", "", "b")), is("a", 1));
    assert_eq!(state.revision(), 2);
    assert_eq!(request(&mut state, 99, 1, set("k", "d")), Outcome::NoSession);
    assert_eq!(value(&state, "k").unwrap(), "c");
}

#[test]
fn cancelled_request_never_acts_and_a_late_cancellation_changes_nothing() {
    let mut state = KvState::default();
    apply(&mut state, Change::Open { member: None });
    assert_eq!(request(&mut state, 1, 1, Change::Cancel), Outcome::Cancelled);
    assert_eq!(request(&mut state, 1, 1, set("k", "v")), Outcome::Cancelled);
    assert_eq!(request(&mut state, 1, 2, set("k", "v")), done(1));
    assert_eq!(request(&mut state, 1, 2, Change::Cancel), done(1));
    assert_eq!(
        (
            state.answer(Owner::NOBODY, 1, 2),
            state.answer(Owner::NOBODY, 1, 3)
        ),
        (Some(done(1)), None)
    );
}

#[test]
fn answers_below_the_floor_are_forgotten_and_never_given_anew() {
    let mut state = KvState::default();
    apply(&mut state, Change::Open { member: Some(3) });
    for seq in 1..=3 {
        request(&mut state, 1, seq, set("k", "v"));
    }
    let with_floor = Request {
        session: 1,
        seq: 4,
        floor: 3,
        change: set("k", "w"),
    };
    state.apply(LogTime::default(), Command::Batch(vec![with_floor]));
    assert_eq!(request(&mut state, 1, 2, set("k", "x")), Outcome::Forgotten);
    assert_eq!(request(&mut state, 1, 3, set("k", "x")), done(3));
    assert_eq!(value(&state, "k").unwrap(), "w");
}

#[test]
fn sessions_of_clients_are_bounded_and_end_by_the_logs_time() {
    let mut state = KvState::default();
    let open = |state: &mut KvState, unix_ms| {
        let request = Request {
            session: 0,
            seq: 0,
            floor: 0,
            change: Change::Open { member: None },
        };
        state.apply(LogTime { unix_ms, index: 0 }, Command::Batch(vec![request]));
    };
    apply(&mut state, Change::Open { member: Some(3) });
    for at in 0..5000 {
        open(&mut state, at);
    }
    assert_eq!(state.sessions(), 4097);
    assert_eq!(state.answer(Owner::NOBODY, 2, 1), Some(Outcome::NoSession));
    open(&mut state, 48 * 3600 * 1000);
    assert_eq!(state.sessions(), 2);
    // A member's own one waits for it to come back.
    assert_eq!(state.answer(Owner::NOBODY, 1, 1), None);
}

#[test]
fn remembered_writes_are_merged_once_and_in_order() {
    let mut state = KvState::default();
    let all = vec![
        remembered(1, "a", Some("1"), Policy::Arrival),
        remembered(2, "a", Some("2"), Policy::Arrival),
        remembered(3, "b", None, Policy::Arrival),
    ];
    assert_eq!(merge(&mut state, all.clone()), (3, vec![]));
    assert_eq!(value(&state, "a").unwrap(), "2");
    apply(&mut state, set("a", "3"));
    assert_eq!(merge(&mut state, all.clone()), (0, vec![]));
    let mut state = KvState::restore(&state.snapshot()).unwrap();
    assert_eq!(merge(&mut state, all), (0, vec![]));
    assert_eq!(value(&state, "a").unwrap(), "3");
}

#[test]
fn remembered_write_that_was_ordered_already_is_not_stored_over_a_newer_one() {
    let mut state = KvState::default();
    apply(&mut state, Change::Open { member: Some(5) });
    request(&mut state, 1, 1, set("a", "old"));
    apply(&mut state, set("a", "new"));
    let mut late = remembered(1, "a", Some("old"), Policy::Arrival);
    (late.session, late.seq) = (1, 1);
    assert_eq!(merge(&mut state, vec![late.clone()]), (1, vec![]));
    assert_eq!(value(&state, "a").unwrap(), "new");
    // And the other way round: the request comes after the merge.
    (late.number, late.seq) = (2, 2);
    merge(&mut state, vec![late]);
    apply(&mut state, set("a", "newest"));
    request(&mut state, 1, 2, set("a", "old"));
    assert_eq!(value(&state, "a").unwrap(), "newest");
}

#[test]
fn conflicts_are_settled_by_the_policy() {
    for (policy, with_conflict, without) in [
        (Policy::Arrival, "mine", "mine"),
        (Policy::Base, "theirs", "mine"),
        (Policy::Latest, "theirs", "mine"),
        (Policy::KeepQuorum, "theirs", "mine"),
    ] {
        let mut state = KvState::default();
        let write = Request {
            session: 0,
            seq: 0,
            floor: 0,
            change: set("k", "theirs"),
        };
        let at = LogTime {
            unix_ms: 20,
            index: 1,
        };
        state.apply(at, Command::Batch(vec![write]));
        let both = vec![
            remembered(1, "k", Some("mine"), policy),
            remembered(2, "l", Some("mine"), policy),
        ];
        let (stored, dropped) = merge(&mut state, both);
        assert_eq!(value(&state, "k").unwrap(), with_conflict, "{policy:?}");
        assert_eq!(value(&state, "l").unwrap(), without, "{policy:?}");
        assert_eq!(stored, 2 - dropped.len() as u64);
        assert_eq!(state.dropped(), dropped.len() as u64);
    }
}

#[test]
fn own_earlier_write_is_no_conflict() {
    for policy in [Policy::Base, Policy::Latest, Policy::KeepQuorum] {
        let mut state = KvState::default();
        let mut second = remembered(2, "k", Some("2"), policy);
        (second.after, second.unix_ms) = (1, 11);
        let both = vec![remembered(1, "k", Some("1"), policy), second];
        assert_eq!(merge(&mut state, both), (2, vec![]), "{policy:?}");
        assert_eq!(value(&state, "k").unwrap(), "2");
    }
}
