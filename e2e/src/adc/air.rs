//! A client that follows the rules of AirDC++, which no Debian package holds: what it says at the beginning, when it comes
//! back, what it does not forgive. The rules were read in its source (airdcpp-core: `AdcHub`, `Client`, `FloodCounter`).

mod view;
mod worker;

use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use anyhow::{Context, ensure};

use super::Identity;
use super::line::escape;
use crate::clock::{PATIENCE, eventually};
pub use view::{Shared, User, View};
use worker::{Order, Worker};

/// How the client is set up.
#[derive(Debug, Clone)]
pub struct AirOptions {
    /// Its nick.
    pub nick: String,
    /// The hub: `adc://HOST:PORT` or `adcs://HOST:PORT/?kp=SHA256/...`.
    pub url: String,
    /// Whether others reach it, so that answers to its searches come over UDP; they come through the hub otherwise.
    pub active: bool,
    /// The password of a registered nick.
    pub password: Option<String>,
    /// What it shares.
    pub shares: Vec<Shared>,
    /// By what AirDC++'s own delays (not those that a hub demands) are multiplied, so that a test need not wait minutes.
    pub delays: f64,
}

impl AirOptions {
    /// A passive client that shares nothing, whose two to three minutes are six to nine seconds.
    #[must_use]
    pub fn new(nick: &str, url: &str) -> Self {
        Self {
            nick: nick.to_owned(),
            url: url.to_owned(),
            active: false,
            password: None,
            shares: Vec::new(),
            delays: 0.05,
        }
    }
}

/// A running client. Dropping it closes its connection without a word.
#[derive(Debug)]
pub struct Air {
    options: AirOptions,
    view: Arc<Mutex<View>>,
    orders: Sender<Order>,
    worker: Option<JoinHandle<()>>,
}

impl Air {
    /// Starts the client; it connects at once.
    pub fn start(options: AirOptions) -> anyhow::Result<Self> {
        let identity = Identity::of(&options.nick, 1);
        let view = Arc::new(Mutex::new(View::new(&options, identity)));
        let (orders, taken) = channel();
        let worker = Worker::new(options.clone(), Arc::clone(&view), taken)?;
        let worker = std::thread::Builder::new()
            .name(options.nick.clone())
            .spawn(move || worker.run())
            .context("starting a client")?;
        Ok(Self {
            options,
            view,
            orders,
            worker: Some(worker),
        })
    }

    /// Starts a client and waits until it is logged in.
    pub fn join(nick: &str, url: &str) -> anyhow::Result<Self> {
        let air = Self::start(AirOptions::new(nick, url))?;
        air.logged_in(1)?;
        Ok(air)
    }

    /// Its nick.
    #[must_use]
    pub fn nick(&self) -> &str {
        &self.options.nick
    }

    /// What it knows.
    pub fn view(&self) -> MutexGuard<'_, View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until what it knows is as `probe` wants it.
    pub fn until<T>(&self, what: &str, mut probe: impl FnMut(&View) -> Option<T>) -> anyhow::Result<T> {
        let nick = &self.options.nick;
        eventually(&format!("{nick}: {what}"), PATIENCE, || {
            let view = self.view();
            probe(&view).with_context(|| format!("the last lines were {:#?}", view.last_lines()))
        })
    }

    /// Waits until it has logged in `times` times since its start, and is logged in.
    pub fn logged_in(&self, times: usize) -> anyhow::Result<()> {
        self.until("logs in", |view| {
            (view.logins >= times && view.is_normal()).then_some(())
        })
    }

    /// Waits until it sees a user of that nick.
    pub fn sees(&self, nick: &str) -> anyhow::Result<User> {
        self.until(&format!("sees {nick}"), |view| view.user(nick).cloned())
    }

    /// Waits until it has heard this in a line.
    pub fn hears(&self, text: &str) -> anyhow::Result<()> {
        let text = escape(text);
        self.until(&format!("hears {text}"), |view| view.heard(&text).then_some(()))
    }

    /// Says something to all.
    pub fn say(&self, text: &str) -> anyhow::Result<()> {
        self.order(Order::Say(text.to_owned()))
    }

    /// Says something to one user, in a private conversation.
    pub fn tell(&self, nick: &str, text: &str) -> anyhow::Result<()> {
        self.order(Order::Tell {
            nick: nick.to_owned(),
            text: text.to_owned(),
        })
    }

    /// Searches: a passive client asks twice, as AirDC++ does, those who can reach it and those who traverse NATs.
    pub fn search(&self, word: &str) -> anyhow::Result<()> {
        self.order(Order::Search(word.to_owned()))
    }

    /// Sends a line as it is; `{sid}` in it is its own SID.
    pub fn send(&self, line: &str) -> anyhow::Result<()> {
        self.order(Order::Raw(line.to_owned()))
    }

    /// Fails when the hub did what AirDC++ does not forgive.
    pub fn was_treated_well(&self) -> anyhow::Result<()> {
        let view = self.view();
        ensure!(
            view.violations.is_empty(),
            "{} was offended: {:#?}; the last lines were {:#?}",
            self.options.nick,
            view.violations,
            view.last_lines()
        );
        Ok(())
    }

    fn order(&self, order: Order) -> anyhow::Result<()> {
        self.orders.send(order).context("the client has ended")
    }
}

impl Drop for Air {
    fn drop(&mut self) {
        self.orders.send(Order::Stop).ok();
        if let Some(worker) = self.worker.take() {
            worker.join().ok();
        }
    }
}
