//! Random histories, right and wrong, decided by both checkers.

use std::cell::Cell;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::brute::is_linearizable;
use super::{LIMIT, operation};
use crate::history::{Action, History, Operation, Outcome};
use crate::shrink::shrink;
use crate::{Failure, check};

/// Random histories in one run.
const HISTORIES: u32 = 10_000;

/// Few values, so that histories are often right by chance. Not unique on purpose: the checker promises to cope.
fn value() -> impl Strategy<Value = String> {
    prop_oneof![1 => Just(""), 3 => Just("a"), 3 => Just("b"), 2 => Just("c")].prop_map(str::to_owned)
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        4 => Just(Action::Get),
        3 => value().prop_map(Action::Set),
        1 => Just(Action::Delete),
        3 => (value(), value()).prop_map(|(old, new)| Action::Swap { old, new }),
    ]
}

/// What happens to an operation: it acts (somewhere between the two times), or its outcome is another.
#[derive(Debug, Clone)]
enum Fate {
    Acts,
    ActsUnknown,
    NeverUnknown,
    Never,
    /// The answer is made up.
    MadeUp(bool, String),
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        12 => Just(Fate::Acts),
        2 => Just(Fate::ActsUnknown),
        1 => Just(Fate::NeverUnknown),
        1 => Just(Fate::Never),
        5 => (any::<bool>(), value()).prop_map(|(valid, value)| Fate::MadeUp(valid, value)),
    ]
}

/// Histories that a correct service gave, but for what is made up: three instants an operation, it acts at the middle.
fn history() -> impl Strategy<Value = Vec<Operation>> {
    let one = (action(), fate(), [0_u64..60, 0..60, 0..60]);
    prop::collection::vec(one, 3..=7).prop_map(|drawn| {
        let mut drawn: Vec<_> = drawn
            .into_iter()
            .map(|(action, fate, mut instants)| {
                instants.sort_unstable();
                (action, fate, instants)
            })
            .collect();
        drawn.sort_by_key(|(_, _, instants)| instants[1]);
        let mut stored: Option<String> = None;
        let mut operations = Vec::new();
        for (action, fate, [called, _, returned]) in drawn {
            let outcome = match fate {
                Fate::Acts => act(&action, &mut stored),
                Fate::ActsUnknown => {
                    act(&action, &mut stored);
                    Outcome::Unknown
                }
                Fate::NeverUnknown => Outcome::Unknown,
                Fate::Never => Outcome::Never,
                Fate::MadeUp(valid, value) => Outcome::Answered { valid, value },
            };
            operations.push(operation(called, returned, action, outcome));
        }
        operations
    })
}

fn act(action: &Action, stored: &mut Option<String>) -> Outcome {
    let there = stored.clone().unwrap_or_default();
    let (valid, value) = match action {
        Action::Get => (stored.is_some(), there),
        Action::Set(value) => {
            *stored = Some(value.clone());
            (true, value.clone())
        }
        Action::Delete => (stored.take().is_some(), String::new()),
        Action::Swap { old, new } if *old == there => {
            *stored = Some(new.clone());
            (true, new.clone())
        }
        Action::Swap { .. } => (false, there),
    };
    Outcome::Answered { valid, value }
}

/// A failure prints its history: nothing is kept in files.
fn config(cases: u32) -> Config {
    Config {
        cases,
        failure_persistence: None,
        ..Config::default()
    }
}

#[test]
fn both_checkers_agree() {
    let (legal, illegal) = (Cell::new(0), Cell::new(0));
    let mut runner = TestRunner::new(config(HISTORIES));
    runner
        .run(&history(), |operations| {
            let expected = is_linearizable(&operations);
            let count = if expected { &legal } else { &illegal };
            count.set(count.get() + 1);
            match check(&History { operations }, LIMIT) {
                Ok(_) => prop_assert!(expected, "passed, but no order explains it"),
                Err(Failure::Illegal { explanation, .. }) => prop_assert!(!expected, "{}", explanation),
                Err(failure) => prop_assert!(false, "{}", failure),
            }
            Ok(())
        })
        .unwrap();
    // A comparison that saw only one verdict proves little.
    let (legal, illegal) = (legal.get(), illegal.get());
    assert!(
        legal > HISTORIES / 5 && illegal > HISTORIES / 5,
        "{legal} legal, {illegal} illegal"
    );
}

#[test]
fn what_is_shown_is_wrong_by_itself() {
    let illegal = Cell::new(0);
    let mut runner = TestRunner::new(config(HISTORIES / 10));
    runner
        .run(&history(), |mut operations| {
            if is_linearizable(&operations) {
                return Ok(());
            }
            illegal.set(illegal.get() + 1);
            operations.sort_by_key(|operation| (operation.called, operation.returned));
            let small = shrink(operations.iter().collect(), || false);
            prop_assert!(!is_linearizable(&small), "{:?}", small);
            prop_assert!(small.len() <= operations.len());
            Ok(())
        })
        .unwrap();
    assert!(
        illegal.get() > HISTORIES / 50,
        "only {} wrong histories",
        illegal.get()
    );
}
