//! What `quorate-agent kv` can be asked for.

use kv_client::Ticket;

#[derive(Debug, Clone, clap::Subcommand)]
pub(super) enum Command {
    /// Print the value of a key.
    Get {
        /// The key.
        key: String,
    },
    /// Store a value.
    Set {
        /// The key.
        key: String,
        /// The value; standard input without it.
        value: Option<String>,
        /// It ends with this lease.
        #[arg(long, value_name = "ID")]
        lease: Option<u64>,
    },
    /// Print the keys that begin with a prefix.
    Range {
        /// How they begin.
        #[arg(default_value = "")]
        prefix: String,
        /// Those behind this one.
        #[arg(long, value_name = "KEY")]
        after: Option<String>,
        /// How many, at most.
        #[arg(long, value_name = "N")]
        limit: Option<u32>,
    },
    /// Change several keys in one step, or none: the JSON of `POST /v1/txn`, here or on standard input.
    Txn {
        /// `{"compare":[…],"then":[…],"else":[…]}`
        json: Option<String>,
    },
    /// Hand a server's whole log in on standard input, and print what nobody was handed before.
    Extract {
        /// The server's name.
        server: String,
        /// Leave a last line without an end for later.
        #[arg(long)]
        whole_lines: bool,
    },
    /// Grant, look at, prolong and end leases.
    Lease {
        #[command(subcommand)]
        command: Lease,
    },
    /// Store a value if another one is there, and print what is there then.
    Swap {
        /// The key.
        key: String,
        /// What must be there; empty for nothing.
        old: String,
        /// What is stored.
        new: String,
    },
    /// Remove a key.
    Delete {
        /// The key.
        key: String,
    },
    /// Say what became of a request whose outcome was unknown.
    Outcome {
        /// SESSION.SEQ, as the unknown answer named it.
        ticket: Ticket,
    },
    /// Make such a request never take place, unless it did.
    Cancel {
        /// SESSION.SEQ, as the unknown answer named it.
        ticket: Ticket,
    },
    /// Print the changes of the keys that begin with a prefix, as they are made: `put` or `delete`, key, value.
    Watch {
        /// How they begin.
        #[arg(default_value = "")]
        prefix: String,
        /// Only the key of this very name.
        #[arg(long)]
        exact: bool,
        /// This revision and later ones; without it only later changes.
        #[arg(long, value_name = "REVISION")]
        from: Option<u64>,
        /// End after so many.
        #[arg(long, value_name = "N")]
        count: Option<u64>,
    },
    /// Append an entry to a journal, and print its number.
    Append {
        /// The journal's name.
        journal: String,
        /// The entry; standard input without it.
        value: Option<String>,
    },
    /// Print the entries of a journal, with their numbers.
    Entries {
        /// The journal's name.
        journal: String,
        /// This entry and later ones; without it from the oldest that is kept.
        #[arg(long, value_name = "NUMBER")]
        from: Option<u64>,
        /// How many, at most.
        #[arg(long, value_name = "N")]
        limit: Option<u32>,
    },
    /// Give a message to all subscribers of an address, and print how many there are.
    Publish {
        /// The address.
        address: String,
        /// The message; standard input without it.
        message: Option<String>,
    },
    /// Print the messages to an address, as they come; before one whose sender waits, what `reply` takes.
    Subscribe {
        /// The address.
        address: String,
        /// End after so many.
        #[arg(long, value_name = "N")]
        count: Option<u64>,
    },
    /// Give a message to one subscriber of an address in turn, and print its reply.
    Send {
        /// The address.
        address: String,
        /// The message; standard input without it.
        message: Option<String>,
    },
    /// Reply to a message that was sent.
    Reply {
        /// What came before it.
        token: String,
        /// The reply; standard input without it.
        reply: Option<String>,
    },
    /// Print what the first member that answers remembers and no quorum has stored yet, as JSON.
    Outbox,
}

#[derive(Debug, Clone, clap::Subcommand)]
pub(super) enum Lease {
    /// Grant one, and print its number.
    Grant {
        /// How long it lasts.
        seconds: u32,
    },
    /// Print its keys, and what is left of its time.
    Show {
        /// Its number.
        id: u64,
    },
    /// Give it its whole time again.
    Keepalive {
        /// Its number.
        id: u64,
    },
    /// End it, and remove its keys.
    Revoke {
        /// Its number.
        id: u64,
    },
}
