//! Watchers on every member see each change once and in order, across the leader's death: those that are cut resume where
//! they were.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use e2e::clock::{PATIENCE, eventually};
use e2e::kv::{Kv, Request};
use e2e::{Group, GroupOptions};
use operator_api::config::ServiceKind;

/// Changes between two deaths.
const CHANGES: usize = 100;

/// The events of one watcher, by revision, in the order in which they came.
#[derive(Default)]
struct Seen {
    events: Mutex<Vec<(u64, String)>>,
    last: AtomicU64,
}

/// Watches at one member, and again whenever the connection ends.
async fn watch(port: u16, seen: Arc<Seen>, is_over: Arc<AtomicBool>) {
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    while !is_over.load(Ordering::SeqCst) {
        let last = seen.last.load(Ordering::SeqCst);
        let request = http
            .get(format!("http://127.0.0.1:{port}/v1/watch/load/"))
            .header("Last-Event-ID", last.to_string());
        let Ok(mut response) = request.send().await else {
            // It is being started again.
            tokio::task::yield_now().await;
            continue;
        };
        assert_ne!(response.status().as_u16(), 410, "events were forgotten");
        let mut text = String::new();
        while let Ok(Some(piece)) = response.chunk().await {
            text += std::str::from_utf8(&piece).unwrap();
            while let Some((event, rest)) = text.split_once("\n\n") {
                take(event, &seen);
                text = rest.to_owned();
            }
        }
    }
}

/// Takes an event in, if it is one.
fn take(event: &str, seen: &Seen) {
    let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name));
    let Some(data) = field("data: ") else {
        return;
    };
    assert_eq!(field("event: "), Some("put"), "{event}");
    let revision: u64 = field("id: ").unwrap().parse().unwrap();
    let json: serde_json::Value = serde_json::from_str(data).unwrap();
    let value = json["value"].as_str().unwrap().to_owned();
    seen.events.lock().unwrap().push((revision, value));
    seen.last.store(revision, Ordering::SeqCst);
}

#[test]
fn watchers_see_each_change_once_and_in_order() {
    let group = Group::start_with(GroupOptions {
        service: ServiceKind::Kv,
        ..GroupOptions::default()
    })
    .unwrap();
    let ports = group.kv_member_ports();
    let kv = Kv::new(ports.clone(), PATIENCE).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let is_over = Arc::new(AtomicBool::new(false));
    let watchers: Vec<Arc<Seen>> = ports.iter().map(|_| Arc::default()).collect();
    for (port, seen) in ports.iter().zip(&watchers) {
        runtime.spawn(watch(*port, seen.clone(), is_over.clone()));
    }
    let mut stored: BTreeMap<u64, String> = BTreeMap::new();
    let mut write = |from: usize| {
        for number in from..from + CHANGES {
            let value = number.to_string();
            let request = Request::set(format!("load/{}", number % 7), &value).blocking();
            // A member that is killed under the request does not answer; the next one is asked, and both may count.
            let answer = (0..3).find_map(|more| {
                let answer = runtime
                    .block_on(kv.ask((number + more) % 3, &request))
                    .answer()
                    .ok();
                answer.filter(|answer| answer.valid)
            });
            stored.insert(answer.unwrap().revision.unwrap(), value);
        }
    };
    write(0);
    for round in 1..=2 {
        group.kill_leader().unwrap();
        write(round * CHANGES);
        group.all_ready().unwrap();
    }
    let newest = *stored.keys().last().unwrap();
    for seen in &watchers {
        eventually("the watcher has seen the last change", PATIENCE, || {
            let last = seen.last.load(Ordering::SeqCst);
            anyhow::ensure!(last >= newest, "{last} of {newest}");
            Ok(())
        })
        .unwrap();
    }
    is_over.store(true, Ordering::SeqCst);
    let first = watchers[0].events.lock().unwrap().clone();
    for seen in &watchers {
        let events = seen.events.lock().unwrap();
        assert!(
            events.windows(2).all(|pair| pair[0].0 < pair[1].0),
            "twice, or out of order"
        );
        assert_eq!(*events, first, "watchers saw different histories");
    }
    let first: BTreeMap<u64, String> = first.into_iter().collect();
    for (revision, value) in &stored {
        assert_eq!(first.get(revision), Some(value), "revision {revision} was lost");
    }
    runtime.shutdown_timeout(Duration::from_secs(1));
}
