//! A new group that begins with a backup file. Does I/O.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use kube::api::{DynamicObject, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;

use crate::act;
use crate::backup::{self, Header};
use crate::gather::{self, Found, Selection};
use crate::reach::{self, Member};

/// What `kubectl quorate restore` takes.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// The new resource. It exists and waits for a backup (`restoreFrom: {type: Upload}`), or is made with `--like`.
    pub name: String,
    /// A file that `kubectl quorate backup` or `quorate-agent backup` wrote.
    pub file: PathBuf,
    /// Make the new resource, with the specification of this one.
    #[arg(long, value_name = "RESOURCE")]
    pub like: Option<String>,
}

/// Sends the backup to the member that founds the group, and waits until that one serves.
pub(crate) async fn restore(
    client: &Client,
    namespace: Option<String>,
    args: &Args,
) -> anyhow::Result<String> {
    let bytes: Bytes = std::fs::read(&args.file)
        .with_context(|| format!("reading {}", args.file.display()))?
        .into();
    let header = backup::check(&bytes).with_context(|| format!("{} is not used", args.file.display()))?;
    let select = |name: &str| Selection {
        namespace: namespace.clone(),
        names: vec![name.to_owned()],
    };
    if let Some(other) = &args.like {
        let found = act::one_resource(client, &select(other)).await?;
        make_like(client, found, &args.name).await?;
    }
    let found = act::one_resource(client, &select(&args.name)).await?;
    accepts(&found, &header)?;
    let founder = send(client, &found, &bytes).await?;
    wake_operator(client, &found, &header).await?;
    await_founded(client, &found, &founder).await?;
    let (kind, resource) = &found;
    Ok(format!(
        "{}/{} begins with {}, what {} held at log index {}; {founder} founded it\n",
        kind.kind,
        resource.name_any(),
        shown(&args.file),
        header.member,
        header.index
    ))
}

fn shown(file: &Path) -> String {
    file.display().to_string()
}

/// Whether a resource can begin with a backup of that service.
fn accepts((kind, resource): &Found, header: &Header) -> anyhow::Result<()> {
    let title = format!("{}/{}", kind.kind, resource.name_any());
    let service = match kind.kind {
        "KvCluster" => "kv",
        "AdcHub" => "adc",
        _ => bail!("{title} cannot begin with a backup: only a KvCluster and an AdcHub can"),
    };
    ensure!(
        header.service == service,
        "the file is a backup of a {} group: {title} cannot begin with it",
        header.service
    );
    ensure!(
        resource.data["spec"]["restoreFrom"]["type"] == "Upload",
        "{title} waits for no backup: a new resource with `restoreFrom: {{type: Upload}}` does, and --like makes one"
    );
    Ok(())
}

/// Creates a resource with the specification of another, to begin with a backup.
async fn make_like(client: &Client, (kind, other): Found, name: &str) -> anyhow::Result<()> {
    let namespace = other.namespace().unwrap_or_default();
    let mut new = DynamicObject::new(name, &gather::resource(kind));
    let mut spec = other.data["spec"].clone();
    spec["restoreFrom"] = json!({"type": "Upload"});
    // The other one has it.
    if let Some(service) = spec["service"].as_object_mut() {
        service.remove("nodePort");
    }
    new.data = json!({ "spec": spec });
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &namespace, &gather::resource(kind));
    api.create(&PostParams::default(), &new)
        .await
        .with_context(|| format!("creating {}/{name}", kind.kind))?;
    Ok(())
}

/// Sends the bytes as soon as the founding member runs, and returns its name.
async fn send(client: &Client, (kind, resource): &Found, bytes: &Bytes) -> anyhow::Result<String> {
    let (namespace, name) = (resource.namespace().unwrap_or_default(), resource.name_any());
    let founder = format!("{name}-0");
    let member = Member {
        client,
        namespace: &namespace,
        name: &founder,
    };
    let mut last = None;
    for _ in 0..LOOKS {
        match member.status().await {
            Ok(status) if status.node_id.is_some() => {
                bail!(
                    "{}/{name} exists already, and holds something: restore into a new resource",
                    kind.kind
                );
            }
            Ok(_) => {
                let token = reach::token(client, &namespace, &name).await?;
                member
                    .put("/v1/backup", &token, bytes.clone())
                    .await
                    .with_context(|| format!("sending the backup to {founder}"))?;
                return Ok(founder);
            }
            Err(error) => last = Some(error),
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
    let error = last.context("no look was taken")?;
    Err(error.context(format!(
        "{founder} does not run: `kubectl quorate doctor {name}` may say why"
    )))
}

/// The operator asks a founder that refuses less and less often; a change of the resource makes it ask at once.
async fn wake_operator(client: &Client, (kind, resource): &Found, header: &Header) -> anyhow::Result<()> {
    let namespace = resource.namespace().unwrap_or_default();
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &namespace, &gather::resource(kind));
    let sent = format!("{} at {}", header.member, header.index);
    let patch = json!({"metadata": {"annotations": {"quorate.dev/backup-sent": sent}}});
    api.patch(
        &resource.name_any(),
        &PatchParams::default(),
        &Patch::Merge(patch),
    )
    .await
    .with_context(|| {
        format!(
            "telling {}/{} that its backup is there",
            kind.kind,
            resource.name_any()
        )
    })?;
    Ok(())
}

async fn await_founded(client: &Client, (_, resource): &Found, founder: &str) -> anyhow::Result<()> {
    let namespace = resource.namespace().unwrap_or_default();
    let member = Member {
        client,
        namespace: &namespace,
        name: founder,
    };
    for _ in 0..LOOKS {
        if let Ok(status) = member.status().await
            && status.node_id.is_some()
        {
            return Ok(());
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
    bail!(
        "the backup was sent to {founder}, and the group is not founded yet: `kubectl quorate doctor {}` may say why",
        resource.name_any()
    )
}

/// Between two looks at the member.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// For two minutes: an image may have to be pulled first, and a volume made.
const LOOKS: usize = 240;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::KINDS;

    fn found(kind: &str, spec: serde_json::Value) -> Found {
        let kind = KINDS.iter().find(|known| known.kind == kind).unwrap();
        let mut resource = DynamicObject::new("new", &gather::resource(kind));
        resource.data = json!({ "spec": spec });
        (kind, resource)
    }

    #[test]
    fn only_what_waits_for_a_backup_of_its_kind_gets_one() {
        let header = |service: &str| Header {
            service: service.to_owned(),
            member: "settings-1".to_owned(),
            index: 9,
        };
        let waiting = || json!({"restoreFrom": {"type": "Upload"}});
        accepts(&found("KvCluster", waiting()), &header("kv")).unwrap();
        accepts(&found("AdcHub", waiting()), &header("adc")).unwrap();
        for (kind, spec, service, why) in [
            ("KvCluster", json!({}), "kv", "waits for no backup"),
            (
                "KvCluster",
                json!({"restoreFrom": {"type": "Secret"}}),
                "kv",
                "waits for no backup",
            ),
            ("KvCluster", waiting(), "adc", "a backup of a adc group"),
            ("AdcHub", waiting(), "kv", "a backup of a kv group"),
            ("TftpCluster", json!({}), "kv", "only a KvCluster and an AdcHub"),
        ] {
            let error = accepts(&found(kind, spec), &header(service))
                .unwrap_err()
                .to_string();
            assert!(error.contains(why), "{error}");
        }
    }
}
