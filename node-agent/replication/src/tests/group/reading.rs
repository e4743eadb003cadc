//! What reads the state for long.

use std::sync::mpsc;

use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn who_reads_the_leaders_state_for_long_holds_up_neither_it_nor_its_followers() {
    let group = Group::new().of_three().await;
    let leader = group.leader().await;
    let leadership = leader.replica.leadership();
    let before = *leadership.borrow();
    let (let_go, held) = mpsc::channel::<()>();
    let (began, begun) = oneshot::channel();
    let replica = leader.replica.clone();
    let reading = tokio::task::spawn_blocking(move || {
        replica.local(|ledger| {
            began.send(()).unwrap();
            // Ends when the other end is dropped.
            held.recv().ok();
            ledger.lines.len()
        })
    });
    begun.await.unwrap();
    // The leader can apply neither; the second one is ordered while the first one waits.
    let mut proposals = JoinSet::new();
    for line in ["one", "two"] {
        let replica = leader.replica.clone();
        proposals.spawn(async move { replica.propose(line.to_owned()).await });
        let id = leader.replica.id();
        group.has(line, |member| member.replica.id() != id).await;
    }
    assert_eq!(*leadership.borrow(), before);
    drop(let_go);
    assert_eq!(reading.await.unwrap(), 0);
    let outcomes = within("both proposals", proposals.join_all()).await;
    let mut lines: Vec<_> = outcomes.into_iter().map(Result::unwrap).collect();
    lines.sort_unstable();
    assert_eq!(lines, [1, 2]);
}
