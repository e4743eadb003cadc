//! What most tests of fail-over do: a download, something that happens half way, an identical file.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use crate::clock::{PATIENCE, eventually, now};
use crate::gaps::Conversation;
use crate::group::Group;
use crate::proxy::{Link, Proxy};
use crate::{Client, data};

/// How long a disturbed download may take: curl repeats itself only after 72 s, and the promise does not depend on it.
pub const DOWNLOAD_WITHIN: Duration = Duration::from_secs(240);

/// A disturbed download that ended identical.
#[derive(Debug, Clone)]
pub struct Disturbed {
    /// When the first disturbance began.
    pub since: Instant,
    /// What the client saw.
    pub seen: Conversation,
}

/// Something that happens to the group when a part (0 to 1) of the file has been sent.
pub type Disturbance<'a> = (f64, &'a mut dyn FnMut() -> anyhow::Result<()>);

/// Downloads `name` through a proxy, lets each disturbance happen when its part has been sent, and compares the file.
///
/// It is an error when the download was over before the last disturbance had happened: nothing would be proven.
pub fn disturbed_download(
    group: &Group,
    client: Client,
    name: &str,
    content: &[u8],
    disturbances: &mut [Disturbance<'_>],
) -> anyhow::Result<Disturbed> {
    let what = || format!("{} downloading {name}", client.name());
    let proxy = Proxy::start(group.tftp_port(), Link::default())?;
    let triggers: Vec<_> = disturbances
        .iter()
        .map(|(part, _)| proxy.at_block(block_at(client, content, *part)))
        .collect();
    let local = group.scratch().join("download");
    std::fs::remove_file(&local).ok();
    let mut download = client.start(proxy.port(), name, &local)?;
    let mut since = None;
    for ((part, disturb), trigger) in disturbances.iter_mut().zip(triggers) {
        trigger.recv_timeout(DOWNLOAD_WITHIN).with_context(|| {
            format!(
                "{} never came to {part} of it: {}",
                what(),
                download.process().output()
            )
        })?;
        since.get_or_insert_with(now);
        disturb().with_context(what)?;
        ensure!(
            download.process().ended()?.is_none(),
            "{} was over before it was disturbed",
            what()
        );
    }
    download
        .ends_identical(content, DOWNLOAD_WITHIN)
        .with_context(what)?;
    Ok(Disturbed {
        since: since.unwrap_or_else(now),
        seen: proxy.conversation()?,
    })
}

/// Downloads `name` straight from the group, without a proxy, and lets `disturb` happen once half of the file has
/// arrived on the client's disk.
pub fn disturbed_download_without_proxy(
    group: &Group,
    client: Client,
    name: &str,
    content: &[u8],
    disturb: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let what = || format!("{} downloading {name} without a proxy", client.name());
    let local = group.scratch().join("download");
    std::fs::remove_file(&local).ok();
    let mut download = client.start(group.tftp_port(), name, &local)?;
    eventually("half of the file has arrived", DOWNLOAD_WITHIN, || {
        ensure!(
            download.arrived() >= content.len() as u64 / 2,
            "{} bytes have arrived",
            download.arrived()
        );
        Ok(())
    })
    .with_context(what)?;
    disturb().with_context(what)?;
    download
        .ends_identical(content, DOWNLOAD_WITHIN)
        .with_context(what)
}

/// Stores `content` and waits until it is served: the usual start of a test.
pub fn serve(group: &Group, name: &str, seed: u64, len: usize) -> anyhow::Result<Vec<u8>> {
    let content = data::random_bytes(seed, len);
    group.put(name, &content)?;
    Client::Curl { block_size: 8192 }
        .fetch(
            group.tftp_port(),
            name,
            &group.scratch().join("first"),
            &content,
            PATIENCE,
        )
        .context("the first download")?;
    Ok(content)
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a part of a number of blocks far below 2^52"
)]
fn block_at(client: Client, content: &[u8], part: f64) -> u64 {
    (part * (content.len() / client.block_size()) as f64) as u64
}
