//! Finds the leader of a group, and repeats a request while there is none.

use std::future::Future;
use std::time::Duration;

use anyhow::Context;
use futures::future::join_all;
use operator_api::{MemberStatus, Role};
use tokio::time::Instant;

use super::{AdminClient, ClientError};

/// The leader of one group, whoever it is at the moment.
#[derive(Debug, Clone)]
pub(crate) struct Leader {
    client: AdminClient,
    members: Vec<String>,
    wait: Duration,
}

impl Leader {
    /// A group whose members have these admin addresses; one that answers is enough. A request is repeated for at
    /// most `wait` while no member leads.
    pub(crate) fn new(members: Vec<String>, token: Option<String>, wait: Duration) -> anyhow::Result<Self> {
        let first = members.first().context("the group has no members")?.clone();
        Ok(Self {
            client: AdminClient::new(first, token)?,
            members,
            wait,
        })
    }

    /// A client of each member whose address is known from the start.
    pub(crate) fn clients(&self) -> Vec<AdminClient> {
        self.members
            .iter()
            .map(|address| self.client.at(address))
            .collect()
    }

    /// A client of one member of the group.
    pub(crate) fn client_at(&self, address: &str) -> AdminClient {
        self.client.at(address)
    }

    /// Sends a request to the leader. It is sent again when a member turns out not to lead, or stops answering:
    /// it must be safe to repeat. `attempt` counts from 0.
    pub(crate) async fn ask<T, F>(&self, mut request: impl FnMut(AdminClient, u32) -> F) -> anyhow::Result<T>
    where
        F: Future<Output = Result<T, ClientError>>,
    {
        let give_up = Instant::now() + self.wait;
        let mut hint: Option<String> = None;
        let mut attempt = 0;
        loop {
            let address = match hint.take() {
                Some(address) => Ok(address),
                None => self.find().await,
            };
            let error = match address {
                Ok(address) => match request(self.client.at(&address), attempt).await {
                    Ok(answer) => return Ok(answer),
                    Err(error) if !error.is_passing() => return Err(error.into()),
                    Err(error) => {
                        if let ClientError::NotLeader {
                            leader: Some(leader),
                            address,
                        } = &error
                        {
                            hint = (leader != address).then(|| leader.clone());
                        }
                        attempt += 1;
                        anyhow::Error::new(error)
                    }
                },
                Err(error) => error,
            };
            let now = Instant::now();
            if now >= give_up {
                return Err(error.context(format!(
                    "no leader served the request within {} s; see `quorate-agent status`",
                    self.wait.as_secs()
                )));
            }
            tokio::time::sleep(RETRY_AFTER.min(give_up - now)).await;
        }
    }

    /// Asks all members at once who leads.
    async fn find(&self) -> anyhow::Result<String> {
        let answers = join_all(self.members.iter().map(|address| {
            let client = self.client.at(address);
            async move { client.status().await.map(|status| (address.as_str(), status)) }
        }))
        .await;
        let (mut answered, mut silent) = (Vec::new(), None);
        for answer in answers {
            match answer {
                Ok(answer) => answered.push(answer),
                Err(error) => silent = Some(error),
            }
        }
        match (leader_address(&answered), silent) {
            (Some(address), _) => Ok(address),
            (None, Some(error)) if answered.is_empty() => Err(error.into()),
            _ => Err(anyhow::anyhow!(
                "no member of {} knows a leader",
                self.members.join(", ")
            )),
        }
    }
}

/// The admin address of the leader: of the one that serves, the address at which it answered (others may reach it at
/// another one); else what the newest term says.
fn leader_address(answers: &[(&str, MemberStatus)]) -> Option<String> {
    let serving = answers.iter().filter(|(_, status)| {
        status.role == Role::Leader && status.detail.as_ref().is_some_and(|detail| detail.serving)
    });
    if let Some((address, _)) = serving.max_by_key(|(_, status)| status.term) {
        return Some((*address).to_owned());
    }
    let mut by_term: Vec<&MemberStatus> = answers.iter().map(|(_, status)| status).collect();
    by_term.sort_by_key(|status| std::cmp::Reverse(status.term));
    by_term.into_iter().find_map(|status| {
        let detail = status.detail.as_ref()?;
        let leader = detail.leader_id?;
        detail
            .members
            .iter()
            .find(|member| member.node_id == leader)
            .map(|member| member.admin_address.clone())
    })
}

/// Elections take a few hundred milliseconds: asking ten times a second neither delays nor disturbs.
const RETRY_AFTER: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use operator_api::admin::{GroupMember, MemberDetail};
    use operator_api::config::ServiceKind;

    use super::*;

    fn answer(
        port: u16,
        term: u64,
        role: Role,
        serving: bool,
        leader_id: Option<u64>,
    ) -> (&'static str, MemberStatus) {
        let member = |id: u16| GroupMember {
            node_id: u64::from(id),
            name: format!("tftp-{id}"),
            peer_address: String::new(),
            admin_address: format!("127.0.0.1:{id}"),
            voter: true,
            matched_index: None,
        };
        let status = MemberStatus {
            service: ServiceKind::Tftp,
            name: format!("tftp-{port}"),
            node_id: Some(u64::from(port)),
            pid: Some(1),
            role,
            term,
            commit_index: 0,
            applied_index: 0,
            client_address: String::new(),
            admin_address: format!("127.0.0.1:{port}"),
            detail: Some(MemberDetail {
                version: String::new(),
                group_id: None,
                leader_id,
                serving,
                ready: true,
                first_log_index: 0,
                last_log_index: 0,
                snapshot_index: 0,
                members: vec![member(1), member(2), member(3)],
                alarm: None,
                peer_certificates: None,
                service_detail: serde_json::Value::Null,
            }),
        };
        (["", "asked:1", "asked:2", "asked:3"][usize::from(port)], status)
    }

    #[test]
    fn serving_leader_is_chosen_over_a_deposed_one() {
        let answers = [
            answer(1, 3, Role::Leader, false, Some(1)),
            answer(2, 4, Role::Leader, true, Some(2)),
            answer(3, 4, Role::Follower, false, Some(2)),
        ];
        assert_eq!(leader_address(&answers).as_deref(), Some("asked:2"));
    }

    #[test]
    fn one_follower_is_enough_to_find_the_leader() {
        let answers = [answer(3, 4, Role::Follower, false, Some(2))];
        assert_eq!(leader_address(&answers).as_deref(), Some("127.0.0.1:2"));
    }

    #[test]
    fn newest_term_names_the_leader() {
        let answers = [
            answer(1, 3, Role::Follower, false, Some(1)),
            answer(3, 4, Role::Follower, false, Some(2)),
        ];
        assert_eq!(leader_address(&answers).as_deref(), Some("127.0.0.1:2"));
    }

    #[test]
    fn no_leader_is_none() {
        assert_eq!(
            leader_address(&[answer(1, 3, Role::Candidate, false, None)]),
            None
        );
        assert_eq!(leader_address(&[]), None);
    }
}
