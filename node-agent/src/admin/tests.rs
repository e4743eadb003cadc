use std::sync::atomic::{AtomicUsize, Ordering};

use axum::body::Body;
use axum::http::Request;
use bytes::Bytes;
use futures::{StreamExt, stream};
use operator_api::admin::FileInfo;
use serde_json::{Value, json};
use tower::ServiceExt;

use super::fake::{Fake, GROUP, Setup, TOKEN, info};
use super::*;

struct Member {
    router: Router,
    node: Arc<Fake>,
    phase: watch::Sender<Phase>,
}

fn member_with(leads: bool, token: Option<&str>, change: impl FnOnce(&mut NodeStatus)) -> Member {
    let mut setup = Setup::new(leads, "127.0.0.1:9401", "127.0.0.1:9402");
    setup.token = token.map(str::to_owned);
    change(&mut setup.status);
    let (admin, node, phase) = setup.admin();
    Member {
        router: router(admin),
        node,
        phase,
    }
}

fn leader() -> Member {
    member_with(true, Some(TOKEN), |_| ())
}

fn follower() -> Member {
    member_with(false, Some(TOKEN), |_| ())
}

impl Member {
    async fn send(&self, request: Request<Body>) -> (StatusCode, HeaderMap, String) {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
        (
            parts.status,
            parts.headers,
            String::from_utf8(body.to_vec()).unwrap(),
        )
    }

    async fn get(&self, path: &str) -> (StatusCode, String) {
        let (status, _, body) = self.send(Request::get(path).body(Body::empty()).unwrap()).await;
        (status, body)
    }

    /// A changing request with the token.
    async fn change(&self, method: &str, path: &str, body: impl Into<Body>) -> (StatusCode, Value) {
        let request = Request::builder().method(method).uri(path);
        let request = request
            .header("authorization", format!("Bearer {TOKEN}"))
            .body(body.into())
            .unwrap();
        let (status, _, body) = self.send(request).await;
        (status, serde_json::from_str(&body).unwrap_or_default())
    }
}

#[tokio::test]
async fn status_is_what_the_design_promises() {
    let (status, body) = leader().get("/v1/status").await;
    assert_eq!(status, StatusCode::OK);
    let body: Value = serde_json::from_str(&body).unwrap();
    for (field, value) in [
        ("service", json!("tftp")),
        ("name", json!("tftp-0")),
        ("nodeId", json!(1)),
        ("pid", json!(std::process::id())),
        ("role", json!("leader")),
        ("term", json!(3)),
        ("commitIndex", json!(99)),
        ("appliedIndex", json!(99)),
        ("clientAddress", json!("127.0.0.1:6969")),
        ("adminAddress", json!("127.0.0.1:9401")),
        ("serving", json!(true)),
        ("serviceDetail", json!([{ "file": "a" }])),
    ] {
        assert_eq!(body[field], value, "{field}");
    }
    assert_eq!(body["members"][0]["nodeId"], 1, "sorted by node id");
}

#[tokio::test]
async fn root_is_html_for_browsers_and_json_when_asked() {
    let get = |accept: &str| {
        Request::get("/")
            .header("accept", accept)
            .body(Body::empty())
            .unwrap()
    };
    let browser = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
    for (accept, kind) in [
        (browser, "text/html; charset=utf-8"),
        ("*/*", "text/html; charset=utf-8"),
        ("application/json", "application/json"),
        ("application/json, text/html;q=0.5", "application/json"),
    ] {
        let (status, headers, _) = leader().send(get(accept)).await;
        assert_eq!(
            (status, headers["content-type"].to_str().unwrap()),
            (StatusCode::OK, kind),
            "{accept}"
        );
    }
}

#[tokio::test]
async fn health_depends_on_neither_role_nor_readiness() {
    let lost = member_with(false, None, |status| {
        (status.node_id, status.leader, status.ready) = (None, None, false);
    });
    assert_eq!(lost.get("/healthz").await.0, StatusCode::OK);
    lost.phase.send_replace(Phase::Stopping);
    assert_eq!(lost.get("/healthz").await.0, StatusCode::OK);
    lost.phase
        .send_replace(Phase::Failed("the disk failed".to_owned()));
    assert_eq!(
        lost.get("/healthz").await,
        (StatusCode::SERVICE_UNAVAILABLE, "the disk failed\n".to_owned())
    );
}

#[tokio::test]
async fn readiness_says_what_is_missing() {
    assert_eq!(
        follower().get("/readyz").await,
        (StatusCode::OK, "ok\n".to_owned())
    );
    let reason = async |change: fn(&mut NodeStatus)| {
        let member = member_with(false, None, |status| {
            status.ready = false;
            change(status);
        });
        let (status, body) = member.get("/readyz").await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        body
    };
    assert_eq!(
        reason(|status| status.node_id = None).await,
        "has not joined a group yet\n"
    );
    assert_eq!(reason(|status| status.leader = None).await, "knows no leader\n");
    assert_eq!(
        reason(|status| status.applied_index = 7).await,
        "catching up: applied 7 of 99 entries\n"
    );
    let alarm =
        reason(|status| (status.node_id, status.alarm) = (None, Some("log corrupt".to_owned()))).await;
    assert_eq!(alarm, "has not joined a group yet: log corrupt\n");
    let stopping = leader();
    stopping.phase.send_replace(Phase::Stopping);
    assert_eq!(
        stopping.get("/readyz").await,
        (StatusCode::SERVICE_UNAVAILABLE, "stopping\n".to_owned())
    );
}

#[tokio::test]
async fn metrics_are_prometheus_text() {
    let (status, headers, body) = leader()
        .send(Request::get("/metrics").body(Body::empty()).unwrap())
        .await;
    assert_eq!(
        (status, headers["content-type"].to_str().unwrap()),
        (StatusCode::OK, prometheus::TEXT_FORMAT)
    );
    assert!(body.contains("\n# TYPE quorate_role gauge\n"), "{body}");
}

#[tokio::test]
async fn changes_need_the_token_and_reads_do_not() {
    let changes = [
        ("POST", "/v1/membership/initialize"),
        ("POST", "/v1/membership/add-learner"),
        ("POST", "/v1/membership/join"),
        ("POST", "/v1/membership/promote"),
        ("POST", "/v1/membership/remove"),
        ("POST", "/v1/membership/transfer"),
        ("PUT", "/v1/files/a"),
        ("DELETE", "/v1/files/a"),
    ];
    let wrong = [
        None,
        Some("Bearer "),
        Some("Bearer wrong"),
        Some("Bearer correct-hors"),
        Some("Bearer correct-horse2"),
        Some("Basic correct-horse"),
        Some("correct-horse"),
        Some(""),
    ];
    let (member, open) = (leader(), member_with(true, None, |_| ()));
    for (method, path) in changes {
        for authorization in wrong {
            let mut request = Request::builder().method(method).uri(path);
            if let Some(value) = authorization {
                request = request.header("authorization", value);
            }
            let (status, headers, body) = member.send(request.body(Body::empty()).unwrap()).await;
            assert_eq!(
                status,
                StatusCode::UNAUTHORIZED,
                "{method} {path} {authorization:?}"
            );
            assert_eq!(headers["www-authenticate"], "Bearer");
            assert!(
                serde_json::from_str::<Problem>(&body)
                    .unwrap()
                    .error
                    .contains("token"),
                "{body}"
            );
        }
        let (status, body) = open.change(method, path, Body::empty()).await;
        assert_eq!(status, StatusCode::FORBIDDEN, "{method} {path}");
        assert!(body["error"].as_str().unwrap().contains("tokenFile"), "{body}");
    }
    assert!(member.node.asked.lock().unwrap().is_empty(), "nothing was done");
    assert_eq!(member.get("/v1/files").await.0, StatusCode::OK);
}

#[tokio::test]
async fn backup_needs_the_token_and_a_service_whose_state_is_everything() {
    let get = |member: &Member, path: &str, token: &str| {
        let request = Request::get(path).header("authorization", format!("Bearer {token}"));
        let (router, request) = (member.router.clone(), request.body(Body::empty()).unwrap());
        async move {
            let response = router.oneshot(request).await.unwrap();
            let status = response.status();
            let body = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
            (status, String::from_utf8(body.to_vec()).unwrap())
        }
    };
    let (status, body) = get(&leader(), "/v1/backup", TOKEN).await;
    assert_eq!(status, StatusCode::CONFLICT);
    assert!(body.contains("a tftp group has no backup"), "{body}");
    let (mut admin, node, _phase) = Setup::new(false, "127.0.0.1:9411", "127.0.0.1:9412").admin();
    admin.service = ServiceKind::Kv;
    let (sender, phase) = watch::channel(Phase::Running);
    admin.phase = phase;
    let member = Member {
        router: router(admin),
        node,
        phase: sender,
    };
    for token in ["", "wrong"] {
        assert_eq!(
            get(&member, "/v1/backup", token).await.0,
            StatusCode::UNAUTHORIZED
        );
    }
    for query in ["atLeast=x", "atMost=1"] {
        let path = format!("/v1/backup?{query}");
        assert_eq!(get(&member, &path, TOKEN).await.0, StatusCode::BAD_REQUEST);
    }
    assert!(member.node.asked.lock().unwrap().is_empty());
    let answer = get(&member, "/v1/backup?atLeast=7", TOKEN).await;
    assert_eq!(answer, (StatusCode::OK, "backup".to_owned()));
    assert_eq!(*member.node.asked.lock().unwrap(), ["backup kv 7"]);
}

#[tokio::test]
async fn scheme_is_case_insensitive() {
    let request = Request::post("/v1/membership/transfer").header("authorization", format!("bearer {TOKEN}"));
    assert_eq!(
        leader().send(request.body(Body::empty()).unwrap()).await.0,
        StatusCode::OK
    );
}

#[tokio::test]
async fn membership_steps_reach_the_node() {
    let member = leader();
    let post = async |step: &str, body: Value| {
        member
            .change("POST", &format!("/v1/membership/{step}"), body.to_string())
            .await
    };
    let identity = json!({ "groupId": GROUP.to_string(), "nodeId": 12 });
    assert_eq!(
        post("initialize", json!({ "groupId": GROUP.to_string() })).await,
        (
            StatusCode::OK,
            json!({ "groupId": GROUP.to_string(), "nodeId": 1 })
        )
    );
    let learner = json!({ "name": "tftp-2", "peerAddress": "h:1", "adminAddress": "h:2" });
    assert_eq!(
        post("add-learner", learner).await,
        (StatusCode::OK, identity.clone())
    );
    assert_eq!(post("join", identity).await, (StatusCode::OK, json!({})));
    assert_eq!(
        post("promote", json!({ "nodeId": 12 })).await,
        (StatusCode::OK, json!({}))
    );
    assert_eq!(
        post("transfer", json!({ "nodeId": 12 })).await,
        (StatusCode::OK, json!({}))
    );
    assert_eq!(post("transfer", json!({})).await, (StatusCode::OK, json!({})));
    assert_eq!(
        post("remove", json!({ "nodeId": 9 })).await,
        (StatusCode::CONFLICT, json!({ "error": "node 9 is no member" }))
    );
    assert_eq!(
        *member.node.asked.lock().unwrap(),
        [
            &format!("initialize {GROUP}"),
            "add tftp-2 h:1 h:2",
            "join 12",
            "promote 12",
            "transfer Some(12)",
            "transfer None"
        ]
    );
}

#[tokio::test]
async fn bad_bodies_are_refused_in_a_sentence() {
    let member = leader();
    for (step, body, status, part) in [
        (
            "initialize",
            "{\"groupId\":\"x\"}".to_owned(),
            StatusCode::BAD_REQUEST,
            "no UUID",
        ),
        (
            "initialize",
            "{".to_owned(),
            StatusCode::BAD_REQUEST,
            "not as expected",
        ),
        ("join", "{}".to_owned(), StatusCode::BAD_REQUEST, "groupId"),
        (
            "promote",
            String::new(),
            StatusCode::BAD_REQUEST,
            "nodeId is missing",
        ),
        (
            "promote",
            " ".repeat((64 << 10) + 1),
            StatusCode::PAYLOAD_TOO_LARGE,
            "65536 bytes",
        ),
    ] {
        let (found, body) = member
            .change("POST", &format!("/v1/membership/{step}"), body)
            .await;
        assert_eq!(found, status, "{step}");
        assert!(body["error"].as_str().unwrap().contains(part), "{body}");
    }
    assert!(member.node.asked.lock().unwrap().is_empty(), "nothing was done");
}

#[tokio::test]
async fn follower_names_the_leader() {
    let member = follower();
    for (method, path, body) in [
        ("POST", "/v1/membership/promote", "{\"nodeId\":3}"),
        ("POST", "/v1/membership/transfer", ""),
        ("PUT", "/v1/files/a", "x"),
        ("GET", "/v1/files/a", ""),
        ("DELETE", "/v1/files/a", ""),
    ] {
        let (status, body) = member.change(method, path, body).await;
        assert_eq!(status, StatusCode::MISDIRECTED_REQUEST, "{method} {path}");
        assert_eq!(body["leaderAdminAddress"], "127.0.0.1:9402", "{method} {path}");
    }
}

#[tokio::test]
async fn files_are_stored_read_listed_and_removed() {
    let member = leader();
    let (status, stored) = member.change("PUT", "/v1/files/boot/a%20b", "abc").await;
    assert_eq!(
        (status, &stored["path"], &stored["size"]),
        (StatusCode::OK, &json!("boot/a b"), &json!(3))
    );
    let (status, headers, body) = member
        .send(Request::get("/v1/files/boot/a%20b").body(Body::empty()).unwrap())
        .await;
    assert_eq!((status, body.as_str()), (StatusCode::OK, "abc"));
    assert_eq!(headers["content-length"], "3");
    assert_eq!(headers["etag"], format!("\"{}\"", "ab".repeat(32)));
    let (_, list) = member.get("/v1/files").await;
    assert_eq!(
        serde_json::from_str::<Vec<FileInfo>>(&list).unwrap(),
        [info("boot/a b", 3)]
    );
    assert_eq!(
        member.change("DELETE", "/v1/files/boot/a%20b", "").await.0,
        StatusCode::NO_CONTENT
    );
    assert_eq!(
        member.change("DELETE", "/v1/files/boot/a%20b", "").await.0,
        StatusCode::NOT_FOUND
    );
    assert_eq!(
        member
            .change("PUT", "/v1/files/..%2F..%2Fetc%2Fpasswd", "x")
            .await
            .0,
        StatusCode::BAD_REQUEST
    );
}

#[tokio::test]
async fn broken_body_stores_nothing() {
    let member = leader();
    let pieces = [Ok(Bytes::from("ab")), Err(std::io::Error::other("gone"))];
    let (status, body) = member
        .change("PUT", "/v1/files/a", Body::from_stream(stream::iter(pieces)))
        .await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(body["error"].as_str().unwrap().contains("gone"), "{body}");
    assert_eq!(member.get("/v1/files/a").await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn unknown_addresses_and_methods_are_problems_too() {
    let member = leader();
    assert_eq!(member.change("GET", "/v2", "").await.0, StatusCode::NOT_FOUND);
    let (status, body) = member.change("GET", "/v1/membership/join", "").await;
    assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED);
    assert!(body["error"].is_string(), "{body}");
}

#[tokio::test]
async fn refused_body_is_read_to_its_end_so_that_the_sender_sees_the_answer() {
    for (member, token) in [(leader(), "wrong"), (follower(), TOKEN)] {
        let read = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&read);
        let pieces = stream::iter(0..5).map(move |_| {
            count.fetch_add(1, Ordering::Relaxed);
            Ok::<_, std::io::Error>(Bytes::from("piece"))
        });
        let request = Request::put("/v1/files/a").header("authorization", format!("Bearer {token}"));
        let (status, ..) = member
            .send(request.body(Body::from_stream(pieces)).unwrap())
            .await;
        assert!(status.is_client_error());
        assert_eq!(read.load(Ordering::Relaxed), 5, "{status}");
    }
}
