//! What was found, for people.

use std::path::Path;
use std::time::Duration;

use e2e::report::{Table, milliseconds, percentile, plot_distribution};

use super::{Fault, Service, Trial};

/// One trial in a line.
pub(crate) fn summary(trial: &Trial) -> String {
    let part = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.0}"));
    format!(
        "{:4} {:16} {:16} without an answer {:6.0} ms (election {}, publication {}, kube-proxy {}), {} of {} failed",
        trial.service.name(),
        trial.fault.name(),
        if trial.operator { "" } else { "no operator" },
        trial.without_answer,
        part(trial.election),
        part(trial.publication),
        part(trial.kube_proxy),
        trial.failed,
        trial.requests,
    )
}

fn durations(values: impl Iterator<Item = f64>) -> Vec<Duration> {
    values
        .map(|value| Duration::from_secs_f64(value / 1000.0))
        .collect()
}

/// All trials in a table.
pub(crate) fn table(trials: &[Trial]) -> Table {
    let mut table = Table::new(&[
        "service",
        "fault",
        "operator",
        "trials",
        "p50",
        "p90",
        "p99",
        "longest",
        "aim (p50, p99)",
        "election p50",
        "publication p50",
        "kube-proxy p50",
        "failed requests",
    ]);
    for service in [Service::Tftp, Service::Kv] {
        for fault in Fault::ALL {
            for operator in [true, false] {
                let group: Vec<_> = trials
                    .iter()
                    .filter(|trial| {
                        (trial.service, trial.fault, trial.operator) == (service, fault, operator)
                    })
                    .collect();
                if group.is_empty() {
                    continue;
                }
                let gaps = durations(group.iter().map(|trial| trial.without_answer));
                let median = |part: fn(&Trial) -> Option<f64>| {
                    milliseconds(percentile(
                        &durations(group.iter().filter_map(|trial| part(trial))),
                        0.5,
                    ))
                };
                let at = |part| milliseconds(percentile(&gaps, part));
                let failed: usize = group.iter().map(|trial| trial.failed).sum();
                let requests: usize = group.iter().map(|trial| trial.requests).sum();
                table.row([
                    service.name().to_owned(),
                    fault.name().to_owned(),
                    if operator { "yes" } else { "no" }.to_owned(),
                    group.len().to_string(),
                    at(0.5),
                    at(0.9),
                    at(0.99),
                    at(1.0),
                    fault.aim().to_owned(),
                    median(|trial| trial.election),
                    median(|trial| trial.publication),
                    median(|trial| trial.kube_proxy),
                    format!("{failed} of {requests}"),
                ]);
            }
        }
    }
    table
}

/// Draws all trials of a service into a file of `results`.
pub(crate) fn plot(results: &Path, service: Service, trials: &[Trial]) -> anyhow::Result<()> {
    let mut series = Vec::new();
    for fault in Fault::ALL {
        for operator in [true, false] {
            let of_it = trials
                .iter()
                .filter(|trial| (trial.service, trial.fault, trial.operator) == (service, fault, operator));
            let gaps = durations(of_it.map(|trial| trial.without_answer));
            if !gaps.is_empty() {
                let name = format!("{}{}", fault.name(), if operator { "" } else { ", no operator" });
                series.push((name, gaps));
            }
        }
    }
    if series.is_empty() {
        return Ok(());
    }
    let file = format!("failover-{}.svg", service.name().to_lowercase());
    let title = format!("{}: the Service without an answer", service.name());
    plot_distribution(&results.join(file), &title, &series)
}
