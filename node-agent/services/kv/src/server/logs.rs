//! `get_last_log`: the records of a server's log that nobody was handed before.

use std::sync::Arc;

use super::Context;
use crate::request::logs;
use crate::request::{Answer, Refusal, Terms};
use crate::state::{Change, Value};

impl Context {
    /// Hands out what is new in a caller's copy. A `timeout` means that nothing was handed out, and never will be by this
    /// request.
    pub(super) async fn extract(
        &self,
        server: Arc<str>,
        copy: &[u8],
        terms: &Terms,
    ) -> Result<Answer, Refusal> {
        let copy = logs::considered(copy, terms.more.whole_lines);
        let digests = logs::digests(copy)?;
        let answer = self.change(Change::Extract { server, digests }, terms).await?;
        Ok(match answer.start {
            Some(start) => answer.with_value(&Value::from(logs::suffix(copy, start))),
            None => answer,
        })
    }
}
