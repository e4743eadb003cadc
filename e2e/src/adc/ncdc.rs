//! ncdc in a terminal that nobody sees (tmux).

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail, ensure};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::clock::{PATIENCE, eventually};
use crate::ports::free_run;
use crate::process::{runs_on, signal};
use crate::program::stock;

/// A running ncdc. Dropping it stops it, and the terminal with it.
#[derive(Debug)]
pub struct Ncdc {
    nick: String,
    home: TempDir,
    processes: Vec<u32>,
}

impl Ncdc {
    /// Starts ncdc with a home of its own, not connected to any hub. It shares what is in [`Self::shared`].
    ///
    /// An active client listens on a free port of loopback; a passive one lets others know by its features.
    pub fn start(nick: &str, active: bool) -> anyhow::Result<Self> {
        Self::start_at(nick, active, Ipv4Addr::LOCALHOST)
    }

    /// The same at another address of this machine.
    pub fn start_at(nick: &str, active: bool, address: Ipv4Addr) -> anyhow::Result<Self> {
        let address = address.to_string();
        let home = tempfile::Builder::new()
            .prefix("quorate-ncdc-")
            .tempdir()
            .context("making a directory")?;
        for dir in ["share", "got"] {
            fs::create_dir(home.path().join(dir)).context("making a directory")?;
        }
        let mut ncdc = Self {
            nick: nick.to_owned(),
            home,
            processes: Vec::new(),
        };
        ncdc.launch()?;
        ncdc.see("Welcome to ncdc")?;
        let port = free_run(1)?;
        ncdc.set("nick", nick)?;
        ncdc.set("log_debug", "true")?;
        ncdc.set("download_dir", &ncdc.got("").display().to_string())?;
        ncdc.set("local_address", &address)?;
        ncdc.set("tls_policy", "prefer")?;
        if active {
            ncdc.set("active_ip", &address)?;
            ncdc.set("active_port", &port.to_string())?;
        }
        ncdc.set("active", if active { "true" } else { "false" })?;
        Ok(ncdc)
    }

    /// Its nick.
    #[must_use]
    pub fn nick(&self) -> &str {
        &self.nick
    }

    /// Where the file `name` of its share is. Put it there before [`Self::share`].
    #[must_use]
    pub fn shared(&self, name: &str) -> PathBuf {
        self.home.path().join("share").join(name)
    }

    /// Where it puts the file `name` that it downloads.
    #[must_use]
    pub fn got(&self, name: &str) -> PathBuf {
        self.home.path().join("got").join(name)
    }

    /// Shares its directory under the name `pub`, and waits until it has read these `files`. It is started again for that:
    /// it lets others know of new files only a minute later, but at once of those that it finds at its start.
    pub fn share(&mut self, files: usize) -> anyhow::Result<()> {
        let dir = self.shared("");
        self.enter(&format!("/share pub {}", dir.display()))?;
        eventually("ncdc has read its files", PATIENCE, || {
            let read = self.count("Completed hashing");
            ensure!(read >= files, "it has read {read} files");
            Ok(())
        })?;
        self.enter("/quit")?;
        let (processes, home) = (self.processes.clone(), self.home.path().to_owned());
        eventually("ncdc ends", PATIENCE, || {
            let left: Vec<_> = processes.iter().filter(|pid| runs_on(**pid, &home)).collect();
            ensure!(left.is_empty(), "{left:?} still run");
            Ok(())
        })?;
        self.launch()?;
        self.see("Welcome to ncdc")
    }

    /// Opens a hub.
    pub fn open(&self, url: &str) -> anyhow::Result<()> {
        self.enter(&format!("/open hub {url}"))
    }

    /// Says something to all.
    pub fn say(&self, text: &str) -> anyhow::Result<()> {
        self.in_hub(text)
    }

    /// Says something to one user.
    pub fn tell(&self, nick: &str, text: &str) -> anyhow::Result<()> {
        self.in_hub(&format!("/msg {nick} {text}"))
    }

    /// Searches for a word and waits until the screen shows a hit of that name.
    pub fn search(&self, word: &str, hit: &str) -> anyhow::Result<()> {
        // What is asked once can get lost while the hub moves: people ask again, and so does the test.
        eventually("a search finds", PATIENCE, || {
            self.in_hub(&format!("/search {word}"))?;
            eventually("the hit is shown", PATIENCE / 6, || self.screen_has(hit))
        })
    }

    /// Downloads the hit that is shown first.
    pub fn download_hit(&self) -> anyhow::Result<()> {
        self.key("d")
    }

    /// Fetches a user's file list, and waits until the screen shows the directory of that name.
    pub fn browse(&self, nick: &str, directory: &str) -> anyhow::Result<()> {
        self.in_hub(&format!("/browse -f {nick}"))?;
        // The list gets a tab of its own, behind the one that is shown: `6!/nick`.
        let tab = eventually("ncdc opens the list", PATIENCE, || {
            let screen = self.tmux(&["capture-pane", "-p", "-t", "ncdc"])?;
            let tab = screen
                .split_whitespace()
                .find(|word| word.ends_with(&format!("/{nick}")));
            let digit = tab.and_then(|tab| tab.chars().next());
            digit
                .filter(char::is_ascii_digit)
                .with_context(|| format!("the screen is {screen}"))
        })?;
        self.key(&format!("M-{tab}"))?;
        self.see(directory)
    }

    /// Every ADC line that went out and came in, of hubs and of clients.
    #[must_use]
    pub fn log(&self) -> String {
        read(&self.home.path().join("stderr.log"))
    }

    /// Waits until it has seen this text in an ADC line.
    pub fn hears(&self, text: &str) -> anyhow::Result<()> {
        eventually(&format!("ncdc hears {text:?}"), PATIENCE, || {
            ensure!(self.log().contains(text), "{}", self.state());
            Ok(())
        })
    }

    /// How often its log holds this text.
    #[must_use]
    pub fn count(&self, text: &str) -> usize {
        self.log().matches(text).count()
    }

    /// Types a command in the hub's own tab.
    fn in_hub(&self, text: &str) -> anyhow::Result<()> {
        // The main tab is the first one, the hub's the second.
        self.key("M-2")?;
        self.enter(text)
    }

    fn set(&self, name: &str, value: &str) -> anyhow::Result<()> {
        self.enter(&format!("/set {name} {value}"))
    }

    fn enter(&self, text: &str) -> anyhow::Result<()> {
        self.tmux(&["send-keys", "-t", "ncdc", "-l", "--", text])?;
        self.key("Enter")
    }

    fn key(&self, key: &str) -> anyhow::Result<()> {
        self.tmux(&["send-keys", "-t", "ncdc", key])?;
        Ok(())
    }

    fn see(&self, text: &str) -> anyhow::Result<()> {
        eventually(&format!("ncdc shows {text:?}"), PATIENCE, || {
            self.screen_has(text)
        })
    }

    fn screen_has(&self, text: &str) -> anyhow::Result<()> {
        let screen = self.tmux(&["capture-pane", "-p", "-t", "ncdc"])?;
        ensure!(screen.contains(text), "the screen is {screen}");
        Ok(())
    }

    /// What it shows, and the end of its log: for a failure's message.
    fn state(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let end = lines[lines.len().saturating_sub(20)..].join("\n");
        let screen = self.tmux(&["capture-pane", "-p", "-t", "ncdc"]);
        format!(
            "the screen is {}\nthe log ends with {end}",
            screen.unwrap_or_default()
        )
    }

    fn launch(&mut self) -> anyhow::Result<()> {
        let ncdc = stock("ncdc", "ncdc")?;
        let home = self.home.path().to_owned();
        let line = format!("exec {} -n -c {}", ncdc.display(), home.display());
        self.tmux(&["new-session", "-d", "-s", "ncdc", "-x", "180", "-y", "50", &line])?;
        let pids = self.tmux(&["list-panes", "-t", "ncdc", "-F", "#{pane_pid} #{pid}"])?;
        self.processes = pids
            .split_whitespace()
            .map(|pid| pid.parse().context("reading a process id"))
            .collect::<anyhow::Result<_>>()?;
        ensure!(self.processes.len() == 2, "tmux says {pids}");
        Ok(())
    }

    /// Runs one command of the terminal's own tmux server.
    fn tmux(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let mut tmux = Command::new(stock("tmux", "tmux")?);
        let output = tmux
            .arg("-S")
            .arg(self.home.path().join("tmux"))
            .args(["-f", "/dev/null"])
            .args(arguments)
            // Both are C programs that draw boxes: without this they would draw question marks.
            .env("LC_ALL", "C.UTF-8")
            .env("TERM", "xterm-256color")
            .env("HOME", self.home.path())
            .output()
            .context("running tmux")?;
        if !output.status.success() {
            let words = String::from_utf8_lossy(&output.stderr);
            bail!("tmux {arguments:?} ended with {}: {words}", output.status);
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

impl Drop for Ncdc {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- ncdc {}: {}", self.nick, self.state());
        }
        for pid in &self.processes {
            // Each command line names the home: an id that was used again is another's.
            if runs_on(*pid, self.home.path()) {
                signal(*pid, Signal::KILL).ok();
            }
        }
    }
}

fn read(path: &Path) -> String {
    fs::read(path).map_or_else(
        |_| String::new(),
        |bytes| String::from_utf8_lossy(&bytes).into_owned(),
    )
}
