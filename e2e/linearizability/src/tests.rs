//! Planted wrong histories, right ones that look wrong, and the comparison with a brute-force checker.

mod brute;
mod random;

use std::time::Duration;

use crate::{Action, Checked, Failure, History, Operation, Outcome, check};

const LIMIT: Duration = Duration::from_secs(60);

fn operation(called: u64, returned: u64, action: Action, outcome: Outcome) -> Operation {
    Operation {
        client: format!("c{called}"),
        key: "k".to_owned(),
        action,
        called,
        returned,
        outcome,
    }
}

fn set(called: u64, returned: u64, value: &str) -> Operation {
    operation(called, returned, Action::Set(value.to_owned()), done(""))
}

fn get(called: u64, returned: u64, value: &str) -> Operation {
    let outcome = if value.is_empty() { no("") } else { done(value) };
    operation(called, returned, Action::Get, outcome)
}

fn delete(called: u64, returned: u64) -> Operation {
    operation(called, returned, Action::Delete, done(""))
}

fn swap(called: u64, returned: u64, old: &str, new: &str, outcome: Outcome) -> Operation {
    let (old, new) = (old.to_owned(), new.to_owned());
    operation(called, returned, Action::Swap { old, new }, outcome)
}

fn done(value: &str) -> Outcome {
    let value = value.to_owned();
    Outcome::Answered { valid: true, value }
}

fn no(value: &str) -> Outcome {
    let value = value.to_owned();
    Outcome::Answered { valid: false, value }
}

fn with(outcome: Outcome, operation: Operation) -> Operation {
    Operation { outcome, ..operation }
}

fn passes(operations: &[Operation]) -> Checked {
    let history = History {
        operations: operations.to_vec(),
    };
    check(&history, LIMIT).unwrap_or_else(|failure| panic!("{failure}"))
}

fn fails(operations: &[Operation]) -> String {
    let history = History {
        operations: operations.to_vec(),
    };
    match check(&history, LIMIT).unwrap_err() {
        Failure::Illegal { key, explanation } => {
            assert_eq!(key, "k");
            explanation
        }
        Failure::OutOfTime { .. } => panic!("out of time"),
    }
}

#[test]
fn nothing_is_legal() {
    assert_eq!(passes(&[]), Checked::default());
}

#[test]
fn overlapping_operations_act_in_any_order() {
    passes(&[
        set(0, 10, "a"),
        set(1, 9, "b"),
        get(11, 12, "a"),
        get(13, 14, "a"),
    ]);
    passes(&[set(0, 10, "a"), set(1, 9, "b"), get(11, 12, "b")]);
    passes(&[set(0, 10, "a"), get(2, 3, ""), get(4, 5, "a")]);
}

#[test]
fn stale_read_is_found() {
    fails(&[set(0, 1, "a"), set(2, 3, "b"), get(4, 5, "a")]);
}

#[test]
fn reads_do_not_go_back() {
    fails(&[set(0, 1, "a"), set(2, 20, "b"), get(3, 4, "b"), get(5, 6, "a")]);
}

#[test]
fn lost_acknowledged_write_is_found() {
    fails(&[set(0, 1, "a"), get(2, 3, "")]);
}

#[test]
fn value_from_nowhere_is_found() {
    fails(&[set(0, 1, "a"), get(2, 3, "b")]);
    fails(&[get(0, 1, "b")]);
}

#[test]
fn one_value_is_swapped_once() {
    let both = |second| {
        [
            set(0, 1, "a"),
            swap(2, 9, "a", "b", done("b")),
            swap(3, 8, "a", "c", second),
        ]
    };
    fails(&both(done("c")));
    passes(&both(no("b")));
    // Nobody may be told that the exchange failed because what it asked for is there.
    fails(&both(no("a")));
}

#[test]
fn failed_swap_tells_what_is_there() {
    fails(&[set(0, 1, "a"), set(2, 3, "b"), swap(4, 5, "x", "y", no("a"))]);
    passes(&[set(0, 1, "a"), set(2, 3, "b"), swap(4, 5, "x", "y", no("b"))]);
}

#[test]
fn other_value_between_old_and_new_is_found() {
    // c is read between the swap's two ends, so it was visible after a and before b.
    fails(&[
        set(0, 1, "a"),
        swap(2, 10, "a", "b", done("b")),
        get(3, 4, "a"),
        set(5, 6, "c"),
        get(7, 8, "c"),
        get(11, 12, "b"),
    ]);
}

#[test]
fn absent_and_empty_are_one_to_a_swap() {
    passes(&[swap(0, 1, "", "a", done("a")), get(2, 3, "a")]);
    passes(&[set(0, 1, ""), swap(2, 3, "", "a", done("a"))]);
    passes(&[
        swap(0, 1, "x", "a", no("")),
        set(2, 3, "c"),
        delete(4, 5),
        swap(6, 7, "", "b", done("b")),
    ]);
    fails(&[set(0, 1, "a"), swap(2, 3, "", "b", done("b"))]);
}

#[test]
fn empty_is_not_absent_to_a_get() {
    let present = |called| operation(called, called + 1, Action::Get, done(""));
    passes(&[set(0, 1, ""), present(2), delete(4, 5), get(6, 7, "")]);
    fails(&[set(0, 1, ""), get(2, 3, "")]);
    fails(&[set(0, 1, "a"), delete(2, 3), present(4)]);
}

#[test]
fn deleted_is_absent() {
    passes(&[set(0, 1, "a"), delete(2, 3), get(4, 5, "")]);
    fails(&[set(0, 1, "a"), delete(2, 3), get(4, 5, "a")]);
}

#[test]
fn delete_tells_whether_the_key_was_there() {
    let absent = |called| with(no(""), delete(called, called + 1));
    passes(&[absent(0), set(2, 3, "a"), delete(4, 5), absent(6), get(8, 9, "")]);
    fails(&[set(0, 1, "a"), absent(2)]);
    fails(&[delete(0, 1)]);
    fails(&[set(0, 1, "a"), delete(2, 3), delete(4, 5)]);
    // What it removed may be what nobody else saw.
    let unknown = with(Outcome::Unknown, set(0, 1, "a"));
    passes(&[unknown.clone(), delete(2, 3), get(4, 5, "")]);
    fails(&[unknown, delete(2, 3), delete(4, 5)]);
    let swap = |called| with(Outcome::Unknown, swap(called, called + 1, "", "b", done("")));
    passes(&[swap(0), delete(2, 3), absent(4)]);
    fails(&[swap(0), delete(2, 3), delete(4, 5)]);
}

#[test]
fn unknown_acts_late_once_or_never() {
    let unknown = with(Outcome::Unknown, set(0, 1, "a"));
    passes(&[unknown.clone(), get(2, 3, "")]);
    passes(&[unknown.clone(), get(2, 3, ""), get(4, 5, "a")]);
    passes(&[
        unknown.clone(),
        get(2, 3, ""),
        set(4, 5, "b"),
        get(6, 7, "b"),
        get(8, 9, "a"),
    ]);
    // Twice: a retry that was not recognised.
    fails(&[unknown.clone(), get(2, 3, "a"), set(4, 5, "b"), get(6, 7, "a")]);
    // Before it was called.
    fails(&[get(0, 1, "a"), with(Outcome::Unknown, set(2, 3, "a"))]);
}

#[test]
fn unknown_swap_acts_only_on_its_old_value() {
    let unknown = with(Outcome::Unknown, swap(2, 3, "a", "b", done("")));
    passes(&[set(0, 1, "a"), unknown.clone(), get(4, 5, "b")]);
    fails(&[set(0, 1, "x"), unknown, get(4, 5, "b")]);
}

#[test]
fn timeout_never_acts() {
    fails(&[
        set(0, 1, "a"),
        with(Outcome::Never, swap(2, 3, "a", "b", done(""))),
        get(4, 5, "b"),
    ]);
    fails(&[with(Outcome::Never, set(0, 1, "a")), get(2, 3, "a")]);
    passes(&[
        set(0, 1, "a"),
        with(Outcome::Never, swap(2, 3, "a", "b", done(""))),
        get(4, 5, "a"),
    ]);
}

#[test]
fn keys_are_independent() {
    let other = Operation {
        key: "other".to_owned(),
        ..set(0, 1, "a")
    };
    let checked = passes(&[other, get(2, 3, ""), with(Outcome::Unknown, set(4, 5, "b"))]);
    assert_eq!((checked.keys, checked.operations, checked.unknown), (2, 3, 1));
}

#[test]
fn limit_that_passed_is_a_failure() {
    // Unknown outcomes, all different, all seen: far too many orders for no time at all.
    let mut operations: Vec<Operation> = (0..40)
        .map(|number| with(Outcome::Unknown, set(0, 1, &format!("v{number}"))))
        .collect();
    operations.extend((0..40).map(|number| get(2, 1000, &format!("v{number}"))));
    operations.push(get(1001, 1002, "from nowhere"));
    let failure = check(&History { operations }, Duration::ZERO).unwrap_err();
    assert!(
        matches!(
            failure,
            Failure::OutOfTime {
                operations: 81,
                unknown: 40,
                ..
            }
        ),
        "{failure}"
    );
}

/// Sixteen clients, each with one operation after the other: a long history is decided in no time.
fn long_history(operations: u64) -> Vec<Operation> {
    let mut found = Vec::new();
    let mut value = String::new();
    for number in 0..operations {
        // Each overlaps with the fifteen before and after it, and acts in the middle.
        let (called, returned) = (number * 10, number * 10 + 160);
        found.push(match number % 5 {
            0 => set(called, returned, &format!("v{number}")),
            1 | 2 => get(called, returned, &value),
            3 => swap(called, returned, &value, &format!("v{number}"), done("")),
            _ => swap(called, returned, "no such value", "x", no(&value)),
        });
        if matches!(number % 5, 0 | 3) {
            value = format!("v{number}");
        }
        if number % 100 == 50 {
            found.push(with(
                Outcome::Unknown,
                set(called, returned, &format!("lost {number}")),
            ));
            found.push(with(
                Outcome::Unknown,
                swap(called, returned, &value, &format!("lost {number}"), done("")),
            ));
        }
    }
    found
}

#[test]
fn long_history_is_decided() {
    let checked = passes(&long_history(20_000));
    assert_eq!(checked.operations, 20_400);
}

#[test]
fn failure_is_small() {
    let mut operations = long_history(5_000);
    // The value of the 2,500th operation, read long after it was replaced.
    operations.push(get(40_000, 40_001, "v2500"));
    let explanation = fails(&operations);
    assert!(explanation.lines().count() <= 8, "{explanation}");
    assert!(explanation.contains("get: \"v2500\""), "{explanation}");
}

#[test]
fn failure_reads_like_this() {
    let explanation = fails(&[
        set(0, 1_000_000, "a"),
        get(500_000, 600_000, "a"),
        set(2_000_000, 3_000_000, "b"),
        get(3_000_000, 3_200_000, "b"),
        get(4_000_000, 4_500_000, "a"),
    ]);
    assert_eq!(
        explanation,
        "\
no order of these 3 operations on \"k\" explains every answer (times in ms since the first call):
  #0           0.000 .. 1.000        c0        set \"a\": done
  #1           2.000 .. 3.000        c2000000  set \"b\": done
  #2           4.000 .. 4.500        c4000000  get: \"a\"
the order that goes furthest is #0, #1 and leaves \"b\": one of #2 must come next, and none can"
    );
}
