//! The storage quota: what would grow beyond it is refused, and what frees space never is.

use hyper::StatusCode;

use super::Context;
use super::answers;
use super::conveyor::size;
use super::operations::TIMEOUT;
use super::writes::{Identity, Patience, Settled};
use crate::request::{Answer, Refusal, Terms};
use crate::state::{Change, KvState, Outcome};

impl Context {
    /// Why a change finds no room, if it does not. Where this member thinks so, a quorum is asked: there may be room since.
    pub(super) async fn no_room(&self, change: &Change, patience: Patience) -> Option<String> {
        let reason = |state: &KvState| self.reason(state, change);
        let here = self.link.replica.local(reason)?;
        self.consistent(patience, reason).await.unwrap_or(Some(here))
    }

    fn reason(&self, state: &KvState, change: &Change) -> Option<String> {
        let (quota, used) = (self.quota_bytes, state.used());
        // As long as there is room for all of it, what it replaces need not be looked up.
        if used.saturating_add(size(change) as u64) <= quota {
            return None;
        }
        let growth = state.growth(change);
        if growth == 0 || used.saturating_add(growth) <= quota {
            return None;
        }
        Some(format!(
            "no room: the store holds {used} of {quota} bytes (storageBytesMax), and this needs {growth} more; remove \
             something, or raise the quota"
        ))
    }

    /// Refuses a change that finds no room. A copy of it may have been carried out before there was none: then it is
    /// answered so.
    pub(super) async fn without_room(
        &self,
        reason: String,
        change: &Change,
        terms: &Terms,
    ) -> Result<Answer, Refusal> {
        let refusal = Refusal::new(StatusCode::INSUFFICIENT_STORAGE, reason);
        let Some((session, seq)) = terms.request.filter(|_| !terms.first) else {
            return Err(refusal);
        };
        let identity = Identity::Client {
            session,
            seq,
            floor: terms.floor,
            first: false,
            owner: terms.owner,
        };
        let patience = self.patience(terms, TIMEOUT);
        match self.settle_certainly(&identity, patience).await {
            Some(Outcome::Cancelled) => Err(refusal),
            Some(outcome) => answers::answer(Settled::Outcome(outcome), change, (session, seq)),
            None => Err(Refusal::new(
                StatusCode::GATEWAY_TIMEOUT,
                "there is no room, and no quorum said in time whether the request was carried out before: ask again",
            )),
        }
    }
}
