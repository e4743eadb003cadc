use super::*;

fn draft(key: &str, value: Option<&str>, policy: Policy) -> Draft {
    Draft {
        member: 5,
        key: key.into(),
        value: value.map(Value::from),
        request: (0, 0),
        owner: Owner::NOBODY,
        policy,
        unix_ms: 100,
    }
}

fn add(
    outbox: &mut Outbox,
    key: &str,
    value: Option<&str>,
    policy: Policy,
    present: Option<&Item>,
) -> Remembered {
    let own = outbox.draw_up(draft(key, value, policy), present, 0);
    outbox.keep(own.clone());
    own.write
}

fn item(value: &str, revision: u64) -> Item {
    Item {
        value: value.into(),
        revision,
        unix_ms: 50,
        member: 0,
        number: 0,
    }
}

fn shown(outbox: &Outbox, key: &str, present: Option<&Item>) -> Option<Option<Value>> {
    outbox
        .shows(key, present, u64::MAX)
        .map(|Shown(item)| item.map(|item| item.value))
}

#[test]
fn last_write_shows_until_it_is_merged() {
    let mut outbox = Outbox::default();
    let present = item("there", 3);
    assert_eq!(shown(&outbox, "k", Some(&present)), None);
    add(&mut outbox, "k", Some("1"), Policy::Arrival, Some(&present));
    add(&mut outbox, "k", None, Policy::Arrival, Some(&present));
    assert_eq!(shown(&outbox, "k", Some(&present)), Some(None));
    add(&mut outbox, "k", Some("2"), Policy::Arrival, Some(&present));
    assert_eq!(shown(&outbox, "k", Some(&present)), Some(Some("2".into())));
    // What is not on the disk yet is not shown.
    assert_eq!(outbox.shows("k", Some(&present), 0), None);
    for number in outbox.merged(|_| 2) {
        outbox.forget(number);
    }
    assert_eq!((outbox.len(), outbox.last()), (1, 3));
    outbox.forget(3);
    assert_eq!((outbox.is_empty(), outbox.bytes()), (true, 0));
    assert_eq!(shown(&outbox, "k", Some(&present)), None);
}

#[test]
fn what_is_shown_is_what_the_merge_would_leave() {
    for policy in [Policy::Base, Policy::Latest] {
        let mut outbox = Outbox::default();
        let present = item("there", 3);
        add(&mut outbox, "k", Some("1"), policy, Some(&present));
        let second = add(&mut outbox, "k", Some("2"), policy, Some(&present));
        assert_eq!((second.after, second.base, second.unix_ms), (1, 3, 101));
        assert_eq!(shown(&outbox, "k", Some(&present)), Some(Some("2".into())));
        let mut newer = item("newer", 4);
        newer.unix_ms = 500;
        assert_eq!(shown(&outbox, "k", Some(&newer)), None, "{policy:?}");
    }
}

#[test]
fn write_after_an_own_removal_expects_no_value() {
    let mut outbox = Outbox::default();
    let present = item("there", 3);
    add(&mut outbox, "k", None, Policy::Base, Some(&present));
    let after = add(&mut outbox, "k", Some("2"), Policy::Base, Some(&present));
    assert_eq!((after.base, after.after), (0, 0));
    assert_eq!(shown(&outbox, "k", Some(&present)), Some(Some("2".into())));
}

#[test]
fn room_is_bounded_and_comes_back() {
    let mut outbox = Outbox::default();
    assert!(outbox.promise(BYTES_MAX));
    assert!(!outbox.promise(1));
    outbox.release(BYTES_MAX);
    for _ in 0..WRITES_MAX {
        assert!(outbox.promise(1));
    }
    assert!(!outbox.promise(1));
}

#[test]
fn numbers_go_on_after_what_was_merged() {
    let mut outbox = Outbox::default();
    let own = outbox.draw_up(draft("k", None, Policy::Arrival), None, 41);
    assert_eq!(own.write.number, 42);
}

#[test]
fn batches_are_of_one_member_and_of_what_is_on_the_disk() {
    let mut outbox = Outbox::default();
    add(&mut outbox, "a", Some("1"), Policy::Arrival, None);
    add(&mut outbox, "b", Some("1"), Policy::Arrival, None);
    let mut other = draft("c", Some("1"), Policy::Arrival);
    other.member = 6;
    let own = outbox.draw_up(other, None, 0);
    outbox.keep(own);
    let numbers = |upto| {
        let (member, batch) = outbox.first_batch(upto)?;
        Some((
            member,
            batch.iter().map(|(_, write)| write.number).collect::<Vec<_>>(),
        ))
    };
    assert_eq!(numbers(9), Some((5, vec![1, 2])));
    assert_eq!(numbers(1), Some((5, vec![1])));
    assert_eq!(numbers(0), None);
}

#[test]
fn golden_bytes_and_every_prefix_is_a_legal_prefix() {
    let mut outbox = Outbox::default();
    let write = add(&mut outbox, "k", Some("v"), Policy::Base, None);
    let records = [Stored::Last(7), Stored::Write(5, write.clone())];
    let bytes = encode(&records, true);
    assert_eq!(&bytes[..12], b"QROUTB01\x02\0\0\0");
    assert_eq!(&bytes[16..22], b"\x00\x07\x0e\0\0\0");
    assert_eq!(&bytes[26..], b"\x01\x05\x01\0\0\x01k\x01\x01v\0\0\x64\x01");
    let whole = recover(&bytes);
    assert_eq!((whole.last, whole.writes.len(), whole.is_damaged), (7, 1, false));
    for length in 0..bytes.len() {
        let part = recover(&bytes[..length]);
        assert!(part.writes.is_empty() && !part.is_damaged, "{length}");
        assert!(part.good_bytes <= length);
    }
    let owned = Own {
        member: 5,
        write,
        owner: Owner::of("app"),
    };
    let bytes = encode(&[Stored::from(owned.clone())], true);
    assert_eq!(
        &bytes[16..],
        b"\x02\x05\x01\0\0\x01k\x01\x01v\0\0\x64\x01\xcb\x8e\x9d\xf2\xca\xdb\xb3\xb9\xa1\x01"
    );
    assert_eq!(recover(&bytes).writes, [owned]);
}
