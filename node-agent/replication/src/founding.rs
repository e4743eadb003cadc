//! How a group begins, from nothing or from a backup, and how a backup is taken.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;
use tracing::info;
use uuid::Uuid;

use crate::backup::{Backup, BackupHeader, Keeper, RestoreFrom};
use crate::identity::{Identity, Stored};
use crate::member::Member;
use crate::membership::become_member;
use crate::raft::snapshot::SNAPSHOT_BYTES_MAX;
use crate::raft::state_machine::Machine;
use crate::{MembershipError, NodeId};

/// The founder's node id where there is no backup. Every other id is the index of a later log entry, and those are greater.
const FOUNDER: NodeId = 1;
/// How long a backup waits until this member has applied what it should hold.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(10);

/// Makes this member the only voter of a new group.
pub(crate) async fn found(member: &Arc<Member>, group_id: Uuid) -> Result<Identity, MembershipError> {
    let (node_id, snapshot) = match &member.options.restore {
        None => (FOUNDER, None),
        Some(from) => {
            let backup = read(member.applied.clone(), member.keeper(), from.clone()).await?;
            info!(
                file = %from.file.display(),
                from_group = %backup.header.group_id,
                index = backup.header.index,
                "founding a group from a backup"
            );
            let snapshot = backup
                .first_snapshot(member.own_node())
                .map_err(|error| MembershipError::Invalid(format!("the backup cannot be used: {error}")))?;
            (backup.founder(), Some(snapshot))
        }
    };
    let stored = Stored {
        identity: Identity { group_id, node_id },
        founding: true,
    };
    become_member(member, stored, snapshot).await?;
    Ok(stored.identity)
}

/// Reads a backup and makes sure that a member can begin with it.
async fn read(
    machine: Arc<dyn Machine>,
    keeper: Option<Arc<dyn Keeper>>,
    from: RestoreFrom,
) -> Result<Backup, MembershipError> {
    let checked = move || {
        let mut backup = Backup::read(&from.file).map_err(|error| error.to_string())?;
        backup
            .check_service(&from.service)
            .map_err(|error| error.to_string())?;
        machine
            .check(&backup.state)
            .map_err(|error| format!("the backup cannot be used: {error}"))?;
        if let Some(keeper) = keeper {
            backup.state = keeper
                .adopt(backup.state, backup.header.secret.as_deref())
                .map_err(|why| format!("the backup cannot be used: {why}"))?;
        }
        Ok(backup)
    };
    tokio::task::spawn_blocking(checked)
        .await
        .map_err(|error| MembershipError::Invalid(format!("the backup cannot be used: {error}")))?
        .map_err(MembershipError::Invalid)
}

/// Encodes what this member holds, once it holds everything up to `at_least`.
pub(crate) async fn backup(
    member: &Arc<Member>,
    service: String,
    at_least: u64,
) -> Result<Bytes, MembershipError> {
    let Some(running) = member.running() else {
        return Err(MembershipError::Invalid(
            "this member has joined no group yet: it holds nothing".to_owned(),
        ));
    };
    let group_id = running.identity.group_id;
    let wanted = at_least.max(running.committed_at_start);
    let mut index = member.applied.index();
    let caught_up = timeout(CATCH_UP_TIMEOUT, index.wait_for(|index| *index >= wanted));
    match caught_up.await {
        Ok(Ok(_)) => {}
        Ok(Err(_)) => return Err(MembershipError::Stopping),
        Err(_) => {
            return Err(MembershipError::Timeout(format!(
                "this member has not applied entry {wanted} within {} s: ask another one",
                CATCH_UP_TIMEOUT.as_secs()
            )));
        }
    }
    let (applied, name) = (member.applied.clone(), member.options.name.clone());
    let secret = member.keeper().and_then(|keeper| keeper.secret());
    let encode = move || {
        let (index, unix_ms, state) = applied.view();
        let header = BackupHeader {
            format: BackupHeader::FORMAT,
            service,
            group_id,
            member: name,
            index,
            unix_ms,
            secret,
        };
        (state.len() <= SNAPSHOT_BYTES_MAX).then(|| {
            let state = state.into();
            Backup { header, state }.encode()
        })
    };
    tokio::task::spawn_blocking(encode)
        .await
        .map_err(|error| MembershipError::Invalid(format!("the backup broke: {error}")))?
        .ok_or_else(|| MembershipError::Invalid("the state is too large for a backup".to_owned()))
}
