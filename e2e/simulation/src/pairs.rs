//! Pairs: two keys that are there together, with one value. To the checker each pair that transactions change is one key; a
//! lease has a pair, too. Whoever sees one half without the other has found a broken promise.

use std::sync::Arc;

use kv::request::{Answer, Refusal, Row, Terms};
use kv::server::simulated::Front;
use kv::state::{Change, Comparison, Condition, Lifetime, Operation, Transaction, Value};
use linearizability::Action;

/// Whether a name is a pair's.
pub(crate) fn is_pair(key: &str) -> bool {
    key.starts_with('p')
}

/// Its two keys.
pub(crate) fn halves(pair: &str) -> [Arc<str>; 2] {
    ["a", "b"].map(|half| format!("{pair}/{half}").into())
}

/// Carries an action out on both halves, and answers as if they were one key. Reads that wait for long, or for a time of
/// their own, ask for the range; the others are transactions.
pub(crate) async fn ask(
    front: &Front,
    action: &Action,
    pair: &str,
    terms: &Terms,
) -> Result<Answer, Refusal> {
    if *action == Action::Get && (terms.blocking || terms.timeout.is_some()) {
        let mut terms = terms.clone();
        terms.more.prefix = Some(format!("{pair}/").into());
        let answer = front.range(&terms).await;
        let items = answer.items.as_deref().unwrap_or_default();
        let found = halves(pair).map(|half| {
            let item = items.iter().find(|row| row.key.as_ref() == Some(&half));
            item.map(|row| row.value.clone())
        });
        return Ok(as_one(action, pair, &answer, &found));
    }
    let answer = front
        .change(Change::Transact(transaction(pair, action)), terms)
        .await?;
    let rows = answer.results.as_deref().unwrap_or_default();
    let found = |row: &Row| (row.valid == Some(true)).then(|| row.value.clone());
    let found: Vec<_> = rows.iter().map(found).collect();
    Ok(as_one(action, pair, &answer, &found))
}

fn transaction(pair: &str, action: &Action) -> Transaction {
    let keys = halves(pair);
    let get = || keys.iter().cloned().map(|key| Operation::Get { key }).collect();
    let set = |value: &str| {
        let set = |key| Operation::Set {
            key,
            value: Value::from(value),
            lifetime: Lifetime::Forever,
        };
        keys.iter().cloned().map(set).collect()
    };
    match action {
        Action::Get => Transaction {
            then: get(),
            ..Transaction::default()
        },
        Action::Set(value) => Transaction {
            then: set(value),
            ..Transaction::default()
        },
        Action::Delete => Transaction {
            then: keys
                .iter()
                .cloned()
                .map(|key| Operation::Delete { key })
                .collect(),
            ..Transaction::default()
        },
        Action::Swap { old, new } => {
            let compared = |key| Comparison {
                key,
                condition: match old.as_str() {
                    "" => Condition::Exists(false),
                    old => Condition::Value(Value::from(old)),
                },
            };
            Transaction {
                compare: keys.iter().cloned().map(compared).collect(),
                then: set(new),
                otherwise: get(),
            }
        }
    }
}

/// The answer that one key would have given, of which both halves have this value, or none.
fn as_one(action: &Action, pair: &str, answer: &Answer, found: &[Option<String>]) -> Answer {
    if answer.timeout || answer.unknown {
        return answer.clone();
    }
    let [first, second] = found else {
        panic!("{pair}: {action:?} was answered {answer:?}");
    };
    assert_eq!(first, second, "{pair}: {action:?} met one half without the other");
    let valid = match action {
        Action::Get | Action::Delete => first.is_some(),
        Action::Set(_) | Action::Swap { .. } => answer.valid,
    };
    Answer {
        valid,
        value: first.clone().unwrap_or_default(),
        ..Answer::default()
    }
}
