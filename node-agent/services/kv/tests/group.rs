//! Real members in one process: real logs, real connections on loopback, real time, no timed assertions.

mod support;

use serde_json::json;

use support::{Answer, Events, Group, connect, eventually, exchange};

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

/// The member cannot merge what it remembered in the little time that the repeat has.
#[tokio::test(flavor = "multi_thread")]
async fn repeat_of_a_write_that_was_carried_out_is_never_called_timed_out() {
    let mut group = Group::of_three().await;
    let opened = group.ask(0, "POST", "/v1/sessions", "").await;
    let session = opened.json["session"].as_u64().unwrap();
    let first = format!("/v1/kv/k?session={session}&seq=1&timeoutMs=20000");
    let set = group.ask(0, "PUT", &first, "1").await;
    assert!(set.valid(), "{set:?}");
    let leader = group.leader().await;
    let (last, other) = ((leader + 1) % 3, (leader + 2) % 3);
    group.stop(other).await;
    group.stop(leader).await;
    let remembered = group.ask(last, "PUT", "/v1/kv/other?consistent=false", "x").await;
    assert_eq!(remembered.status, 202, "{remembered:?}");

    let address = group.address(last);
    let repeat = format!("/v1/kv/k?session={session}&seq=1&timeoutMs=1");
    let repeat = support::ask(address, "PUT", &repeat, "1");
    let (again, ()) = tokio::join!(repeat, async {
        group.start(leader).await;
        group.start(other).await;
    });
    assert_eq!((again.valid(), again.timeout()), (true, false), "{again:?}");
    assert_eq!(again.json["revision"], set.json["revision"]);
}

/// Also while the leader is another one, which has told the member of the change only by answering.
#[tokio::test(flavor = "multi_thread")]
async fn member_shows_at_once_what_it_accepted() {
    let group = Group::of_three().await;
    for value in 0..30 {
        for number in 0..3 {
            let key = format!("/v1/kv/key-{number}?consistent=false");
            let set = group.ask(number, "PUT", &key, &value.to_string()).await;
            assert!(set.valid(), "{set:?}");
            let got = group.ask(number, "GET", &key, "").await;
            assert_eq!(got.value(), value.to_string(), "{set:?} {got:?}");
        }
    }
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
    let blocking = support::ask(group.address(last), "PUT", path, "mine");
    let remembered = eventually("it is remembered", async || {
        group.ask(last, "GET", "/v1/outbox", "").await.json["pending"] == 1
    });
    let mut blocking = std::pin::pin!(blocking);
    tokio::select! {
        early = &mut blocking => panic!("answered without a quorum: {early:?}"),
        () = remembered => {}
    }
    group.start(leader).await;
    let answer = blocking.await;
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

#[tokio::test(flavor = "multi_thread")]
async fn many_keys_at_once() {
    let mut group = Group::of_three().await;
    let body = r#"{"compare":[{"key":"m/a","exists":false}],
        "then":[{"set":"m/a","value":"1"},{"set":"m/b","value":"2"},{"set":"m/c","value":"3"}],"else":[{"get":"m/a"}]}"#;
    let session = group.ask(0, "POST", "/v1/sessions", "").await.json["session"].clone();
    let path = format!("/v1/txn?session={session}&seq=1");
    for number in 0..3 {
        let done = group.ask(number, "POST", &path, body).await;
        assert_eq!((done.status, done.valid()), (200, true), "{done:?}");
        assert_eq!(
            done.json["results"][2],
            json!({"valid": true, "value": "", "revision": 3})
        );
    }
    let other = group.ask(1, "POST", "/v1/txn", body).await;
    assert!(!other.valid(), "{other:?}");
    assert_eq!(
        other.json["results"],
        json!([{"valid": true, "value": "1", "revision": 1}])
    );
    let page = group.ask(2, "GET", "/v1/kv?prefix=m%2F&limit=2", "").await;
    assert_eq!(
        (&page.json["more"], &page.json["revision"]),
        (&json!(true), &json!(3))
    );
    assert_eq!(
        page.json["items"][1],
        json!({"key": "m/b", "value": "2", "revision": 2})
    );
    let rest = group.ask(0, "GET", "/v1/kv?prefix=m/&after=m/b", "").await;
    assert_eq!(
        (rest.json["items"].as_array().unwrap().len(), &rest.json["more"]),
        (1, &json!(null))
    );

    // Without a quorum: what is remembered is among them.
    let leader = group.leader().await;
    let last = (leader + 1) % 3;
    assert!(group.ask(last, "GET", "/v1/kv/m/a", "").await.valid());
    group.stop((leader + 2) % 3).await;
    group.stop(leader).await;
    for (method, path) in [("DELETE", "/v1/kv/m/b"), ("PUT", "/v1/kv/m/d")] {
        let answer = group
            .ask(last, method, &format!("{path}?consistent=false"), "4")
            .await;
        assert_eq!(answer.status, 202, "{answer:?}");
    }
    let here = group
        .ask(last, "GET", "/v1/kv?prefix=m/&consistent=false", "")
        .await;
    let items = here.json["items"].as_array().unwrap();
    let keys: Vec<_> = items.iter().map(|item| item["key"].as_str().unwrap()).collect();
    assert_eq!(keys, ["m/a", "m/c", "m/d"]);
    assert_eq!(items[2]["remembered"], true);
    let nobody = group.ask(last, "GET", "/v1/kv?timeoutMs=50", "").await;
    assert_eq!((nobody.status, nobody.timeout()), (504, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn values_and_leases_end_under_any_leader() {
    let mut group = Group::of_three().await;
    let set = group.ask(0, "PUT", "/v1/kv/short?ttlSeconds=1", "v").await;
    assert!(set.valid(), "{set:?}");
    eventually("it ends by itself", async || {
        !group.ask(1, "GET", "/v1/kv/short", "").await.valid()
    })
    .await;
    assert!(
        !group
            .ask(1, "GET", "/v1/kv/short?consistent=false", "")
            .await
            .valid()
    );
    let lease = group.ask(0, "POST", "/v1/leases?ttlSeconds=2", "").await;
    let id = &lease.json["lease"];
    let set = group.ask(1, "PUT", &format!("/v1/kv/held?lease={id}"), "v").await;
    assert!(set.valid(), "{set:?}");
    let forever = group.ask(1, "POST", "/v1/leases?ttlSeconds=1000", "").await;
    let long = &forever.json["lease"];
    let swap = format!("/v1/kv/lock/swap?lease={long}");
    let swapped = group
        .ask(2, "POST", &swap, r#"{"oldValue":"","newValue":"me"}"#)
        .await;
    assert!(swapped.valid(), "{swapped:?}");
    let leader = group.leader().await;
    group.stop(leader).await;
    let number = group.running()[0];
    eventually("it ends under the next leader", async || {
        let got = group.ask(number, "GET", "/v1/kv/held?timeoutMs=20000", "").await;
        !got.valid() && !got.timeout()
    })
    .await;
    let shown = group.ask(number, "GET", &format!("/v1/leases/{long}"), "").await;
    assert_eq!(shown.json["items"][0]["key"], "lock", "{shown:?}");
    let kept = group
        .ask(number, "POST", &format!("/v1/leases/{long}/keepalive"), "")
        .await;
    assert_eq!((kept.valid(), &kept.json["ttlMs"]), (true, &json!(1_000_000)));
    let gone = group
        .ask(number, "POST", &format!("/v1/leases/{id}/keepalive"), "")
        .await;
    assert_eq!(gone.status, 404, "{gone:?}");
    assert!(
        group
            .ask(number, "DELETE", &format!("/v1/leases/{long}"), "")
            .await
            .valid()
    );
    assert!(!group.ask(number, "GET", "/v1/kv/lock", "").await.valid());
    for path in [
        "/v1/kv/k?ttlSeconds=1&consistent=false",
        "/v1/kv/k?ttlSeconds=1&lease=1",
        "/v1/kv/k?limit=1",
    ] {
        assert_eq!(group.ask(number, "PUT", path, "v").await.status, 400, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn full_store_refuses_what_grows_and_takes_what_frees_space() {
    let group = Group::of_three().await;
    let session = group.ask(0, "POST", "/v1/sessions", "").await.json["session"].clone();
    let path = format!("/v1/txn?session={session}&seq=1");
    let body = r#"{"then":[{"set":"m/a","value":"1"}]}"#;
    assert!(group.ask(0, "POST", &path, body).await.valid());
    let value = "x".repeat(60 << 10);
    let full = loop {
        let key = format!(
            "/v1/kv/big/{}",
            group.ask(0, "GET", "/v1/kv/m/a", "").await.json["revision"]
        );
        let set = group.ask(0, "PUT", &key, &value).await;
        if set.status != 200 {
            break set;
        }
        assert!(group.ask(0, "PUT", "/v1/kv/m/a", "1").await.valid());
    };
    assert_eq!(full.status, 507, "{full:?}");
    assert!(full.error().contains("storageBytesMax"), "{full:?}");
    assert!(
        group.ask(1, "PUT", "/v1/kv/m/a", "2").await.valid(),
        "it does not grow"
    );
    let again = group.ask(1, "POST", &path, body).await;
    assert_eq!((again.status, again.valid()), (200, true), "{again:?}");
    let first = group.ask(0, "GET", "/v1/kv?prefix=big/&limit=1", "").await;
    let key = first.json["items"][0]["key"].as_str().unwrap();
    assert!(group.ask(2, "DELETE", &format!("/v1/kv/{key}"), "").await.valid());
    assert!(group.ask(2, "PUT", "/v1/kv/big/new", &value).await.valid());
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_are_watched_on_every_member() {
    let mut group = Group::of_three().await;
    assert!(group.ask(0, "PUT", "/v1/kv/w/a", "1").await.valid());
    assert!(group.ask(0, "PUT", "/v1/kv/other", "x").await.valid());
    let leader = group.leader().await;
    let follower = (leader + 1) % 3;
    let mut watchers = Vec::new();
    for number in 0..3 {
        watchers.push((
            number,
            Events::of(group.address(number), "/v1/watch/w/?from=1", "").await,
        ));
    }
    assert!(group.ask(1, "PUT", "/v1/kv/w/b", "2").await.valid());
    assert!(group.ask(2, "DELETE", "/v1/kv/w/a", "").await.valid());
    for (_, events) in &mut watchers {
        let first = events.data().await;
        assert_eq!(first, json!({"key": "w/a", "value": "1", "revision": 1}));
        let second = events.data().await;
        assert_eq!(second, json!({"key": "w/b", "value": "2", "revision": 3}));
        assert_eq!(events.next("event: ").await, "delete");
        assert_eq!(events.data().await["revision"], 4);
    }
    // The leader ends; the follower's watcher goes on, and one that begins elsewhere misses nothing.
    group.stop(leader).await;
    let set = group
        .ask(follower, "PUT", "/v1/kv/w/c?timeoutMs=20000", "3")
        .await;
    assert!(set.valid(), "{set:?}");
    let (_, events) = &mut watchers[follower];
    assert_eq!(events.data().await["key"], "w/c");
    let last = (leader + 2) % 3;
    let mut resumed = Events::of(group.address(last), "/v1/watch/w/", "Last-Event-ID: 3\r\n").await;
    assert_eq!(resumed.data().await["revision"], 4);
    assert_eq!(resumed.data().await["key"], "w/c");
    let mut exact = Events::of(group.address(last), "/v1/watch/w/c?exact=true&from=1", "").await;
    assert_eq!(exact.data().await["key"], "w/c");
    // From now on only; and where the past is forgotten that is said.
    let mut now = Events::of(group.address(last), "/v1/watch", "").await;
    now.next(": watching").await;
    let value = "x".repeat(64 << 10);
    for _ in 0..150 {
        let set = group
            .ask(last, "PUT", "/v1/kv/w/large?timeoutMs=20000", &value)
            .await;
        assert!(set.valid(), "{set:?}");
    }
    assert_eq!(now.data().await["key"], "w/large");
    let gone = group.ask(last, "GET", "/v1/watch/w/?from=1", "").await;
    assert_eq!(gone.status, 410, "{gone:?}");
    assert!(gone.json["oldest"].as_u64().unwrap() > 5, "{gone:?}");
    let bad = group.ask(last, "GET", "/v1/watch/?limit=3", "").await;
    assert_eq!(bad.status, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn journals_are_appended_to_and_read() {
    let group = Group::of_three().await;
    let session = group.ask(0, "POST", "/v1/sessions", "").await.json["session"].clone();
    let path = format!("/v1/journal/audit?session={session}&seq=1");
    for number in 0..3 {
        let appended = group.ask(number, "POST", &path, "first").await;
        assert_eq!((appended.valid(), &appended.json["index"]), (true, &json!(1)));
    }
    let appended = group.ask(1, "POST", "/v1/journal/audit", "second").await;
    assert_eq!(appended.json["index"], 2);
    for query in ["", "&consistent=false"] {
        eventually("the entries are there", async || {
            let read = group
                .ask(2, "GET", &format!("/v1/journal/audit?limit=1{query}"), "")
                .await;
            read.json["more"] == true && read.json["entries"][0]["value"] == "first"
        })
        .await;
    }
    let rest = group.ask(0, "GET", "/v1/journal/audit?from=2", "").await;
    assert_eq!(rest.json["entries"][0]["index"], 2);
    assert_eq!(
        group.ask(0, "GET", "/v1/journal/audit?from=0", "").await.status,
        410
    );
    let absent = group.ask(0, "GET", "/v1/journal/none", "").await;
    assert_eq!((absent.status, absent.valid()), (200, false));
    assert!(group.ask(0, "DELETE", "/v1/journal/audit", "").await.valid());
    assert!(!group.ask(1, "GET", "/v1/journal/audit", "").await.valid());
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_reach_subscribers_wherever_they_are_connected() {
    let group = Group::of_three().await;
    let nobody = group.ask(0, "POST", "/v1/bus/jobs/send?timeoutMs=100", "x").await;
    assert_eq!((nobody.status, nobody.timeout()), (504, true), "{nobody:?}");
    let mut subscribers = Vec::new();
    for number in 0..3 {
        let mut events = Events::of(group.address(number), "/v1/bus/jobs/subscribe", "").await;
        events.next(": subscribed").await;
        subscribers.push(events);
    }
    let published = group.ask(1, "POST", "/v1/bus/jobs/publish", "all").await;
    assert_eq!(
        (published.valid(), &published.json["delivered"]),
        (true, &json!(3)),
        "{published:?}"
    );
    for events in &mut subscribers {
        assert_eq!(events.data().await, json!({"value": "all"}));
    }
    let elsewhere = group.ask(1, "POST", "/v1/bus/other/publish", "x").await;
    assert_eq!(elsewhere.json["delivered"], 0);
    // One after the other, each replied to at another member than it was sent by.
    let mut served = [0; 3];
    for _ in 0..6 {
        let sent = group.ask(0, "POST", "/v1/bus/jobs/send?timeoutMs=20000", "question");
        let reply = async {
            let (event, place) = {
                let nexts: Vec<_> = subscribers
                    .iter_mut()
                    .map(|events| Box::pin(events.data()))
                    .collect();
                let (event, place, _) = futures::future::select_all(nexts).await;
                (event, place)
            };
            assert_eq!(event["value"], "question");
            let path = format!("/v1/bus/reply?token={}", event["token"].as_str().unwrap());
            let replied = group.ask((place + 1) % 3, "POST", &path, "answer").await;
            assert!(replied.valid(), "{replied:?}");
            let twice = group.ask(place, "POST", &path, "again").await;
            assert_eq!(twice.status, 410);
            place
        };
        let (sent, place) = tokio::join!(sent, reply);
        assert_eq!((sent.valid(), sent.value()), (true, "answer"), "{sent:?}");
        served[place] += 1;
    }
    assert_eq!(served, [2, 2, 2]);
    let unanswered = group
        .ask(2, "POST", "/v1/bus/jobs/send?timeoutMs=300", "silence")
        .await;
    assert_eq!((unanswered.status, unanswered.timeout()), (504, false));
    assert_eq!(unanswered.json["unknown"], true);
    let bad = group.ask(2, "POST", "/v1/bus/reply?token=1.2", "x").await;
    assert_eq!(bad.status, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_crosses_the_end_of_its_member_is_answered() {
    let mut group = Group::of_three().await;
    let number = 0;
    let mut stream = connect(group.address(number)).await;
    let request = "GET /v1/kv/k?consistent=false HTTP/1.1\r\nHost: x\r\n\r\n";
    let before = exchange(&mut stream, request).await;
    assert!(before.status == 200 && !before.closes, "{before:?}");
    group.begin_stop(number).await;
    let last = exchange(&mut stream, request).await;
    assert!(last.status == 200 && last.closes, "{last:?}");
    group.stop(number).await;
}
