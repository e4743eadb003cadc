//! The search for an order: depth first over configurations, none of which is visited twice.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use crate::prepare::{ABSENT, Event, Prepared, Step, Value};

/// How many configurations are looked at between two looks at the clock.
const STEPS_PER_LOOK: u64 = 1024;

/// What the search found.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) verdict: Verdict,
    pub(crate) steps: u64,
}

#[derive(Debug)]
pub(crate) enum Verdict {
    Legal,
    Illegal(DeadEnd),
    OutOfTime,
}

/// The order that goes furthest, and what stops it.
#[derive(Debug)]
pub(crate) struct DeadEnd {
    /// What acted, in this order (places as in [`Event::index`]).
    pub(crate) order: Vec<usize>,
    /// The value it leaves.
    pub(crate) value: Value,
    /// What would have to act next, one of them.
    pub(crate) stuck: Vec<usize>,
}

/// Who has acted, and the value that is there now.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Configuration {
    /// All answered operations before this one have acted,
    low: u32,
    /// and these after it (ascending).
    above: Vec<u32>,
    /// These of unknown outcome have acted (ascending).
    open: Vec<u32>,
    value: Value,
}

impl Configuration {
    fn answered(&self) -> usize {
        self.low as usize + self.above.len()
    }

    /// How far it goes. The furthest is told with the fewest guesses about unknown outcomes.
    fn distance(&self) -> (usize, Reverse<usize>) {
        (self.answered(), Reverse(self.open.len()))
    }

    fn with_answered(&self, number: u32, value: Value) -> Self {
        let mut next = self.clone();
        next.value = value;
        let place = next.above.partition_point(|other| *other < number);
        next.above.insert(place, number);
        let full = next.above.iter().zip(next.low..).take_while(|(a, b)| *a == b);
        let full = full.count();
        next.above.drain(..full);
        next.low += u32::try_from(full).expect("fewer than 2^32 operations");
        next
    }

    fn with_open(&self, number: u32, value: Value) -> Self {
        let mut next = self.clone();
        next.value = value;
        let place = next.open.partition_point(|other| *other < number);
        next.open.insert(place, number);
        next
    }
}

/// One configuration to look at, and how it was reached.
struct Waiting {
    configuration: Configuration,
    /// The place of its predecessor in the trail.
    parent: usize,
    /// The place of the operation that led here.
    acted: usize,
}

/// Looks for an order of the operations that explains every answer.
pub(crate) fn search(prepared: &Prepared, mut out_of_time: impl FnMut() -> bool) -> Found {
    let mut visited = BTreeSet::new();
    // How each visited configuration was reached: (predecessor, operation).
    let mut trail: Vec<(usize, usize)> = Vec::new();
    let mut furthest: Option<(usize, Configuration)> = None;
    let mut steps = 0;
    let mut waiting = vec![Waiting {
        configuration: Configuration {
            low: 0,
            above: Vec::new(),
            open: Vec::new(),
            value: ABSENT,
        },
        parent: usize::MAX,
        acted: usize::MAX,
    }];
    while let Some(Waiting {
        configuration,
        parent,
        acted,
    }) = waiting.pop()
    {
        if configuration.answered() == prepared.answered.len() {
            return Found {
                verdict: Verdict::Legal,
                steps,
            };
        }
        if steps % STEPS_PER_LOOK == STEPS_PER_LOOK - 1 && out_of_time() {
            return Found {
                verdict: Verdict::OutOfTime,
                steps,
            };
        }
        if !visited.insert(configuration.clone()) {
            continue;
        }
        steps += 1;
        let here = trail.len();
        trail.push((parent, acted));
        if furthest
            .as_ref()
            .is_none_or(|(_, other)| configuration.distance() > other.distance())
        {
            furthest = Some((here, configuration.clone()));
        }
        Candidates::of(prepared, &configuration).follow(prepared, &configuration, |configuration, acted| {
            waiting.push(Waiting {
                configuration,
                parent: here,
                acted,
            });
        });
    }
    let (place, configuration) = furthest.expect("the first configuration was visited");
    Found {
        verdict: Verdict::Illegal(DeadEnd {
            order: order(&trail, place),
            value: configuration.value,
            stuck: Candidates::of(prepared, &configuration)
                .answered
                .into_iter()
                .map(|number| prepared.answered[number as usize].index)
                .collect(),
        }),
        steps,
    }
}

/// What may act next: everything that was called before the first of the others returned.
struct Candidates {
    /// By the time of their return.
    answered: Vec<u32>,
    first_return: u64,
}

impl Candidates {
    fn of(prepared: &Prepared, configuration: &Configuration) -> Self {
        let mut first_return = u64::MAX;
        let mut answered = Vec::new();
        let mut above = configuration.above.iter().peekable();
        for (event, number) in prepared.answered[configuration.low as usize..]
            .iter()
            .zip(configuration.low..)
        {
            // Equal times tell no order.
            if event.called > first_return {
                break;
            }
            if above.next_if_eq(&&number).is_none() {
                first_return = first_return.min(event.returned);
                answered.push(number);
            }
        }
        answered.sort_by_key(|number| prepared.answered[*number as usize].returned);
        Self {
            answered,
            first_return,
        }
    }

    /// Calls `push` with every configuration that is worth a look; the last one is looked at first.
    fn follow(self, prepared: &Prepared, from: &Configuration, mut push: impl FnMut(Configuration, usize)) {
        let answered = |number: &u32| prepared.answered[*number as usize];
        // A read that may act now may as well act now: it changes nothing.
        let read = self.answered.iter().find(|number| {
            let step = answered(number).step;
            step.is_read() && step.act(from.value).is_some()
        });
        if let Some(number) = read {
            push(from.with_answered(*number, from.value), answered(number).index);
            return;
        }
        // Guesses about unknown outcomes come last. Of equal ones the first called goes first.
        let mut tried: Vec<Step> = Vec::new();
        let mut guesses: Vec<(u32, Event, Value)> = Vec::new();
        for (event, number) in prepared.open.iter().zip(0..) {
            if event.called > self.first_return {
                break;
            }
            let acted = from.open.binary_search(&number).is_ok();
            if acted || tried.contains(&event.step) {
                continue;
            }
            tried.push(event.step);
            if let Some(value) = event.step.act(from.value).filter(|value| *value != from.value) {
                guesses.push((number, *event, value));
            }
        }
        for (number, event, value) in guesses.into_iter().rev() {
            push(from.with_open(number, value), event.index);
        }
        for number in self.answered.iter().rev() {
            let event = answered(number);
            if let Some(value) = event.step.act(from.value) {
                push(from.with_answered(*number, value), event.index);
            }
        }
    }
}

fn order(trail: &[(usize, usize)], mut place: usize) -> Vec<usize> {
    let mut order = Vec::new();
    while let Some((parent, acted)) = trail.get(place).filter(|(parent, _)| *parent != usize::MAX) {
        order.push(*acted);
        place = *parent;
    }
    order.reverse();
    order
}
