//! `quorate-agent status`: what the members of a local group say of themselves.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use futures::future::join_all;
use operator_api::MemberStatus;
use serde::Serialize;

use crate::client::AdminClient;
use crate::group::{self, GroupDescription, MemberAddress};
use crate::table;

/// What `quorate-agent status` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print one line of JSON.
    #[arg(long)]
    json: bool,
    /// The directory of the group; by default the one that runs.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// The JSON form.
#[derive(Debug, Serialize)]
struct Listing<'a> {
    members: &'a [MemberStatus],
}

/// Asks every member and prints what they answer. The exit code is 1 when none does.
pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let dir = group::resolve_dir(args.dir.as_deref())?;
    let members = ask(&GroupDescription::read(&dir)?).await?;
    let text = if args.json {
        format!("{}\n", serde_json::to_string(&Listing { members: &members })?)
    } else {
        render(&members)
    };
    std::io::stdout().write_all(text.as_bytes())?;
    if members.iter().any(|member| member.pid.is_some()) {
        return Ok(ExitCode::SUCCESS);
    }
    writeln!(
        std::io::stderr(),
        "quorate-agent: no member of the group in {} answers; start it with `quorate-agent local --dir {}`",
        dir.display(),
        dir.display()
    )?;
    Ok(ExitCode::FAILURE)
}

/// Asks every member at once. Those that do not answer are listed without a process id.
pub(crate) async fn ask(group: &GroupDescription) -> anyhow::Result<Vec<MemberStatus>> {
    let client = AdminClient::new("", None)?;
    let answers = join_all(group.members.iter().map(|member| {
        let client = client.at(&member.admin_address);
        async move { client.status().await.ok() }
    }))
    .await;
    Ok(listing(&group.members, answers))
}

/// One row for every member of the description, in its order.
fn listing(members: &[MemberAddress], answers: Vec<Option<MemberStatus>>) -> Vec<MemberStatus> {
    // Another program may have taken the port of a member that is down.
    let is_own = |member: &MemberAddress, status: &MemberStatus| {
        status.name == member.name && status.service == member.service
    };
    let mut rows: Vec<MemberStatus> = members
        .iter()
        .zip(answers)
        .map(|(member, answer)| match answer {
            Some(status) if is_own(member, &status) => status,
            _ => down(member),
        })
        .collect();
    // The others know the node id of a member that is down.
    let known: Vec<_> = rows
        .iter()
        .filter_map(|row| Some((row.service, row.term, row.detail.as_ref()?.members.clone())))
        .collect();
    for row in rows.iter_mut().filter(|row| row.pid.is_none()) {
        let newest = known
            .iter()
            .filter(|(service, ..)| *service == row.service)
            .max_by_key(|(_, term, _)| *term);
        row.node_id = newest.and_then(|(.., members)| {
            // A member that lost its disk comes back under a new id: the highest one is the present one.
            members
                .iter()
                .filter(|member| member.name == row.name)
                .map(|member| member.node_id)
                .max()
        });
    }
    for row in &mut rows {
        row.detail = None;
    }
    rows
}

/// A member that does not answer.
fn down(member: &MemberAddress) -> MemberStatus {
    MemberStatus {
        service: member.service,
        name: member.name.clone(),
        node_id: None,
        pid: None,
        role: operator_api::Role::default(),
        term: 0,
        commit_index: 0,
        applied_index: 0,
        client_address: member.client_address.clone(),
        admin_address: member.admin_address.clone(),
        detail: None,
    }
}

/// The table for people; also what `local` shows.
pub(crate) fn render(members: &[MemberStatus]) -> String {
    let dash = || "-".to_owned();
    let rows: Vec<_> = members
        .iter()
        .map(|member| {
            let alive = |text: String| if member.pid.is_some() { text } else { dash() };
            [
                member.service.to_string(),
                member.name.clone(),
                member.node_id.map_or_else(dash, |id| id.to_string()),
                member.pid.map_or_else(dash, |pid| pid.to_string()),
                if member.pid.is_some() {
                    member.role.to_string()
                } else {
                    "down".to_owned()
                },
                alive(member.term.to_string()),
                alive(member.commit_index.to_string()),
                alive(member.applied_index.to_string()),
                member.client_address.clone(),
                member.admin_address.clone(),
            ]
        })
        .collect();
    table::render(
        [
            "SERVICE", "NAME", "ID", "PID", "ROLE", "TERM", "COMMIT", "APPLIED", "CLIENTS", "ADMIN",
        ],
        &rows,
    )
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use operator_api::admin::{GroupMember, MemberDetail, Role};
    use operator_api::config::ServiceKind;

    use super::*;

    fn address(number: u16) -> MemberAddress {
        MemberAddress {
            service: ServiceKind::Tftp,
            name: format!("tftp-{number}"),
            admin_address: format!("127.0.0.1:{}", 9401 + number),
            client_address: "127.0.0.1:6969".to_owned(),
        }
    }

    fn rows() -> Vec<MemberStatus> {
        let member = |node_id, number| GroupMember {
            node_id,
            name: format!("tftp-{number}"),
            peer_address: String::new(),
            admin_address: String::new(),
            voter: true,
            matched_index: None,
        };
        let mut leader = down(&address(0));
        (leader.node_id, leader.pid, leader.role) = (Some(2), Some(4711), Role::Leader);
        (leader.term, leader.commit_index, leader.applied_index) = (3, 99, 99);
        leader.detail = Some(MemberDetail {
            version: String::new(),
            group_id: None,
            leader_id: Some(2),
            serving: true,
            ready: true,
            first_log_index: 1,
            last_log_index: 99,
            snapshot_index: 0,
            members: vec![member(2, 0), member(5, 1), member(9, 1)],
            alarm: None,
            peer_certificates: None,
            service_detail: serde_json::Value::Null,
        });
        let mut stranger = leader.clone();
        stranger.name = "other".to_owned();
        listing(
            &[address(0), address(1), address(2)],
            vec![Some(leader), None, Some(stranger)],
        )
    }

    #[test]
    fn json_is_what_the_design_shows() {
        let json = serde_json::to_string(&Listing { members: &rows() }).unwrap();
        let first = r#"{"members":[{"service":"tftp","name":"tftp-0","nodeId":2,"pid":4711,"role":"leader","term":3,"commitIndex":99,"appliedIndex":99,"clientAddress":"127.0.0.1:6969","adminAddress":"127.0.0.1:9401"},"#;
        assert!(json.starts_with(first), "{json}");
        assert!(
            json.contains(r#""name":"tftp-1","nodeId":9,"pid":null"#),
            "{json}"
        );
    }

    #[test]
    fn members_that_are_down_and_strangers_are_told_apart_from_members() {
        expect![[r#"
            SERVICE  NAME    ID  PID   ROLE    TERM  COMMIT  APPLIED  CLIENTS         ADMIN
            tftp     tftp-0  2   4711  leader  3     99      99       127.0.0.1:6969  127.0.0.1:9401
            tftp     tftp-1  9   -     down    -     -       -        127.0.0.1:6969  127.0.0.1:9402
            tftp     tftp-2  -   -     down    -     -       -        127.0.0.1:6969  127.0.0.1:9403
        "#]]
        .assert_eq(&render(&rows()));
    }
}
