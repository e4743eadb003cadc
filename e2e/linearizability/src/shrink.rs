//! Makes a wrong history small: what is left is wrong by itself, and short enough to be read.

use std::collections::BTreeMap;

use crate::history::{Action, Operation, Outcome};
use crate::prepare::prepare;
use crate::search::{Verdict, search};

/// Cuts off the end, then leaves out whatever can be left out, until nothing can or the time is over.
pub(crate) fn shrink(operations: Vec<&Operation>, mut out_of_time: impl FnMut() -> bool) -> Vec<Operation> {
    let mut small = cut_end(&operations, &mut out_of_time);
    let mut size = small.len().div_ceil(2);
    while size > 0 {
        let mut removed = false;
        let mut start = 0;
        while start < small.len() {
            if out_of_time() {
                return small;
            }
            let end = (start + size).min(small.len());
            match without(&small, start, end).filter(|less| is_illegal(less, &mut out_of_time)) {
                Some(less) => (small, removed) = (less, true),
                None => start = end,
            }
        }
        if !removed || size > 1 {
            size /= 2;
        }
    }
    small
}

/// The shortest beginning of the history that is wrong. What had not returned by then is of unknown outcome.
fn cut_end(operations: &[&Operation], out_of_time: &mut impl FnMut() -> bool) -> Vec<Operation> {
    let mut returns: Vec<u64> = operations.iter().map(|operation| operation.returned).collect();
    returns.sort_unstable();
    returns.dedup();
    let until = |end: u64| -> Vec<Operation> {
        let begun = operations.iter().filter(|operation| operation.called <= end);
        begun
            .map(|operation| {
                let mut operation = (*operation).clone();
                // What never acts does not act later either.
                if operation.returned > end && operation.outcome != Outcome::Never {
                    operation.outcome = Outcome::Unknown;
                }
                operation
            })
            .collect()
    };
    // A beginning of a wrong beginning may be right, never the other way round.
    let place = returns.partition_point(|end| !is_illegal(&until(*end), out_of_time));
    returns
        .get(place)
        .map(|end| until(*end))
        .unwrap_or_else(|| operations.iter().map(|operation| (*operation).clone()).collect())
}

fn is_illegal(operations: &[Operation], out_of_time: &mut impl FnMut() -> bool) -> bool {
    let all: Vec<&Operation> = operations.iter().collect();
    matches!(search(&prepare(&all), out_of_time).verdict, Verdict::Illegal(_))
}

/// The history without a part of it; none where somebody else names a value that only the part wrote, because then the
/// rest would be wrong for a reason of its own.
fn without(operations: &[Operation], start: usize, end: usize) -> Option<Vec<Operation>> {
    let rest = || operations[..start].iter().chain(&operations[end..]);
    let mut named: BTreeMap<&str, ()> = BTreeMap::new();
    // A removal needs a value, whichever it is.
    let mut removals = false;
    for operation in rest() {
        match (&operation.action, &operation.outcome) {
            (Action::Delete, Outcome::Answered { valid: true, .. }) => removals = true,
            (Action::Delete, Outcome::Answered { .. }) => drop(named.insert("", ())),
            _ => {}
        }
        if let Action::Swap { old, .. } = &operation.action {
            named.insert(old, ());
        }
        if let Outcome::Answered { value, .. } = &operation.outcome
            && matches!(operation.action, Action::Get | Action::Swap { .. })
        {
            named.insert(value, ());
        }
    }
    let needed =
        operations[start..end]
            .iter()
            .any(|operation| match (&operation.action, &operation.outcome) {
                (Action::Get, _) | (_, Outcome::Never) => false,
                (Action::Swap { .. }, Outcome::Answered { valid: false, .. }) => false,
                (Action::Set(value), _) => removals || named.contains_key(value.as_str()),
                (Action::Swap { new, .. }, _) => removals || named.contains_key(new.as_str()),
                (Action::Delete, _) => named.contains_key(""),
            });
    (!needed).then(|| rest().cloned().collect())
}
