//! Waiting for the state of an object, without asking again and again: kubectl watches it.

use std::io::BufReader;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::process::Signal;
use serde_json::Value;

use crate::clock::now;
use crate::process::signal;

/// Reads what `command` (a `kubectl get --watch --output-watch-events -o json`) prints, until `probe` finds what it looks
/// for in an event: the object, or nothing when it was deleted. The probe's last error is part of this function's.
pub(super) fn watch<T>(
    what: &str,
    within: Duration,
    mut command: impl FnMut() -> Command,
    mut probe: impl FnMut(Option<&Value>) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let started = now();
    let mut seen = "nothing was seen".to_owned();
    // The API server ends a watch from time to time, and at once when it is not ready.
    while let Some(left) = within.checked_sub(started.elapsed()) {
        let mut child = command()
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("starting kubectl")?;
        let output = child.stdout.take().context("kubectl has no output")?;
        let watching = Watching::start(child, left);
        let events = serde_json::Deserializer::from_reader(BufReader::new(output)).into_iter::<Value>();
        for event in events.map_while(Result::ok) {
            let object = Some(&event["object"]).filter(|_| event["type"] != "DELETED");
            match probe(object) {
                Ok(found) => return Ok(found),
                Err(error) => seen = format!("{error:#}"),
            }
        }
        drop(watching);
    }
    bail!("{what}: not so after {:.1} s: {seen}", within.as_secs_f64());
}

/// A running kubectl that is killed when its time is over or nobody listens any more.
struct Watching {
    child: Child,
    done: Option<Sender<()>>,
    timer: Option<thread::JoinHandle<()>>,
}

impl Watching {
    fn start(child: Child, within: Duration) -> Self {
        let (done, end) = mpsc::channel::<()>();
        let pid = child.id();
        let timer = thread::spawn(move || {
            if end.recv_timeout(within) == Err(RecvTimeoutError::Timeout) {
                // It is ours and not waited for yet, so the id is still its own.
                signal(pid, Signal::KILL).ok();
            }
        });
        Self {
            child,
            done: Some(done),
            timer: Some(timer),
        }
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        drop(self.done.take());
        if let Some(timer) = self.timer.take() {
            timer.join().ok();
        }
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
