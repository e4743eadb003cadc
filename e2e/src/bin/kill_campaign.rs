//! The leader is killed again and again under load. No acknowledged change may be lost, no two leaders may serve at
//! once, memory must not grow.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "progress is what this program is for"
)]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use clap::Parser;
use e2e::data::{MIB, random_bytes, sha256};
use e2e::group::pid;
use e2e::process::resident_bytes;
use e2e::serving::{Claims, ServingWatch};
use e2e::{Client, Group};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Kills the leader many times in a row under load.
#[derive(Parser)]
struct Arguments {
    /// How often the leader is killed.
    #[arg(long, default_value_t = 200)]
    kills: u32,
    /// What chance is drawn from. A random one is drawn and printed when none is given.
    #[arg(long)]
    seed: Option<u64>,
}

/// One change that the load asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Put(u64),
    Remove,
}

/// What is known of one name: the last acknowledged change, and the changes asked for since, whose fate is open.
#[derive(Debug, Default)]
struct Known {
    acknowledged: Option<Change>,
    open: Vec<Change>,
}

/// What the load has done so far.
#[derive(Debug, Default)]
struct Load {
    known: Mutex<BTreeMap<String, Known>>,
    puts: AtomicU64,
    refused: AtomicU64,
    downloads: AtomicU64,
    kills: AtomicU64,
    broken: Mutex<Vec<String>>,
    stop: AtomicBool,
}

/// Every so many kills the member loses its disk, and every so many all members die at once.
const EMPTY_DISK_EVERY: u32 = 10;
const ALL_AT_ONCE_EVERY: u32 = 25;

/// The file that is downloaded all the time.
const DOWNLOADED: &str = "campaign/downloaded.bin";
const DOWNLOADED_BYTES: usize = MIB;

/// Names that are written over and over, beside the names that are written once.
const OVERWRITTEN_NAMES: u64 = 8;

/// How long one download may take: curl repeats itself after 72 s.
const DOWNLOAD_WITHIN: Duration = Duration::from_secs(150);

/// What memory may grow by between the first and the last part of the campaign: allocators keep some, the store holds
/// a row for every file.
const GROWTH_BYTES_MAX: u64 = 48 << 20;

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let seed = arguments.seed.unwrap_or_else(rand::random);
    println!("kill campaign: {} kills, seed {seed}", arguments.kills);
    let group = Group::start()?;
    group.put(DOWNLOADED, &random_bytes(seed, DOWNLOADED_BYTES))?;
    let watch = ServingWatch::start((0..3).map(|index| group.admin_port(index)))?;
    let load = Load::default();
    let killed = std::thread::scope(|scope| {
        scope.spawn(|| change_files(&group, &load, seed));
        for client in [
            Client::Curl { block_size: 512 },
            Client::AtftpOptions {
                block_size: 1428,
                window: 8,
            },
        ] {
            let (group, load) = (&group, &load);
            scope.spawn(move || download_again_and_again(group, load, client, seed));
        }
        let killed = kill_leaders(&group, &load, arguments.kills, seed);
        load.stop.store(true, Ordering::Relaxed);
        killed
    });
    // All checks, also when one failed: a campaign takes long, and must not end without saying what it found.
    let ready = group.all_ready().map(drop);
    let kills = load.kills.load(Ordering::Relaxed);
    let checks = [
        killed,
        ready,
        check_files(&group, &load),
        check_claims(&watch.finish(), kills),
    ];
    let failed: Vec<_> = checks.into_iter().filter_map(Result::err).collect();
    for error in &failed {
        eprintln!("FAILED: {error:#}");
    }
    ensure!(failed.is_empty(), "{} checks failed; seed {seed}", failed.len());
    Ok(())
}

fn kill_leaders(group: &Group, load: &Load, kills: u32, seed: u64) -> anyhow::Result<()> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut early = None;
    for kill in 1..=kills {
        group.all_ready().with_context(|| format!("before kill {kill}"))?;
        let broken = load.broken.lock().unwrap_or_else(PoisonError::into_inner).clone();
        ensure!(broken.is_empty(), "before kill {kill}: {}", broken.join("; "));
        // The load decides when: a random number of changes later.
        await_changes(load, rng.random_range(0..4))?;
        let how = if kill % ALL_AT_ONCE_EVERY == 0 {
            group.kill_all_members()?;
            "all members".to_owned()
        } else if kill % EMPTY_DISK_EVERY == 0 {
            let name = group.kill_leader_and_empty_its_disk()?.name;
            format!("{name}, and its disk emptied")
        } else {
            group.kill_leader()?.name
        };
        load.kills.store(kill.into(), Ordering::Relaxed);
        let [puts, refused, downloads] =
            [&load.puts, &load.refused, &load.downloads].map(|count| count.load(Ordering::Relaxed));
        println!("kill {kill}: {how}; {puts} changes, {refused} doubtful, {downloads} downloads");
        // The first tenth is warming up.
        if kill == kills.div_ceil(10) {
            group.all_ready()?;
            early = Some(memory(group)?);
        }
    }
    group.all_ready()?;
    let (early, late) = (early.context("no kill")?, memory(group)?);
    println!(
        "largest member: {} MiB early, {} MiB late",
        early >> 20,
        late >> 20
    );
    ensure!(
        late <= early + GROWTH_BYTES_MAX,
        "memory grew from {} MiB to {} MiB",
        early >> 20,
        late >> 20
    );
    Ok(())
}

fn await_changes(load: &Load, more: u64) -> anyhow::Result<()> {
    let wanted = load.puts.load(Ordering::Relaxed) + more;
    e2e::eventually("the load goes on", e2e::clock::PATIENCE, || {
        let done = load.puts.load(Ordering::Relaxed);
        ensure!(done >= wanted, "{done} changes, waiting for {wanted}");
        Ok(())
    })
}

/// The largest resident memory of the supervisor and its members.
fn memory(group: &Group) -> anyhow::Result<u64> {
    let mut largest = resident_bytes(group.supervisor()?.pid())?;
    for status in group.statuses().iter().flatten() {
        largest = largest.max(resident_bytes(pid(status)?)?);
    }
    Ok(largest)
}

/// Puts and removes files, one change after another, and keeps what was acknowledged.
fn change_files(group: &Group, load: &Load, seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed ^ 1);
    for number in 1_u64.. {
        if load.stop.load(Ordering::Relaxed) {
            return;
        }
        let name = if rng.random_bool(0.5) {
            format!("campaign/once-{number}")
        } else {
            format!("campaign/again-{}", rng.random_range(0..OVERWRITTEN_NAMES))
        };
        let present = {
            let mut known = load.known.lock().unwrap_or_else(PoisonError::into_inner);
            let known = known.entry(name.clone()).or_default();
            matches!(known.acknowledged, Some(Change::Put(_))) && known.open.is_empty()
        };
        let change = if present && rng.random_bool(0.3) {
            Change::Remove
        } else {
            Change::Put(number)
        };
        note(load, &name, |known| known.open.push(change));
        let outcome = match change {
            Change::Put(number) => group.put(&name, &content(number)),
            Change::Remove => group.succeed(&["files", "rm", &name]).map(drop),
        };
        if outcome.is_ok() {
            note(load, &name, |known| {
                *known = Known {
                    acknowledged: Some(change),
                    open: Vec::new(),
                }
            });
            load.puts.fetch_add(1, Ordering::Relaxed);
        } else {
            load.refused.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn note(load: &Load, name: &str, change: impl FnOnce(&mut Known)) {
    let mut known = load.known.lock().unwrap_or_else(PoisonError::into_inner);
    change(known.entry(name.to_owned()).or_default());
}

/// A file's content tells which put wrote it.
fn content(number: u64) -> Vec<u8> {
    random_bytes(number, usize::try_from(number % 20_000).unwrap_or(0))
}

fn download_again_and_again(group: &Group, load: &Load, client: Client, seed: u64) {
    let expected = random_bytes(seed, DOWNLOADED_BYTES);
    let local = group.scratch().join(format!("{client:?}"));
    while !load.stop.load(Ordering::Relaxed) {
        std::fs::remove_file(&local).ok();
        match client.fetch(group.tftp_port(), DOWNLOADED, &local, &expected, DOWNLOAD_WITHIN) {
            Ok(()) => drop(load.downloads.fetch_add(1, Ordering::Relaxed)),
            Err(error) => {
                let mut broken = load.broken.lock().unwrap_or_else(PoisonError::into_inner);
                broken.push(format!("{error:#}"));
                return;
            }
        }
    }
}

/// Every name holds what was acknowledged last, or one of the changes asked for since.
fn check_files(group: &Group, load: &Load) -> anyhow::Result<()> {
    let files: BTreeMap<String, String> = group
        .ls()?
        .into_iter()
        .map(|file| (file.path, file.sha256))
        .collect();
    let known = load.known.lock().unwrap_or_else(PoisonError::into_inner);
    for (name, known) in known.iter() {
        let found = files.get(name);
        let allowed = known
            .open
            .iter()
            .copied()
            .chain(known.acknowledged)
            .any(|change| match change {
                Change::Put(number) => found == Some(&sha256(&content(number))),
                Change::Remove => found.is_none(),
            });
        let never_happened = known.acknowledged.is_none() && found.is_none();
        if !(allowed || never_happened) {
            bail!(
                "{name}: acknowledged {:?}, open {:?}, found {found:?}",
                known.acknowledged,
                known.open
            );
        }
        // The listing is metadata: the bytes must be there, too.
        if let Some(expected) = found {
            let bytes = group.get(name).with_context(|| format!("getting {name}"))?;
            ensure!(
                sha256(&bytes) == *expected,
                "{name} has other bytes than its SHA-256 says"
            );
        }
    }
    println!("{} names checked: no acknowledged change is lost", known.len());
    Ok(())
}

fn check_claims(claims: &Claims, kills: u64) -> anyhow::Result<()> {
    println!(
        "{} answers of serving leaders in {} terms",
        claims.count(),
        claims.terms()
    );
    ensure!(
        claims.contradictions().is_empty(),
        "two leaders at once: {}",
        claims.contradictions().join("; ")
    );
    // A watch that saw nothing proves nothing.
    ensure!(
        claims.terms() as u64 > kills / 2,
        "only {} terms were seen for {kills} kills",
        claims.terms()
    );
    Ok(())
}
