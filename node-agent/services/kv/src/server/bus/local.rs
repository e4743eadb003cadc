//! Who is connected to this member, to which address, and who waits here for a reply.

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{mpsc, oneshot};

use crate::request::Token;
use crate::state::Value;

/// Messages that wait for a subscriber to take them; one that lets more wait is cut off.
const QUEUE_MAX: usize = 256;
/// Senders that wait for a reply at a time.
const WAITING_MAX: usize = 4096;
/// Addresses whose turn is remembered.
const TURNS_MAX: usize = 4096;

/// A message for one subscriber.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::server) struct Message {
    pub(in crate::server) value: Value,
    /// Names the sender's wait for a reply; none for what was published.
    pub(in crate::server) token: Option<Token>,
}

struct Subscriber {
    id: u64,
    queue: mpsc::Sender<Message>,
}

struct Waiting {
    secret: u64,
    reply: oneshot::Sender<Value>,
}

/// The bus, as far as this member has part in it.
#[derive(Default)]
pub(in crate::server) struct Local {
    subscribers: Mutex<BTreeMap<Arc<str>, Vec<Subscriber>>>,
    waiting: Mutex<BTreeMap<u64, Waiting>>,
    turns: Mutex<BTreeMap<Arc<str>, u64>>,
    last: AtomicU64,
}

/// A subscriber's end; it is unsubscribed when this is dropped.
pub(super) struct Subscription {
    local: Arc<Local>,
    address: Arc<str>,
    id: u64,
    pub(super) messages: mpsc::Receiver<Message>,
}

/// A sender's end; nobody waits any more when this is dropped.
pub(super) struct Wait {
    local: Arc<Local>,
    number: u64,
    pub(super) token: Token,
    pub(super) reply: oneshot::Receiver<Value>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Local {
    fn next(&self) -> u64 {
        self.last.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Adds a subscriber.
    pub(super) fn subscribe(self: &Arc<Self>, address: Arc<str>) -> Subscription {
        let (queue, messages) = mpsc::channel(QUEUE_MAX);
        let id = self.next();
        locked(&self.subscribers)
            .entry(address.clone())
            .or_default()
            .push(Subscriber { id, queue });
        Subscription {
            local: self.clone(),
            address,
            id,
            messages,
        }
    }

    /// How many subscribers an address has here.
    pub(super) fn count(&self, address: &str) -> u64 {
        locked(&self.subscribers)
            .get(address)
            .map_or(0, |all| all.len() as u64)
    }

    /// Gives a message to all subscribers of an address here; to how many.
    pub(super) fn publish(&self, address: &str, value: &Value) -> u64 {
        let message = Message {
            value: value.clone(),
            token: None,
        };
        let mut subscribers = locked(&self.subscribers);
        let Some(all) = subscribers.get_mut(address) else {
            return 0;
        };
        // Who does not take messages is cut off rather than given some and not others.
        all.retain(|one| one.queue.try_send(message.clone()).is_ok());
        all.len() as u64
    }

    /// Gives a message to one subscriber of an address here, by its place; whether it was there and took it.
    pub(super) fn send(&self, address: &str, place: u64, message: Message) -> bool {
        let mut subscribers = locked(&self.subscribers);
        let Some(all) = subscribers.get_mut(address) else {
            return false;
        };
        let place = usize::try_from(place).unwrap_or(usize::MAX);
        let Some(one) = all.get(place) else {
            return false;
        };
        let is_taken = one.queue.try_send(message).is_ok();
        if !is_taken {
            all.remove(place);
        }
        is_taken
    }

    /// Whose turn it is, of all subscribers of an address.
    pub(super) fn turn(&self, address: &Arc<str>) -> u64 {
        let mut turns = locked(&self.turns);
        if turns.len() >= TURNS_MAX && !turns.contains_key(address) {
            turns.clear();
        }
        let turn = turns.entry(address.clone()).or_default();
        *turn += 1;
        *turn - 1
    }

    /// Waits for a reply, under a token that nobody can guess; none when too many wait.
    pub(super) fn wait(self: &Arc<Self>, member: u64) -> Option<Wait> {
        let mut waiting = locked(&self.waiting);
        if waiting.len() >= WAITING_MAX {
            return None;
        }
        let number = self.next();
        let mut chance = RandomState::new().build_hasher();
        chance.write_u64(number);
        let secret = chance.finish();
        let (sender, reply) = oneshot::channel();
        waiting.insert(
            number,
            Waiting {
                secret,
                reply: sender,
            },
        );
        Some(Wait {
            local: self.clone(),
            number,
            token: Token {
                member,
                number,
                secret,
            },
            reply,
        })
    }

    /// Gives a reply to its sender; whether it still waits.
    pub(super) fn reply(&self, token: Token, value: Value) -> bool {
        let mut waiting = locked(&self.waiting);
        let is_known = waiting
            .get(&token.number)
            .is_some_and(|one| one.secret == token.secret);
        if !is_known {
            return false;
        }
        waiting
            .remove(&token.number)
            .is_some_and(|one| one.reply.send(value).is_ok())
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut subscribers = locked(&self.local.subscribers);
        if let Some(all) = subscribers.get_mut(&self.address) {
            all.retain(|one| one.id != self.id);
            if all.is_empty() {
                subscribers.remove(&self.address);
            }
        }
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        locked(&self.local.waiting).remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(text: &str) -> Message {
        Message {
            value: text.into(),
            token: None,
        }
    }

    #[test]
    fn published_messages_reach_all_and_sent_ones_one() {
        let local = Arc::new(Local::default());
        let mut first = local.subscribe("a".into());
        let mut second = local.subscribe("a".into());
        let _other = local.subscribe("b".into());
        assert_eq!(local.publish("a", &"all".into()), 2);
        assert!(local.send("a", 1, message("one")));
        assert!(!local.send("a", 2, message("one")));
        assert_eq!(first.messages.try_recv(), Ok(message("all")));
        assert_eq!(second.messages.try_recv(), Ok(message("all")));
        assert_eq!(second.messages.try_recv(), Ok(message("one")));
        assert!(first.messages.try_recv().is_err());
        drop(first);
        assert_eq!(local.count("a"), 1);
        drop(second);
        assert_eq!((local.count("a"), local.publish("a", &"all".into())), (0, 0));
    }

    #[test]
    fn subscriber_that_takes_nothing_is_cut_off() {
        let local = Arc::new(Local::default());
        let mut slow = local.subscribe("a".into());
        for _ in 0..QUEUE_MAX {
            assert_eq!(local.publish("a", &"x".into()), 1);
        }
        assert_eq!(local.publish("a", &"x".into()), 0);
        for _ in 0..QUEUE_MAX {
            assert!(slow.messages.try_recv().is_ok());
        }
        assert_eq!(
            slow.messages.try_recv(),
            Err(mpsc::error::TryRecvError::Disconnected)
        );
    }

    #[test]
    fn reply_needs_the_token_and_comes_once() {
        let local = Arc::new(Local::default());
        let mut wait = local.wait(7).unwrap();
        let guessed = Token {
            secret: wait.token.secret ^ 1,
            ..wait.token
        };
        assert!(!local.reply(guessed, "no".into()));
        assert!(local.reply(wait.token, "yes".into()));
        assert!(!local.reply(wait.token, "again".into()));
        assert_eq!(wait.reply.try_recv(), Ok("yes".into()));
        let late = local.wait(7).unwrap();
        let token = late.token;
        drop(late);
        assert!(!local.reply(token, "late".into()));
    }

    #[test]
    fn turns_go_round() {
        let local = Local::default();
        let address: Arc<str> = "a".into();
        assert_eq!([(); 3].map(|()| local.turn(&address) % 2), [0, 1, 0]);
    }
}
