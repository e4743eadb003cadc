//! How much space a member's disk has left.

#[cfg(not(simulation))]
use std::path::Path;
#[cfg(not(simulation))]
use std::sync::Arc;

/// A member's disk.
#[derive(Clone)]
pub(crate) struct Space {
    #[cfg(not(simulation))]
    path: Arc<Path>,
    #[cfg(simulation)]
    disk: wal::simulation::Disk,
}

#[cfg(not(simulation))]
impl Space {
    /// That of a directory.
    pub(crate) fn new(path: &Path) -> Self {
        Self { path: path.into() }
    }

    /// What unprivileged programs may still write; the maximum where that cannot be told.
    pub(crate) fn free_bytes(&self) -> u64 {
        rustix::fs::statvfs(&*self.path)
            .map(|stat| stat.f_bavail.saturating_mul(stat.f_frsize))
            .unwrap_or(u64::MAX)
    }
}

#[cfg(simulation)]
impl Space {
    pub(crate) fn new(disk: &wal::simulation::Disk) -> Self {
        Self { disk: disk.clone() }
    }

    pub(crate) fn free_bytes(&self) -> u64 {
        if self.disk.is_full() { 0 } else { u64::MAX }
    }
}
