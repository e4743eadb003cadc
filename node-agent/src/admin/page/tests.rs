use serde_json::json;

use super::*;
use operator_api::Role;

const EVIL: &str = "<script>alert('x')</script>\"&\u{202e}";

fn status(detail: serde_json::Value) -> MemberStatus {
    let member = |node_id, matched_index| GroupMember {
        node_id,
        name: format!("tftp-{node_id}"),
        peer_address: format!("127.0.0.1:740{node_id}"),
        admin_address: format!("127.0.0.1:940{node_id}"),
        voter: node_id < 3,
        matched_index,
    };
    MemberStatus {
        service: ServiceKind::Tftp,
        name: "tftp-1".to_owned(),
        node_id: Some(1),
        pid: Some(4711),
        role: Role::Leader,
        term: 7,
        commit_index: 1230,
        applied_index: 1229,
        client_address: "127.0.0.1:6969".to_owned(),
        admin_address: "127.0.0.1:9401".to_owned(),
        detail: Some(MemberDetail {
            version: String::new(),
            group_id: Some("6f1c0c2e-7a53-4f0e-9d7e-0a6f7d0f1b11".to_owned()),
            leader_id: Some(1),
            serving: true,
            ready: true,
            first_log_index: 1001,
            last_log_index: 1234,
            snapshot_index: 1000,
            members: vec![member(1, Some(1234)), member(2, Some(1232)), member(3, Some(4))],
            alarm: None,
            peer_certificates: None,
            service_detail: detail,
        }),
    }
}

fn transfers() -> serde_json::Value {
    json!([
        {"peer": "192.0.2.7:50123", "file": "boot/vmlinuz", "position": 1_234_567, "size": 9_000_000, "blockSize": 1468},
        {"peer": "[2001:db8::9]:2070", "file": "phones/SEP0123.cnf.xml", "position": 512, "size": 20_000, "blockSize": 512},
    ])
}

#[test]
fn everything_from_outside_is_escaped() {
    let mut evil = status(json!([{ EVIL: EVIL, "n": 1 }]));
    evil.name = EVIL.to_owned();
    evil.client_address = EVIL.to_owned();
    let detail = evil.detail.as_mut().unwrap();
    detail.alarm = Some(EVIL.to_owned());
    detail.group_id = Some(EVIL.to_owned());
    for member in &mut detail.members {
        member.name = EVIL.to_owned();
        member.admin_address = "\" onclick=\"x".to_owned();
        member.peer_address = EVIL.to_owned();
    }
    let object = status(json!({ EVIL: EVIL, "rows": [{ "a": EVIL }, EVIL], "nested": { "b": EVIL } }));
    for page in [html(&evil, "n"), html(&object, "n")] {
        assert!(!page.contains("<script"), "{page}");
        assert!(!page.contains("\" onclick"), "{page}");
        assert!(!page.contains('\u{202e}'), "{page}");
        assert!(
            page.contains("&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;&quot;&amp;\u{fffd}"),
            "{page}"
        );
    }
}

#[test]
fn page_shows_role_positions_members_and_transfers() {
    let page = html(&status(transfers()), "n");
    for part in [
        "<div class=\"role leader\">leader</div>",
        "<dt>committed</dt><dd>1230</dd>",
        "<dt>snapshot at</dt><dd>1000</dd>",
        "<a href=\"http://127.0.0.1:9402/\">tftp-2</a>",
        "<td>voter</td><td class=\"number\">2</td>",
        "<td>learner</td><td class=\"number\">1230</td>",
        "<h2>Running transfers <span class=\"soft\">(2)</span></h2>",
        "<th class=\"number\">block size</th>",
        "<td>boot/vmlinuz</td>",
    ] {
        assert!(page.contains(part), "{part} is missing in\n{page}");
    }
}

#[test]
fn long_lists_are_cut_with_a_word() {
    let rows: Vec<_> = (0..205).map(|row| json!({ "row": row })).collect();
    let page = html(&status(json!(rows)), "n");
    assert!(page.contains("and 5 more"), "{page}");
    assert!(!page.contains("<td class=\"number\">200</td>"), "{page}");
}

#[test]
fn member_without_a_group_has_a_page() {
    let mut alone = status(json!([]));
    alone.node_id = None;
    alone.role = Role::Learner;
    let detail = alone.detail.as_mut().unwrap();
    (detail.members, detail.leader_id, detail.group_id) = (Vec::new(), None, None);
    let page = html(&alone, "n");
    assert!(
        page.contains("has not joined a group yet") && page.contains("no leader known"),
        "{page}"
    );
}

#[test]
fn page_may_load_and_run_nothing_but_its_own_style() {
    let response = response(&status(json!([])));
    let policy = response.headers()[header::CONTENT_SECURITY_POLICY]
        .to_str()
        .unwrap();
    assert!(
        policy.starts_with("default-src 'none'; style-src 'nonce-"),
        "{policy}"
    );
    assert!(!policy.contains("unsafe"), "{policy}");
}
