//! Groups that begin with the backup of another one.

use std::fs;

use super::*;
use crate::Backup;

/// A group of three that is founded from these bytes.
fn restored(bytes: &[u8]) -> Group {
    let mut group = Group::new();
    let file = group.directory.path().join("backup");
    fs::write(&file, bytes).unwrap();
    group.restore = Some(RestoreFrom {
        file,
        service: "ledger".to_owned(),
    });
    group
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_founded_from_a_backup_goes_on_counting_where_it_ends() {
    let group = Group::new().of_three().await;
    for line in ["one", "two"] {
        group.propose(line).await;
    }
    group.everyone_has("two").await;
    let leader = group.leader().await.replica.id();
    let follower = group
        .members
        .values()
        .find(|member| member.replica.id() != leader);
    let node = &follower.unwrap().node;
    let at_least = group.leader().await.node.status().applied_index;
    let bytes = node.backup("ledger", at_least).await.unwrap();
    group.propose("late").await;
    let index = Backup::decode(&bytes).unwrap().header.index;
    assert!(index >= at_least);

    let mut new = restored(&bytes).of_three().await;
    new.propose("three").await;
    new.everyone_has("three").await;
    let mut stopped = Vec::new();
    for number in 0..3 {
        let id = new.members[&number].replica.id();
        assert!(id > index, "node id {id} was used by the old group");
        stopped.push((number, new.stop(number).await));
    }
    // The file is needed once only.
    fs::remove_file(new.restore.take().unwrap().file).unwrap();
    for (number, options) in stopped {
        new.start_with(number, options).await;
    }
    new.propose("four").await;
    new.everyone_has("four").await;
    for member in new.members.values() {
        let lines = member.replica.local(|ledger| ledger.lines.clone());
        assert_eq!(lines, ["one", "two", "three", "four"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_backup_founds_nothing_and_says_why() {
    let mut group = Group::new();
    group.start(0).await;
    let node = &group.members[&0].node;
    let error = node.backup("ledger", 0).await.unwrap_err();
    assert!(error.to_string().contains("joined no group yet"), "{error}");
    node.initialize(group.group_id).await.unwrap();
    group.propose("one").await;
    let node = &group.members[&0].node;
    let bytes = node.backup("ledger", 1).await.unwrap();
    let mut damaged = bytes.to_vec();
    *damaged.last_mut().unwrap() ^= 1;
    let other = node.backup("other", 1).await.unwrap();
    for (bytes, words) in [
        (&damaged[..], "the backup is damaged: its checksum differs"),
        (&bytes[..bytes.len() / 2], "the backup is damaged"),
        (b"", "no backup"),
        (&other, "one of a other group"),
    ] {
        let mut new = restored(bytes);
        new.start(0).await;
        let error = new.members[&0].node.initialize(new.group_id).await.unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
        assert_eq!(new.members[&0].node.status().node_id, None);
        // The file was put right.
        fs::write(
            new.restore.clone().unwrap().file,
            node.backup("ledger", 1).await.unwrap(),
        )
        .unwrap();
        new.members[&0].node.initialize(new.group_id).await.unwrap();
        new.everyone_has("one").await;
    }
}
