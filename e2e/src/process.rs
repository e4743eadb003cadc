//! Processes that end with their owner, and signals to processes we did not start ourselves.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::clock::eventually;

/// A child whose output goes to a file, and which is killed when it is dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    output: PathBuf,
}

impl Process {
    /// Starts `command`; standard output and standard error go to the file `output`.
    pub fn start(name: &str, mut command: Command, output: PathBuf) -> anyhow::Result<Self> {
        let file = File::create(&output).with_context(|| format!("creating {}", output.display()))?;
        let also = file.try_clone().context("sharing the output file")?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(also)
            .spawn()
            .with_context(|| format!("starting {name}"))?;
        Ok(Self {
            name: name.to_owned(),
            child,
            output,
        })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it still runs. Unlike [`Self::ended`] it does not reap it.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        // The state follows the program's name in parentheses (proc_pid_stat(5)); Z is a process that has ended.
        fs::read_to_string(format!("/proc/{}/stat", self.pid())).is_ok_and(|stat| {
            stat.rsplit_once(") ")
                .is_some_and(|(_, rest)| !rest.starts_with('Z'))
        })
    }

    /// Its exit status once it has ended.
    pub fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        self.child
            .try_wait()
            .with_context(|| format!("waiting for {}", self.name))
    }

    /// Waits until it ends, whatever its exit status is.
    pub fn wait(&mut self, within: Duration) -> anyhow::Result<ExitStatus> {
        let name = self.name.clone();
        eventually(&format!("{name} ends"), within, || match self.ended()? {
            Some(status) => Ok(status),
            None => bail!("it is still running"),
        })
    }

    /// Waits until it ends well; a failure carries its output.
    pub fn succeed(&mut self, within: Duration) -> anyhow::Result<()> {
        let status = self.wait(within).with_context(|| self.output())?;
        if !status.success() {
            bail!("{} ended with {status}: {}", self.name, self.output());
        }
        Ok(())
    }

    /// Waits as long as it takes until it ends well, without the pauses between two looks that a benchmark would see.
    pub fn finish(&mut self) -> anyhow::Result<()> {
        let waiting = || format!("waiting for {}", self.name);
        let status = self.child.wait().with_context(waiting)?;
        ensure!(
            status.success(),
            "{} ended with {status}: {}",
            self.name,
            self.output()
        );
        Ok(())
    }

    /// Sends it a signal.
    pub fn signal(&self, with: Signal) -> anyhow::Result<()> {
        signal(self.pid(), with)
    }

    /// What it printed so far.
    #[must_use]
    pub fn output(&self) -> String {
        fs::read(&self.output).map_or_else(
            |_| String::new(),
            |bytes| String::from_utf8_lossy(&bytes).into_owned(),
        )
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Fails only when it has ended already.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Sends a signal to a process.
pub fn signal(pid: u32, with: Signal) -> anyhow::Result<()> {
    let id = i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .with_context(|| format!("{pid} is no process id"))?;
    kill_process(id, with).with_context(|| format!("sending {with:?} to process {pid}"))
}

/// Whether the process exists and its command line names `path` (process ids are used again: look before you kill).
#[must_use]
pub fn runs_on(pid: u32, path: &Path) -> bool {
    fs::read(format!("/proc/{pid}/cmdline"))
        .is_ok_and(|line| String::from_utf8_lossy(&line).contains(&*path.to_string_lossy()))
}

/// Every process whose command line names `path`.
#[must_use]
pub fn all_running_on(path: &Path) -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| *pid != std::process::id() && runs_on(*pid, path))
        .collect()
}

/// Resident memory of a process, in bytes.
pub fn resident_bytes(pid: u32) -> anyhow::Result<u64> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .context("the process has no memory left")?;
    let kib: u64 = line
        .trim()
        .trim_end_matches(" kB")
        .trim()
        .parse()
        .context("reading VmRSS")?;
    Ok(kib * 1024)
}

/// USER_HZ: what Linux counts processor time in for user space, on every processor it runs on today.
const TICKS_PER_SECOND: u32 = 100;

/// The processor time that a process has used so far, in user mode and in the kernel.
pub fn processor_time(pid: u32) -> anyhow::Result<Duration> {
    let path = format!("/proc/{pid}/stat");
    let text = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    // Fields 14 and 15, in ticks (proc_pid_stat(5)); the first field after the name in parentheses is number 3.
    let (_, fields) = text.rsplit_once(") ").context("no process name")?;
    let ticks: u64 = fields
        .split(' ')
        .skip(11)
        .take(2)
        .map(|field| field.parse::<u64>().context("reading processor time"))
        .sum::<anyhow::Result<u64>>()?;
    Ok(Duration::from_secs(ticks) / TICKS_PER_SECOND)
}
