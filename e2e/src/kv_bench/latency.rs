//! How long many requests took, in little memory.

use std::time::Duration;

use serde::Serialize;

/// Buckets of each power of two: an error below 1.6 %.
const STEPS: u64 = 64;

/// Counts of durations, in buckets that grow with the duration.
#[derive(Debug, Clone, Default)]
pub struct Latencies {
    counts: Vec<u64>,
    total: u64,
    longest: Duration,
}

/// What a table shows of them, in milliseconds.
#[derive(Debug, Clone, Copy, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Spread {
    /// The median.
    pub p50: f64,
    /// 99 of 100 take at most so long.
    pub p99: f64,
    /// 999 of 1,000.
    pub p999: f64,
    /// All.
    pub max: f64,
}

impl Latencies {
    /// Counts one.
    pub fn add(&mut self, took: Duration) {
        let bucket = bucket(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
        if self.counts.len() <= bucket {
            self.counts.resize(bucket + 1, 0);
        }
        self.counts[bucket] += 1;
        self.total += 1;
        self.longest = self.longest.max(took);
    }

    /// How many were counted.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.total
    }

    /// The usual percentiles.
    #[must_use]
    pub fn spread(&self) -> Spread {
        Spread {
            p50: self.percentile(500),
            p99: self.percentile(990),
            p999: self.percentile(999),
            max: self.longest.as_secs_f64() * 1e3,
        }
    }

    /// The upper edge of the bucket in which the nearest rank lies, in milliseconds.
    #[expect(clippy::cast_precision_loss, reason = "below an hour in microseconds")]
    fn percentile(&self, of_thousand: u64) -> f64 {
        let rank = (self.total * of_thousand).div_ceil(1000);
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                let edge = edge(bucket) as f64 / 1e3;
                return edge.min(self.longest.as_secs_f64() * 1e3);
            }
        }
        0.0
    }
}

fn bucket(micros: u64) -> usize {
    let power = micros.max(1).ilog2().saturating_sub(STEPS.ilog2());
    let place = (u64::from(power) * STEPS) + (micros >> power);
    usize::try_from(place).unwrap_or(usize::MAX)
}

/// The first microsecond that lies in the next bucket.
fn edge(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    let power = (bucket / STEPS).saturating_sub(1);
    (bucket - power * STEPS + 1) << power
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_follow_each_other() {
        let mut last = 0;
        for micros in 0..1_000_000 {
            let now = bucket(micros);
            assert!(now == last || now == last + 1, "{micros}");
            assert!(
                micros < edge(now) && (now == 0 || micros >= edge(now - 1)),
                "{micros}"
            );
            last = now;
        }
    }

    #[test]
    fn percentiles_are_those_of_the_durations() {
        let mut latencies = Latencies::default();
        for ms in 1..=1000 {
            latencies.add(Duration::from_millis(ms));
        }
        let Spread { p50, p99, p999, max } = latencies.spread();
        for (found, expected) in [(p50, 500.0), (p99, 990.0), (p999, 999.0), (max, 1000.0)] {
            assert!((found - expected).abs() < expected * 0.016, "{found} {expected}");
        }
    }
}
