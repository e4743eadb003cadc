//! `get_last_log` over nothing but `get` and `swap`: whoever swaps a server's mark owns the records between both marks.
//!
//! ```text
//! cargo run -p e2e --example last_log -- http://127.0.0.1:2391,http://127.0.0.1:2392 web-1 < /var/log/web-1.log
//! ```
//!
//! Prints the records that no caller was given before. `POST /v1/logs/{server}/extract` does the same in one request, and
//! knows older copies of a log that was rotated away; this shows what any client can build from the three operations.
#![expect(clippy::print_stdout, reason = "what it prints is what it is for")]

use std::io::Read as _;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// How much of a server's log was given out, as it is stored under `marks/SERVER`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Mark {
    lines: usize,
    /// Of the first line: a shorter copy that begins so is an older one.
    first: String,
    /// Of all lines before the mark, with their ends.
    hash: String,
}

impl Mark {
    fn after(copy: &str, lines: usize) -> Self {
        let first = copy.split_inclusive('\n').take(1);
        let before = copy.split_inclusive('\n').take(lines);
        Self {
            lines,
            first: hash(first),
            hash: hash(before),
        }
    }

    /// How many lines of a copy are not new, and whether the copy does not continue the log.
    fn place(mark: Option<&Self>, copy: &str) -> (usize, bool) {
        let lines = copy.split_inclusive('\n').count();
        match mark {
            None => (0, false),
            Some(mark) if lines < mark.lines && Self::after(copy, 1).first == mark.first => (lines, false),
            Some(mark) if lines >= mark.lines && Self::after(copy, mark.lines) == *mark => {
                (mark.lines, false)
            }
            Some(_) => (0, true),
        }
    }
}

fn hash<'a>(lines: impl Iterator<Item = &'a str>) -> String {
    let mut hash = Sha256::new();
    for line in lines {
        hash.update(line);
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What every operation answers.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Answer {
    valid: bool,
    timeout: bool,
    value: String,
    session: u64,
}

/// A caller, with a session of its own.
pub(crate) struct Caller {
    http: reqwest::Client,
    members: Vec<String>,
    /// The one that is asked.
    member: usize,
    session: u64,
    seq: u64,
}

impl Caller {
    /// One that asks the members at these addresses, the one at `first` to begin with.
    pub(crate) async fn new(members: Vec<String>, first: usize) -> anyhow::Result<Self> {
        ensure!(!members.is_empty(), "no member is named");
        let http = reqwest::Client::builder()
            .no_proxy()
            .connect_timeout(Duration::from_secs(2))
            .timeout(Duration::from_secs(60))
            .build()
            .context("making an HTTP client")?;
        let mut caller = Self {
            http,
            members,
            member: first,
            session: 0,
            seq: 0,
        };
        caller.session = caller
            .ask(|http, base| http.post(format!("{base}/v1/sessions?blocking=true")))
            .await?
            .session;
        Ok(caller)
    }

    /// The records of a server's log that no caller was given before, and whether the log does not continue what was given
    /// out. Lines without an end are left for later.
    pub(crate) async fn get_last_log(
        &mut self,
        server: &str,
        raw_logs: &str,
    ) -> anyhow::Result<(String, bool)> {
        let copy = &raw_logs[..raw_logs.rfind('\n').map_or(0, |end| end + 1)];
        let lines = copy.split_inclusive('\n').count();
        let path = format!("/v1/kv/marks/{server}");
        let read = self
            .ask(|http, base| http.get(format!("{base}{path}?blocking=true")))
            .await?;
        let mut present = read.value;
        loop {
            let mark: Option<Mark> = match present.as_str() {
                "" => None,
                text => Some(serde_json::from_str(text).context("reading a mark")?),
            };
            let (start, gap) = Mark::place(mark.as_ref(), copy);
            if start == lines {
                return Ok((String::new(), gap));
            }
            let wanted = serde_json::to_string(&Mark::after(copy, lines))?;
            let body = serde_json::json!({"oldValue": present, "newValue": wanted});
            // The same numbers wherever and however often it is sent: it acts once, and there is always an answer.
            self.seq += 1;
            let numbers = format!("session={}&seq={}", self.session, self.seq);
            let swapped = self
                .ask(|http, base| {
                    let url = format!("{base}{path}/swap?blocking=true&{numbers}");
                    http.post(url).json(&body)
                })
                .await?;
            if swapped.valid {
                let own = copy.split_inclusive('\n').skip(start).collect();
                return Ok((own, gap));
            }
            present = swapped.value;
        }
    }

    /// Asks one member after the other until one answers.
    async fn ask(
        &mut self,
        request: impl Fn(&reqwest::Client, &str) -> reqwest::RequestBuilder,
    ) -> anyhow::Result<Answer> {
        loop {
            let base = &self.members[self.member % self.members.len()];
            if let Ok(response) = request(&self.http, base).send().await {
                let status = response.status();
                let text = response.text().await.unwrap_or_default();
                if status.is_client_error() {
                    bail!("{status}: {text}");
                }
                match serde_json::from_str::<Answer>(&text) {
                    Ok(answer) if status.is_success() && !answer.timeout => return Ok(answer),
                    _ => {}
                }
            }
            self.member += 1;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (Some(members), Some(server)) = (arguments.next(), arguments.next()) else {
        bail!("usage: last_log URL[,URL…] SERVER < LOG");
    };
    let mut raw_logs = String::new();
    std::io::stdin()
        .read_to_string(&mut raw_logs)
        .context("reading the log")?;
    let members = members.split(',').map(str::to_owned).collect();
    let (own, gap) = Caller::new(members, 0)
        .await?
        .get_last_log(&server, &raw_logs)
        .await?;
    if gap {
        println!("-- the log was rotated or has a gap --");
    }
    print!("{own}");
    Ok(())
}
