//! One group at a time on a machine.

use std::fs::File;

use anyhow::{Context, bail};
use rustix::fs::{FlockOperation, flock};

/// Waits for the machine's turn; it is given back when the file is closed, also by a crash.
pub(super) fn take_turn() -> anyhow::Result<File> {
    let name = format!("quorate-e2e-{}.lock", rustix::process::getuid().as_raw());
    let path = std::env::temp_dir().join(name);
    let file = File::create(&path).with_context(|| format!("opening {}", path.display()))?;
    loop {
        match flock(&file, FlockOperation::LockExclusive) {
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => bail!("locking {}: {error}", path.display()),
        }
    }
}
