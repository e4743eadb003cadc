//! Promise: no client can name anything outside the store.

use e2e::raw::{Answer, RawClient};
use e2e::scenario::serve;
use e2e::{Group, GroupOptions};

/// Spellings of `/etc/passwd` that have opened it on one server or another.
const SPELLINGS: &[&str] = &[
    "/etc/passwd",
    "etc/passwd",
    "//etc/passwd",
    "/etc//passwd",
    "/etc/./passwd",
    "./etc/passwd",
    "/./etc/passwd",
    "../etc/passwd",
    "/../etc/passwd",
    "../../../../../../../../../../../../etc/passwd",
    "/../../../../../../../../../../../../etc/passwd",
    "served/../../../../../../../../../../etc/passwd",
    "served.bin/../../../../../../../../../../etc/passwd",
    "....//....//....//....//etc/passwd",
    "..\\..\\..\\..\\..\\..\\etc\\passwd",
    "\\etc\\passwd",
    "C:\\etc\\passwd",
    "%2fetc%2fpasswd",
    "%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
    "..%2f..%2f..%2f..%2fetc%2fpasswd",
    "..%c0%af..%c0%af..%c0%afetc/passwd",
    "file:///etc/passwd",
    "/ETC/PASSWD",
    "/etc/passwd ",
    "/etc/passwd/",
    "/etc/passwd/.",
    "~/../../etc/passwd",
    "/proc/self/root/etc/passwd",
    "/dev/fd/../../etc/passwd",
    "$HOME/../../etc/passwd",
    "|cat /etc/passwd",
];

fn ask(group: &Group, name: &str, mode: &str) -> anyhow::Result<Answer> {
    RawClient::connect(group.tftp_port())?.download_as(name, mode, &[], |_| Ok(()))
}

#[test]
fn etc_passwd_is_not_served_by_any_spelling() {
    let group = Group::start().unwrap();
    serve(&group, "served.bin", 1, 1000).unwrap();
    for mode in ["octet", "netascii"] {
        for name in SPELLINGS {
            let (code, message) = ask(&group, name, mode)
                .unwrap()
                .refusal()
                .unwrap_or_else(|error| {
                    panic!("{name:?} in {mode} mode was served: {error:#}");
                });
            // RFC 1350 section 5: 1 is "File not found", 2 "Access violation". U-Boot tries others again for ever.
            assert!(matches!(code, 1 | 2), "{name:?}: code {code}, {message}");
            assert!(!message.contains("root:"), "{name:?}: {message}");
        }
    }
}

#[test]
fn agents_own_files_are_not_served() {
    let group = Group::start().unwrap();
    serve(&group, "served.bin", 2, 1000).unwrap();
    let dir = group.dir();
    let mut names = vec![
        dir.join("group.json"),
        dir.join("token"),
        std::env::current_exe().unwrap(),
    ];
    names.extend(
        std::fs::read_dir(&dir)
            .unwrap()
            .map(|entry| entry.unwrap().path()),
    );
    for name in names {
        ask(&group, name.to_str().unwrap(), "octet")
            .unwrap()
            .refusal()
            .unwrap();
        ask(&group, name.file_name().unwrap().to_str().unwrap(), "octet")
            .unwrap()
            .refusal()
            .unwrap();
    }
}

#[test]
fn symbolic_link_out_of_the_imported_directory_is_not_followed() {
    let root = tempfile::tempdir().unwrap();
    std::fs::write(root.path().join("inside.txt"), "inside").unwrap();
    std::os::unix::fs::symlink("/etc/passwd", root.path().join("passwd")).unwrap();
    std::os::unix::fs::symlink("/etc", root.path().join("etc")).unwrap();
    let options = GroupOptions {
        tftp_root: Some(root.path().to_owned()),
        ..GroupOptions::default()
    };
    let group = Group::start_with(options).unwrap();
    e2e::eventually("the directory is imported", e2e::clock::PATIENCE, || {
        anyhow::ensure!(ask(&group, "inside.txt", "octet")?.file()?.bytes == b"inside");
        Ok(())
    })
    .unwrap();
    for name in ["passwd", "etc/passwd"] {
        ask(&group, name, "octet").unwrap().refusal().unwrap();
    }
}
