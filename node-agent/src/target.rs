//! Which group a command means: the local one, one in a directory, or the one of a given member.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::ensure;
use operator_api::ServiceKind;

use crate::client::leader::Leader;
use crate::group::{self, GroupDescription};

/// The arguments that name a group.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Target {
    /// The directory of a local group; by default the one that runs.
    #[arg(long, value_name = "DIR", global = true)]
    dir: Option<PathBuf>,
    /// The admin port of any member, instead of a local group.
    #[arg(long, value_name = "HOST:PORT", conflicts_with = "dir", global = true)]
    admin: Option<String>,
    /// The file with the group's token; a local group's is found by itself.
    #[arg(long, value_name = "FILE", global = true)]
    token_file: Option<PathBuf>,
    /// How long to wait while the group has no leader.
    #[arg(long, value_name = "SECONDS", default_value_t = WAIT_SECONDS, global = true)]
    wait: u32,
}

impl Target {
    /// The leader of the group that runs `service`.
    pub(crate) fn leader(&self, service: ServiceKind) -> anyhow::Result<Leader> {
        let wait = Duration::from_secs(self.wait.into());
        let given = self.token_file.as_deref().map(group::read_token).transpose()?;
        if let Some(admin) = &self.admin {
            return Leader::new(vec![admin.clone()], given, wait);
        }
        let dir = group::resolve_dir(self.dir.as_deref())?;
        let description = GroupDescription::read(&dir)?;
        let token = match given {
            Some(token) => token,
            None => description.token()?,
        };
        let members = description
            .members
            .into_iter()
            .filter(|member| member.service == service);
        let members: Vec<String> = members.map(|member| member.admin_address).collect();
        ensure!(
            !members.is_empty(),
            "the local group in {} runs no {service} service",
            dir.display()
        );
        Leader::new(members, Some(token), wait)
    }
}

/// Many times the longest election.
const WAIT_SECONDS: u32 = 10;
