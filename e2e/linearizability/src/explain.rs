//! Words for a wrong history.

use std::fmt::Write;

use crate::history::{Operation, Outcome};
use crate::prepare::prepare;
use crate::search::{Verdict, search};

/// How many operations of the order that goes furthest are shown.
const ORDER_SHOWN: usize = 12;

/// A table of the operations, by the time of their call, and where the order that goes furthest ends.
pub(crate) fn explain(key: &str, operations: &[Operation]) -> String {
    let all: Vec<&Operation> = operations.iter().collect();
    let prepared = prepare(&all);
    let mut text = format!(
        "no order of these {} operations on {key:?} explains every answer (times in ms since the first call):\n",
        operations.len()
    );
    let first = operations
        .iter()
        .map(|operation| operation.called)
        .min()
        .unwrap_or(0);
    let width = operations
        .iter()
        .map(|operation| operation.client.len())
        .max()
        .unwrap_or(0);
    for (number, operation) in operations.iter().enumerate() {
        let returned = match operation.outcome {
            Outcome::Unknown => "?".to_owned(),
            _ => milliseconds(operation.returned - first),
        };
        writeln!(
            text,
            "  #{number:<4} {:>12} .. {returned:<12} {:<width$}  {operation}",
            milliseconds(operation.called - first),
            operation.client
        )
        .expect("a string takes everything");
    }
    if let Verdict::Illegal(end) = search(&prepared, || false).verdict {
        let list = |numbers: &[usize]| -> String {
            let numbers: Vec<String> = numbers.iter().map(|number| format!("#{number}")).collect();
            numbers.join(", ")
        };
        let shown = &end.order[end.order.len().saturating_sub(ORDER_SHOWN)..];
        let dots = if shown.len() < end.order.len() {
            "..., "
        } else {
            ""
        };
        let value = &prepared.values[end.value as usize];
        if shown.is_empty() {
            write!(text, "nothing can come first:")
        } else {
            write!(
                text,
                "the order that goes furthest is {dots}{} and leaves {value}:",
                list(shown)
            )
        }
        .expect("a string takes everything");
        write!(text, " one of {} must come next, and none can", list(&end.stuck))
            .expect("a string takes everything");
    }
    text
}

fn milliseconds(nanoseconds: u64) -> String {
    format!("{}.{:03}", nanoseconds / 1_000_000, nanoseconds / 1000 % 1000)
}
