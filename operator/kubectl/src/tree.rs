//! A group as a tree of lines. Pure.

use std::fmt::Write;

use crate::view::Group;

/// A group and everything of it, one line each.
pub(crate) fn tree(group: &Group) -> String {
    let mut text = String::new();
    writeln!(
        text,
        "{} in {}: {}",
        group.title(),
        group.namespace,
        standing(group)
    )
    .ok();
    let members = members(group);
    let rows: Vec<_> = [
        address(group).map(|line| ("address", line)),
        route(group).map(|line| ("route", line)),
        Some(("leader", leader(group))),
        upgrade(group).map(|line| ("upgrade", line)),
        group.is_paused.then(|| {
            (
                "paused",
                "the operator changes nothing: `resume` ends that".to_owned(),
            )
        }),
    ]
    .into_iter()
    .flatten()
    .chain(group.unseen.iter().map(|line| ("unseen", line.clone())))
    .collect();
    for (label, line) in rows {
        writeln!(text, "├─ {label:<8} {line}").ok();
    }
    writeln!(text, "└─ members  {}", count(group)).ok();
    let last = members.len().saturating_sub(1);
    for (index, line) in members.iter().enumerate() {
        let branch = if index == last { "└─" } else { "├─" };
        writeln!(text, "   {branch} {}", line.trim_end()).ok();
    }
    text
}

fn standing(group: &Group) -> String {
    match group.condition("Ready") {
        Some(ready) if ready.status == "True" => "Ready".to_owned(),
        Some(ready) => format!("not Ready ({}): {}", ready.reason, ready.message),
        None => "the operator has not looked at it yet".to_owned(),
    }
}

fn address(group: &Group) -> Option<String> {
    let address = group.address.as_ref()?;
    let hosts = if address.hosts.is_empty() {
        "no address yet".to_owned()
    } else {
        address.hosts.join(", ")
    };
    Some(format!(
        "{hosts} {} ({})",
        address.ports.join(", "),
        address.type_
    ))
}

fn route(group: &Group) -> Option<String> {
    if group.routes.is_empty() {
        return Some("no slice: clients reach nobody".to_owned());
    }
    let lines: Vec<_> = group
        .routes
        .values()
        .map(|route| {
            let pod = route.pod.as_deref().unwrap_or("nobody yet");
            let epoch = route.epoch.as_deref().unwrap_or("none");
            let addresses = route.addresses.join(", ");
            format!("{pod} {addresses} epoch {epoch}")
        })
        .collect();
    Some(lines.join("; "))
}

fn leader(group: &Group) -> String {
    match group.leader() {
        Some(leader) => format!("{} epoch {}", leader.status.name, leader.epoch),
        None => "none that a quorum hears".to_owned(),
    }
}

fn upgrade(group: &Group) -> Option<String> {
    let step = group.status.upgrade_step.as_ref()?;
    Some(format!("{}: {}", step.pod, step.reason))
}

fn count(group: &Group) -> String {
    let ready = group
        .answered()
        .filter(|status| status.detail.as_ref().is_some_and(|detail| detail.ready))
        .count();
    let version = group.status.version.as_deref().unwrap_or("unknown");
    format!("{ready} of {} ready, version {version}", group.wanted())
}

/// A line for each member, in columns.
fn members(group: &Group) -> Vec<String> {
    let rows: Vec<_> = group.names().iter().map(|name| member(group, name)).collect();
    let widths: Vec<_> = (0..COLUMNS)
        .map(|column| {
            let lengths = rows.iter().map(|row| row[column].chars().count());
            lengths.max().unwrap_or(0)
        })
        .collect();
    rows.iter()
        .map(|row| {
            let cells = row.iter().zip(&widths);
            let padded: Vec<_> = cells.map(|(cell, width)| format!("{cell:<width$}")).collect();
            padded.join("  ")
        })
        .collect()
}

fn member(group: &Group, name: &str) -> [String; COLUMNS] {
    let pod = group.pods.get(name);
    let node = pod
        .and_then(|pod| pod.node.as_deref())
        .map_or_else(|| "no node".to_owned(), |node| format!("on {node}"));
    let answer = match group.answers.get(name) {
        Some(Ok(status)) => status,
        Some(Err(why)) => {
            return row([name, "silent", "", &node, "", &trouble(pod, why)]);
        }
        None => return row([name, "no pod", "", &node, "", ""]),
    };
    let id = answer
        .node_id
        .map_or_else(|| "no id".to_owned(), |id| format!("id {id}"));
    let lag = group
        .lag(name)
        .map_or_else(String::new, |lag| format!("lag {lag}"));
    let detail = answer.detail.as_ref();
    let alarm = detail.and_then(|detail| detail.alarm.clone());
    let state = match (alarm, detail.is_some_and(|detail| detail.ready)) {
        (Some(alarm), _) => alarm,
        (None, true) => "ready".to_owned(),
        (None, false) => "not ready".to_owned(),
    };
    let role = match detail {
        Some(detail) if answer.role == operator_api::Role::Leader && !detail.serving => {
            "leader without quorum".to_owned()
        }
        _ => answer.role.to_string(),
    };
    row([name, &role, &id, &node, &lag, &state])
}

fn trouble(pod: Option<&crate::view::Pod>, why: &str) -> String {
    pod.and_then(|pod| pod.trouble.clone())
        .unwrap_or_else(|| why.to_owned())
}

fn row(cells: [&str; COLUMNS]) -> [String; COLUMNS] {
    cells.map(str::to_owned)
}

/// Name, role, node id, node, lag, state.
const COLUMNS: usize = 6;

#[cfg(test)]
mod tests;
