//! gRPC on the ports of HTTP/1.1, on real sockets.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

mod support;

use std::fs;

use kv::AccessFiles;
use kv::proto::kv_client::KvClient;
use kv::proto::{
    AppendRequest, EntriesRequest, ExtractRequest, GrantLeaseRequest, JournalRequest, JsonRequest,
    KeyRequest, LeaseRequest, MessageRequest, OpenSessionRequest, OutboxRequest, RangeRequest, ReplyRequest,
    SetRequest, SubscribeRequest, SwapRequest, Terms, TicketRequest, WatchRequest,
};
use support::Group;
use tonic::transport::Channel;
use tonic::{Code, Request};

async fn client(group: &Group, number: usize) -> KvClient<Channel> {
    // A member that was just started may not listen yet.
    support::connect(group.address(number)).await;
    KvClient::connect(format!("http://{}", group.address(number)))
        .await
        .unwrap()
        .max_decoding_message_size(8 << 20)
        .max_encoding_message_size(8 << 20)
}

fn terms() -> Option<Terms> {
    Some(Terms {
        blocking: true,
        ..Terms::default()
    })
}

fn key(key: &str) -> KeyRequest {
    KeyRequest {
        key: key.to_owned(),
        terms: terms(),
    }
}

fn set(key: &str, value: &[u8], terms: Option<Terms>) -> SetRequest {
    SetRequest {
        key: key.to_owned(),
        value: value.to_vec().into(),
        terms,
        ..SetRequest::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_call_is_answered_at_every_member_beside_http() {
    let group = Group::of_three().await;
    for number in 0..3 {
        let mut kv = client(&group, number).await;
        let name = format!("a/b ?%{number}");
        let done = kv
            .set(set(&name, &[0xff, 0], terms()))
            .await
            .unwrap()
            .into_inner();
        assert!(done.valid && done.revision > 0, "{done:?}");
        let got = kv.get(key(&name)).await.unwrap().into_inner();
        assert_eq!((got.valid, &got.value[..]), (true, &[0xff, 0][..]));
        let mut swap = SwapRequest {
            key: name.clone(),
            old_value: vec![0xff, 0].into(),
            new_value: "text".into(),
            terms: terms(),
        };
        let swapped = kv.swap(swap.clone()).await.unwrap().into_inner();
        assert_eq!((swapped.valid, &swapped.value[..]), (true, &b"text"[..]));
        swap.new_value = "never".into();
        let differs = kv.swap(swap).await.unwrap().into_inner();
        assert_eq!((differs.valid, &differs.value[..]), (false, &b"text"[..]));
        let path = format!("/v1/kv/a/b%20%3F%25{number}");
        assert_eq!(group.ask(number, "GET", &path, "").await.value(), "text");

        let opened = kv
            .open_session(OpenSessionRequest { terms: terms() })
            .await
            .unwrap();
        let session = opened.into_inner().session;
        let numbered = Some(Terms {
            session,
            seq: 1,
            ..terms().unwrap()
        });
        let first = kv.set(set(&name, b"once", numbered)).await.unwrap().into_inner();
        let again = kv.set(set(&name, b"once", numbered)).await.unwrap().into_inner();
        assert_eq!((first.valid, first.revision), (true, again.revision));
        let ticket = |seq| TicketRequest {
            session,
            seq,
            terms: terms(),
        };
        let outcome = kv.outcome(ticket(1)).await.unwrap().into_inner();
        assert_eq!(outcome.outcome, "done");
        let cancelled = kv.cancel(ticket(2)).await.unwrap().into_inner();
        assert_eq!(cancelled.outcome, "cancelled");
        assert!(kv.delete(key(&name)).await.unwrap().into_inner().valid);
        let outbox = kv.outbox(OutboxRequest {}).await.unwrap().into_inner();
        assert!(outbox.json.contains("\"pending\":0"), "{outbox:?}");
    }
    let text = group.metrics(0);
    for line in [
        r#"quorate_kv_requests_total{operation="set",outcome="ok"} 3"#,
        r#"quorate_kv_requests_total{operation="swap",outcome="not_valid"} 1"#,
        r#"quorate_kv_request_seconds_count{operation="get"} 2"#,
        "quorate_kv_outbox_pending 0",
    ] {
        assert!(text.contains(line), "{line} is not in {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_transactions_leases_and_logs_are_answered() {
    let group = Group::of_three().await;
    let mut kv = client(&group, 2).await;
    let granted = kv.grant_lease(GrantLeaseRequest {
        ttl_seconds: 3600,
        terms: terms(),
    });
    let lease = granted.await.unwrap().into_inner().lease;
    let mut leased = set("r/1 &", b"one", terms());
    leased.lease = lease;
    assert!(kv.set(leased).await.unwrap().into_inner().valid);
    let json = r#"{"compare":[{"key":"r/2","exists":false}],"then":[{"set":"r/2","value":"two"}]}"#;
    let made = kv.transact(JsonRequest {
        json: json.to_owned(),
        terms: terms(),
    });
    let made = made.await.unwrap().into_inner();
    assert_eq!((made.valid, made.results.len()), (true, 1), "{made:?}");
    let all = RangeRequest {
        prefix: "r/".to_owned(),
        terms: terms(),
        ..RangeRequest::default()
    };
    let range = kv.range(all.clone()).await.unwrap().into_inner();
    let found: Vec<_> = range
        .items
        .iter()
        .map(|row| (row.key.as_str(), &row.value[..]))
        .collect();
    assert_eq!(found, [("r/1 &", &b"one"[..]), ("r/2", b"two")]);
    let of_lease = LeaseRequest {
        id: lease,
        terms: terms(),
    };
    assert_eq!(kv.get_lease(of_lease).await.unwrap().into_inner().items.len(), 1);
    assert!(kv.keep_alive(of_lease).await.unwrap().into_inner().valid);
    assert!(kv.revoke_lease(of_lease).await.unwrap().into_inner().valid);
    assert_eq!(kv.range(all).await.unwrap().into_inner().items.len(), 1);
    let mut log = ExtractRequest {
        server: "a b".to_owned(),
        log: "one\n".into(),
        whole_lines: true,
        terms: terms(),
    };
    assert_eq!(
        &kv.extract(log.clone()).await.unwrap().into_inner().value[..],
        b"one\n"
    );
    log.log = "one\ntwo\nthr".into();
    let extracted = kv.extract(log).await.unwrap().into_inner();
    assert_eq!(
        (&extracted.value[..], extracted.start, extracted.total),
        (&b"two\n"[..], 1, 2)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_calls_are_refused_with_a_code_and_a_sentence() {
    let group = Group::of_three().await;
    let mut kv = client(&group, 0).await;
    let long = kv.get(key(&"k".repeat(1025))).await.unwrap_err();
    assert_eq!(long.code(), Code::InvalidArgument);
    assert!(long.message().contains("1025 bytes"), "{long}");
    let large = vec![0; support::VALUE_BYTES_MAX + 1];
    let large = kv.set(set("k", &large, terms())).await.unwrap_err();
    assert_eq!(large.code(), Code::InvalidArgument, "{large}");
    let huge = kv.set(set("k", &vec![0; 4 << 20], terms())).await.unwrap_err();
    assert_eq!(huge.code(), Code::OutOfRange, "{huge}");
    let both = Terms {
        timeout_ms: 5,
        ..terms().unwrap()
    };
    let both = kv.set(set("k", b"v", Some(both))).await.unwrap_err();
    assert!(both.message().contains("no meaning"), "{both}");
    let stranger = Terms {
        session: 999_999,
        seq: 1,
        ..terms().unwrap()
    };
    let stranger = kv.set(set("k", b"v", Some(stranger))).await.unwrap_err();
    assert_eq!(stranger.code(), Code::FailedPrecondition, "{stranger}");
    assert!(kv.set(set("k", b"v", terms())).await.unwrap().into_inner().valid);
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_carry_the_token_in_their_metadata() {
    const TOKEN: &str = "0123456789abcdef";
    let group = Group::with(|directory| {
        let tokens =
            format!(r#"{{"tokens":[{{"name":"a","token":"{TOKEN}","access":"write","prefix":"a/"}}]}}"#);
        fs::write(directory.join("tokens"), tokens).unwrap();
        AccessFiles {
            tokens: Some(directory.join("tokens")),
            tls: None,
        }
    })
    .await;
    let mut kv = client(&group, 1).await;
    let without = kv.get(key("a/k")).await.unwrap_err();
    assert_eq!(without.code(), Code::Unauthenticated);
    let with = |name: &str| {
        let mut request = Request::new(key(name));
        let token = format!("Bearer {TOKEN}").parse().unwrap();
        request.metadata_mut().insert("authorization", token);
        request
    };
    assert!(!kv.get(with("a/k")).await.unwrap().into_inner().valid);
    let foreign = kv.get(with("b")).await.unwrap_err();
    assert_eq!(foreign.code(), Code::PermissionDenied);
}

fn watch(prefix: &str, from: u64) -> WatchRequest {
    WatchRequest {
        prefix: prefix.to_owned(),
        from,
        ..WatchRequest::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_are_streamed_in_their_order_until_they_are_forgotten() {
    let group = Group::of_three().await;
    let (mut kv, mut other) = (client(&group, 0).await, client(&group, 1).await);
    let first = kv.set(set("w/a", b"1", terms())).await.unwrap().into_inner();
    let mut changes = other
        .watch(watch("w/", first.revision))
        .await
        .unwrap()
        .into_inner();
    let begun = changes.message().await.unwrap().unwrap();
    assert_eq!((begun.next, begun.changes.len()), (first.revision, 0));
    kv.set(set("w/b", &[0xff, 0], terms())).await.unwrap();
    kv.set(set("x", b"unwatched", terms())).await.unwrap();
    let last = kv.delete(key("w/a")).await.unwrap().into_inner();
    let (mut seen, mut next) = (Vec::new(), 0);
    while seen.len() < 3 {
        let told = changes.message().await.unwrap().unwrap();
        next = told.next;
        seen.extend(told.changes);
    }
    assert_eq!(next, last.revision + 1);
    let shown: Vec<_> = seen
        .iter()
        .map(|change| (change.key.as_str(), change.removed, &change.value[..]))
        .collect();
    assert_eq!(
        shown,
        [
            ("w/a", false, &b"1"[..]),
            ("w/b", false, &[0xff, 0]),
            ("w/a", true, b"")
        ]
    );
    assert_eq!(seen[2].revision, last.revision);

    // A history of 8 MiB holds fewer.
    for _ in 0..140 {
        kv.set(set("x", &vec![7; support::VALUE_BYTES_MAX], terms()))
            .await
            .unwrap();
    }
    let forgotten = kv.watch(watch("w/", first.revision)).await.unwrap_err();
    assert_eq!(forgotten.code(), Code::FailedPrecondition, "{forgotten:?}");
    let oldest = forgotten.metadata().get("quorate-oldest").unwrap();
    let oldest: u64 = oldest.to_str().unwrap().parse().unwrap();
    assert!(oldest > last.revision, "{oldest}");
    assert!(kv.watch(watch("w/", oldest)).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn journals_are_appended_to_and_read() {
    let group = Group::of_three().await;
    let mut kv = client(&group, 1).await;
    for (index, value) in [(1, &b"one"[..]), (2, &[0xff])] {
        let request = AppendRequest {
            journal: "j/1".to_owned(),
            value: value.to_vec().into(),
            terms: terms(),
        };
        let appended = kv.append(request).await.unwrap().into_inner();
        assert_eq!((appended.valid, appended.index), (true, index));
    }
    let request = EntriesRequest {
        journal: "j/1".to_owned(),
        from: 2,
        limit: 5,
        terms: terms(),
    };
    let entries = kv.entries(request).await.unwrap().into_inner();
    assert_eq!((entries.index, entries.entries.len()), (2, 1), "{entries:?}");
    let entry = &entries.entries[0];
    assert_eq!((entry.index, &entry.value[..]), (2, &[0xff][..]));
    assert!(entry.unix_ms > 0);
    let request = JournalRequest {
        journal: "j/1".to_owned(),
        terms: terms(),
    };
    assert!(
        kv.remove_journal(request.clone())
            .await
            .unwrap()
            .into_inner()
            .valid
    );
    assert!(!kv.remove_journal(request).await.unwrap().into_inner().valid);
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_are_published_sent_and_replied_to() {
    let group = Group::of_three().await;
    let (mut kv, mut other) = (client(&group, 0).await, client(&group, 1).await);
    let address = "a/b".to_owned();
    let subscribe = SubscribeRequest {
        address: address.clone(),
    };
    let mut messages = other.subscribe(subscribe).await.unwrap().into_inner();
    let mut message = MessageRequest {
        address,
        message: vec![0xff, 1].into(),
        terms: None,
    };
    let published = kv.publish(message.clone()).await.unwrap().into_inner();
    assert_eq!((published.valid, published.delivered), (true, 1), "{published:?}");
    let received = messages.message().await.unwrap().unwrap();
    assert_eq!(
        (&received.value[..], received.token.as_str()),
        (&[0xff, 1][..], "")
    );

    message.terms = terms();
    let sender = async { kv.send(message).await.unwrap().into_inner() };
    let receiver = async {
        let received = messages.message().await.unwrap().unwrap();
        let reply = ReplyRequest {
            token: received.token,
            reply: "reply".into(),
        };
        other.reply(reply.clone()).await.unwrap();
        // Nobody waits for a second one.
        let late = other.reply(reply).await.unwrap_err();
        assert_eq!(late.code(), Code::FailedPrecondition, "{late:?}");
    };
    let (sent, ()) = tokio::join!(sender, receiver);
    assert_eq!((sent.valid, &sent.value[..]), (true, &b"reply"[..]));
}
