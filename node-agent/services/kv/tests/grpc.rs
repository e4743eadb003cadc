//! gRPC on the ports of HTTP/1.1, on real sockets.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

mod support;

use std::fs;

use kv::AccessFiles;
use kv::proto::kv_client::KvClient;
use kv::proto::{
    ExtractRequest, GrantLeaseRequest, JsonRequest, KeyRequest, LeaseRequest, OpenSessionRequest,
    OutboxRequest, RangeRequest, SetRequest, SwapRequest, Terms, TicketRequest,
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
