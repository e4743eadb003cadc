//! A backup that is taken under load holds everything that was acknowledged before, and a new group begins with it.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use anyhow::ensure;
use e2e::clock::{PATIENCE, eventually};
use e2e::kv::{Kv, Request};
use e2e::{Group, GroupOptions};
use operator_api::config::ServiceKind;
use tokio::runtime::Runtime;

fn group(options: GroupOptions) -> Group {
    Group::start_with(GroupOptions {
        service: ServiceKind::Kv,
        ..options
    })
    .unwrap()
}

fn runtime() -> Runtime {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all().build().unwrap()
}

fn client(group: &Group) -> Kv {
    Kv::new(group.kv_member_ports(), PATIENCE * 2).unwrap()
}

/// Sets `k-1`, `k-2` ... one after the other, at one member after the other.
struct Writer {
    acknowledged: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Writer {
    fn start(group: &Group) -> Self {
        let (acknowledged, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (kv, counter, end) = (client(group), acknowledged.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            let runtime = runtime();
            for number in 1.. {
                let set = Request::set(format!("k-{number}"), number.to_string()).blocking();
                let member = usize::try_from(number).unwrap() % kv.members();
                let answer = runtime.block_on(kv.ask(member, &set)).answer().unwrap();
                assert!(answer.valid, "{answer:?}");
                counter.store(number, Ordering::SeqCst);
                if end.load(Ordering::SeqCst) {
                    return;
                }
            }
        });
        Self {
            acknowledged,
            stop,
            thread,
        }
    }

    fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::SeqCst)
    }

    /// Waits for so many more.
    fn write(&self, more: u64) -> u64 {
        let wanted = self.acknowledged() + more;
        eventually("writes are acknowledged", PATIENCE, || {
            let now = self.acknowledged();
            ensure!(now >= wanted, "{now} of {wanted}");
            Ok(now)
        })
        .unwrap()
    }

    fn finish(self) -> u64 {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().unwrap();
        self.acknowledged.load(Ordering::SeqCst)
    }
}

/// The value of a key at one member; none when it is absent.
fn value(runtime: &Runtime, kv: &Kv, member: usize, key: &str) -> Option<String> {
    let get = Request::get(key).blocking();
    let answer = runtime.block_on(kv.ask(member, &get)).answer().unwrap();
    answer.valid.then_some(answer.value)
}

/// One bit of the file is turned over; neither a look at it nor a founding takes it.
fn refuses_a_damaged_backup(file: &Path) {
    let mut damaged = fs::read(file).unwrap();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    fs::write(file, damaged).unwrap();
    let fresh = Group::prepare(GroupOptions {
        service: ServiceKind::Kv,
        ..GroupOptions::default()
    })
    .unwrap();
    for check in [&["--check"][..], &[]] {
        let line = [&["restore", file.to_str().unwrap()], check].concat();
        let refused = fresh.command(&line).unwrap();
        let words = String::from_utf8_lossy(&refused.stderr);
        assert!(!refused.status.success());
        assert!(
            words.contains("the backup is damaged: its checksum differs"),
            "{words}"
        );
    }
}

#[test]
fn a_new_group_begins_with_a_backup_that_was_taken_under_load() {
    let old = group(GroupOptions::default());
    let (place, file) = (tempfile::tempdir().unwrap(), "kv.backup");
    let file = place.path().join(file);
    let writer = Writer::start(&old);
    let before = writer.write(100);
    let said = old.succeed(&["backup", file.to_str().unwrap()]).unwrap();
    assert!(said.starts_with("kv group "), "{said}");
    writer.write(100);
    let all = writer.finish();
    drop(old);

    let mut new = group(GroupOptions {
        restore: Some(file.clone()),
        ..GroupOptions::default()
    });
    let (kv, runtime) = (client(&new), runtime());
    let held = (1..=all)
        .take_while(|number| {
            let member = usize::try_from(*number).unwrap() % kv.members();
            value(&runtime, &kv, member, &format!("k-{number}")) == Some(number.to_string())
        })
        .count() as u64;
    assert!(
        held >= before,
        "{held} writes are there, {before} were acknowledged before"
    );
    assert!(held < all, "the backup holds what was written after it");
    for number in held + 1..=all {
        assert_eq!(
            value(&runtime, &kv, 0, &format!("k-{number}")),
            None,
            "one moment of the store"
        );
    }
    // It is a group like any other: it loses its leader and goes on.
    let killed = new.kill_leader().unwrap();
    let living = usize::from(killed.name.ends_with("-0"));
    let set = runtime.block_on(kv.ask(living, &Request::set("k-1", "new").blocking()));
    assert!(set.answer().unwrap().valid);
    new.all_ready().unwrap();
    for member in 0..kv.members() {
        assert_eq!(value(&runtime, &kv, member, "k-1").as_deref(), Some("new"));
    }
    // What exists is not overwritten.
    new.stop().unwrap();
    let port = new.kv_port().to_string();
    let refused = new
        .command(&["restore", file.to_str().unwrap(), "--kv-port", &port])
        .unwrap();
    let words = String::from_utf8_lossy(&refused.stderr);
    assert!(
        !refused.status.success() && words.contains("exists already"),
        "{words}"
    );
    drop(new);
    refuses_a_damaged_backup(&file);
}

#[test]
fn a_tftp_group_says_that_it_has_no_backup() {
    let group = Group::start().unwrap();
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("tftp.backup");
    let refused = group
        .command(&["backup", "--service", "tftp", file.to_str().unwrap()])
        .unwrap();
    let words = String::from_utf8_lossy(&refused.stderr);
    assert!(
        !refused.status.success() && words.contains("a tftp group has no backup"),
        "{words}"
    );
    assert!(!file.exists());
}
