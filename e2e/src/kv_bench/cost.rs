//! What processes cost: processor time, memory, and what they write to a disk.

use std::fs;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::Serialize;

use super::latency::{Latencies, Spread};
use crate::clock::now;
use crate::process::{processor_time, resident_bytes};

/// `fdatasync` calls by which the disk is judged.
const SYNCS: u64 = 600;

/// The kernel's unit in `/sys/dev/block/*/stat`, whatever the disk's sectors are.
const SECTOR: u64 = 512;

/// A thousand connections, here and in the servers that inherit it.
pub fn allow_many_files() -> anyhow::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    ensure!(
        limit.maximum.is_none_or(|most| most >= 4096),
        "the limit of open files is below 4096"
    );
    let wanted = Rlimit {
        current: limit.maximum.or(Some(65_536)),
        ..limit
    };
    setrlimit(Resource::Nofile, wanted).context("raising the limit of open files")
}

/// Counters of a group of processes and of the disk that holds their data, since they began.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counters {
    /// Processor time of all of them.
    pub processor: Duration,
    /// What all of them caused to be written, by the kernel's account of each process (`write_bytes` of proc_pid_io(5)):
    /// pages of files, without the file system's journal.
    pub written: u64,
    /// What was written to the device, by whomever, the journal included; 0 where there is no such count.
    pub device: u64,
}

impl Counters {
    /// Reads them now.
    pub fn read(pids: &[u32], data: &Path) -> anyhow::Result<Self> {
        let mut counters = Self {
            device: device_bytes(data).unwrap_or_default(),
            ..Self::default()
        };
        for pid in pids {
            counters.processor += processor_time(*pid)?;
            counters.written += written_bytes(*pid)?;
        }
        Ok(counters)
    }

    /// What came since an earlier reading.
    #[must_use]
    pub fn since(self, before: Self) -> Self {
        Self {
            processor: self.processor.saturating_sub(before.processor),
            written: self.written.saturating_sub(before.written),
            device: self.device.saturating_sub(before.device),
        }
    }
}

fn written_bytes(pid: u32) -> anyhow::Result<u64> {
    let path = format!("/proc/{pid}/io");
    let text = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    let value = text.lines().find_map(|line| line.strip_prefix("write_bytes: "));
    value
        .context("no write_bytes")?
        .parse()
        .context("reading write_bytes")
}

/// Bytes written to the device under a directory; none for a file system without one.
fn device_bytes(data: &Path) -> Option<u64> {
    let device = fs::metadata(data).ok()?.dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let stat = fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat")).ok()?;
    // Field 7 (Documentation/block/stat.rst of Linux).
    let sectors: u64 = stat.split_whitespace().nth(6)?.parse().ok()?;
    Some(sectors * SECTOR)
}

/// The resident memory of the largest of the processes, in MiB.
#[expect(clippy::cast_precision_loss, reason = "MiB for people")]
pub fn largest_resident_mib(pids: &[u32]) -> anyhow::Result<f64> {
    let sizes = pids
        .iter()
        .map(|pid| resident_bytes(*pid))
        .collect::<anyhow::Result<Vec<_>>>()?;
    Ok(sizes.into_iter().max().unwrap_or_default() as f64 / f64::from(1 << 20))
}

/// How long the disk under a directory takes to make 512 bytes of a file durable whose space is allocated already.
pub fn sync_latency(directory: &Path) -> anyhow::Result<Spread> {
    let path = directory.join("sync-latency");
    let file = fs::File::create(&path).context("creating a file to sync")?;
    file.write_all_at(&vec![0; usize::try_from(SYNCS * SECTOR)?], 0)
        .and_then(|()| file.sync_all())
        .context("preparing a file to sync")?;
    let mut latencies = Latencies::default();
    for round in 0..SYNCS {
        let started = now();
        file.write_all_at(&[1; 512], round * SECTOR)
            .and_then(|()| file.sync_data())
            .context("syncing a file")?;
        latencies.add(started.elapsed());
    }
    fs::remove_file(&path).context("removing the file that was synced")?;
    Ok(latencies.spread())
}

/// What a machine is, in general terms.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Machine {
    /// Processors that can be used.
    pub processors: usize,
    /// What the kernel calls them.
    pub model: String,
    /// Runnable tasks, on average over a minute, before the benchmark began: other work.
    pub load_before: String,
    /// `fdatasync` of 512 bytes, in milliseconds.
    pub sync: Spread,
}

impl Machine {
    /// Looks at this one; `directory` is where the data will be.
    pub fn look(directory: &Path) -> anyhow::Result<Self> {
        let text = fs::read_to_string("/proc/cpuinfo").context("reading /proc/cpuinfo")?;
        let model = text.lines().find_map(|line| line.strip_prefix("model name"));
        let model = model.unwrap_or("unknown").trim_start_matches(['\t', ' ', ':']);
        Ok(Self {
            processors: std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
            model: model.to_owned(),
            load_before: load_average()?,
            sync: sync_latency(directory)?,
        })
    }
}

/// Runnable tasks, on average over the last minute.
pub fn load_average() -> anyhow::Result<String> {
    let text = fs::read_to_string("/proc/loadavg").context("reading /proc/loadavg")?;
    Ok(text.split(' ').next().unwrap_or_default().to_owned())
}

/// The size of a program, in MB (10^6 bytes).
#[expect(clippy::cast_precision_loss, reason = "MB for people")]
pub fn program_mb(path: &PathBuf) -> anyhow::Result<f64> {
    let bytes = fs::metadata(path)
        .with_context(|| format!("looking at {}", path.display()))?
        .len();
    Ok(bytes as f64 / 1e6)
}
