//! The certificates between members that the operator issues: looked at, renewed and repaired in a group's rounds.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use tokio::time::Instant;

use super::{Tone, Work, event};
use crate::apply::{self, Apply};
use crate::build;
use crate::certificates::rotation::{self, Next, Readers, Why};
use crate::kinds::Group;
use crate::memory::Memory;
use crate::validate::Validated;

/// What a group's certificates wait for; none when for nothing, or when the operator does not look after them.
pub(super) fn waits_for(service: &Validated, memory: &Memory) -> Option<String> {
    let looks_after = service.issues_certificates && !service.is_paused;
    let (waits_for, _) = memory.renewal.as_ref().filter(|_| looks_after)?;
    waits_for.clone()
}

impl<K: Group> Work<'_, K> {
    /// Takes the steps that are due. Nothing is written when none is.
    pub(super) async fn renew_certificates(&self, memory: &mut Memory) -> Result<(), Apply> {
        if let Some((None, at)) = &memory.renewal
            && at.elapsed() < LOOK_INTERVAL
        {
            return Ok(());
        }
        let client = &self.context.shared.client;
        for _ in 0..STEPS_MAX {
            let kept = apply::certificates::read(client, self.service).await?;
            let now = Timestamp::now().as_second();
            let next = rotation::next(
                kept.authority.as_ref(),
                kept.members.as_ref(),
                (&self.service.name, &build::server_name(self.service)),
                &Readers::of(self.observed, kept.members.as_ref()),
                now,
            );
            let waits_for = match &next {
                Next::Nothing => None,
                Next::Wait(what) => Some(what.clone()),
                step => {
                    apply::certificates::carry_out(client, self.service, &kept, step, now).await?;
                    self.tell_renewal(step).await;
                    continue;
                }
            };
            memory.renewal = Some((waits_for, Instant::now()));
            return Ok(());
        }
        // Somebody writes against us: the next round goes on.
        memory.renewal = None;
        Ok(())
    }

    async fn tell_renewal(&self, step: &Next) {
        let (what, why) = match step {
            Next::Authority { why, .. } => ("the authority of the certificates between members", why),
            Next::Members(why) => ("the certificate between members", why),
            Next::Forget => {
                let note = "every member shows a certificate of the new authority: the former one is trusted no more";
                return event(
                    self.context,
                    self.resource,
                    Tone::Normal,
                    "AuthorityReplaced",
                    note,
                )
                .await;
            }
            Next::Nothing | Next::Wait(_) | Next::Trust => return,
        };
        // A group that is being made has none yet.
        if self.observed.stateful_set.is_none() {
            return;
        }
        let (tone, reason, note) = match why {
            Why::Due => (
                Tone::Normal,
                "CertificatesRenewed",
                format!("{what} was renewed before its end"),
            ),
            Why::Succession => (
                Tone::Normal,
                "CertificatesRenewed",
                format!("{what} was issued by the new authority, which every member trusts"),
            ),
            Why::Missing => (
                Tone::Warning,
                "CertificatesRepaired",
                format!("{what} was gone, and is made anew"),
            ),
            Why::Unusable(why) => (
                Tone::Warning,
                "CertificatesRepaired",
                format!("{what} {why}, and is made anew"),
            ),
        };
        event(self.context, self.resource, tone, reason, &note).await;
    }
}

/// Nothing calls when a Secret changes: the operator watches none.
const LOOK_INTERVAL: Duration = Duration::from_secs(60);

/// Of one round: an authority, what members trust, their certificate, and a look at the outcome.
const STEPS_MAX: usize = 5;
