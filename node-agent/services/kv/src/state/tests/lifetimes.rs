//! Transactions, lifetimes, leases.

use super::*;

fn at(state: &mut KvState, unix_ms: u64, change: Change) -> Outcome {
    let request = Request {
        session: 0,
        seq: 0,
        floor: 0,
        change,
    };
    let at = LogTime { unix_ms, index: 0 };
    state.apply(at, Command::Batch(vec![request])).remove(0)
}

fn set_for(key: &str, value: &str, lifetime: Lifetime) -> Change {
    Change::SetFor {
        key: key.into(),
        value: value.into(),
        lifetime,
    }
}

fn operation(key: &str, value: &str) -> Operation {
    Operation::Set {
        key: key.into(),
        value: value.into(),
        lifetime: Lifetime::Forever,
    }
}

fn comparison(key: &str, condition: Condition) -> Comparison {
    Comparison {
        key: key.into(),
        condition,
    }
}

#[test]
fn transaction_does_one_list_or_the_other() {
    let mut state = KvState::default();
    apply(&mut state, set("a", "1"));
    let transaction = Transaction {
        compare: vec![
            comparison("a", Condition::Value("1".into())),
            comparison("a", Condition::Revision(1)),
            comparison("b", Condition::Exists(false)),
            comparison("b", Condition::Revision(0)),
        ],
        then: vec![
            operation("a", "2"),
            operation("b", "3"),
            Operation::Delete { key: "c".into() },
        ],
        otherwise: vec![Operation::Get { key: "a".into() }],
    };
    let changed = |revision| Made::Changed { revision };
    assert_eq!(
        apply(&mut state, Change::Transact(transaction.clone())),
        Outcome::Transacted {
            holds: true,
            made: vec![changed(2), changed(3), Made::Absent],
            revision: 3,
        }
    );
    let found = Made::Found {
        value: Some("2".into()),
        revision: 2,
    };
    assert_eq!(
        apply(&mut state, Change::Transact(transaction)),
        Outcome::Transacted {
            holds: false,
            made: vec![found],
            revision: 3,
        }
    );
}

#[test]
fn repeated_transaction_acts_once_and_forgets_large_values_only() {
    let mut state = KvState::default();
    apply(&mut state, set("large", &"x".repeat(5000)));
    apply(&mut state, Change::Open { member: None });
    let get = |key: &str| Operation::Get { key: key.into() };
    let transaction = Transaction {
        then: vec![operation("a", "1"), get("large"), get("a")],
        ..Transaction::default()
    };
    let change = Change::Transact(transaction);
    let first = request(&mut state, 1, 1, change.clone());
    let again = request(&mut state, 1, 1, change);
    let (Outcome::Transacted { made: first, .. }, Outcome::Transacted { made: again, .. }) = (first, again)
    else {
        panic!();
    };
    assert_eq!(state.revision(), 2);
    assert!(matches!(&first[1], Made::Found { value: Some(_), .. }));
    assert_eq!(
        (&again[0], &again[1], &again[2]),
        (&first[0], &Made::Forgotten, &first[2])
    );
}

#[test]
fn values_end_by_the_logs_time_whatever_comes_then() {
    let mut state = KvState::default();
    at(&mut state, 1000, set_for("k", "v", Lifetime::Millis(500)));
    assert_eq!(state.ends("k"), Some(1500));
    at(&mut state, 1499, set("other", ""));
    assert_eq!(value(&state, "k").unwrap(), "v");
    let mut state = KvState::restore(&state.snapshot()).unwrap();
    assert_eq!(state.first_due(), Some(1500));
    // The swap finds it gone.
    assert_eq!(at(&mut state, 1500, swap("k", "", "new")), done(4));
    assert_eq!((state.ends("k"), state.first_due()), (None, None));
    at(&mut state, 1600, set_for("k", "v", Lifetime::Millis(100)));
    // Stored anew, without an end.
    at(&mut state, 1650, set("k", "stays"));
    at(&mut state, 9999, Change::Expire);
    assert_eq!(value(&state, "k").unwrap(), "stays");
}

#[test]
fn keys_end_with_their_lease() {
    let mut state = KvState::default();
    let granted = at(&mut state, 0, Change::Grant { ttl_ms: 100 });
    assert_eq!(
        granted,
        Outcome::Leased {
            lease: 1,
            ttl_ms: 100
        }
    );
    let lease = Lifetime::Lease(1);
    assert_eq!(at(&mut state, 10, set_for("a", "", lease)), done(1));
    assert_eq!(at(&mut state, 10, set_for("b", "", lease)), done(2));
    assert_eq!(at(&mut state, 10, set_for("c", "", lease)), done(3));
    at(&mut state, 20, set("c", "free"));
    at(&mut state, 90, Change::KeepAlive { lease: 1 });
    let mut state = KvState::restore(&state.snapshot()).unwrap();
    at(&mut state, 150, Change::Expire);
    let (ttl_ms, ends_ms, keys) = state.lease(1).unwrap();
    assert_eq!((ttl_ms, ends_ms, keys), (100, 190, vec!["a".into(), "b".into()]));
    assert_eq!(
        at(&mut state, 190, Change::KeepAlive { lease: 1 }),
        Outcome::NoLease
    );
    assert_eq!((state.keys(), state.leases(), state.revision()), (1, 0, 6));
    assert_eq!(at(&mut state, 191, set_for("a", "", lease)), Outcome::NoLease);
    let in_transaction = Transaction {
        then: vec![
            operation("x", "1"),
            Operation::Set {
                key: "y".into(),
                value: Value::empty(),
                lifetime: lease,
            },
        ],
        ..Transaction::default()
    };
    assert_eq!(
        at(&mut state, 191, Change::Transact(in_transaction)),
        Outcome::NoLease
    );
    assert!(state.get("x").is_none());
    at(&mut state, 200, Change::Grant { ttl_ms: 100 });
    at(&mut state, 200, set_for("d", "", Lifetime::Lease(2)));
    assert_eq!(at(&mut state, 201, Change::Revoke { lease: 2 }), done(8));
    assert_eq!((state.get("d"), state.first_due()), (None, None));
}

#[test]
fn quota_counts_what_a_change_adds() {
    let mut state = KvState::default();
    apply(&mut state, set("k", "12345"));
    assert_eq!(state.used(), 6);
    assert_eq!(state.growth(&set("k", "1234567")), 2);
    assert_eq!(state.growth(&set("k", "1")), 0);
    assert_eq!(state.growth(&swap("new", "", "1")), 4);
    assert_eq!(state.growth(&Change::Delete { key: "k".into() }), 0);
    let transaction = Transaction {
        compare: Vec::new(),
        then: vec![operation("k", "1"), operation("a", "1")],
        otherwise: vec![operation("b", "12")],
    };
    assert_eq!(state.growth(&Change::Transact(transaction)), 3);
}

#[test]
fn ranges_are_read_in_order() {
    let mut state = KvState::default();
    for key in ["a", "b/1", "b/2", "b/3", "c"] {
        apply(&mut state, set(key, ""));
    }
    let keys = |prefix: &str, after: Option<&str>| -> Vec<String> {
        state
            .range(prefix, after)
            .map(|(key, _)| key.to_string())
            .collect()
    };
    assert_eq!(keys("b/", None), ["b/1", "b/2", "b/3"]);
    assert_eq!(keys("b/", Some("b/1")), ["b/2", "b/3"]);
    assert_eq!(keys("b/", Some("a")), ["b/1", "b/2", "b/3"]);
    assert_eq!(keys("", Some("b/3")), ["c"]);
    assert_eq!(keys("b/", Some("c")), Vec::<String>::new());
}

#[test]
fn golden_bytes_of_lifetimes() {
    let bytes = |change: &Change| postcard::to_allocvec(change).unwrap();
    let transaction = Transaction {
        compare: vec![comparison("a", Condition::Exists(true))],
        then: vec![Operation::Delete { key: "a".into() }],
        otherwise: vec![operation("b", "v"), Operation::Get { key: "a".into() }],
    };
    assert_eq!(
        bytes(&Change::Transact(transaction)),
        b"\x07\x01\x01a\x02\x01\x01\x01\x01a\x02\x00\x01b\x01v\x00\x02\x01a"
    );
    assert_eq!(
        bytes(&set_for("k", "v", Lifetime::Millis(5))),
        b"\x08\x01k\x01v\x01\x05"
    );
    let swap = Change::SwapFor {
        key: "k".into(),
        old: "o".into(),
        new: "n".into(),
        lifetime: Lifetime::Lease(3),
    };
    assert_eq!(bytes(&swap), b"\x09\x01k\x01o\x01n\x02\x03");
    assert_eq!(bytes(&Change::Grant { ttl_ms: 7 }), b"\x0a\x07");
    assert_eq!(bytes(&Change::KeepAlive { lease: 7 }), b"\x0b\x07");
    assert_eq!(bytes(&Change::Revoke { lease: 7 }), b"\x0c\x07");
    assert_eq!(bytes(&Change::Expire), b"\x0d");
    let outcome = |outcome: &Outcome| postcard::to_allocvec(outcome).unwrap();
    let transacted = Outcome::Transacted {
        holds: true,
        made: vec![Made::Changed { revision: 2 }, Made::Absent, Made::Forgotten],
        revision: 2,
    };
    assert_eq!(outcome(&transacted), b"\x09\x01\x03\x00\x02\x01\x03\x02");
    assert_eq!(outcome(&Outcome::Leased { lease: 1, ttl_ms: 2 }), b"\x0a\x01\x02");
    assert_eq!(outcome(&Outcome::NoLease), b"\x0b");
    let mut state = KvState::default();
    at(&mut state, 0, Change::Grant { ttl_ms: 7 });
    at(&mut state, 0, set_for("k", "", Lifetime::Lease(1)));
    assert!(state.snapshot().ends_with(
        b"\x03\x01\x01\x01\x07\x07\x01\x01k\x01\x01k\x01\x01\
                \x04\0\x01\x01\x01k\x01\0"
    ));
}

#[test]
fn changes_are_told_one_for_each_revision() {
    let mut state = KvState::default();
    at(&mut state, 0, set_for("a", "1", Lifetime::Millis(5)));
    let transaction = Transaction {
        then: vec![operation("b", "2"), operation("c", "3")],
        ..Transaction::default()
    };
    at(&mut state, 1, Change::Transact(transaction));
    merge(&mut state, vec![remembered(1, "b", None, Policy::Arrival)]);
    at(&mut state, 5, Change::Expire);
    at(&mut state, 5, swap("c", "wrong", "4"));
    let told = |state: &KvState, from| -> Vec<(u64, String, bool)> {
        let events = state.changes(from).unwrap();
        events
            .map(|event| (event.revision, event.key.to_string(), event.value.is_some()))
            .collect()
    };
    let expected = [
        (1, "a".to_owned(), true),
        (2, "b".to_owned(), true),
        (3, "c".to_owned(), true),
        (4, "b".to_owned(), false),
        (5, "a".to_owned(), false),
    ];
    assert_eq!(told(&state, 1), expected);
    let restored = KvState::restore(&state.snapshot()).unwrap();
    assert_eq!(told(&restored, 4), expected[3..]);
    let old = KvState::restore(b"\x01\x05\0\0\0\0\0").unwrap();
    assert_eq!(old.changes(5).err(), Some(Compacted { oldest: 6 }));
    assert_eq!(told(&old, 6), []);
}
