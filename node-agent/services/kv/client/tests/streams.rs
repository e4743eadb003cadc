//! The client's streams against real members on loopback: they go on when members come and go.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

#[path = "../../tests/support/mod.rs"]
mod support;

use kv_client::{Client, Error, Options, Terms};
use support::{Group, VALUE_BYTES_MAX, eventually};

const WAIT: Terms = Terms::DEFAULT.blocking();

/// A client that prefers the members in this order.
fn client(group: &Group, numbers: &[usize]) -> Client {
    let endpoints = numbers
        .iter()
        .map(|number| format!("http://{}", group.address(*number)));
    Client::new(Options::at(endpoints)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn watch_goes_on_at_another_member_and_misses_nothing() {
    let mut group = Group::of_three().await;
    let (writer, reader) = (client(&group, &[1, 2]), client(&group, &[0, 1, 2]));
    let mut watch = reader.watch("w/", false, None).await.unwrap();
    let mut expected = Vec::new();
    let mut seen = Vec::new();
    for round in 0..3 {
        for number in 0..5 {
            let key = format!("w/{number}");
            let value = format!("{round}.{number}");
            let done = writer.set(&key, &value, WAIT).await.unwrap();
            writer.set("unwatched", &value, WAIT).await.unwrap();
            expected.push((key, value, done.revision.unwrap()));
        }
        match round {
            // The changes of this round are told by another member.
            0 => group.stop(0).await,
            1 => group.start(0).await,
            _ => {}
        }
        while seen.len() < expected.len() {
            let change = watch.next().await.unwrap();
            seen.push((change.key, change.value, change.revision));
        }
        assert_eq!(seen, expected);
    }
    writer.delete("w/0", WAIT).await.unwrap();
    let change = watch.next().await.unwrap();
    assert_eq!((change.key.as_str(), change.removed), ("w/0", true));
    assert_eq!(watch.position(), Some(change.revision + 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn watch_says_what_is_forgotten() {
    let group = Group::of_three().await;
    let client = client(&group, &[0, 1, 2]);
    client.set("k", [0xff], WAIT).await.unwrap();
    let mut watch = client.watch("k", true, Some(1)).await.unwrap();
    assert_eq!(watch.next().await.unwrap().bytes(), [0xff]);
    // A history of 8 MiB holds fewer.
    for _ in 0..140 {
        client.set("l", vec![b'x'; VALUE_BYTES_MAX], WAIT).await.unwrap();
    }
    let error = client.watch("k", true, Some(1)).await.unwrap_err();
    let Error::Compacted { oldest, .. } = error else {
        panic!("{error}");
    };
    assert!(oldest > 1);
    client.watch("k", true, Some(oldest)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn journals_are_appended_to_and_read() {
    let group = Group::of_three().await;
    let client = client(&group, &[2, 0]);
    assert!(!client.entries("j", None, None, WAIT).await.unwrap().valid);
    for (index, value) in [(1, &b"one"[..]), (2, &[0xff]), (3, b"three")] {
        let appended = client.append("j", value, WAIT).await.unwrap();
        assert_eq!((appended.valid, appended.index), (true, Some(index)));
    }
    let page = client.entries("j", Some(2), Some(1), WAIT).await.unwrap();
    assert_eq!((page.index, page.more, page.entries.len()), (Some(3), true, 1));
    assert_eq!((page.entries[0].index, page.entries[0].bytes()), (2, vec![0xff]));
    assert!(client.remove_journal("j", WAIT).await.unwrap().valid);
}

#[tokio::test(flavor = "multi_thread")]
async fn subscriber_says_when_messages_may_have_been_missed_and_goes_on() {
    let mut group = Group::of_three().await;
    let (writer, reader) = (client(&group, &[1, 2]), client(&group, &[0, 2]));
    let mut subscription = reader.subscribe("news").await.unwrap();
    let published = writer.publish("news", [0xff]).await.unwrap();
    assert_eq!((published.valid, published.delivered), (true, Some(1)));
    assert_eq!(subscription.next().await.unwrap().bytes(), [0xff]);

    let asking = writer.send("news", "how much?", WAIT);
    let answering = async {
        let question = subscription.next().await.unwrap();
        assert_eq!(question.value, "how much?");
        reader.reply(&question.token.unwrap(), "enough").await.unwrap()
    };
    let (answer, replied) = tokio::join!(asking, answering);
    assert_eq!(answer.unwrap().value, "enough");
    assert!(replied.valid);

    group.stop(0).await;
    let missed = subscription.next().await.unwrap_err();
    assert!(matches!(missed, Error::Missed(_)), "{missed}");
    let listening = async { subscription.next().await.unwrap() };
    let publishing = eventually("the subscriber is found", async || {
        writer.publish("news", "again").await.unwrap().delivered == Some(1)
    });
    let (heard, ()) = tokio::join!(listening, publishing);
    assert_eq!(heard.value, "again");
}
