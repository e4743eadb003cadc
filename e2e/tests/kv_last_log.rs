//! Twenty callers extract the growing log of one server on three members while the leader is killed twice: every record is
//! accepted exactly once. By the server-side operation, and by the portable loop over `swap`.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use e2e::clock::{PATIENCE, eventually};
use e2e::kv::request::Ticket;
use e2e::kv::{Kv, Reply};
use e2e::{Group, GroupOptions};
use operator_api::config::ServiceKind;

#[path = "../examples/last_log.rs"]
#[expect(dead_code, reason = "its `main` is for people")]
mod last_log;

const CALLERS: usize = 20;
/// Records between two deaths of the leader.
const RECORDS_BETWEEN: usize = 60;
const SERVER: &str = "web-1";

/// The log, and what each caller was given of it.
#[derive(Default)]
struct Scene {
    log: Mutex<String>,
    records: AtomicUsize,
    is_complete: AtomicBool,
    accepted: Mutex<BTreeMap<String, usize>>,
    accepted_lines: AtomicUsize,
}

impl Scene {
    /// Appends a record; every third one is the same as the one before.
    fn grow(&self) {
        let number = self.records.fetch_add(1, Ordering::SeqCst);
        let record = format!(
            "2026-11-26T13:{:04}Z record\n",
            number - usize::from(number % 3 == 2)
        );
        self.log.lock().unwrap().push_str(&record);
    }

    fn copy(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    fn accept(&self, records: &str) {
        let mut accepted = self.accepted.lock().unwrap();
        for record in records.lines() {
            *accepted.entry(record.to_owned()).or_default() += 1;
            self.accepted_lines.fetch_add(1, Ordering::SeqCst);
        }
    }
}

/// One caller of the server-side operation: the same request again, elsewhere, until there is an answer.
async fn call(kv: Kv, scene: Arc<Scene>, number: usize) {
    let mut member = number;
    let session = loop {
        match kv.open_session(member % 3).await {
            Ok(session) => break session,
            Err(_) => member += 1,
        }
    };
    for seq in 1.. {
        let was_complete = scene.is_complete.load(Ordering::SeqCst);
        let copy = scene.copy();
        let ticket = Ticket {
            session: session.clone(),
            seq,
        };
        let answer = loop {
            match kv.extract(member % 3, SERVER, copy.clone(), Some(&ticket)).await {
                Reply::Answer(answer) if !answer.unknown => break answer,
                _ => member += 1,
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        };
        assert!(!answer.gap, "a gap in a log that only grew");
        scene.accept(&answer.value);
        if was_complete && answer.valid && answer.value.is_empty() {
            return;
        }
    }
}

async fn call_by_swap(members: Vec<String>, scene: Arc<Scene>, number: usize) {
    let mut caller = last_log::Caller::new(members, number).await.unwrap();
    loop {
        let was_complete = scene.is_complete.load(Ordering::SeqCst);
        let (own, gap) = caller.get_last_log(SERVER, &scene.copy()).await.unwrap();
        assert!(!gap, "a gap in a log that only grew");
        scene.accept(&own);
        if was_complete && own.is_empty() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

fn each_record_is_accepted_once(by_swap: bool) {
    let group = Group::start_with(GroupOptions {
        service: ServiceKind::Kv,
        ..GroupOptions::default()
    })
    .unwrap();
    let ports = group.kv_member_ports();
    let kv = Kv::new(ports.clone(), PATIENCE).unwrap();
    let members: Vec<String> = ports
        .iter()
        .map(|port| format!("http://127.0.0.1:{port}"))
        .collect();
    let scene = Arc::new(Scene::default());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let callers: Vec<_> = (0..CALLERS)
        .map(|number| {
            let scene = scene.clone();
            if by_swap {
                runtime.spawn(call_by_swap(members.clone(), scene, number))
            } else {
                runtime.spawn(call(kv.clone(), scene, number))
            }
        })
        .collect();
    // The next record comes when the one before was accepted.
    let grow = |records: usize| {
        for _ in 0..records {
            scene.grow();
            eventually("a record is accepted", PATIENCE, || {
                let (accepted, all) = (
                    scene.accepted_lines.load(Ordering::SeqCst),
                    scene.records.load(Ordering::SeqCst),
                );
                anyhow::ensure!(accepted + 2 > all, "{accepted} of {all}");
                Ok(())
            })
            .unwrap();
        }
    };
    grow(RECORDS_BETWEEN);
    for _ in 0..2 {
        // Records come while nobody leads.
        for _ in 0..10 {
            scene.grow();
        }
        group.kill_leader().unwrap();
        grow(RECORDS_BETWEEN);
        group.all_ready().unwrap();
    }
    scene.is_complete.store(true, Ordering::SeqCst);
    runtime.block_on(async {
        for caller in callers {
            caller.await.unwrap();
        }
    });
    let mut wanted: BTreeMap<String, usize> = BTreeMap::new();
    for record in scene.copy().lines() {
        *wanted.entry(record.to_owned()).or_default() += 1;
    }
    assert_eq!(scene.records.load(Ordering::SeqCst), 3 * RECORDS_BETWEEN + 20);
    assert_eq!(*scene.accepted.lock().unwrap(), wanted);
}

#[test]
fn twenty_callers_extract_each_record_once() {
    each_record_is_accepted_once(false);
}

#[test]
fn twenty_callers_swap_for_each_record_once() {
    each_record_is_accepted_once(true);
}
