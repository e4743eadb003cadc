//! When to retransmit: round trips measured and smoothed as RFC 6298 does (RFC 1123 §4.2.3.2 asks for it).

use std::time::Duration;

/// RFC 6298 §2: before the first measurement.
const INITIAL: Duration = Duration::from_secs(1);
/// Shorter than RFC 6298's 1 s, as Linux does for TCP: a lost packet on a LAN should cost no more than people notice,
/// and longer than any sane client takes to write a block.
const MIN: Duration = Duration::from_millis(200);
/// Below the give-up time of the least patient client (UEFI: 4 s × 6), so that it hears us before it leaves.
const MAX: Duration = Duration::from_secs(8);

/// The retransmission time-out and what it is computed from.
#[derive(Debug, Clone)]
pub(super) struct RetransmitTimer {
    smoothed: Option<Duration>,
    variation: Duration,
    timeout: Duration,
    max: Duration,
}

impl RetransmitTimer {
    /// `negotiated` is the interval of RFC 2349, if the client asked for one.
    ///
    /// It bounds the time-out from above: the client said when it expects a retransmission at the latest. An earlier
    /// one, where the measured round trip suggests it, costs nothing; waiting out 6 s (curl's wish) after each lost
    /// packet would.
    pub(super) fn new(negotiated: Option<Duration>) -> Self {
        let max = negotiated.unwrap_or(MAX).max(MIN);
        Self {
            smoothed: None,
            variation: Duration::ZERO,
            timeout: INITIAL.min(max),
            max,
        }
    }

    /// Starts with a shorter time-out than [`INITIAL`].
    pub(super) fn hurry(&mut self, timeout: Duration) {
        self.timeout = self.timeout.min(timeout);
    }

    /// How long to wait for an answer now.
    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// The smoothed round trip, once measured.
    pub(super) fn round_trip(&self) -> Option<Duration> {
        self.smoothed
    }

    /// A round trip of a block that was sent once (Karn: others are ambiguous). RFC 6298 §2.2 and §2.3.
    pub(super) fn measured(&mut self, sample: Duration) {
        let smoothed = match self.smoothed {
            None => {
                self.variation = sample / 2;
                sample
            }
            Some(smoothed) => {
                self.variation = (self.variation * 3 + smoothed.abs_diff(sample)) / 4;
                (smoothed * 7 + sample) / 8
            }
        };
        self.smoothed = Some(smoothed);
        self.timeout = (smoothed + self.variation * 4).clamp(MIN, self.max);
    }

    /// No answer came: waits twice as long from now on, until the next measurement (RFC 6298 §5.5).
    pub(super) fn back_off(&mut self) {
        self.timeout = (self.timeout * 2).min(self.max);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn time_out_follows_rfc_6298() {
        let mut timer = RetransmitTimer::new(None);
        assert_eq!(timer.timeout(), ms(1000));
        timer.measured(ms(100));
        assert_eq!(timer.timeout(), ms(300)); // 100 + 4 * 50
        timer.measured(ms(180));
        assert_eq!(timer.timeout(), ms(340)); // 7/8 * 100 + 1/8 * 180 + 4 * (3/4 * 50 + 1/4 * 80)
        timer.measured(ms(0));
        assert!(timer.timeout() < ms(500));
    }

    #[test]
    fn time_out_backs_off_between_its_bounds() {
        let mut timer = RetransmitTimer::new(None);
        timer.measured(ms(1));
        assert_eq!(timer.timeout(), ms(200));
        let waits: Vec<_> = (0..7)
            .map(|_| {
                timer.back_off();
                timer.timeout().as_millis()
            })
            .collect();
        assert_eq!(waits, [400, 800, 1600, 3200, 6400, 8000, 8000]);
        timer.measured(ms(1));
        assert_eq!(timer.timeout(), ms(200));
    }

    #[test]
    fn negotiated_interval_is_the_longest_wait() {
        let mut timer = RetransmitTimer::new(Some(Duration::from_secs(2)));
        assert_eq!(timer.timeout(), ms(1000));
        timer.back_off();
        timer.back_off();
        assert_eq!(timer.timeout(), ms(2000));
        let mut patient = RetransmitTimer::new(Some(Duration::from_secs(20)));
        (0..9).for_each(|_| patient.back_off());
        assert_eq!(patient.timeout(), ms(20_000));
    }
}
