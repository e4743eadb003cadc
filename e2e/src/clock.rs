//! Time, for tests: one clock and one way to wait.

use std::time::{Duration, Instant};

use anyhow::bail;

/// How long any state may take before a test calls it a failure. Generous: machines are shared, and a test that ends
/// well never waits this long.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The pause between two looks at a state.
const POLL_PAUSE: Duration = Duration::from_millis(10);

/// The current instant.
#[must_use]
#[expect(
    clippy::disallowed_methods,
    reason = "tests and benchmarks are drivers: their time enters here"
)]
pub fn now() -> Instant {
    Instant::now()
}

/// Looks again and again until `probe` finds what it looks for, at most for `within`.
///
/// The probe's error says what it saw instead; the last one is part of this function's error.
pub fn eventually<T>(
    what: &str,
    within: Duration,
    mut probe: impl FnMut() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let started = now();
    loop {
        match probe() {
            Ok(found) => return Ok(found),
            Err(error) if started.elapsed() >= within => {
                bail!("{what}: not so after {:.1} s: {error:#}", within.as_secs_f64());
            }
            Err(_) => std::thread::sleep(POLL_PAUSE),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_reason_is_told() {
        let error = eventually("the sun rises", Duration::ZERO, || -> anyhow::Result<()> {
            bail!("it is dark")
        })
        .unwrap_err();
        assert!(error.to_string().contains("it is dark"), "{error}");
    }
}
