//! What is watched, and the round through a resource: the only place that orders the steps.

mod round;
mod watches;

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use kube::runtime::controller::{Action, Config, Controller};
use kube::runtime::events::Recorder;
use kube::{Api, Client, ResourceExt};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::apply::Apply;
use crate::kinds::Group;
use crate::members::Members;
use crate::memory::Memories;
use crate::metrics::Metrics;
use crate::observe::Stores;
use crate::validate::Settings;

/// What every controller shares.
#[derive(Clone)]
pub(crate) struct Shared {
    /// To Kubernetes.
    pub client: Client,
    /// To members.
    pub members: Members,
    /// Events for people.
    pub recorder: Recorder,
    /// What is counted.
    pub metrics: Metrics,
    /// What the operator was started with.
    pub settings: Settings,
    /// Whether the cluster knows `PodMonitor`.
    pub has_pod_monitors: bool,
}

/// What one controller works with: one kind in one scope.
struct Context {
    shared: Shared,
    stores: Stores,
    memories: Arc<Memories>,
    /// Whether everything that exists has been seen once: what was not seen yet looks as if it did not exist.
    is_filled: watch::Receiver<bool>,
}

/// Looks after all resources of a kind, in one namespace or in all, until the process ends.
pub(crate) async fn run<K: Group>(shared: Shared, namespace: Option<String>) {
    let api: Api<K> = match &namespace {
        Some(namespace) => Api::namespaced(shared.client.clone(), namespace),
        None => Api::all(shared.client.clone()),
    };
    let memories = Arc::new(Memories::default());
    let metrics = shared.metrics.clone();
    let (resources, trigger) = watches::resources(api);
    let scope = watches::Scope::of::<K>(shared.client.clone(), namespace, Arc::clone(&memories));
    let (stores, controller) = scope.attach(
        Controller::for_stream(trigger, resources.clone())
            .with_config(Config::default().concurrency(ROUNDS_AT_ONCE_MAX)),
    );
    let (filled, is_filled) = watch::channel(false);
    let first_look = {
        let stores = stores.clone();
        async move {
            // Here alone: of several that wait for a store at the same time, some are not woken (kube 5.0).
            stores.filled().await;
            filled.send_replace(true);
            std::future::pending::<()>().await;
        }
    };
    let context = Arc::new(Context {
        shared,
        stores,
        is_filled,
        memories: Arc::clone(&memories),
    });
    let rounds = controller
        .run(reconcile::<K>, on_error::<K>, context)
        .for_each(|ended| {
            // What a round complains about is said where it happens; this is what the queue itself has to say.
            if let Err(error @ kube::runtime::controller::Error::QueueError(_)) = &ended {
                tracing::warn!(kind = %K::kind(&()), %error, "a watch broke, and is taken up again");
            }
            std::future::ready(())
        });
    let tidy = async {
        let mut tick = tokio::time::interval(TIDY_INTERVAL);
        loop {
            tick.tick().await;
            let there = resources.state();
            metrics.set_resources(&K::kind(&()), there.len());
            let uids: std::collections::BTreeSet<_> =
                there.iter().filter_map(|resource| resource.uid()).collect();
            memories.keep(|uid| uids.contains(uid));
        }
    };
    tokio::select! {
        () = rounds => {}
        () = tidy => {}
        () = first_look => {}
    }
}

/// Why a round ended early. It is repeated, later each time.
#[derive(Debug, thiserror::Error)]
#[error("{complaint}")]
struct RoundFailed {
    complaint: String,
    failures: u32,
    is_conflict: bool,
}

async fn reconcile<K: Group>(resource: Arc<K>, context: Arc<Context>) -> Result<Action, RoundFailed> {
    // The sender lives as long as the controller.
    context
        .is_filled
        .clone()
        .wait_for(|is_filled| *is_filled)
        .await
        .ok();
    let uid = resource.uid().unwrap_or_default();
    if resource.meta().deletion_timestamp.is_some() {
        // Its objects go with it.
        return Ok(Action::await_change());
    }
    let (memory, seen) = context.memories.take(&uid);
    let mut memory = memory.lock().await;
    let began = Instant::now();
    memory.notice(seen);
    let outcome = round::round(&*resource, &context, &mut memory).await;
    let kind = K::kind(&());
    context
        .shared
        .metrics
        .reconciled(&kind, began.elapsed(), outcome.is_ok());
    match outcome {
        Ok(again_after) => {
            memory.failures = 0;
            memory.complaint.clear();
            Ok(again_after.map_or_else(Action::await_change, Action::requeue))
        }
        Err(error) => Err(complain(&*resource, &context, &mut memory, error).await),
    }
}

async fn complain<K: Group>(
    resource: &K,
    context: &Context,
    memory: &mut crate::memory::Memory,
    error: Apply,
) -> RoundFailed {
    let is_conflict = error.is_conflict();
    let complaint = chain(&error);
    if !is_conflict {
        memory.failures = memory.failures.saturating_add(1);
        if memory.complaint != complaint {
            memory.complaint.clone_from(&complaint);
            tracing::warn!(
                kind = %K::kind(&()),
                namespace = resource.namespace(),
                name = resource.name_any(),
                error = complaint,
                "the resource could not be made as it is to be; it is tried again"
            );
            round::event(
                context,
                resource,
                round::Tone::Warning,
                "ReconcileFailed",
                &complaint,
            )
            .await;
        }
    }
    RoundFailed {
        complaint,
        failures: memory.failures,
        is_conflict,
    }
}

/// An error with its causes. Those of the API server repeat themselves.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let sentence = error.to_string();
        if !text.contains(&sentence) {
            text.push_str(": ");
            text.push_str(&sentence);
        }
        cause = error.source();
    }
    text
}

fn on_error<K: Group>(_: Arc<K>, error: &RoundFailed, _: Arc<Context>) -> Action {
    if error.is_conflict {
        return Action::requeue(CONFLICT_RETRY);
    }
    let exponent = error.failures.min(BACKOFF_EXPONENT_MAX);
    let full = (BACKOFF_MIN * (1 << exponent)).min(BACKOFF_MAX);
    // Half of it by chance, so that many resources do not come back at the same moment.
    let part = rand::random_range(0.5..1.0);
    Action::requeue(full.mul_f64(part))
}

/// Rounds wait for members most of the time.
const ROUNDS_AT_ONCE_MAX: u16 = 32;

/// Memory of deleted resources is kept for so long at most.
const TIDY_INTERVAL: Duration = Duration::from_secs(30);

/// Somebody else was faster: what they wrote will have been seen by then.
const CONFLICT_RETRY: Duration = Duration::from_millis(300);

/// After the first failure.
const BACKOFF_MIN: Duration = Duration::from_secs(1);

/// Whatever failed for so long is no matter of seconds.
const BACKOFF_MAX: Duration = Duration::from_secs(300);

/// 2^9 seconds are more than the longest.
const BACKOFF_EXPONENT_MAX: u32 = 9;
