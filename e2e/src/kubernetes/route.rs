//! When a member began to lead, and when the API server told it to everybody: seen from outside.

use std::io::BufReader;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use operator_api::Role;
use serde_json::Value;

use super::{PATIENCE, Resource};
use crate::Admin;
use crate::clock::{eventually, now};
use crate::kv::load::lock;

/// Watches the slice that leads to a resource's leader, with one kubectl that stays.
#[derive(Debug)]
pub struct Route {
    seen: Arc<Mutex<Vec<(Instant, String)>>>,
    watch: Child,
    thread: Option<JoinHandle<()>>,
}

impl Route {
    /// Starts, and waits until the slice was seen once.
    pub fn watch(resource: &Resource<'_>) -> anyhow::Result<Self> {
        let field = format!("metadata.name={}", resource.slice());
        let arguments = [
            "get",
            "endpointslice",
            "--watch",
            "-o",
            "json",
            "--field-selector",
            &field,
        ];
        let space = resource.space();
        let mut watch = space
            .cluster()
            .command(&space.here(&arguments))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("watching a slice")?;
        let output = watch.stdout.take().context("kubectl has no output")?;
        let seen = Arc::new(Mutex::new(Vec::new()));
        let all = seen.clone();
        let thread = std::thread::spawn(move || {
            let slices = serde_json::Deserializer::from_reader(BufReader::new(output)).into_iter::<Value>();
            for slice in slices.map_while(Result::ok) {
                let uid = slice["endpoints"][0]["targetRef"]["uid"].as_str();
                lock(&all).push((now(), uid.unwrap_or_default().to_owned()));
            }
        });
        let route = Self {
            seen,
            watch,
            thread: Some(thread),
        };
        eventually("the slice is watched", PATIENCE, || {
            ensure!(!lock(&route.seen).is_empty(), "nothing was seen");
            Ok(())
        })?;
        Ok(route)
    }

    /// When the route first led to another pod than the one with this UID, after `since`.
    #[must_use]
    pub fn moved(&self, since: Instant, uid: &str) -> Option<Instant> {
        let seen = lock(&self.seen);
        seen.iter()
            .find(|(at, to)| *at >= since && to != uid)
            .map(|(at, _)| *at)
    }
}

impl Drop for Route {
    fn drop(&mut self) {
        self.watch.kill().ok();
        self.watch.wait().ok();
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

/// The pause between two looks at a member.
const LOOK_PAUSE: Duration = Duration::from_millis(5);

/// Asks members again and again whether they lead.
#[derive(Debug)]
pub struct Election {
    won: Arc<Mutex<Option<Instant>>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Election {
    /// Starts to ask these admin ports, one thread each.
    #[must_use]
    pub fn watch(members: Vec<String>) -> Self {
        let (won, stop) = (Arc::new(Mutex::new(None)), Arc::new(AtomicBool::new(false)));
        let threads = members.into_iter().map(|member| {
            let (won, stop) = (won.clone(), stop.clone());
            std::thread::spawn(move || {
                let Ok(admin) = Admin::new() else { return };
                while !stop.load(Ordering::Relaxed) {
                    let status = admin.status_at(&member).ok();
                    let leads = status.is_some_and(|status| {
                        status.role == Role::Leader && status.detail.is_some_and(|detail| detail.serving)
                    });
                    if leads {
                        lock(&won).get_or_insert_with(now);
                        return;
                    }
                    std::thread::sleep(LOOK_PAUSE);
                }
            })
        });
        let threads = threads.collect();
        Self { won, stop, threads }
    }

    /// When one of them first led and was heard by a quorum.
    #[must_use]
    pub fn won(&self) -> Option<Instant> {
        *lock(&self.won)
    }
}

impl Drop for Election {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().ok();
        }
    }
}
