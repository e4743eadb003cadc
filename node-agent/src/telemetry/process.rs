//! What the kernel says about this process, under the names that Prometheus' own client libraries use.

use std::fs;
use std::time::{Duration, SystemTime};

use prometheus::{Counter, Gauge, IntGauge, Registry};
use rustix::process::Resource;
use rustix::time::ClockId;

use super::{register, signed};

/// Memory, file descriptors, threads and processor time of this process.
#[derive(Debug)]
pub(super) struct ProcessMetrics {
    cpu: Counter,
    resident: IntGauge,
    threads: IntGauge,
    open_fds: IntGauge,
}

impl ProcessMetrics {
    /// Registers them.
    pub(super) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let gauge = |name: &str, help: &str| register(registry, IntGauge::new(name, help)?);
        let start = register(
            registry,
            Gauge::new(
                "process_start_time_seconds",
                "When the process started, in Unix time.",
            )?,
        )?;
        #[expect(
            clippy::disallowed_methods,
            reason = "a wall-clock time for people, taken once"
        )]
        let now = SystemTime::now();
        start.set(
            now.duration_since(SystemTime::UNIX_EPOCH)
                .unwrap_or_default()
                .as_secs_f64(),
        );
        let max_fds = gauge("process_max_fds", "File descriptors the process may have open.")?;
        max_fds.set(
            rustix::process::getrlimit(Resource::Nofile)
                .current
                .map_or(-1, signed),
        );
        Ok(Self {
            cpu: register(
                registry,
                Counter::new(
                    "process_cpu_seconds_total",
                    "Processor time used, user and system.",
                )?,
            )?,
            resident: gauge("process_resident_memory_bytes", "Resident memory.")?,
            threads: gauge("process_threads", "Threads.")?,
            open_fds: gauge("process_open_fds", "Open file descriptors.")?,
        })
    }

    /// Reads the present values. What cannot be read keeps its last value: a scrape must not fail for it.
    pub(super) fn refresh(&self) {
        let used = rustix::time::clock_gettime(ClockId::ProcessCPUTime);
        if let Ok(used) = Duration::try_from(used) {
            self.cpu.inc_by((used.as_secs_f64() - self.cpu.get()).max(0.0));
        }
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        if let Some(kib) = field(&status, "VmRSS:") {
            self.resident.set(signed(kib.saturating_mul(1024)));
        }
        if let Some(threads) = field(&status, "Threads:") {
            self.threads.set(signed(threads));
        }
        if let Ok(entries) = fs::read_dir("/proc/self/fd") {
            self.open_fds.set(signed(super::count(entries)));
        }
    }
}

/// A number of `/proc/self/status` (proc_pid_status(5)): `VmRSS:     1234 kB`.
fn field(status: &str, name: &str) -> Option<u64> {
    status
        .lines()
        .find_map(|line| line.strip_prefix(name))?
        .split_whitespace()
        .next()?
        .parse()
        .ok()
}
