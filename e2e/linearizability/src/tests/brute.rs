//! Another checker: it tries every order and shares no code with the real one.

use crate::{Action, Operation, Outcome};

/// Whether some order of the operations, each between its call and its answer, explains every answer. For a handful of
/// operations on one key.
pub(super) fn is_linearizable(operations: &[Operation]) -> bool {
    let left: Vec<&Operation> = operations.iter().collect();
    place(&left, None)
}

fn place(left: &[&Operation], stored: Option<&str>) -> bool {
    if left
        .iter()
        .all(|operation| !matches!(operation.outcome, Outcome::Answered { .. }))
    {
        return true;
    }
    (0..left.len()).any(|index| {
        let next = left[index];
        let too_late = left
            .iter()
            .any(|other| matches!(other.outcome, Outcome::Answered { .. }) && other.returned < next.called);
        let mut rest = left.to_vec();
        rest.remove(index);
        !too_late && after(next, stored).is_some_and(|stored| place(&rest, stored))
    })
}

/// What is stored after the operation; none where the client would have seen something else.
fn after<'a>(operation: &'a Operation, stored: Option<&'a str>) -> Option<Option<&'a str>> {
    let (told_valid, told_value) = match &operation.outcome {
        Outcome::Never => return None,
        Outcome::Unknown => (None, None),
        Outcome::Answered { valid, value } => (Some(*valid), Some(value.as_str())),
    };
    let there = stored.unwrap_or("");
    let (valid, value, stored) = match &operation.action {
        Action::Get => (stored.is_some(), Some(there), stored),
        Action::Set(value) => (true, None, Some(value.as_str())),
        Action::Delete => (stored.is_some(), None, None),
        Action::Swap { old, new } if old == there => (true, None, Some(new.as_str())),
        Action::Swap { .. } => (false, Some(there), stored),
    };
    let fits = told_valid.is_none_or(|told| told == valid)
        && (told_value.is_none() || value.is_none() || told_value == value);
    fits.then_some(stored)
}
