//! Bodies of `/v1/adc/...`: who is on the hub, and what operators order.

use serde::{Deserialize, Serialize};

/// A user: `GET /v1/adc/users` answers a list of these.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HubUser {
    /// Its session's id.
    pub sid: String,
    /// Its nick.
    pub nick: String,
    /// `guest`, `registered`, `operator` or `owner`.
    pub class: String,
    /// Where it connects from.
    pub address: String,
    /// Its address of the other family, if it proved one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub second_address: Option<String>,
    /// Its client's id.
    pub cid: String,
    /// The node id of the member that serves it; none while its place is kept.
    pub member: Option<u64>,
    /// When it came, in seconds since the Unix epoch.
    pub since_unix_seconds: u64,
}

/// A ban: `GET /v1/adc/bans`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HubBan {
    /// Its number.
    pub id: u64,
    /// Whom it hits: `nick bob`, `cid ...`, `address 10.0.0.0/8`.
    pub target: String,
    /// When it ends, in seconds since the Unix epoch; never, without.
    pub until_unix_seconds: Option<u64>,
    /// Who gave it.
    pub by: String,
    /// Why.
    pub reason: String,
}

/// A registered user: `GET /v1/adc/accounts`. Its password is nobody's business.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HubAccount {
    /// Its nick.
    pub nick: String,
    /// `registered`, `operator` or `owner`.
    pub class: String,
}

/// What an operator did: `GET /v1/adc/audit`, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HubAudit {
    /// When, in seconds since the Unix epoch.
    pub unix_seconds: u64,
    /// Who.
    pub by: String,
    /// What, in words.
    pub what: String,
}

/// An order: the body of `POST /v1/adc/orders`, to the leader. It is answered with a [`HubDone`].
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum HubOrder {
    /// Removes a user; it may come back.
    Kick {
        /// Its nick.
        nick: String,
        /// What it is told.
        reason: String,
    },
    /// Keeps somebody out.
    Ban {
        /// A nick, `cid:CID`, an address, or a network such as `10.0.0.0/8`.
        target: String,
        /// For how many seconds; for ever, without.
        #[serde(default)]
        seconds: Option<u64>,
        /// What the banned are told.
        reason: String,
    },
    /// Lifts a ban.
    Unban {
        /// Its number.
        id: u64,
    },
    /// Silences a nick in the main chat.
    Mute {
        /// The nick.
        nick: String,
        /// For how many seconds; until lifted, without.
        #[serde(default)]
        seconds: Option<u64>,
    },
    /// Lets a nick speak again.
    Unmute {
        /// The nick.
        nick: String,
    },
    /// Sends a user to another hub.
    Redirect {
        /// Its nick.
        nick: String,
        /// The other hub; several, of which the user may choose, are separated by commas.
        address: String,
        /// What it is told.
        reason: String,
        /// Its client may forget this hub.
        #[serde(default)]
        permanent: bool,
    },
    /// Sets or clears the topic.
    Topic {
        /// The new one.
        #[serde(default)]
        topic: Option<String>,
    },
    /// Registers a nick, or changes its class and password.
    PutAccount {
        /// The nick.
        nick: String,
        /// `registered`, `operator` or `owner`.
        class: String,
        /// What its owner has to know.
        password: String,
    },
    /// Removes a registered user.
    RemoveAccount {
        /// Its nick.
        nick: String,
    },
}

/// What came of an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HubDone {
    /// In words.
    pub done: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_read() {
        let order: HubOrder =
            serde_json::from_str(r#"{"order":"ban","target":"bob","reason":"spam"}"#).unwrap();
        let ban = HubOrder::Ban {
            target: "bob".to_owned(),
            seconds: None,
            reason: "spam".to_owned(),
        };
        assert!(order == ban);
        let order = HubOrder::PutAccount {
            nick: "op".to_owned(),
            class: "owner".to_owned(),
            password: "x".to_owned(),
        };
        assert_eq!(
            serde_json::to_string(&order).unwrap(),
            r#"{"order":"putAccount","nick":"op","class":"owner","password":"x"}"#
        );
    }
}
