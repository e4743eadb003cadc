//! Who may write which files to a TFTP server.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// Lets clients upload files. Of several rules that fit a name, the one with the longest prefix counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct TftpUploadRule {
    /// How the names begin; empty for all names.
    #[serde(default)]
    #[schemars(length(max = 200), regex(pattern = r"^([^/\s]\S*)?$"))]
    pub prefix: String,
    /// Whether files may be replaced.
    #[serde(default)]
    pub overwrite: bool,
    /// The networks of the clients that may, like `192.0.2.0/24`; all without it. With `externalTrafficPolicy: Cluster`
    /// clients outside the cluster have the address of a node.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 64)))]
    #[x_kube(
        merge_strategy = ListMerge::Set,
        validation = Rule::new("self.all(range, isCIDR(range))")
            .message("each of `from` must be an address range like '192.0.2.0/24'")
    )]
    pub from: Vec<String>,
}
