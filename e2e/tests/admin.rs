//! Promises about the admin port: health, metrics, the status page, and that only the token changes something.

use e2e::Group;
use operator_api::MemberStatus;
use reqwest::Method;

#[test]
fn health_and_readiness_are_told() {
    let group = Group::start().unwrap();
    for index in 0..3 {
        for path in ["/healthz", "/readyz"] {
            let reply = group.admin().get(group.admin_port(index), path, "*/*").unwrap();
            assert_eq!(reply.status, 200, "member {index}, {path}: {}", reply.body);
        }
    }
}

#[test]
fn metrics_are_in_the_text_format_of_prometheus() {
    let group = Group::start().unwrap();
    let reply = group
        .admin()
        .get(group.admin_port(0), "/metrics", "text/plain")
        .unwrap();
    assert!(
        reply.content_type.starts_with("text/plain"),
        "{}",
        reply.content_type
    );
    let mut samples = 0;
    for line in reply.body.lines().filter(|line| !line.is_empty()) {
        // Process metrics have the names that Prometheus' own client libraries give them.
        let known = |name: &str| name.starts_with("quorate_") || name.starts_with("process_");
        if let Some(comment) = line.strip_prefix("# ") {
            assert!(comment.split(' ').nth(1).is_some_and(known), "{line}");
            continue;
        }
        let (name, value) = line.rsplit_once(' ').unwrap();
        assert!(known(name), "{line}");
        assert!(value.parse::<f64>().is_ok(), "{line}");
        samples += 1;
    }
    assert!(samples > 5, "{}", reply.body);
}

#[test]
fn status_page_is_for_people_and_for_programs() {
    let group = Group::start().unwrap();
    group.put("image.bin", b"content").unwrap();
    for index in 0..3 {
        let port = group.admin_port(index);
        let status = group.admin().status(port).unwrap();
        let page = group
            .admin()
            .get(port, "/", "text/html,application/xhtml+xml,*/*;q=0.8")
            .unwrap();
        assert_eq!(page.status, 200);
        assert!(
            page.content_type.starts_with("text/html"),
            "{}",
            page.content_type
        );
        let leader = group.leader().unwrap().name;
        for expected in [
            &status.name,
            &leader,
            &status.role.to_string(),
            &"</html>".to_owned(),
        ] {
            assert!(
                page.body.contains(expected),
                "{expected} is missing in {}",
                page.body
            );
        }
        let json = group.admin().get(port, "/", "application/json").unwrap();
        let same: MemberStatus = serde_json::from_str(&json.body).unwrap();
        assert_eq!((same.name, same.node_id), (status.name, status.node_id));
    }
}

#[test]
fn nothing_changes_without_the_token() {
    let group = Group::start().unwrap();
    group.put("image.bin", b"content").unwrap();
    let before = group.leader().unwrap();
    for index in 0..3 {
        for (method, path) in [
            (Method::DELETE, "/v1/files/image.bin"),
            (Method::PUT, "/v1/files/image.bin"),
            (Method::POST, "/v1/membership/transfer"),
            (Method::POST, "/v1/membership/remove"),
            (Method::POST, "/v1/membership/initialize"),
        ] {
            let port = group.admin_port(index);
            let reply = group
                .admin()
                .request(method.clone(), port, path, "application/json")
                .unwrap();
            assert!(
                matches!(reply.status, 401 | 403),
                "{method} {path}: {} {}",
                reply.status,
                reply.body
            );
        }
    }
    assert_eq!(group.get("image.bin").unwrap(), b"content");
    assert_eq!(group.leader().unwrap().node_id, before.node_id);
}
