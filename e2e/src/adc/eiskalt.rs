//! eiskaltdcpp-daemon, driven by its JSON-RPC.

use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::Identity;
use crate::clock::{PATIENCE, eventually};
use crate::ports::free_run;
use crate::process::Process;
use crate::program::stock;

/// How long one answer may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// What separates the values of a list in an answer: nothing that a nick or a line of chat holds.
const SEPARATOR: &str = "\u{1f}";

/// A running eiskaltdcpp-daemon. Dropping it stops it.
#[derive(Debug)]
pub struct Eiskalt {
    nick: String,
    identity: Identity,
    home: TempDir,
    rpc_port: u16,
    rpc: Rpc,
    process: Process,
}

impl Eiskalt {
    /// Starts the daemon with a home of its own, not connected to any hub.
    pub fn start(nick: &str) -> anyhow::Result<Self> {
        Self::start_at(nick, Ipv4Addr::LOCALHOST)
    }

    /// The same at another address of this machine.
    pub fn start_at(nick: &str, address: Ipv4Addr) -> anyhow::Result<Self> {
        let home = tempfile::Builder::new()
            .prefix("quorate-eiskalt-")
            .tempdir()
            .context("making a directory")?;
        for dir in ["conf", "local", "share", "got", "got/tmp"] {
            fs::create_dir(home.path().join(dir)).context("making a directory")?;
        }
        let identity = Identity::of(nick, 1);
        // For JSON-RPC, clients, and clients over TLS.
        let port = free_run(3)?;
        let got = home.path().join("got");
        let settings = settings(nick, &identity, (address, port), &got.display().to_string());
        fs::write(home.path().join("conf/DCPlusPlus.xml"), settings).context("writing the settings")?;
        let mut command = Command::new(stock("eiskaltdcpp-daemon", "eiskaltdcpp-daemon")?);
        command
            .args(["-v", "-D", "-L", "127.0.0.1", "-P", &port.to_string()])
            .arg("-c")
            .arg(home.path().join("conf"))
            .arg("-l")
            .arg(home.path().join("local"))
            .env("HOME", home.path());
        let process = Process::start("eiskaltdcpp-daemon", command, home.path().join("output"))?;
        let eiskalt = Self {
            nick: nick.to_owned(),
            identity,
            home,
            rpc_port: port,
            rpc: Rpc::new()?,
            process,
        };
        eventually("eiskaltdcpp-daemon answers", PATIENCE, || {
            eiskalt.call("show.version", json!({}))
        })?;
        Ok(eiskalt)
    }

    /// Its nick.
    #[must_use]
    pub fn nick(&self) -> &str {
        &self.nick
    }

    /// Who it is.
    #[must_use]
    pub const fn identity(&self) -> &Identity {
        &self.identity
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

    /// Shares its directory under the name `pubeis`, and waits until the files have been read.
    pub fn share(&self) -> anyhow::Result<()> {
        let directory = format!("{}/", self.shared("").display().to_string().trim_end_matches('/'));
        self.call("share.add", json!({"directory": directory, "virtname": "pubeis"}))?;
        self.call("share.refresh", json!({}))?;
        eventually("eiskaltdcpp-daemon has read its files", PATIENCE, || {
            let status = self.call("hash.status", json!({}))?;
            ensure!(status["filesleft"] == 0 && status["status"] == "idle", "{status}");
            Ok(())
        })
    }

    /// Opens a hub.
    pub fn open(&self, url: &str) -> anyhow::Result<()> {
        self.call("hub.add", json!({"huburl": url, "enc": ""}))?;
        Ok(())
    }

    /// Who it sees on the hub.
    pub fn users(&self, url: &str) -> anyhow::Result<Vec<String>> {
        let answer = self.call("hub.getusers", json!({"huburl": url, "separator": SEPARATOR}))?;
        Ok(split(&answer))
    }

    /// Says something to all.
    pub fn say(&self, url: &str, text: &str) -> anyhow::Result<()> {
        self.call("hub.say", json!({"huburl": url, "message": text}))?;
        Ok(())
    }

    /// Says something to one user.
    pub fn tell(&self, url: &str, nick: &str, text: &str) -> anyhow::Result<()> {
        self.call("hub.pm", json!({"huburl": url, "nick": nick, "message": text}))?;
        Ok(())
    }

    /// The lines of chat that it saw since the last call.
    pub fn chat(&self, url: &str) -> anyhow::Result<Vec<String>> {
        let answer = self.call("hub.getchat", json!({"huburl": url, "separator": SEPARATOR}))?;
        Ok(split(&answer))
    }

    /// Searches for a word, again and again, until there is a hit of that name.
    pub fn search(&self, url: &str, word: &str, hit: &str) -> anyhow::Result<()> {
        eventually("eiskaltdcpp-daemon finds", PATIENCE, || {
            self.call("search.send", json!({"searchstring": word}))?;
            eventually("an answer comes", PATIENCE / 6, || {
                let answer = self.call("search.getresults", json!({"huburl": url}))?;
                ensure!(answer.to_string().contains(hit), "the hits are {answer}");
                Ok(())
            })
        })
    }

    /// Fetches a user's file list, again until it names `target` (`pub\name`), and downloads that file into [`Self::got`].
    pub fn download(&self, url: &str, nick: &str, target: &str) -> anyhow::Result<()> {
        let to = format!("{}/", self.got("").display().to_string().trim_end_matches('/'));
        eventually("eiskaltdcpp-daemon gets a file list", PATIENCE, || {
            self.call("list.download", json!({"huburl": url, "nick": nick}))?;
            eventually("the list names the file", PATIENCE / 12, || {
                let lists = self.call("list.local", json!({"separator": SEPARATOR}))?;
                let names = split(&lists);
                let list = names.iter().find(|list| list.starts_with(&format!("{nick}.")));
                let list = list.with_context(|| format!("the lists are {lists}"))?;
                self.call("list.close", json!({"filelist": list})).ok();
                self.call("list.open", json!({"filelist": list}))?;
                let wanted = json!({"filelist": list, "target": target, "downloadto": to});
                let answer = self.call("list.downloadfile", wanted)?;
                ensure!(answer == 0, "{list} has no {target}: {answer}");
                Ok(())
            })
        })
    }

    /// The local ports of its connections to that port of loopback: the same as before when it did not connect again.
    pub fn connections_to(&self, port: u16) -> anyhow::Result<Vec<u16>> {
        connections(self.process.pid(), port)
    }

    /// What it printed: every ADC line of the hub, in and out.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.output()
    }

    fn call(&self, method: &str, params: Value) -> anyhow::Result<Value> {
        let request = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
        let answer = self.rpc.post(self.rpc_port, &request)?;
        if let Some(error) = answer.get("error").filter(|error| !error.is_null()) {
            bail!("{method} answers {error}");
        }
        Ok(answer.get("result").cloned().unwrap_or_default())
    }
}

impl Drop for Eiskalt {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let end = lines[lines.len().saturating_sub(20)..].join("\n");
            eprintln!("--- the end of what {} printed:\n{end}", self.nick);
        }
    }
}

fn split(list: &Value) -> Vec<String> {
    let text = list.as_str().unwrap_or_default();
    let parts = text.split(SEPARATOR).filter(|part| !part.is_empty());
    parts.map(str::to_owned).collect()
}

/// The settings of an active client: transfers over TLS where the other can, and plain ones otherwise.
fn settings(nick: &str, identity: &Identity, (address, port): (Ipv4Addr, u16), got: &str) -> String {
    let address = address.to_string();
    let texts = [
        ("Nick", nick),
        // What is called CID there is the PID.
        ("CID", &identity.pid),
        ("DownloadDirectory", &format!("{got}/")),
        ("TempDownloadDirectory", &format!("{got}/tmp/")),
        ("ExternalIp", &address),
        ("BindAddress", &address),
    ];
    let numbers = [
        ("InPort", port + 1),
        ("UDPPort", port + 1),
        ("TLSPort", port + 2),
        ("UseTLS", 1),
        ("RequireTLS", 0),
        ("UseDHT", 0),
        ("IncomingConnections", 0),
        ("NoIpOverride", 1),
        ("AutoDetectIncomingConnection", 0),
        // Its own default.
        ("ReconnectDelay", 15),
        ("Slots", 5),
        // A minute is its default: a test searches more than once.
        ("MinimumSearchInterval", 2),
    ];
    let mut xml = String::from(
        "<?xml version=\"1.0\" encoding=\"utf-8\" standalone=\"yes\"?>\n<DCPlusPlus><Settings>\n",
    );
    for (name, value) in texts {
        xml.push_str(&format!("<{name} type=\"string\">{value}</{name}>\n"));
    }
    for (name, value) in numbers {
        xml.push_str(&format!("<{name} type=\"int\">{value}</{name}>\n"));
    }
    xml.push_str("</Settings></DCPlusPlus>\n");
    xml
}

/// The local ports of a process's established connections to a port, as Linux shows them (proc_pid_net_tcp(5)).
fn connections(pid: u32, port: u16) -> anyhow::Result<Vec<u16>> {
    let own: Vec<String> = fs::read_dir(format!("/proc/{pid}/fd"))
        .context("reading the open files")?
        .filter_map(|entry| Some(fs::read_link(entry.ok()?.path()).ok()?.display().to_string()))
        .collect();
    let table = fs::read_to_string(format!("/proc/{pid}/net/tcp")).context("reading the connections")?;
    let port_of = |address: &str| u16::from_str_radix(address.rsplit(':').next()?, 16).ok();
    let local = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let &[_, local, remote, "01", _, _, _, _, _, inode, ..] = fields.as_slice() else {
            return None;
        };
        let is_own = own.contains(&format!("socket:[{inode}]"));
        (is_own && port_of(remote) == Some(port)).then(|| port_of(local))?
    };
    Ok(table.lines().filter_map(local).collect())
}

/// JSON-RPC over HTTP.
#[derive(Debug)]
struct Rpc {
    runtime: Runtime,
    client: reqwest::Client,
}

impl Rpc {
    fn new() -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("starting a runtime for HTTP")?;
        let client = reqwest::Client::builder()
            .timeout(ANSWER_WITHIN)
            .no_proxy()
            // The daemon serves one connection after the other.
            .pool_max_idle_per_host(0)
            .build()
            .context("making an HTTP client")?;
        Ok(Self { runtime, client })
    }

    fn post(&self, port: u16, request: &Value) -> anyhow::Result<Value> {
        let url = format!("http://127.0.0.1:{port}/");
        self.runtime.block_on(async {
            let sent = self.client.post(&url).json(request).send().await;
            let answer = sent.with_context(|| format!("asking {request}"))?;
            let text = answer
                .text()
                .await
                .with_context(|| format!("reading the answer to {request}"))?;
            serde_json::from_str(&text).with_context(|| format!("{request} is answered with {text:?}"))
        })
    }
}
