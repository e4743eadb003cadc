//! Whose sessions and answers are.

use super::*;

fn app() -> Owner {
    Owner::of("app")
}

fn other() -> Owner {
    Owner::of("other")
}

fn ask(state: &mut KvState, owner: Owner, has_numbered: bool, ids: (u64, u64), change: Change) -> Outcome {
    let caller = Caller { owner, has_numbered };
    request(state, ids.0, ids.1, change.asked_by(caller))
}

/// Numbered by the caller.
fn by(state: &mut KvState, owner: Owner, ids: (u64, u64), change: Change) -> Outcome {
    ask(state, owner, true, ids, change)
}

/// Numbered by the member that was asked.
fn through_member(state: &mut KvState, owner: Owner, ids: (u64, u64), change: Change) -> Outcome {
    ask(state, owner, false, ids, change)
}

fn with_session_of(owner: Owner) -> KvState {
    let mut state = KvState::default();
    let opened = by(&mut state, owner, (0, 0), Change::Open { member: None });
    assert_eq!(opened, Outcome::Opened { session: 1 });
    state
}

#[test]
fn stranger_neither_learns_an_answer_nor_uses_a_number_up() {
    let mut state = with_session_of(app());
    let before = state.snapshot();
    for stranger in [other(), Owner::NOBODY] {
        assert_eq!(
            by(&mut state, stranger, (1, 1), set("k", "theirs")),
            Outcome::NoSession
        );
        assert_eq!(
            by(&mut state, stranger, (1, 1), Change::Cancel),
            Outcome::NoSession
        );
    }
    assert_eq!(state.snapshot(), before);
    assert_eq!(by(&mut state, app(), (1, 1), swap("k", "", "mine")), done(1));
    for restored in [false, true] {
        if restored {
            state = KvState::restore(&state.snapshot()).unwrap();
        }
        for stranger in [other(), Owner::NOBODY] {
            assert_eq!(state.answer(stranger, 1, 1), Some(Outcome::NoSession));
            assert_eq!(
                by(&mut state, stranger, (1, 1), set("k", "theirs")),
                Outcome::NoSession
            );
        }
        assert_eq!(state.answer(app(), 1, 1), Some(done(1)));
        assert_eq!(by(&mut state, app(), (1, 1), swap("k", "", "mine")), done(1));
        assert_eq!(
            (state.revision(), value(&state, "k").unwrap()),
            (1, "mine".to_owned())
        );
    }
}

#[test]
fn session_from_before_the_tokens_is_nobodys() {
    let mut state = with_session_of(Owner::NOBODY);
    assert_eq!(by(&mut state, Owner::NOBODY, (1, 1), set("k", "v")), done(1));
    assert_eq!(by(&mut state, app(), (1, 1), set("k", "w")), Outcome::NoSession);
    assert_eq!(state.answer(app(), 1, 1), Some(Outcome::NoSession));
    assert_eq!(value(&state, "k").unwrap(), "v");
}

#[test]
fn in_a_members_session_each_settles_its_own_requests_only() {
    let mut state = KvState::default();
    apply(&mut state, Change::Open { member: Some(3) });
    // Before the request arrives: a stranger's cancellation stops nothing, its owner's does.
    assert_eq!(
        by(&mut state, other(), (1, 1), Change::Cancel),
        Outcome::Cancelled
    );
    assert_eq!(through_member(&mut state, app(), (1, 1), set("k", "a")), done(1));
    assert_eq!(by(&mut state, app(), (1, 2), Change::Cancel), Outcome::Cancelled);
    assert_eq!(
        through_member(&mut state, app(), (1, 2), set("k", "b")),
        Outcome::Cancelled
    );
    // After it: its owner learns what became of it, a stranger does not.
    let mut state = KvState::restore(&state.snapshot()).unwrap();
    assert_eq!(by(&mut state, app(), (1, 1), Change::Cancel), done(1));
    assert_eq!(
        by(&mut state, other(), (1, 1), Change::Cancel),
        Outcome::Cancelled
    );
    assert_eq!(state.answer(app(), 1, 1), Some(done(1)));
    assert_eq!(state.answer(Owner::NOBODY, 1, 1), None);
    assert_eq!(value(&state, "k").unwrap(), "a");
}

#[test]
fn callers_begin_nothing_in_a_members_session_and_say_nothing_of_what_it_waits_for() {
    let mut state = KvState::default();
    apply(&mut state, Change::Open { member: Some(3) });
    assert_eq!(by(&mut state, app(), (1, 7), set("k", "a")), Outcome::NoSession);
    assert_eq!(through_member(&mut state, app(), (1, 7), set("k", "b")), done(1));
    // What was carried out is answered to its owner.
    assert_eq!(by(&mut state, app(), (1, 7), set("k", "b")), done(1));
    let caller = Caller {
        owner: app(),
        has_numbered: true,
    };
    let with_floor = Request {
        session: 1,
        seq: 100,
        floor: 100,
        change: Change::Cancel.asked_by(caller),
    };
    state.apply(LogTime::default(), Command::Batch(vec![with_floor]));
    assert_eq!(state.answer(app(), 1, 7), Some(done(1)));
    assert_eq!(through_member(&mut state, app(), (1, 8), set("k", "c")), done(2));
}

#[test]
fn remembered_write_is_looked_up_as_its_owners() {
    let mut state = with_session_of(app());
    assert_eq!(by(&mut state, app(), (1, 1), set("k", "old")), done(1));
    apply(&mut state, set("k", "new"));
    let mut write = remembered(1, "k", Some("old"), Policy::Arrival);
    (write.session, write.seq) = (1, 1);
    let merge = |state: &mut KvState, owner, write| apply(state, Change::merge(5, vec![(owner, write)]));
    let stored = Outcome::Merged {
        stored: 1,
        dropped: vec![],
    };
    // It was ordered before it was remembered.
    assert_eq!(merge(&mut state, app(), write.clone()), stored);
    assert_eq!(value(&state, "k").unwrap(), "new");
    // A stranger's has been accepted, too; the numbers that it names are not its own.
    (write.number, write.seq, write.value) = (2, 2, Some("theirs".into()));
    assert_eq!(merge(&mut state, other(), write.clone()), stored);
    assert_eq!(value(&state, "k").unwrap(), "theirs");
    assert_eq!(by(&mut state, app(), (1, 2), set("k", "mine")), done(4));
    // The request arrives after the merge.
    (write.number, write.seq, write.value) = (3, 3, Some("late".into()));
    assert_eq!(merge(&mut state, app(), write), stored);
    assert_eq!(by(&mut state, app(), (1, 3), set("k", "late")), done(5));
    assert_eq!(state.revision(), 5);
}

#[test]
fn golden_bytes_of_owners() {
    const APP: &[u8] = b"\xcb\x8e\x9d\xf2\xca\xdb\xb3\xb9\xa1\x01";
    let bytes = |change: &Change| postcard::to_allocvec(change).unwrap();
    let caller = Caller {
        owner: app(),
        has_numbered: true,
    };
    let cancel = Change::Cancel.asked_by(caller);
    assert_eq!(bytes(&cancel), [&b"\x10"[..], APP, b"\x01\x04"].concat());
    assert_eq!(Change::Cancel.asked_by(Caller::default()), Change::Cancel);
    let write = remembered(1, "k", Some("v"), Policy::Latest);
    let merge = Change::merge(5, vec![(app(), write.clone())]);
    let expected = [&b"\x11\x05\x01"[..], APP, b"\x01\0\0\x01k\x01\x01v\0\0\x0a\x02"].concat();
    assert_eq!(bytes(&merge), expected);
    assert_eq!(bytes(&Change::merge(5, vec![(Owner::NOBODY, write)]))[0], 5);
    let mut state = with_session_of(app());
    request(&mut state, 1, 3, cancel);
    let expected = [
        &b"\x02\0\0\x01\x01\x01\0\0\0\0\0\0\x06\x01\x01"[..],
        APP,
        b"\x01\x01\x03",
        APP,
        b"\x03",
    ];
    assert_eq!(state.snapshot(), expected.concat());
    let back = KvState::restore(&state.snapshot()).unwrap();
    assert_eq!(back.snapshot(), state.snapshot());
}
