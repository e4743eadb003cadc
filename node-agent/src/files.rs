//! `quorate-agent files`: puts files into a group, and takes them out.
//!
//! Requests go to the leader and are repeated while there is none. Repeating is safe: a put replaces the file as a
//! whole, a get goes on where it stopped as long as the file is still the same.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, bail, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use operator_api::admin::FileInfo;
use operator_api::config::ServiceKind;
use tokio_util::io::ReaderStream;

use crate::client::leader::Leader;
use crate::client::{AdminClient, ClientError};
use crate::table;
use crate::target::Target;

/// What `quorate-agent files` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    target: Target,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Clone, clap::Subcommand)]
enum Command {
    /// Store a file.
    Put {
        /// The file to read.
        file: PathBuf,
        /// The name that clients ask for; by default the file's own.
        name: Option<String>,
    },
    /// Read a file.
    Get {
        /// Its name.
        name: String,
        /// Where to write it; by default to standard output.
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// List all files.
    Ls {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Remove a file.
    Rm {
        /// Its name.
        name: String,
    },
    /// Store every file below a directory, under its path from there.
    Import {
        /// The directory.
        #[arg(value_name = "DIR")]
        root: PathBuf,
    },
}

/// Carries the command out on the leader.
pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let leader = args.target.leader(ServiceKind::Tftp)?;
    let mut out = std::io::stdout();
    match args.command {
        Command::Put { file, name } => {
            let name = name.map_or_else(|| own_name(&file), Ok)?;
            let info = put(&leader, &file, &name).await?;
            writeln!(
                out,
                "{} ({} bytes, version {})",
                info.path, info.size, info.version
            )?;
        }
        Command::Get {
            name,
            output: Some(file),
        } => get_into_file(&leader, &name, &file).await?,
        Command::Get { name, output: None } => get(&leader, &name, Box::new(out)).await?,
        Command::Ls { json } => {
            let files = leader
                .ask(|client, _| async move { client.files().await })
                .await?;
            let text = if json {
                format!("{}\n", serde_json::to_string(&files)?)
            } else {
                render(&files)
            };
            out.write_all(text.as_bytes())?;
        }
        Command::Rm { name } => remove(&leader, &name).await?,
        Command::Import { root } => {
            let imported = import(&leader, &root).await?;
            for path in &imported.skipped {
                writeln!(
                    std::io::stderr(),
                    "skipped {}: not a regular file",
                    path.display()
                )?;
            }
            writeln!(out, "{} files, {} bytes", imported.files, imported.bytes)?;
        }
    }
    Ok(())
}

/// What an import did.
#[derive(Debug, Default)]
pub(crate) struct Imported {
    /// Files stored.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What was left out: symbolic links, devices, sockets.
    pub skipped: Vec<PathBuf>,
}

/// Stores every regular file below `dir`. The first file that cannot be stored ends it.
pub(crate) async fn import(leader: &Leader, dir: &Path) -> anyhow::Result<Imported> {
    let Walk { files, skipped } = walk(dir)?;
    let stored: Vec<FileInfo> = stream::iter(files)
        .map(|(file, name)| async move { put(leader, &file, &name).await })
        .buffer_unordered(IMPORTS_AT_ONCE)
        .try_collect()
        .await?;
    let files = u64::try_from(stored.len()).unwrap_or(u64::MAX);
    Ok(Imported {
        files,
        bytes: stored.iter().map(|info| info.size).sum(),
        skipped,
    })
}

/// Stores one file under a name.
pub(crate) async fn put(leader: &Leader, file: &Path, name: &str) -> anyhow::Result<FileInfo> {
    let reading = || format!("reading {}", file.display());
    let metadata = fs::metadata(file).with_context(reading)?;
    ensure!(
        metadata.is_file(),
        "{} is no regular file; `files import` takes directories",
        file.display()
    );
    let outcome = leader.ask(|client, _| async move {
        let invalid = |error: std::io::Error| ClientError::Invalid(format!("{}: {error}", reading()));
        let source = tokio::fs::File::open(file).await.map_err(invalid)?;
        let length = source.metadata().await.map_err(invalid)?.len();
        client
            .put_file(name, length, ReaderStream::with_capacity(source, PIECE_BYTES))
            .await
    });
    outcome
        .await
        .with_context(|| format!("storing {} as {name}", file.display()))
}

async fn remove(leader: &Leader, name: &str) -> anyhow::Result<()> {
    leader
        .ask(|client, attempt| async move {
            match client.remove_file(name).await {
                // An attempt before this one went unanswered, and did it.
                Err(error) if error.is_not_found() && attempt > 0 => Ok(()),
                outcome => outcome,
            }
        })
        .await
        .with_context(|| format!("removing {name}"))
}

async fn get_into_file(leader: &Leader, name: &str, file: &Path) -> anyhow::Result<()> {
    let writing = || format!("writing {}", file.display());
    // Devices and pipes cannot be replaced, and half a file is no file.
    if fs::metadata(file).is_ok_and(|metadata| !metadata.is_file()) {
        let device = fs::OpenOptions::new()
            .write(true)
            .open(file)
            .with_context(writing)?;
        return get(leader, name, Box::new(device)).await;
    }
    let mut aside = file.as_os_str().to_owned();
    aside.push(format!(".{}.part", std::process::id()));
    let aside = PathBuf::from(aside);
    let target = fs::File::create(&aside).with_context(writing)?;
    let outcome = get(leader, name, Box::new(target)).await;
    if outcome.is_err() {
        fs::remove_file(&aside).ok();
        return outcome;
    }
    fs::rename(&aside, file).with_context(writing)
}

/// A file on its way out.
struct Arriving {
    out: Box<dyn Write + Send>,
    /// Bytes written so far, over all attempts.
    written: u64,
    /// Which content they are of.
    tag: Option<String>,
}

/// Writes a file to `out`. After a broken connection it goes on where it stopped.
async fn get(leader: &Leader, name: &str, out: Box<dyn Write + Send>) -> anyhow::Result<()> {
    let arriving = Arc::new(Mutex::new(Arriving {
        out,
        written: 0,
        tag: None,
    }));
    let outcome = leader.ask(|client, _| {
        let arriving = Arc::clone(&arriving);
        async move { receive(&client, name, &arriving).await }
    });
    outcome.await.with_context(|| format!("reading {name}"))
}

async fn receive(client: &AdminClient, name: &str, arriving: &Mutex<Arriving>) -> Result<(), ClientError> {
    let response = client.get_file(name).await?;
    let tag = response
        .headers()
        .get(reqwest::header::ETAG)
        .and_then(|tag| tag.to_str().ok())
        .map(str::to_owned);
    let mut skip = arriving
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .resume(tag)?;
    let address = client.address();
    let mut pieces = response.bytes_stream();
    while let Some(piece) = pieces.next().await {
        let mut piece = piece.map_err(|source| ClientError::Unreachable {
            address: address.to_owned(),
            source,
        })?;
        let known = skip.min(u64::try_from(piece.len()).unwrap_or(u64::MAX));
        skip -= known;
        let piece = piece.split_off(usize::try_from(known).unwrap_or(piece.len()));
        arriving
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .write(&piece)?;
    }
    arriving
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .out
        .flush()
        .map_err(cannot_write)
}

impl Arriving {
    /// How many bytes of an answer with this tag are written already.
    fn resume(&mut self, tag: Option<String>) -> Result<u64, ClientError> {
        if self.written > 0 && (self.tag.is_none() || self.tag != tag) {
            return Err(ClientError::Invalid(
                "the file changed while it was read: read it again".to_owned(),
            ));
        }
        self.tag = tag;
        Ok(self.written)
    }

    fn write(&mut self, piece: &[u8]) -> Result<(), ClientError> {
        self.out.write_all(piece).map_err(cannot_write)?;
        self.written += u64::try_from(piece.len()).unwrap_or(u64::MAX);
        Ok(())
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the shape that map_err takes")]
fn cannot_write(error: std::io::Error) -> ClientError {
    ClientError::Invalid(format!("the output cannot be written: {error}"))
}

/// What is below a directory.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Walk {
    /// The regular files and their names, sorted.
    pub files: Vec<(PathBuf, String)>,
    /// What is neither a file nor a directory, sorted.
    pub skipped: Vec<PathBuf>,
}

/// Finds all files below a directory. Links are not followed: they could lead anywhere, or in circles.
pub(crate) fn walk(root: &Path) -> anyhow::Result<Walk> {
    let (mut found, mut dirs) = (Walk::default(), vec![root.to_owned()]);
    while let Some(dir) = dirs.pop() {
        let reading = || format!("reading the directory {}", dir.display());
        for entry in fs::read_dir(&dir).with_context(reading)? {
            let entry = entry.with_context(reading)?;
            let (path, kind) = (entry.path(), entry.file_type().with_context(reading)?);
            if kind.is_dir() {
                dirs.push(path);
            } else if kind.is_file() {
                let name = path
                    .strip_prefix(root)
                    .ok()
                    .and_then(Path::to_str)
                    .map(str::to_owned);
                let Some(name) = name else {
                    bail!("{} has a name that is not UTF-8: rename it", path.display());
                };
                found.files.push((path, name));
            } else {
                found.skipped.push(path);
            }
        }
    }
    found.files.sort();
    found.skipped.sort();
    Ok(found)
}

fn own_name(file: &Path) -> anyhow::Result<String> {
    let name = file.file_name().and_then(|name| name.to_str());
    name.map(str::to_owned).with_context(|| {
        format!(
            "{} has no name that can be used: give one as NAME",
            file.display()
        )
    })
}

fn render(files: &[FileInfo]) -> String {
    let row = |file: &FileInfo| {
        let digest: String = file.sha256.chars().take(DIGEST_CHARS).collect();
        [
            file.path.clone(),
            file.size.to_string(),
            file.version.to_string(),
            digest,
        ]
    };
    if files.iter().all(|file| file.source.is_none()) {
        let rows: Vec<_> = files.iter().map(row).collect();
        return table::render(["NAME", "BYTES", "VERSION", "SHA256"], &rows);
    }
    let rows: Vec<_> = files
        .iter()
        .map(|file| {
            let [path, size, version, digest] = row(file);
            [
                path,
                size,
                version,
                digest,
                file.source.clone().unwrap_or_default(),
            ]
        })
        .collect();
    table::render(["NAME", "BYTES", "VERSION", "SHA256", "SOURCE"], &rows)
}

/// Enough to keep the group's commits full, few enough to leave a member's disk to its clients.
const IMPORTS_AT_ONCE: usize = 8;

/// What is read from a file at once.
const PIECE_BYTES: usize = 256 << 10;

/// Of a digest, for people; the JSON has all of it.
const DIGEST_CHARS: usize = 16;

#[cfg(test)]
mod tests;
