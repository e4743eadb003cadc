//! The definitions of the custom resources, as files.
//!
//! What `kube` and `schemars` derive is nearly right. [`convention`] makes it what the API conventions of Kubernetes
//! want and what the API server accepts.

mod convention;

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use operator_api::resources::{AdcHub, KvCluster, TftpCluster};
use serde_json::Value;

/// Every definition, in the order of their names.
fn definitions() -> Vec<CustomResourceDefinition> {
    vec![AdcHub::crd(), KvCluster::crd(), TftpCluster::crd()]
}

/// The files: name and text.
fn files() -> anyhow::Result<BTreeMap<String, String>> {
    let mut files = BTreeMap::new();
    for definition in definitions() {
        let plural = definition.spec.names.plural.clone();
        let mut value = serde_json::to_value(definition).context("writing a definition as JSON")?;
        convention::apply(&mut value);
        let yaml = serde_yaml::to_string(&value).context("writing a definition as YAML")?;
        files.insert(format!("{plural}.yaml"), format!("{HEADER}{yaml}"));
    }
    Ok(files)
}

/// Writes every definition into `out`.
pub(crate) fn write(out: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(out).with_context(|| format!("making {}", out.display()))?;
    for (name, text) in files()? {
        let path = out.join(name);
        std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

/// The schema of a definition's only version.
fn schema(definition: &mut Value) -> Option<&mut Value> {
    definition.pointer_mut("/spec/versions/0/schema/openAPIV3Schema")
}

const HEADER: &str =
    "# Written by `quorate-operator crds`. Do not edit: change operator/api/src/resources instead.\n";

#[cfg(test)]
mod tests;
