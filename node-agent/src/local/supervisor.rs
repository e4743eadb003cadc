//! Keeps one member process running: starts it, starts it again when it dies, stops it when told to.
//!
//! A member is a process of its own group, so that a terminal's ctrl-C reaches `local` alone, which then stops the
//! members in order. The other end of a member's standard input is held here: when `local` dies, however it dies, its
//! members end too.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::Context;
use command_fds::{CommandFdExt, FdMapping};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// What has to be in place before each start: a member's folder may have been deleted meanwhile.
pub(crate) type Prepare = Box<dyn Fn() -> anyhow::Result<()> + Send + Sync>;

/// What to run.
pub(crate) struct Program {
    /// The member's name.
    pub name: String,
    /// The program's file.
    pub file: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// Where its standard output and error go.
    pub log: PathBuf,
    /// The client socket that it inherits.
    pub socket: OwnedFd,
    /// Called before each start.
    pub prepare: Prepare,
}

/// What happened to a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// It runs.
    Started {
        /// The member's name.
        name: String,
        /// Its process.
        pid: u32,
    },
    /// It died or could not be started, and is started again after a pause.
    Died {
        /// The member's name.
        name: String,
        /// How.
        how: String,
        /// The pause.
        restart_after: Duration,
    },
    /// It was stopped, as ordered.
    Stopped {
        /// The member's name.
        name: String,
    },
}

/// What a member is to do. Orders only ever get stricter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Order {
    /// Run.
    Run,
    /// End in order: it gets [`STOP_TIMEOUT`].
    Stop,
    /// End at once.
    Kill,
}

/// A member process under supervision. Dropping this kills it.
#[derive(Debug)]
pub(crate) struct Supervised {
    orders: watch::Sender<Order>,
    task: JoinSet<()>,
}

impl Supervised {
    /// Starts the program, and keeps it running.
    pub(crate) fn start(program: Program, events: mpsc::UnboundedSender<Event>) -> Self {
        let (orders, receiver) = watch::channel(Order::Run);
        let mut task = JoinSet::new();
        task.spawn(supervise(program, receiver, events));
        Self { orders, task }
    }

    /// Where orders go.
    pub(crate) fn orders(&self) -> watch::Sender<Order> {
        self.orders.clone()
    }

    /// Stops the member; its process is gone when this returns.
    pub(crate) async fn stop(mut self) {
        self.orders
            .send_modify(|order| *order = (*order).max(Order::Stop));
        self.task.join_next().await;
    }
}

async fn supervise(
    program: Program,
    mut orders: watch::Receiver<Order>,
    events: mpsc::UnboundedSender<Event>,
) {
    let name = || program.name.clone();
    // Nobody listens any more once `local` ends; the member still has to be stopped.
    let tell = |event| drop(events.send(event));
    let mut backoff = Backoff::default();
    loop {
        let began = Instant::now();
        let how = match spawn(&program) {
            Ok(mut child) => {
                // `Child::wait` would close it.
                let stdin = child.stdin.take();
                tell(Event::Started {
                    name: name(),
                    pid: child.id().unwrap_or_default(),
                });
                let ended = tokio::select! {
                    status = child.wait() => Some(status),
                    () = ordered(&mut orders, Order::Stop) => None,
                };
                let Some(status) = ended else {
                    stop(&mut child, &mut orders).await;
                    drop(stdin);
                    tell(Event::Stopped { name: name() });
                    return;
                };
                describe(status, &program.log)
            }
            Err(error) => format!("could not be started: {error:#}"),
        };
        let restart_after = backoff.after_life_of(began.elapsed());
        tell(Event::Died {
            name: name(),
            how,
            restart_after,
        });
        tokio::select! {
            () = tokio::time::sleep(restart_after) => {}
            () = ordered(&mut orders, Order::Stop) => {
                tell(Event::Stopped { name: name() });
                return;
            }
        }
    }
}

/// Resolves when the order is at least this one, or nobody can give orders any more.
pub(crate) async fn ordered(orders: &mut watch::Receiver<Order>, least: Order) {
    orders.wait_for(|order| *order >= least).await.ok();
}

fn spawn(program: &Program) -> anyhow::Result<Child> {
    (program.prepare)()?;
    let opening = || format!("opening {}", program.log.display());
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&program.log)
        .with_context(opening)?;
    let mut command = std::process::Command::new(&program.file);
    command
        .args(&program.arguments)
        // sd_listen_fds(3). Without LISTEN_PID, which nobody knows before the fork, the member takes it to be itself.
        .env("LISTEN_FDS", "1")
        .env_remove("LISTEN_PID")
        .env_remove("LISTEN_FDS_FIRST_FD")
        .stdin(Stdio::piped())
        .stdout(log.try_clone().with_context(opening)?)
        .stderr(log)
        .process_group(0)
        .fd_mappings(vec![FdMapping {
            parent_fd: program.socket.try_clone().context("copying the client socket")?,
            child_fd: FIRST_PASSED_FD,
        }])?;
    Command::from(command)
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("running {}", program.file.display()))
}

/// SIGTERM, then SIGKILL after a while or when it is ordered.
async fn stop(child: &mut Child, orders: &mut watch::Receiver<Order>) {
    // The child is not reaped yet, so its id is still its own.
    let pid = child
        .id()
        .and_then(|id| i32::try_from(id).ok())
        .and_then(Pid::from_raw);
    if let Some(pid) = pid {
        // It may have ended by itself this moment; `wait` finds out.
        kill_process(pid, Signal::TERM).ok();
        // A stopped (SIGSTOP) process handles no signal before it goes on.
        kill_process(pid, Signal::CONT).ok();
    }
    tokio::select! {
        _ = child.wait() => return,
        () = ordered(orders, Order::Kill) => {}
        () = tokio::time::sleep(STOP_TIMEOUT) => {}
    }
    child.kill().await.ok();
}

/// How a process ended, with its last words when they are for people.
fn describe(status: std::io::Result<ExitStatus>, log: &Path) -> String {
    let status = match status {
        Ok(status) => status.to_string(),
        Err(error) => error.to_string(),
    };
    match last_words(log) {
        Some(words) => format!("ended ({status}): {words}"),
        None => format!("ended ({status}); its log is {}", log.display()),
    }
}

/// The last line of the log, unless it is a log record.
fn last_words(log: &Path) -> Option<String> {
    use std::io::{Read, Seek, SeekFrom};
    let mut file = std::fs::File::open(log).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LAST_WORDS_BYTES_MAX)))
        .ok()?;
    let mut bytes = Vec::new();
    file.take(LAST_WORDS_BYTES_MAX).read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let line = text.lines().next_back()?.trim();
    (!line.is_empty() && !line.starts_with('{')).then(|| line.escape_debug().to_string())
}

/// The pause before a dead member is started again.
#[derive(Debug, Default)]
struct Backoff {
    /// Deaths in a row, each soon after its start.
    quick_deaths: u32,
}

impl Backoff {
    fn after_life_of(&mut self, life: Duration) -> Duration {
        if life >= QUICK_DEATH {
            self.quick_deaths = 0;
        }
        let pause = RESTART_PAUSE * 2_u32.saturating_pow(self.quick_deaths);
        self.quick_deaths = self.quick_deaths.saturating_add(1).min(u32::BITS - 1);
        pause.min(RESTART_PAUSE_MAX)
    }
}

/// `SD_LISTEN_FDS_START` of sd_listen_fds(3).
const FIRST_PASSED_FD: i32 = 3;

/// Long enough that a member which dies at once does not keep the machine busy; it doubles with each quick death.
const RESTART_PAUSE: Duration = Duration::from_millis(500);

/// A member that cannot run is tried often enough that a cause which goes away is noticed soon.
const RESTART_PAUSE_MAX: Duration = Duration::from_secs(8);

/// A member that lived longer had started properly.
const QUICK_DEATH: Duration = Duration::from_secs(5);

/// Handing leadership over, draining transfers (5 s) and a last sync.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// Two long lines.
const LAST_WORDS_BYTES_MAX: u64 = 600;

#[cfg(test)]
mod tests;
