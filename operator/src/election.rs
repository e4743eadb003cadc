//! Which operator works: one Lease, taken, renewed and given back. Does I/O.
//!
//! Clocks of machines differ, so the Lease's own times are only for people: a holder is gone when *this* process has
//! seen the record unchanged for the whole duration, by its own monotonic clock.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use tokio::time::Instant;

/// One candidate.
pub(crate) struct Candidate {
    api: Api<Lease>,
    name: String,
    identity: String,
    /// The record as it was last seen, and since when it is so.
    seen: Option<(LeaseSpec, Instant)>,
}

impl Candidate {
    /// `identity` must be this process's alone.
    pub(crate) fn new(client: Client, namespace: &str, name: String, identity: String) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            name,
            identity,
            seen: None,
        }
    }

    /// Waits until this process holds the Lease.
    pub(crate) async fn acquire(&mut self) {
        let mut said = false;
        loop {
            match self.round().await {
                Ok(true) => {
                    tracing::info!(lease = self.name, identity = self.identity, "this operator works");
                    return;
                }
                Ok(false) if !said => {
                    said = true;
                    let holder = self
                        .seen
                        .as_ref()
                        .and_then(|(record, _)| record.holder_identity.as_deref());
                    tracing::info!(
                        lease = self.name,
                        holder,
                        "another operator works; this one stands by"
                    );
                }
                Ok(false) => {}
                Err(error) => tracing::warn!(lease = self.name, %error, "the lease cannot be taken yet"),
            }
            tokio::time::sleep(RETRY_INTERVAL).await;
        }
    }

    /// Renews until the Lease is lost: then another operator may work, and this process has to end.
    pub(crate) async fn keep(&mut self) {
        let mut renewed = Instant::now();
        loop {
            tokio::time::sleep(RETRY_INTERVAL).await;
            // Counted from before the request: the others count from when they saw its effect, which is later.
            let began = Instant::now();
            let deadline = renewed + RENEW_DEADLINE;
            // One request that hangs must not take all the time there is.
            let until = deadline.min(began + REQUEST_TIMEOUT);
            match tokio::time::timeout_at(until, self.round()).await {
                Ok(Ok(true)) => renewed = began,
                Ok(Ok(false)) => {
                    tracing::error!(lease = self.name, "another operator took the lease");
                    return;
                }
                Ok(Err(error)) if Instant::now() < deadline => {
                    tracing::warn!(lease = self.name, %error, "the lease was not renewed");
                }
                Err(_) if Instant::now() < deadline => {
                    tracing::warn!(
                        lease = self.name,
                        "the API server took too long to renew the lease"
                    );
                }
                Ok(Err(_)) | Err(_) => {
                    tracing::error!(lease = self.name, "the lease could not be renewed in time");
                    return;
                }
            }
        }
    }

    /// Gives the Lease back, so that another operator need not wait.
    pub(crate) async fn release(&mut self) {
        let Ok(Some(mut lease)) = self.api.get_opt(&self.name).await else {
            return;
        };
        let Some(spec) = lease.spec.as_mut().filter(|spec| self.is_mine(spec)) else {
            return;
        };
        spec.holder_identity = None;
        spec.renew_time = Some(MicroTime(Timestamp::now()));
        if let Err(error) = self.api.replace(&self.name, &PostParams::default(), &lease).await {
            tracing::warn!(lease = self.name, %error, "the lease was not given back");
        }
    }

    /// Looks at the Lease and takes or renews it if that is right; whether this process holds it now.
    async fn round(&mut self) -> Result<bool, kube::Error> {
        let found = self.api.get_opt(&self.name).await?;
        let now = Instant::now();
        let Some(mut lease) = found else {
            let lease = Lease {
                metadata: ObjectMeta {
                    name: Some(self.name.clone()),
                    ..ObjectMeta::default()
                },
                spec: Some(self.record(None)),
            };
            return is_done(self.api.create(&PostParams::default(), &lease).await);
        };
        let record = lease.spec.clone().unwrap_or_default();
        if self.seen.as_ref().is_none_or(|(seen, _)| *seen != record) {
            self.seen = Some((record.clone(), now));
        }
        let since = self.seen.as_ref().map_or(now, |(_, since)| *since);
        if !self.is_mine(&record) && !is_free(&record, now - since) {
            return Ok(false);
        }
        lease.spec = Some(self.record(Some(&record)));
        // The resource version inside makes this a compare-and-swap: of two candidates one is refused.
        is_done(self.api.replace(&self.name, &PostParams::default(), &lease).await)
    }

    fn is_mine(&self, record: &LeaseSpec) -> bool {
        record.holder_identity.as_deref() == Some(self.identity.as_str())
    }

    fn record(&self, old: Option<&LeaseSpec>) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        let was_mine = old.is_some_and(|old| self.is_mine(old));
        let transitions = old.and_then(|old| old.lease_transitions).unwrap_or(0);
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: Some(LEASE_SECONDS),
            acquire_time: old
                .filter(|_| was_mine)
                .and_then(|old| old.acquire_time.clone())
                .or_else(|| Some(now.clone())),
            renew_time: Some(now),
            lease_transitions: Some(if was_mine || old.is_none() {
                transitions
            } else {
                transitions.saturating_add(1)
            }),
            ..LeaseSpec::default()
        }
    }
}

/// Whether a record that was seen unchanged for so long may be taken over.
fn is_free(record: &LeaseSpec, unchanged: Duration) -> bool {
    let is_released = record.holder_identity.as_deref().is_none_or(str::is_empty);
    let seconds = record
        .lease_duration_seconds
        .and_then(|seconds| u64::try_from(seconds).ok())
        .unwrap_or(LEASE_SECONDS.unsigned_abs().into());
    is_released || unchanged >= Duration::from_secs(seconds)
}

/// A conflict means that another candidate was faster.
fn is_done<T>(outcome: Result<T, kube::Error>) -> Result<bool, kube::Error> {
    match outcome {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
        Err(error) => Err(error),
    }
}

/// What client-go's leader election uses, as every other controller of a cluster does.
const LEASE_SECONDS: i32 = 15;

/// A holder that could not renew for so long stops working, well before another may begin.
const RENEW_DEADLINE: Duration = Duration::from_secs(10);

/// For reading and writing the record once.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(4);

/// Between two looks.
const RETRY_INTERVAL: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    fn held(seconds: i32) -> LeaseSpec {
        LeaseSpec {
            holder_identity: Some("other".to_owned()),
            lease_duration_seconds: Some(seconds),
            // Long past by this machine's clock: it says nothing about the other's.
            renew_time: Some(MicroTime(Timestamp::UNIX_EPOCH)),
            ..LeaseSpec::default()
        }
    }

    #[test]
    fn holder_is_gone_only_when_its_record_was_seen_unchanged_for_its_duration() {
        assert!(!is_free(&held(15), Duration::ZERO));
        assert!(!is_free(&held(15), Duration::from_millis(14_999)));
        assert!(is_free(&held(15), Duration::from_secs(15)));
    }

    #[test]
    fn released_lease_is_free_at_once() {
        let mut record = held(15);
        record.holder_identity = None;
        assert!(is_free(&record, Duration::ZERO));
        record.holder_identity = Some(String::new());
        assert!(is_free(&record, Duration::ZERO));
    }
}
