//! Requests in a loop, from a pod: what a rolling change must not disturb.

use anyhow::{Context, ensure};

use super::{ClientPod, PATIENCE};
use crate::clock::eventually;
use crate::process::Process;

/// A command that a pod repeats until it is told to stop. Each failure is kept.
#[derive(Debug)]
pub struct Repeated<'a> {
    pod: &'a ClientPod<'a>,
    name: String,
    process: Process,
    _output: tempfile::TempPath,
}

/// Runs `$2` again and again, with the count in `$n`, until the file `$1` is there; says what failed, and how many did not.
const LOOP: &str = r#"
good=0 n=0
while [ ! -e "$1" ]; do
    n=$((n + 1))
    export n
    if said=$(sh -c "$2" 2>&1); then
        good=$((good + 1))
        # In one step, for whoever reads it.
        echo "$good" >"$1.next" && mv "$1.next" "$1.good"
    else
        echo "request $n failed: $said"
    fi
done
echo "good: $good"
"#;

impl<'a> Repeated<'a> {
    /// Starts to repeat a shell command.
    pub fn start(pod: &'a ClientPod<'a>, name: &str, script: &str) -> anyhow::Result<Self> {
        let flag = format!("/tmp/{name}");
        let command = pod.command(&["sh", "-c", LOOP, "sh", &flag, script]);
        let output = tempfile::NamedTempFile::new().context("making a file for the client's output")?;
        let process = Process::start(name, command, output.path().to_owned())?;
        Ok(Self {
            pod,
            name: name.to_owned(),
            process,
            _output: output.into_temp_path(),
        })
    }

    /// How many were successful so far.
    pub fn good(&self) -> anyhow::Result<u64> {
        let count = self.pod.run(&["cat", &format!("/tmp/{}.good", self.name)])?;
        count.trim().parse().context("reading a count")
    }

    /// Waits until so many more were successful.
    pub fn await_more(&self, more: u64) -> anyhow::Result<()> {
        let before = self.good().unwrap_or(0);
        eventually(&format!("{} goes on", self.name), PATIENCE, || {
            let good = self.good()?;
            ensure!(
                good >= before + more,
                "{good} good requests: {}",
                self.process.output()
            );
            Ok(())
        })
    }

    /// Ends it after its present request; how many were successful, or what failed.
    pub fn finish(mut self) -> anyhow::Result<u64> {
        let good = self.good()?;
        self.pod
            .run(&["sh", "-c", "> \"$1\"", "sh", &format!("/tmp/{}", self.name)])?;
        self.process.succeed(PATIENCE)?;
        let said = self.process.output();
        ensure!(!said.contains("failed"), "{}: {said}", self.name);
        Ok(good)
    }
}
