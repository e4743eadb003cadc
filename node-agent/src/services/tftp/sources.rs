//! Files that the group takes by itself: the leader keeps them the same as their sources.
//!
//! Each source is followed on its own. What is to be done is decided from the source and the replicated files alone, so
//! a new leader goes on where the old one was, and finds nothing to do when all is done.

mod directory;
mod http;
mod plan;

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use operator_api::config::FileSource;
use prometheus::{IntGaugeVec, Opts, Registry};
use replication::{Leadership, Replica};
use tftp::files::{Files, PutError, RemoveError};
use tftp::path::FilePath;
use tftp::state::TftpState;
use tokio::task::JoinSet;

use directory::Directory;
use http::Download;
use plan::{Plan, Wanted, plan};

/// The sources of one group.
pub(super) struct Sources {
    sources: Vec<(Source, Keeper)>,
    orphans: Orphans,
    untried: Untried,
}

/// The names of the sources of which this member has not taken yet what was there when it began.
#[derive(Clone)]
pub(super) struct Untried {
    names: Arc<Mutex<BTreeSet<String>>>,
    replica: Replica<TftpState>,
}

impl Untried {
    /// The first source of which the group has no file only because its leader, this member, has not come to it yet. One
    /// that cannot be taken keeps nobody from serving the other files.
    pub(super) fn first_missed(&self) -> Option<String> {
        if !leads(&self.replica.leadership().borrow()) {
            return None;
        }
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let mut untried = names.iter();
        self.replica.local(|state| {
            let is_new = |name: &&String| !state.sourced().any(|(_, _, source)| source == name.as_str());
            untried.find(is_new).cloned()
        })
    }

    fn tried(&self, name: &str) {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.remove(name);
    }
}

enum Source {
    Directory(Directory),
    Http(Box<Download>),
}

impl Sources {
    /// Prepares the sources of a valid configuration.
    pub(super) fn new(
        configured: &[FileSource],
        files: &Files,
        replica: &Replica<TftpState>,
        metrics: &Registry,
    ) -> anyhow::Result<Self> {
        let same = IntGaugeVec::new(
            Opts::new(
                "quorate_tftp_source_same",
                "On the leader, 1 when the group's files are those of the source.",
            ),
            &["source"],
        )?;
        if !configured.is_empty() {
            metrics.register(Box::new(same.clone()))?;
        }
        let keeper = |name: &str| Keeper {
            name: name.to_owned(),
            files: files.clone(),
            replica: replica.clone(),
            same: same.clone(),
            complaint: String::new(),
        };
        let mut sources = Vec::new();
        for configured in configured {
            let source = match configured {
                FileSource::Directory {
                    directory, prefix, ..
                } => Source::Directory(Directory::new(directory, prefix)),
                FileSource::Http {
                    url,
                    sha256,
                    path,
                    bytes_max,
                    ca_file,
                    ..
                } => {
                    let download = Download::new(url, sha256, path, *bytes_max, ca_file.as_deref());
                    let name = configured.name();
                    Source::Http(Box::new(download.with_context(|| format!("source {name}"))?))
                }
            };
            sources.push((source, keeper(configured.name())));
        }
        let names: BTreeSet<_> = configured.iter().map(|source| source.name().to_owned()).collect();
        Ok(Self {
            sources,
            untried: Untried {
                names: Arc::new(Mutex::new(names.clone())),
                replica: replica.clone(),
            },
            orphans: Orphans {
                names,
                files: files.clone(),
                replica: replica.clone(),
            },
        })
    }

    /// Those at which this member has not looked yet, as long as it runs.
    pub(super) fn untried(&self) -> Untried {
        self.untried.clone()
    }

    /// Follows every source while this member leads; never ends by itself.
    pub(super) async fn run(self) -> Infallible {
        let mut followed = JoinSet::new();
        for (source, keeper) in self.sources {
            followed.spawn(follow(source, keeper, self.untried.clone()));
        }
        followed.spawn(self.orphans.remove());
        // Only a panic ends one, and it is in the log; the others go on.
        while followed.join_next().await.is_some() {}
        std::future::pending().await
    }
}

/// Looks at a source again and again while this member leads.
async fn follow(mut source: Source, mut keeper: Keeper, untried: Untried) {
    let mut leadership = keeper.replica.leadership();
    let (mut looks, mut failures) = (0_u32, 0_u32);
    loop {
        if leadership.wait_for(leads).await.is_err() {
            return;
        }
        let looked = tokio::select! {
            looked = look(&mut source, &mut keeper) => looked,
            _ = leadership.wait_for(|leadership| !leads(leadership)) => continue,
        };
        looks = looks.saturating_add(1);
        let has_ended = match &looked {
            Ok(is_same) => *is_same,
            Err(error) => !is_passing(error),
        };
        if has_ended || looks >= FIRST_LOOKS_MAX {
            untried.tried(&keeper.name);
        }
        let pause = match looked {
            Ok(is_same) => {
                failures = 0;
                keeper.report(is_same);
                LOOK_EVERY
            }
            Err(error) => {
                failures = failures.saturating_add(1);
                keeper.report(false);
                keeper.complain(&format!("{error:#}"));
                RETRY_MIN.saturating_mul(1 << failures.min(16)).min(RETRY_MAX)
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = leadership.wait_for(|leadership| !leads(leadership)) => {}
        }
    }
}

/// Whether the group could not take a file just now, as while its first members join.
fn is_passing(error: &anyhow::Error) -> bool {
    let put = error.downcast_ref::<PutError>();
    put.is_some_and(|error| matches!(error, PutError::NoQuorum { .. } | PutError::Propose(_)))
}

fn leads(leadership: &Leadership) -> bool {
    matches!(leadership, Leadership::Leader { .. })
}

/// Brings the group's files closer to the source's; whether they are the same now.
async fn look(source: &mut Source, keeper: &mut Keeper) -> anyhow::Result<bool> {
    let wanted = match source {
        Source::Directory(directory) => directory.look().await?,
        Source::Http(download) => download.wanted(),
    };
    let Plan {
        put,
        remove,
        kept,
        waits,
    } = keeper.plan(&wanted);
    for (path, content) in put {
        let outcome = match source {
            Source::Directory(directory) => {
                let bytes = directory.open(&path).await?;
                keeper
                    .files
                    .put_from(&keeper.name, path.clone(), content, bytes)
                    .await
            }
            Source::Http(download) => {
                let bytes = download.open().await?;
                keeper
                    .files
                    .put_from(&keeper.name, path.clone(), content, bytes)
                    .await
            }
        };
        match outcome {
            Ok(version) => {
                tracing::info!(source = keeper.name, %path, size = version.size, "file taken from its source");
            }
            Err(PutError::OfAnother) => {}
            Err(error) => return Err(anyhow::Error::new(error).context(format!("putting {path}"))),
        }
    }
    for path in remove {
        match keeper.files.remove_from(&keeper.name, path.clone()).await {
            Ok(()) => tracing::info!(source = keeper.name, %path, "file removed with its source"),
            Err(RemoveError::NotFound(_)) => {}
            Err(error) => return Err(anyhow::Error::new(error).context(format!("removing {path}"))),
        }
    }
    match kept.first() {
        Some(first) => keeper.complain(&format!(
            "{} of its files are left out, the first is `{first}`: somebody else put a file of that name; remove it",
            kept.len()
        )),
        None => keeper.complaint.clear(),
    }
    Ok(!waits)
}

/// What one source may do with the group's files.
struct Keeper {
    name: String,
    files: Files,
    replica: Replica<TftpState>,
    same: IntGaugeVec,
    /// What was last complained about in the log; each thing is said once.
    complaint: String,
}

impl Keeper {
    fn plan(&self, wanted: &Wanted) -> Plan {
        self.replica.local(|state| {
            let own = state.sourced().filter(|(_, _, source)| *source == self.name);
            let own = own
                .map(|(path, version, _)| (path.clone(), version.content))
                .collect();
            plan(wanted, &own, |path| {
                state.lookup(path).is_some() && state.origin(path) != Some(&self.name)
            })
        })
    }

    fn report(&self, is_same: bool) {
        self.same.with_label_values(&[&self.name]).set(is_same.into());
    }

    fn complain(&mut self, what: &str) {
        if self.complaint != what {
            what.clone_into(&mut self.complaint);
            tracing::warn!(
                source = self.name,
                reason = what,
                "a source of files is not followed entirely"
            );
        }
    }
}

/// Removes the files of sources that the configuration names no more.
struct Orphans {
    names: BTreeSet<String>,
    files: Files,
    replica: Replica<TftpState>,
}

impl Orphans {
    async fn remove(self) {
        let mut leadership = self.replica.leadership();
        while leadership.wait_for(leads).await.is_ok() {
            for (path, source) in self.find() {
                match self.files.remove_from(&source, path.clone()).await {
                    Ok(()) => tracing::info!(source, %path, "file removed: its source is configured no more"),
                    Err(error) => tracing::warn!(source, %path, %error, "a file whose source is gone stays"),
                }
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    fn find(&self) -> Vec<(FilePath, String)> {
        self.replica.local(|state| {
            let gone = state
                .sourced()
                .filter(|(_, _, source)| !self.names.contains(*source));
            gone.map(|(path, _, source)| (path.clone(), source.to_owned()))
                .collect()
        })
    }
}

/// Looks after which a member is ready although a source of a new group still changes, or is not taken.
const FIRST_LOOKS_MAX: u32 = 10;

/// How often a source is looked at. The kubelet brings a changed ConfigMap within a minute or so.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// The pause after a failed look, which doubles with each further one, and its bound.
const RETRY_MIN: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(300);
