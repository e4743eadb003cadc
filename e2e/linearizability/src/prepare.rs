//! One key's operations as the search wants them: values are small numbers, and what cannot matter is left out.

use std::collections::{BTreeMap, BTreeSet};

use crate::history::{Action, Operation, Outcome};

/// A value of the register, as a number.
pub(crate) type Value = u32;

/// The key is not there.
pub(crate) const ABSENT: Value = 0;
/// The key is there and holds nothing. To a swap this and [`ABSENT`] are the same.
const EMPTY: Value = 1;

/// What an operation needs and does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Needs this value and changes nothing.
    Read(Value),
    /// Needs an absent or an empty value (they look alike to a swap) and changes nothing.
    ReadNothing,
    /// Needs nothing.
    Write(Value),
    /// Needs any value that is there, leaves none.
    Remove,
    /// Needs the first, leaves the second.
    Swap(Value, Value),
    /// An answer that contradicts itself: no order has it.
    Impossible,
}

impl Step {
    /// The value after it; none where it cannot act.
    pub(crate) fn act(self, value: Value) -> Option<Value> {
        let nothing = |value| value == ABSENT || value == EMPTY;
        match self {
            Self::Read(seen) => (seen == value).then_some(value),
            Self::ReadNothing => nothing(value).then_some(value),
            Self::Write(new) => Some(new),
            Self::Remove => (value != ABSENT).then_some(ABSENT),
            Self::Swap(old, new) => (old == value || nothing(old) && nothing(value)).then_some(new),
            Self::Impossible => None,
        }
    }

    /// Whether it leaves everything as it is.
    pub(crate) fn is_read(self) -> bool {
        matches!(self, Self::Read(_) | Self::ReadNothing)
    }
}

/// One operation in the search.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Event {
    /// Its place among the operations that [`prepare`] was given.
    pub(crate) index: usize,
    pub(crate) step: Step,
    pub(crate) called: u64,
    pub(crate) returned: u64,
}

/// One key's operations.
#[derive(Debug, Default)]
pub(crate) struct Prepared {
    /// Those that have acted, by the time of their call.
    pub(crate) answered: Vec<Event>,
    /// Those that may act, by the time of their call.
    pub(crate) open: Vec<Event>,
    /// The values' texts, by their numbers.
    pub(crate) values: Vec<String>,
}

/// Takes one key's operations, by the time of their call, apart.
pub(crate) fn prepare(operations: &[&Operation]) -> Prepared {
    let mut numbers = Numbers::default();
    let mut prepared = Prepared::default();
    for (index, operation) in operations.iter().enumerate() {
        let event = |step| Event {
            index,
            step,
            called: operation.called,
            returned: operation.returned.max(operation.called),
        };
        match &operation.outcome {
            Outcome::Never => {}
            Outcome::Unknown => {
                if let Some(step) = possible(&operation.action, &mut numbers) {
                    prepared.open.push(event(step));
                }
            }
            Outcome::Answered { valid, value } => {
                let step = answered(&operation.action, *valid, value, &mut numbers);
                prepared.answered.push(event(step));
            }
        }
    }
    let unnamed = numbers.next();
    drop_unseen(&mut prepared, unnamed);
    prepared.values = numbers.texts();
    prepared
}

fn possible<'a>(action: &'a Action, numbers: &mut Numbers<'a>) -> Option<Step> {
    match action {
        Action::Get => None,
        Action::Set(value) => Some(Step::Write(numbers.of(value))),
        Action::Delete => Some(Step::Write(ABSENT)),
        Action::Swap { old, new } => Some(Step::Swap(numbers.of(old), numbers.of(new))),
    }
}

fn answered<'a>(action: &'a Action, valid: bool, value: &'a str, numbers: &mut Numbers<'a>) -> Step {
    match (action, valid) {
        (Action::Get, true) => Step::Read(numbers.of(value)),
        (Action::Get, false) if value.is_empty() => Step::Read(ABSENT),
        (Action::Set(value), true) => Step::Write(numbers.of(value)),
        (Action::Delete, true) => Step::Remove,
        (Action::Delete, false) => Step::Read(ABSENT),
        (Action::Swap { old, new }, true) => Step::Swap(numbers.of(old), numbers.of(new)),
        // What is there is what was asked for, and yet it was not exchanged.
        (Action::Swap { old, .. }, false) if old == value => Step::Impossible,
        (Action::Swap { .. }, false) if value.is_empty() => Step::ReadNothing,
        (Action::Swap { .. }, false) => Step::Read(numbers.of(value)),
        (Action::Get | Action::Set(_), false) => Step::Impossible,
    }
}

/// Leaves out operations of unknown outcome whose value nobody else names.
///
/// Wherever such an operation acts in some order, the next that acts and names a value is a write that needs nothing; so
/// the same order without it is legal, too. A removal names no value and yet needs one: for it, all that nobody names are
/// one and the same.
fn drop_unseen(prepared: &mut Prepared, unnamed: Value) {
    let mut named = BTreeSet::new();
    let mut removals = false;
    for event in prepared.answered.iter().chain(&prepared.open) {
        match event.step {
            Step::Read(value) | Step::Swap(value, _) => drop(named.insert(value)),
            Step::ReadNothing => drop(named.insert(ABSENT)),
            Step::Remove => removals = true,
            Step::Write(_) | Step::Impossible => {}
        }
    }
    let nothing = named.contains(&ABSENT) || named.contains(&EMPTY);
    let kept = |new: Value| match new {
        ABSENT => nothing.then_some(new),
        EMPTY => (nothing || removals).then_some(new),
        _ if named.contains(&new) => Some(new),
        _ => removals.then_some(unnamed),
    };
    prepared.open.retain_mut(|event| {
        let step = match event.step {
            Step::Write(new) => kept(new).map(Step::Write),
            Step::Swap(old, new) => kept(new).map(|new| Step::Swap(old, new)),
            Step::Read(_) | Step::ReadNothing | Step::Remove | Step::Impossible => None,
        };
        step.is_some_and(|step| {
            event.step = step;
            true
        })
    });
}

/// Gives texts their numbers.
#[derive(Debug, Default)]
struct Numbers<'a> {
    numbers: BTreeMap<&'a str, Value>,
}

impl<'a> Numbers<'a> {
    fn of(&mut self, text: &'a str) -> Value {
        if text.is_empty() {
            return EMPTY;
        }
        let next = self.next();
        *self.numbers.entry(text).or_insert(next)
    }

    /// The number of the next text that is new.
    fn next(&self) -> Value {
        Value::try_from(self.numbers.len()).expect("fewer than 2^32 operations") + EMPTY + 1
    }

    fn texts(&self) -> Vec<String> {
        let mut texts = vec!["absent".to_owned(), "\"\"".to_owned()];
        let mut by_number: Vec<_> = self
            .numbers
            .iter()
            .map(|(text, number)| (*number, *text))
            .collect();
        by_number.sort_unstable();
        texts.extend(by_number.into_iter().map(|(_, text)| format!("{text:?}")));
        texts.push("a value of unknown outcome".to_owned());
        texts
    }
}
