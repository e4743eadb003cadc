//! Disks of a test's own, mounted on members' directories: small ones that can be filled, and ones that fail when told to.
//! Mounting needs root.

use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

use crate::data::MIB;

/// Room for two segments of the log beside each other, spare ones, and the files of the tests.
const SMALL: &str = "size=64m";
/// `EXT4_IOC_SHUTDOWN` with `EXT4_GOING_FLAGS_NOLOGFLUSH`: every later write and sync fails with EIO.
const SHUTDOWN: &str =
    "open(F, '<', $ARGV[0]) or die; my $flags = pack('L', 2); ioctl(F, 0x8004587d, $flags) or die $!";

/// A file system mounted on a directory until this is dropped.
#[derive(Debug)]
pub struct Disk(PathBuf);

impl Disk {
    /// A small file system in memory.
    pub fn small(dir: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
        run("mount", &["-t", "tmpfs", "-o", SMALL, "quorate-e2e", text(dir)?])
            .context("this test needs a small file system and the right to mount it: run it as root")?;
        Ok(Self(dir.to_owned()))
    }

    /// A file system in a file, which can be made to fail.
    pub fn that_can_fail(image: &Path, dir: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(dir).context("creating the directory to mount on")?;
        File::create(image)?.set_len(128 * MIB as u64)?;
        run("mkfs.ext4", &["-q", "-F", text(image)?])?;
        run("mount", &["-o", "loop", text(image)?, text(dir)?])
            .context("this test needs a loop device and the right to mount it: run it as root")?;
        Ok(Self(dir.to_owned()))
    }

    /// Whether it is mounted on this member's directory.
    #[must_use]
    pub fn is_of(&self, member: &str) -> bool {
        self.0.ends_with(member)
    }

    /// Lets every later write and sync fail.
    pub fn fail(&self) -> anyhow::Result<()> {
        run("perl", &["-e", SHUTDOWN, text(&self.0)?])
    }

    /// Takes all the space that is left.
    pub fn fill(&self) -> anyhow::Result<()> {
        let mut balloon = File::create(self.balloon()).context("creating the file that fills the disk")?;
        for piece in [vec![1; MIB], vec![1; 512]] {
            loop {
                match balloon.write_all(&piece) {
                    Ok(()) => {}
                    Err(error) if error.kind() == ErrorKind::StorageFull => break,
                    Err(error) => return Err(error).context("filling the disk"),
                }
            }
        }
        Ok(())
    }

    /// Gives it back.
    pub fn free(&self) -> anyhow::Result<()> {
        fs::remove_file(self.balloon()).context("freeing the disk")
    }

    fn balloon(&self) -> PathBuf {
        self.0.join("balloon")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Ok(dir) = text(&self.0) {
            // Lazily: the members may still be running.
            run("umount", &["--lazy", dir]).ok();
        }
    }
}

fn text(path: &Path) -> anyhow::Result<&str> {
    path.to_str().context("a path that is not UTF-8")
}

fn run(program: &str, arguments: &[&str]) -> anyhow::Result<()> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .with_context(|| format!("running {program}"))?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {arguments:?}: {error}");
    Ok(())
}
