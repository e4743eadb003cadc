//! Real members in one process: real logs, real connections on loopback, real time, no timed assertions.

mod support;

use serde_json::json;

use support::{Answer, Group, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn any_member_takes_any_request() {
    let group = Group::of_three().await;
    for number in 0..3 {
        let key = format!("/v1/kv/key-{number}");
        let set = group.ask(number, "PUT", &key, "a").await;
        assert_eq!((set.status, set.valid()), (200, true), "{set:?}");
        for reader in 0..3 {
            let got = group.ask(reader, "GET", &key, "").await;
            assert_eq!((got.valid(), got.value()), (true, "a"), "{got:?}");
        }
        let swap = format!("{key}/swap");
        let body = r#"{"oldValue":"a","newValue":"b"}"#;
        let swapped = group.ask((number + 1) % 3, "POST", &swap, body).await;
        assert_eq!((swapped.valid(), swapped.value()), (true, "b"), "{swapped:?}");
        let again = group.ask((number + 2) % 3, "POST", &swap, body).await;
        assert_eq!(
            (again.status, again.valid(), again.value()),
            (200, false, "b"),
            "{again:?}"
        );
    }
    let at_leader = group.ask_leader("GET", "/v1/kv/key-0", "").await;
    assert_eq!(at_leader.value(), "b");
    let gone = group.ask(1, "DELETE", "/v1/kv/key-0", "").await;
    assert!(gone.valid());
    let absent = group.ask(2, "GET", "/v1/kv/key-0", "").await;
    assert_eq!((absent.status, absent.valid(), absent.value()), (200, false, ""));
}

#[tokio::test(flavor = "multi_thread")]
async fn request_repeated_at_any_member_acts_once_also_under_the_next_leader() {
    let mut group = Group::of_three().await;
    let session = group.ask(0, "POST", "/v1/sessions", "").await.json["session"]
        .as_u64()
        .unwrap();
    let first = format!("/v1/kv/k/swap?session={session}&seq=1&timeoutMs=20000");
    let body = r#"{"oldValue":"","newValue":"1"}"#;
    assert!(group.ask(0, "POST", &first, body).await.valid());
    let second = format!("/v1/kv/k?session={session}&seq=2&timeoutMs=20000");
    let set = group.ask(1, "PUT", &second, "2").await;
    assert!(set.valid());
    let leader = group.leader().await;
    group.stop(leader).await;
    for number in group.running() {
        let again = group.ask(number, "POST", &first, body).await;
        assert!(again.valid(), "{again:?}");
        let again = group.ask(number, "PUT", &second, "2").await;
        assert_eq!(again.json["revision"], set.json["revision"]);
        let got = group.ask(number, "GET", "/v1/kv/k?timeoutMs=20000", "").await;
        assert_eq!((got.value(), &got.json["revision"]), ("2", &set.json["revision"]));
    }
    let number = group.running()[0];
    let outcome = format!("/v1/outcome?session={session}&seq=2");
    assert_eq!(
        group.ask(number, "GET", &outcome, "").await.json["outcome"],
        "done"
    );
    let cancel = format!("/v1/cancel?session={session}&seq=3");
    assert_eq!(
        group.ask(number, "POST", &cancel, "").await.json["outcome"],
        "cancelled"
    );
    let third = format!("/v1/kv/k?session={session}&seq=3");
    let never = group.ask(number, "PUT", &third, "3").await;
    assert_eq!(never.json["unknown"], json!(null));
    assert_eq!((never.status, never.timeout()), (504, true));
    let stranger = group
        .ask(number, "PUT", "/v1/kv/k?session=999999&seq=1", "x")
        .await;
    assert_eq!(stranger.status, 410);
}

#[tokio::test(flavor = "multi_thread")]
async fn last_member_alone_remembers_and_what_timed_out_never_appears() {
    let mut group = Group::of_three().await;
    assert!(group.ask(0, "PUT", "/v1/kv/k", "before").await.valid());
    assert!(group.ask(0, "PUT", "/v1/kv/other", "stays").await.valid());
    let leader = group.leader().await;
    let last = (leader + 1) % 3;
    // It has heard of everything before it is alone.
    let applied = async || group.ask(last, "GET", "/v1/kv/other", "").await.value() == "stays";
    assert!(applied().await);
    group.stop((leader + 2) % 3).await;
    group.stop(leader).await;

    let swap = "/v1/kv/other/swap?timeoutMs=300";
    let swapped = group
        .ask(last, "POST", swap, r#"{"oldValue":"stays","newValue":"never"}"#)
        .await;
    assert_eq!(
        (swapped.status, swapped.timeout(), swapped.valid()),
        (504, true, false),
        "{swapped:?}"
    );
    let got = group.ask(last, "GET", "/v1/kv/k?timeoutMs=100", "").await;
    assert_eq!((got.status, got.timeout(), got.valid()), (504, true, false));

    let local = "/v1/kv/k?consistent=false";
    let set = group.ask(last, "PUT", local, "alone").await;
    assert_eq!(
        (set.status, set.valid(), set.timeout()),
        (202, true, true),
        "{set:?}"
    );
    let got = group.ask(last, "GET", local, "").await;
    assert_eq!((got.value(), &got.json["remembered"]), ("alone", &json!(true)));
    let deleted = group
        .ask(last, "DELETE", "/v1/kv/gone?consistent=false", "")
        .await;
    assert_eq!(deleted.status, 202);

    group.stop(last).await;
    group.start(last).await;
    let got = group.ask(last, "GET", local, "").await;
    assert_eq!(
        (got.value(), &got.json["remembered"]),
        ("alone", &json!(true)),
        "{got:?}"
    );
    let got = group.ask(last, "GET", "/v1/kv/other?consistent=false", "").await;
    assert_eq!(got.value(), "stays");
    assert_eq!(group.ask(last, "GET", "/v1/outbox", "").await.json["pending"], 2);

    group.start(leader).await;
    group.start((leader + 2) % 3).await;
    eventually("the outbox is empty", async || {
        group.ask(last, "GET", "/v1/outbox", "").await.json["pending"] == 0
    })
    .await;
    for number in 0..3 {
        let got: Answer = group.ask(number, "GET", "/v1/kv/k?timeoutMs=20000", "").await;
        assert_eq!(
            (got.value(), &got.json["remembered"]),
            ("alone", &json!(null)),
            "{got:?}"
        );
        let got = group.ask(number, "GET", "/v1/kv/other?timeoutMs=20000", "").await;
        assert_eq!(got.value(), "stays");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_requests_are_refused_in_words_and_cost_nothing() {
    let group = Group::of_three().await;
    for (method, path, body, status, words) in [
        ("GET", "/nowhere", "", 404, "no such path"),
        ("PATCH", "/v1/kv/k", "", 405, "GET, PUT, DELETE"),
        ("GET", "/v1/kv/%ff", "", 400, "no UTF-8"),
        ("GET", "/v1/kv/k?loud=1", "", 400, "`loud`"),
        ("POST", "/v1/kv/k/swap", "{", 400, "the body of a swap"),
        (
            "POST",
            "/v1/kv/k/swap",
            r#"{"oldValue":"?","newValue":"","encoding":"base64"}"#,
            400,
            "base64",
        ),
        ("PUT", "/v1/kv/k?timeoutMs=x", "", 400, "`timeoutMs`"),
    ] {
        let answer = group.ask(0, method, path, body).await;
        assert_eq!(answer.status, status, "{method} {path}: {answer:?}");
        assert!(answer.error().contains(words), "{answer:?}");
        assert!(!answer.valid());
    }
    let long = format!("/v1/kv/{}", "k".repeat(1025));
    assert_eq!(group.ask(0, "GET", &long, "").await.status, 400);
    let large = "v".repeat(support::VALUE_BYTES_MAX + 1);
    assert_eq!(group.ask(0, "PUT", "/v1/kv/k", &large).await.status, 413);
    let largest = &large[1..];
    assert_eq!(group.ask(0, "PUT", "/v1/kv/k", largest).await.status, 200);
    assert_eq!(group.ask(1, "GET", "/v1/kv/k", "").await.value(), largest);
    let raw = |head: &str, body: &str| format!("{head} HTTP/1.1\r\nHost: x\r\n{body}");
    let no_length = group.send(0, &raw("PUT /v1/kv/k", "\r\n")).await;
    assert_eq!(no_length.status, 411);
    let chunk = format!("1000\r\n{}\r\n", "v".repeat(0x1000));
    let chunked = format!(
        "Transfer-Encoding: chunked\r\n\r\n{}0\r\n\r\n",
        chunk.repeat((1 << 20) / 0x1000)
    );
    let answer = group.send(0, &raw("PUT /v1/kv/k", &chunked)).await;
    assert_eq!(answer.status, 413);
    assert_eq!(group.ask(0, "GET", "/v1/kv/k", "").await.value(), largest);
}

#[tokio::test(flavor = "multi_thread")]
async fn blocking_write_that_lost_a_conflict_says_so() {
    let mut group = Group::of_three().await;
    assert!(group.ask(0, "PUT", "/v1/kv/kept/k", "before").await.valid());
    let leader = group.leader().await;
    let (last, other) = ((leader + 1) % 3, (leader + 2) % 3);
    let got = group.ask(last, "GET", "/v1/kv/kept/k", "").await;
    assert_eq!(got.value(), "before");
    group.stop(other).await;
    group.stop(leader).await;
    let path = "/v1/kv/kept/k?consistent=false&blocking=true";
    let blocking = tokio::spawn(support::ask(group.address(last), "PUT", path, "mine"));
    eventually("it is remembered", async || {
        group.ask(last, "GET", "/v1/outbox", "").await.json["pending"] == 1
    })
    .await;
    group.start(leader).await;
    let answer = blocking.await.unwrap();
    assert_eq!(
        (answer.status, answer.valid(), answer.value()),
        (200, false, "before"),
        "{answer:?}"
    );
    assert_eq!(answer.json["outcome"], "dropped");
}

#[tokio::test(flavor = "multi_thread")]
async fn records_of_a_log_are_extracted_once() {
    let group = Group::of_three().await;
    let path = "/v1/logs/web%2F1/extract";
    let first = group.ask(0, "POST", path, "1 a\n2 b\n").await;
    assert_eq!((first.valid(), first.value()), (true, "1 a\n2 b\n"), "{first:?}");
    let session = group.ask(0, "POST", "/v1/sessions", "").await.json["session"]
        .as_u64()
        .unwrap();
    let numbered = format!("{path}?session={session}&seq=1");
    for number in [1, 2] {
        // The same request, again elsewhere.
        let again = group.ask(number, "POST", &numbered, "1 a\n2 b\n3 c").await;
        assert_eq!((again.valid(), again.value()), (true, "3 c"), "{again:?}");
    }
    let older = group.ask(2, "POST", path, "1 a\n").await;
    assert_eq!((older.valid(), older.value()), (true, ""), "{older:?}");
    assert_eq!(older.json["gap"], json!(null));
    let whole = format!("{path}?wholeLines=true");
    let rotated = group.ask(0, "POST", &whole, "4 d\n5 hal").await;
    assert_eq!((rotated.value(), &rotated.json["gap"]), ("4 d\n", &json!(true)));
    let grown = group.ask(0, "POST", &whole, "4 d\n5 half\n").await;
    assert_eq!((grown.value(), &grown.json["total"]), ("5 half\n", &json!(5)));
    let endless = group.ask(0, "POST", path, &"x\n".repeat(40_000)).await;
    assert_eq!(endless.status, 413);
    let refused = group
        .ask(0, "POST", "/v1/logs/s/extract?consistent=false", "x")
        .await;
    assert_eq!(refused.status, 400);
}
