//! A histogram of powers of two, with the interface that openraft expects of the crate `base2histogram`.
//!
//! openraft 0.10 counts its batches in such histograms, and shows them only with its feature `runtime-stats`, which is off
//! here. The published crate makes the tables of all its sixteen resolutions before it counts anything: 25 MiB in every
//! member, of which openraft uses two kilobytes. A histogram here is 520 bytes and makes none.

use std::fmt;
use std::marker::PhantomData;

/// One for zero, and one for each power of two: bucket `n` counts the values of `n` significant bits.
const BUCKETS: usize = u64::BITS as usize + 1;

/// How often values of each magnitude were recorded. `T` is what the published crate attaches to a slot of time; there are no
/// slots here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Histogram<T = ()> {
    counts: [u64; BUCKETS],
    slot: PhantomData<T>,
}

/// What a [`Histogram`] says of its values: each percentile is the smallest value of the bucket it falls into, 0 where nothing
/// was recorded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PercentileStats {
    /// How many values were recorded.
    pub samples: u64,
    /// What 0.1 % of the values do not exceed.
    pub p0_1: u64,
    /// What 1 % of the values do not exceed.
    pub p1: u64,
    /// What 5 % of the values do not exceed.
    pub p5: u64,
    /// What 10 % of the values do not exceed.
    pub p10: u64,
    /// What 50 % of the values do not exceed.
    pub p50: u64,
    /// What 90 % of the values do not exceed.
    pub p90: u64,
    /// What 99 % of the values do not exceed.
    pub p99: u64,
    /// What 99.9 % of the values do not exceed.
    pub p99_9: u64,
}

impl<T> Histogram<T> {
    /// One of no values.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            counts: [0; BUCKETS],
            slot: PhantomData,
        }
    }

    /// Counts `value` once.
    pub fn record(&mut self, value: u64) {
        self.record_n(value, 1);
    }

    /// Counts `value` `count` times.
    pub fn record_n(&mut self, value: u64, count: u64) {
        let bucket = u64::BITS - value.leading_zeros();
        if let Some(counted) = self.counts.get_mut(bucket as usize) {
            *counted = counted.saturating_add(count);
        }
    }

    /// What was recorded so far.
    #[must_use]
    pub fn percentile_stats(&self) -> PercentileStats {
        PercentileStats {
            samples: self.samples(),
            p0_1: self.per_mille(1),
            p1: self.per_mille(10),
            p5: self.per_mille(50),
            p10: self.per_mille(100),
            p50: self.per_mille(500),
            p90: self.per_mille(900),
            p99: self.per_mille(990),
            p99_9: self.per_mille(999),
        }
    }

    fn samples(&self) -> u64 {
        self.counts
            .iter()
            .fold(0, |sum, counted| sum.saturating_add(*counted))
    }

    /// The smallest value of the bucket in which the value lies that `share` of a thousand values do not exceed.
    fn per_mille(&self, share: u64) -> u64 {
        let rank = (u128::from(self.samples()) * u128::from(share)).div_ceil(1000);
        let mut seen = 0;
        let bucket = self.counts.iter().position(|counted| {
            seen += u128::from(*counted);
            *counted > 0 && seen >= rank
        });
        match bucket {
            None | Some(0) => 0,
            Some(bits) => 1 << (bits - 1),
        }
    }
}

impl fmt::Display for PercentileStats {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            to,
            "n={} p50={} p90={} p99={} p99.9={}",
            self.samples, self.p50, self.p90, self.p99, self.p99_9
        )
    }
}

impl<T> Default for Histogram<T> {
    fn default() -> Self {
        Self::new()
    }
}

/// Histograms under their names, a line each.
#[derive(Debug, Clone, Default)]
pub struct AsciiChart {
    named: Vec<(String, PercentileStats)>,
}

impl AsciiChart {
    /// One of no histograms.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The same with one more.
    #[must_use]
    pub fn add<T>(mut self, name: impl Into<String>, histogram: Histogram<T>) -> Self {
        self.named.push((name.into(), histogram.percentile_stats()));
        self
    }
}

impl fmt::Display for AsciiChart {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, stats) in &self.named {
            writeln!(to, "{name}: {stats}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_histogram_says_nothing_but_zeros() {
        assert_eq!(
            Histogram::<()>::new().percentile_stats(),
            PercentileStats::default()
        );
    }

    #[test]
    fn a_percentile_is_the_smallest_value_of_its_bucket() {
        let mut histogram = Histogram::<()>::new();
        histogram.record_n(1, 89);
        histogram.record_n(1000, 10);
        histogram.record(u64::MAX);
        let stats = histogram.percentile_stats();
        assert_eq!(
            (stats.samples, stats.p50, stats.p90, stats.p99, stats.p99_9),
            (100, 1, 512, 512, 1 << 63)
        );
    }

    #[test]
    fn zero_has_a_bucket_of_its_own() {
        let mut histogram = Histogram::<()>::new();
        histogram.record(0);
        histogram.record_n(1, 1);
        let stats = histogram.percentile_stats();
        assert_eq!((stats.p0_1, stats.p50, stats.p90), (0, 0, 1));
    }

    #[test]
    fn counts_do_not_overflow() {
        let mut histogram = Histogram::<()>::new();
        histogram.record_n(4, u64::MAX);
        histogram.record_n(5, u64::MAX);
        assert_eq!(
            (
                histogram.percentile_stats().samples,
                histogram.percentile_stats().p99_9
            ),
            (u64::MAX, 4)
        );
    }
}
