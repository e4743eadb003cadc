use super::*;

fn apply(state: &mut KvState, change: Change) -> Outcome {
    state
        .apply(LogTime::default(), Command::Batch(vec![change]))
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
    let bytes = |change| postcard::to_allocvec(&Command::Batch(vec![change])).unwrap();
    assert_eq!(bytes(set("k", "v")), b"\x00\x01\x00\x01k\x01v");
    assert_eq!(bytes(Change::Delete { key: "k".into() }), b"\x00\x01\x01\x01k");
    assert_eq!(bytes(swap("k", "o", "n")), b"\x00\x01\x02\x01k\x01o\x01n");
    let mut state = KvState::default();
    apply(&mut state, set("k", "v"));
    assert_eq!(state.snapshot(), b"\x01\x01\x01\x01k\x01v\x01");
}
