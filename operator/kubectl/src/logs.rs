//! The logs of all members of a group, in one stream. Does I/O.

use anyhow::Context;
use futures::{AsyncBufReadExt, StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::Pod;
use kube::api::LogParams;
use kube::{Api, Client};

use crate::act;
use crate::gather::Selection;

/// What `logs` takes.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// The resource.
    pub name: String,
    /// Go on while lines come.
    #[arg(short, long)]
    follow: bool,
    /// Of the containers before the last restart.
    #[arg(short, long)]
    previous: bool,
    /// So many of the last lines of each member; all of them with -1.
    #[arg(
        long,
        default_value_t = 50,
        allow_negative_numbers = true,
        value_name = "LINES"
    )]
    tail: i64,
    /// Of one member only.
    #[arg(long, value_name = "POD")]
    member: Option<String>,
    /// Of the leader only.
    #[arg(long, conflicts_with = "member")]
    leader: bool,
}

/// Prints the logs; lines of one member keep their order.
pub(crate) async fn logs(
    client: &Client,
    selection: &Selection,
    args: &Args,
    print: &mut impl FnMut(&str),
) -> anyhow::Result<()> {
    let group = act::one(client, selection).await?;
    let names = if args.leader {
        vec![act::leader(&group)?.status.name.clone()]
    } else if let Some(member) = &args.member {
        vec![member.clone()]
    } else {
        group.pods.keys().cloned().collect()
    };
    let pods: Api<Pod> = Api::namespaced(client.clone(), &group.namespace);
    let params = LogParams {
        container: Some(CONTAINER.to_owned()),
        follow: args.follow,
        previous: args.previous,
        tail_lines: (args.tail >= 0).then_some(args.tail),
        ..LogParams::default()
    };
    let mut streams = Vec::new();
    for name in names {
        match pods.log_stream(&name, &params).await {
            Ok(lines) => {
                let prefix = name.clone();
                let lines = lines.lines().map_ok(move |line| format!("{prefix} | {line}\n"));
                streams.push(lines.boxed());
            }
            // A member without a log must not hide the others'.
            Err(error) => print(&format!("{name} | no log: {error}\n")),
        }
    }
    let mut lines = stream::select_all(streams);
    while let Some(line) = lines.next().await {
        print(&line.context("a log broke off")?);
    }
    Ok(())
}

/// As the operator names it.
const CONTAINER: &str = "agent";
