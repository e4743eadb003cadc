//! What goes on until somebody ends it: watching keys, and listening to an address.

use std::io::Write as _;
use std::process::ExitCode;

use kv_client::{Error, Subscription, Watch};

/// Prints changes, one in a line.
pub(super) async fn changes(mut watch: Watch, count: Option<u64>, json: bool) -> anyhow::Result<ExitCode> {
    let mut out = std::io::stdout();
    for _ in 0..count.unwrap_or(u64::MAX) {
        let change = watch.next().await?;
        let mut line = if json {
            serde_json::to_vec(&change)?
        } else {
            let what = if change.removed { "delete" } else { "put" };
            let mut line = format!("{what}\t{}\t", change.key).into_bytes();
            line.extend(change.bytes());
            line
        };
        line.push(b'\n');
        out.write_all(&line)?;
        out.flush()?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints messages, one in a line.
pub(super) async fn messages(
    mut subscription: Subscription,
    count: Option<u64>,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let mut out = std::io::stdout();
    let mut left = count.unwrap_or(u64::MAX);
    while left > 0 {
        let message = match subscription.next().await {
            Ok(message) => message,
            Err(missed @ Error::Missed(_)) => {
                writeln!(std::io::stderr(), "quorate-agent: {missed}")?;
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        left -= 1;
        let mut line = if json {
            serde_json::to_vec(&message)?
        } else {
            let token = message.token.as_ref();
            let mut line = token.map_or_else(Vec::new, |token| format!("{token}\t").into_bytes());
            line.extend(message.bytes());
            line
        };
        line.push(b'\n');
        out.write_all(&line)?;
        out.flush()?;
    }
    Ok(ExitCode::SUCCESS)
}
