//! Promises about a local group: its files, its members, its start and its end.

use std::net::{Ipv4Addr, UdpSocket};

use e2e::clock::PATIENCE;
use e2e::data::{MIB, ensure_same_bytes, random_bytes, sha256};
use e2e::group::{detail, pid};
use e2e::process::all_running_on;
use e2e::raw::RawClient;
use e2e::{Client, Group, GroupOptions, eventually};
use operator_api::{GroupMember, MemberStatus, Role};

fn names(group: &Group) -> anyhow::Result<Vec<String>> {
    Ok(group.ls()?.into_iter().map(|file| file.path).collect())
}

fn node_ids(members: &[GroupMember]) -> Vec<u64> {
    members.iter().map(|member| member.node_id).collect()
}

#[test]
fn files_are_put_listed_got_imported_and_removed() {
    let group = Group::start().unwrap();
    let content = random_bytes(1, MIB);
    group.put("firmware/phone.bin", &content).unwrap();
    let listed = group.ls().unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!(
        (listed[0].path.as_str(), listed[0].size),
        ("firmware/phone.bin", MIB as u64)
    );
    assert_eq!(listed[0].sha256, sha256(&content));
    assert!(
        group
            .succeed(&["files", "ls"])
            .unwrap()
            .contains("firmware/phone.bin")
    );
    assert_eq!(group.get("firmware/phone.bin").unwrap(), content);
    group.put("firmware/phone.bin", b"replaced").unwrap();
    assert_eq!(group.get("firmware/phone.bin").unwrap(), b"replaced");

    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(directory.path().join("a/b")).unwrap();
    std::fs::write(directory.path().join("a/b/c.txt"), "c").unwrap();
    std::fs::write(directory.path().join("d.txt"), "d").unwrap();
    group
        .succeed(&["files", "import", directory.path().to_str().unwrap()])
        .unwrap();
    assert_eq!(
        names(&group).unwrap(),
        ["a/b/c.txt", "d.txt", "firmware/phone.bin"]
    );

    group.succeed(&["files", "rm", "d.txt"]).unwrap();
    assert_eq!(names(&group).unwrap(), ["a/b/c.txt", "firmware/phone.bin"]);
    let error = String::from_utf8(
        group
            .command(&["files", "get", "d.txt", "-o", "x"])
            .unwrap()
            .stderr,
    )
    .unwrap();
    assert!(error.contains("d.txt"), "{error}");
}

#[test]
fn restart_keeps_files() {
    let mut group = Group::start().unwrap();
    let content = random_bytes(2, MIB);
    group.put("kept.bin", &content).unwrap();
    let before = node_ids(&detail(&group.leader().unwrap()).unwrap().members);
    group.stop().unwrap();
    group.launch().unwrap();
    let local = group.scratch().join("file");
    Client::Curl { block_size: 512 }
        .fetch(group.tftp_port(), "kept.bin", &local, &content, PATIENCE)
        .unwrap();
    assert_eq!(
        node_ids(&detail(&group.leader().unwrap()).unwrap().members),
        before,
        "members kept their disks"
    );
}

#[test]
fn all_members_killed_at_once_keep_acknowledged_files() {
    let group = Group::start().unwrap();
    for round in 0..3 {
        let name = format!("round-{round}.bin");
        group.put(&name, &random_bytes(round, 10_000)).unwrap();
        let terms: Vec<_> = group
            .statuses()
            .into_iter()
            .flatten()
            .filter_map(|status| status.pid)
            .collect();
        group.kill_all_members().unwrap();
        eventually("every member was started again", PATIENCE, || {
            let new = group
                .statuses()
                .into_iter()
                .flatten()
                .filter_map(|status| status.pid);
            anyhow::ensure!(new.filter(|pid| !terms.contains(pid)).count() == 3);
            Ok(())
        })
        .unwrap();
        group.all_ready().unwrap();
        for round in 0..=round {
            let found = group.get(&format!("round-{round}.bin")).unwrap();
            ensure_same_bytes(&found, &random_bytes(round, 10_000)).unwrap();
        }
    }
}

#[test]
fn member_with_an_emptied_disk_rejoins_under_a_new_node_id() {
    let group = Group::start().unwrap();
    let content = random_bytes(3, MIB);
    group.put("kept.bin", &content).unwrap();
    let emptied = group.kill_leader_and_empty_its_disk().unwrap();
    eventually("the member is back under another node id", PATIENCE, || {
        let back = group
            .statuses()
            .into_iter()
            .flatten()
            .find(|status| status.name == emptied.name);
        let node_id = back.and_then(|status| status.node_id);
        anyhow::ensure!(
            node_id.is_some() && node_id != emptied.node_id,
            "its node id is {node_id:?}"
        );
        Ok(())
    })
    .unwrap();
    let leader = group.all_ready().unwrap();
    let members = &detail(&leader).unwrap().members;
    assert!(
        !node_ids(members).contains(&emptied.node_id.unwrap()),
        "{members:?}"
    );
    // Its copy is complete: it can serve the file as the leader of a group whose other members died.
    let target = members
        .iter()
        .find(|member| member.name == emptied.name)
        .unwrap()
        .node_id;
    group
        .succeed(&["members", "transfer", &target.to_string()])
        .unwrap();
    eventually("the member leads", PATIENCE, || {
        let leader = group.leader()?;
        anyhow::ensure!(leader.name == emptied.name, "{} leads", leader.name);
        Ok(())
    })
    .unwrap();
    let local = group.scratch().join("file");
    Client::Curl { block_size: 512 }
        .fetch(group.tftp_port(), "kept.bin", &local, &content, PATIENCE)
        .unwrap();
}

#[test]
fn file_replaced_in_mid_transfer_keeps_its_version_also_under_the_next_leader() {
    let group = Group::start().unwrap();
    let old = random_bytes(4, MIB);
    group.put("image.bin", &old).unwrap();
    let mut client = RawClient::connect(group.tftp_port()).unwrap();
    let replace = |block| match block {
        700 => group.put("image.bin", b"new"),
        1_000 => group.kill_leader().map(drop),
        1_400 => group.succeed(&["files", "rm", "image.bin"]).map(drop),
        _ => Ok(()),
    };
    let download = client
        .download_as("image.bin", "octet", &[], replace)
        .unwrap()
        .file()
        .unwrap();
    ensure_same_bytes(&download.bytes, &old).unwrap();
    let (code, _) = RawClient::connect(group.tftp_port())
        .unwrap()
        .download("image.bin", &[])
        .unwrap()
        .refusal()
        .unwrap();
    assert_eq!(code, 1, "the file was removed meanwhile");
}

#[test]
fn status_is_what_scripts_expect() {
    let group = Group::start().unwrap();
    let text = group.succeed(&["status", "--json"]).unwrap();
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    let members: Vec<MemberStatus> = serde_json::from_value(value["members"].clone()).unwrap();
    assert_eq!(members.len(), 3);
    assert_eq!(
        members
            .iter()
            .filter(|member| member.role == Role::Leader)
            .count(),
        1
    );
    for member in value["members"].as_array().unwrap() {
        for field in [
            "service",
            "name",
            "nodeId",
            "pid",
            "role",
            "term",
            "commitIndex",
            "appliedIndex",
            "clientAddress",
            "adminAddress",
        ] {
            assert!(!member[field].is_null(), "{field} is missing in {member}");
        }
        assert_eq!(member["service"], "tftp");
        assert_eq!(
            member["clientAddress"],
            format!("127.0.0.1:{}", group.tftp_port())
        );
    }
    let table = group.succeed(&["status"]).unwrap();
    for member in &members {
        assert!(table.contains(&member.name), "{table}");
    }
}

#[test]
fn killed_member_is_started_again() {
    let group = Group::start().unwrap();
    let killed = group.kill_leader().unwrap();
    eventually("the member runs again", PATIENCE, || {
        let back = group
            .statuses()
            .into_iter()
            .flatten()
            .find(|status| status.name == killed.name);
        anyhow::ensure!(back.is_some_and(|status| status.pid.is_some() && status.pid != killed.pid));
        Ok(())
    })
    .unwrap();
    let leader = group.all_ready().unwrap();
    assert!(
        node_ids(&detail(&leader).unwrap().members).contains(&killed.node_id.unwrap()),
        "it kept its disk"
    );
}

#[test]
fn ctrl_c_stops_every_process() {
    let mut group = Group::start().unwrap();
    let pids: Vec<u32> = group
        .statuses()
        .iter()
        .flatten()
        .map(|status| pid(status).unwrap())
        .collect();
    assert!(
        pids.iter().all(|pid| all_running_on(&group.dir()).contains(pid)),
        "the test must know its processes"
    );
    group.stop().unwrap();
    assert_eq!(all_running_on(&group.dir()), [0; 0]);
}

#[test]
fn members_do_not_outlive_a_killed_supervisor() {
    let mut group = Group::start().unwrap();
    group.put("kept.bin", b"kept").unwrap();
    group.kill_supervisor().unwrap();
    group.launch().unwrap();
    assert_eq!(group.get("kept.bin").unwrap(), b"kept");
}

#[test]
fn taken_port_is_named_with_what_to_do() {
    let mut group = Group::prepare(GroupOptions::default()).unwrap();
    let _taken = UdpSocket::bind((Ipv4Addr::LOCALHOST, group.tftp_port())).unwrap();
    group.launch_only().unwrap();
    let port = group.tftp_port().to_string();
    let mut supervisor = group.take_supervisor().unwrap();
    let status = supervisor.wait(PATIENCE).unwrap();
    let output = supervisor.output();
    assert!(!status.success(), "{output}");
    assert!(
        output.contains(&port) && output.contains("--tftp-port"),
        "{output}"
    );
    assert_eq!(all_running_on(&group.dir()), [0; 0], "no member is left behind");
}
