//! The requests besides those for single keys: from the head and the body to the operation.

use std::sync::Arc;

use replication::Shutdown;

use super::Context;
use super::http::{Content, JSON_FACTOR, Source, body, check_size, last_event_id};
use crate::access::{Grant, Level};
use crate::request::{self, Answer, Refusal, Target, Terms};
use crate::state::{Change, Value};

/// What a transaction's keys and values may be together, in values.
const TRANSACTION_FACTOR: usize = 2;

/// Carries a request out whose target the caller may use, as far as the head tells.
pub(super) async fn carry_out(
    context: &Arc<Context>,
    grant: &Grant,
    target: Target,
    terms: &Terms,
    request: Source,
    until: Shutdown,
) -> Result<Content, Refusal> {
    let value_bytes_max = context.value_bytes_max;
    let answer = match target {
        Target::Watch(prefix) => {
            let seen = last_event_id(&request)?;
            return Ok(Content::Told(context.watch(prefix, terms, seen, until).await?));
        }
        Target::Subscribe(address) => return Ok(Content::Told(context.subscribe(address, until))),
        Target::Publish(address) => {
            let message = Value::from(&body(request, value_bytes_max).await?[..]);
            context.publish(address, message).await
        }
        Target::Send(address) => {
            let message = Value::from(&body(request, value_bytes_max).await?[..]);
            context.send(address, message, terms).await?
        }
        Target::Reply => {
            let reply = Value::from(&body(request, value_bytes_max).await?[..]);
            let token = terms
                .more
                .token
                .ok_or_else(|| Refusal::bad("say to whom: `token`"))?;
            context.reply(token, reply).await?
        }
        Target::Append(journal) => {
            let value = Value::from(&body(request, value_bytes_max).await?[..]);
            context.change(Change::Append { journal, value }, terms).await?
        }
        Target::ReadJournal(name) => context.read_journal(name, terms).await?,
        Target::RemoveJournal(journal) => context.change(Change::RemoveJournal { journal }, terms).await?,
        Target::Range => {
            grant.check(Level::Read, terms.more.prefix.as_deref().unwrap_or_default())?;
            context.range(terms).await
        }
        Target::Transact => {
            let body = body(request, JSON_FACTOR * 2 * value_bytes_max).await?;
            let transaction = request::transaction(&body, value_bytes_max)?;
            check_size(transaction.bytes(), TRANSACTION_FACTOR * value_bytes_max)?;
            grant.check_transaction(&transaction)?;
            context.transact(transaction, terms).await?
        }
        Target::GrantLease => {
            let ttl_ms = terms.more.ttl.map_or(0, |ttl| ttl.as_millis());
            let ttl_ms = u64::try_from(ttl_ms).unwrap_or(u64::MAX);
            context.change_lease(Change::Grant { ttl_ms }, terms).await?
        }
        Target::Lease(id) => listed_to(grant, context.lease(id, terms).await),
        Target::KeepAlive(lease) => context.change_lease(Change::KeepAlive { lease }, terms).await?,
        Target::Revoke(lease) => {
            for key in context.keys_of(lease) {
                grant.check(Level::Write, &key)?;
            }
            context.change_lease(Change::Revoke { lease }, terms).await?
        }
        Target::Extract(server) => {
            let copy = body(request, value_bytes_max).await?;
            context.extract(server, &copy, terms).await?
        }
        other => return Err(Refusal::bad(format!("this is no request for {other:?}"))),
    };
    Ok(Content::Answer(answer))
}

/// Of a lease, the keys are shown that the caller may read.
fn listed_to(grant: &Grant, mut answer: Answer) -> Answer {
    let may_read = |key: &Option<Arc<str>>| key.as_ref().is_none_or(|key| grant.allows(Level::Read, key));
    answer
        .items
        .iter_mut()
        .for_each(|rows| rows.retain(|row| may_read(&row.key)));
    answer
}
