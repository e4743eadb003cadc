//! What tests do to members.

use std::fs;

use anyhow::{Context, ensure};
use operator_api::MemberStatus;
use rustix::process::Signal;

use super::{Group, pid};
use crate::clock::{PATIENCE, eventually};
use crate::process::signal;

impl Group {
    /// Kills the leader with SIGKILL and says who it was.
    pub fn kill_leader(&self) -> anyhow::Result<MemberStatus> {
        self.signal_leader(Signal::KILL)
    }

    /// Kills a member with SIGKILL, at once.
    pub fn kill(&self, member: &MemberStatus) -> anyhow::Result<()> {
        signal(pid(member)?, Signal::KILL)
    }

    /// Sends the leader a signal and says who it was.
    pub fn signal_leader(&self, with: Signal) -> anyhow::Result<MemberStatus> {
        let leader = self.leader()?;
        signal(pid(&leader)?, with)?;
        Ok(leader)
    }

    /// Hands leadership over until this member leads.
    pub fn let_lead(&self, member: &str) -> anyhow::Result<()> {
        eventually(&format!("{member} leads"), PATIENCE, || {
            let leader = self.leader()?;
            if leader.name != member {
                self.transfer()?;
            }
            ensure!(leader.name == member, "{} leads", leader.name);
            Ok(())
        })
    }

    /// Waits until the supervisor has said that a member ended because it could not go on (`EX_SOFTWARE`).
    pub fn await_failed_member(&self) -> anyhow::Result<()> {
        let output = self.scratch().join("local.output");
        eventually("a member ends with its exit code", PATIENCE, || {
            let said = fs::read_to_string(&output).context("reading what the supervisor says")?;
            ensure!(said.contains("exit status: 70"), "it is not said");
            Ok(())
        })
    }

    /// Kills the leader and removes all its data before it is started again; says who it was.
    pub fn kill_leader_and_empty_its_disk(&self) -> anyhow::Result<MemberStatus> {
        let leader = self.leader()?;
        let dir = self.member_dir(&leader.name);
        ensure!(
            dir.is_dir(),
            "{} is not a directory: where does {} keep its data?",
            dir.display(),
            leader.name
        );
        // The paused supervisor cannot start the member before its disk is empty.
        let supervisor = self.supervisor()?;
        supervisor.signal(Signal::STOP)?;
        let emptied = signal(pid(&leader)?, Signal::KILL)
            .and_then(|()| fs::remove_dir_all(&dir).with_context(|| format!("emptying {}", dir.display())));
        supervisor.signal(Signal::CONT)?;
        emptied?;
        Ok(leader)
    }

    /// Kills every member at once.
    pub fn kill_all_members(&self) -> anyhow::Result<()> {
        for status in self.statuses().iter().flatten() {
            signal(pid(status)?, Signal::KILL)?;
        }
        Ok(())
    }
}
