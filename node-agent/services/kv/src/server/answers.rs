//! Outcomes as answers.

use hyper::StatusCode;
use replication::NodeId;

use super::writes::Settled;
use crate::peer::NotOrdered;
use crate::request::{Answer, Refusal, Row};
use crate::state::{Change, Item, KvState, Outcome};

pub(super) fn found(item: Option<&Item>) -> Answer {
    match item {
        Some(item) => Answer {
            valid: true,
            revision: Some(item.revision),
            ..Answer::default().with_value(&item.value)
        },
        None => Answer::default(),
    }
}

/// What became of a remembered write, once it was merged: it may have lost a conflict.
pub(super) fn merged(state: &KvState, member: NodeId, number: u64, key: &str) -> Answer {
    if state.was_dropped(member, number) {
        return Answer {
            valid: false,
            outcome: Some("dropped"),
            ..found(state.get(key))
        };
    }
    Answer {
        valid: true,
        ..Answer::default()
    }
}

/// It did not take place, and never will.
pub(super) fn timeout() -> Answer {
    Answer {
        timeout: true,
        ..Answer::default()
    }
}

pub(super) fn refused(why: &NotOrdered) -> Refusal {
    Refusal::new(StatusCode::INSUFFICIENT_STORAGE, why.to_string())
}

pub(super) fn answer(
    settled: Settled,
    change: &Change,
    (session, seq): (u64, u64),
) -> Result<Answer, Refusal> {
    match settled {
        Settled::Timeout => Ok(timeout()),
        Settled::Unknown => Ok(Answer {
            unknown: true,
            ticket: Some(format!("{session}.{seq}")),
            ..Answer::default()
        }),
        Settled::Refused(why) => Err(refused(&why)),
        Settled::Outcome(Outcome::NoSession) => Err(Refusal::new(
            StatusCode::GONE,
            format!(
                "there is no session {session} (any more), or another token opened it: nothing was done; open one with \
                 POST /v1/sessions"
            ),
        )),
        Settled::Outcome(Outcome::Forgotten) => Err(Refusal::new(
            StatusCode::GONE,
            format!("request {seq} of session {session} was answered long ago, and its answer is forgotten"),
        )),
        Settled::Outcome(Outcome::Full) => Err(Refusal::new(
            StatusCode::INSUFFICIENT_STORAGE,
            "the group holds as many of these as it can: nothing was done",
        )),
        Settled::Outcome(Outcome::NoLease) => Err(Refusal::new(
            StatusCode::NOT_FOUND,
            "there is no such lease (any more): nothing was done; grant one with POST /v1/leases?ttlSeconds=N",
        )),
        Settled::Outcome(outcome) => {
            let answer = of(&outcome);
            Ok(match (outcome, change) {
                (Outcome::Done { .. }, Change::Swap { new, .. } | Change::SwapFor { new, .. }) => {
                    answer.with_value(new)
                }
                _ => answer,
            })
        }
    }
}

pub(super) fn of(outcome: &Outcome) -> Answer {
    match outcome {
        Outcome::Done { revision } => Answer {
            valid: true,
            revision: Some(*revision),
            ..Answer::default()
        },
        Outcome::Differs {
            value: Some(value),
            revision,
        } => Answer {
            revision: Some(*revision),
            ..Answer::default().with_value(value)
        },
        Outcome::Cancelled => timeout(),
        Outcome::Extracted { start, gap, total } => Answer {
            valid: true,
            gap: *gap,
            start: Some(*start),
            total: Some(*total),
            ..Answer::default()
        },
        Outcome::Transacted {
            holds,
            made,
            revision,
        } => Answer {
            valid: *holds,
            revision: Some(*revision),
            results: Some(made.iter().map(Row::from).collect()),
            ..Answer::default()
        },
        Outcome::Appended { index } => Answer {
            valid: true,
            index: Some(*index),
            ..Answer::default()
        },
        Outcome::Leased { lease, ttl_ms } => Answer {
            valid: true,
            lease: Some(*lease),
            ttl_ms: Some(*ttl_ms),
            ..Answer::default()
        },
        _ => Answer::default(),
    }
}

/// The answer to a question about a request.
pub(super) fn told(outcome: Option<&Outcome>) -> Answer {
    let name = match outcome {
        None => "none",
        Some(
            Outcome::Done { .. }
            | Outcome::Extracted { .. }
            | Outcome::Transacted { .. }
            | Outcome::Leased { .. }
            | Outcome::Appended { .. },
        ) => "done",
        Some(Outcome::Cancelled) => "cancelled",
        Some(Outcome::NoSession | Outcome::Forgotten) => "forgotten",
        Some(_) => "differs",
    };
    Answer {
        outcome: Some(name),
        ..outcome.map(of).unwrap_or_default()
    }
}
