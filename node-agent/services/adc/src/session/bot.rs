//! Commands to the hub in the main chat: `+help`, `+kick NICK reason`. Nobody else sees them.

use std::net::IpAddr;

use crate::message::{Cid, Line, escape};
use crate::state::{BanTarget, Class, Order};

/// What a user asked the hub for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// What there is to ask for.
    Help,
    /// The hub's rules.
    Rules,
    /// The message of the day.
    Motd,
    /// The topic.
    Topic,
    /// The last lines of chat.
    History,
    /// The address that the hub sees.
    MyAddress,
    /// Who is banned.
    Bans,
    /// Who is registered.
    Accounts,
    /// To register the own nick, or to change the own password.
    Register {
        /// The password.
        password: String,
    },
    /// To register another nick.
    RegisterOther {
        /// The nick.
        nick: String,
        /// Its class.
        class: Class,
        /// Its password.
        password: String,
    },
    /// An order that needs nothing more.
    Order(Order),
}

/// The commands, who may give them, and what they do.
const COMMANDS: [(&str, Class, &str); 17] = [
    ("+help", Class::Guest, "this list"),
    ("+rules", Class::Guest, "the rules of the hub"),
    ("+motd", Class::Guest, "the message of the day"),
    ("+topic", Class::Guest, "the topic"),
    ("+history", Class::Guest, "the last lines of chat"),
    ("+myip", Class::Guest, "your address, as the hub sees it"),
    (
        "+regme PASSWORD",
        Class::Guest,
        "registers your nick, or changes your password",
    ),
    (
        "+topic TEXT",
        Class::Operator,
        "sets the topic; +topic - clears it",
    ),
    (
        "+kick NICK [REASON]",
        Class::Operator,
        "removes a user; \"nicks with spaces\" in quotes",
    ),
    (
        "+ban NICK|cid:CID|ADDRESS[/BITS] [30m|2h|7d] [REASON]",
        Class::Operator,
        "keeps somebody out",
    ),
    ("+bans", Class::Operator, "who is banned, with numbers"),
    ("+unban NUMBER", Class::Operator, "lifts a ban"),
    (
        "+mute NICK [30m]",
        Class::Operator,
        "silences a nick in the main chat",
    ),
    ("+unmute NICK", Class::Operator, "lets a nick speak again"),
    (
        "+redirect NICK [permanent] ADDRESS[,ADDRESS] [REASON]",
        Class::Operator,
        "sends a user to another hub",
    ),
    (
        "+reg NICK registered|operator|owner PASSWORD",
        Class::Owner,
        "registers a nick; +unreg NICK removes it",
    ),
    ("+accounts", Class::Owner, "who is registered"),
];

/// What the menus of operators' clients offer (ADC-EXT, UCMD): the name, and the command with the client's keywords.
const MENUS: [(&str, &str); 5] = [
    ("Hub/Kick", "+kick \"%[userNI]\" %[line:Reason]"),
    (
        "Hub/Ban",
        "+ban \"%[userNI]\" %[line:Time, such as 30m] %[line:Reason]",
    ),
    ("Hub/Mute", "+mute \"%[userNI]\" %[line:Time, such as 30m]"),
    ("Hub/Let speak", "+unmute \"%[userNI]\""),
    (
        "Hub/Redirect",
        "+redirect \"%[userNI]\" %[line:Address] %[line:Reason]",
    ),
];
/// The place of a menu: on users (ADC-EXT, UCMD, `CT`).
const MENU_ON_USERS: u8 = 2;

/// The lines that bring the menus to a client.
pub(super) fn menus() -> Vec<Line> {
    let line = |(name, command): &(&str, &str)| {
        let sent = format!("BMSG %[mySID] {}\n", escape(command));
        Line::new("ICMD")
            .arg(name)
            .named("CT", MENU_ON_USERS)
            .named("TT", sent)
    };
    MENUS.iter().map(line).collect()
}

/// Whether a line of chat is for the hub.
#[must_use]
pub fn is_command(text: &str) -> bool {
    let mut letters = text.chars();
    letters.next() == Some('+') && letters.next().is_some_and(|letter| letter.is_ascii_lowercase())
}

/// The commands of a class.
#[must_use]
pub fn help(class: Class) -> String {
    let allowed = COMMANDS.iter().filter(|(_, needed, _)| *needed <= class);
    let lines: Vec<String> = allowed
        .map(|(command, _, what)| format!("{command}: {what}"))
        .collect();
    lines.join("\n")
}

/// Reads a command.
///
/// # Errors
/// When it is none; what to tell the user.
pub fn parse(text: &str) -> Result<Request, String> {
    let (command, rest) = take(text)?;
    let usage = || format!("The command is not complete: {}", usage(&command));
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    match command.as_str() {
        "+help" => Ok(Request::Help),
        "+rules" => Ok(Request::Rules),
        "+motd" => Ok(Request::Motd),
        "+history" => Ok(Request::History),
        "+myip" => Ok(Request::MyAddress),
        "+bans" => Ok(Request::Bans),
        "+accounts" => Ok(Request::Accounts),
        "+topic" => Ok(match rest {
            "" => Request::Topic,
            "-" => Request::Order(Order::Topic { topic: None }),
            topic => Request::Order(Order::Topic {
                topic: Some(topic.to_owned()),
            }),
        }),
        "+regme" | "+passwd" => {
            let password = some(rest).ok_or_else(usage)?;
            Ok(Request::Register { password })
        }
        "+unban" => {
            let id = rest.parse().map_err(|_| usage())?;
            Ok(Request::Order(Order::Unban { id }))
        }
        "+kick" | "+ban" | "+mute" | "+unmute" | "+redirect" | "+reg" | "+unreg" => {
            let (who, rest) = take(rest)?;
            let who = some(&who).ok_or_else(usage)?;
            about(&command, who, rest)?.ok_or_else(usage)
        }
        _ => Err(format!("There is no command {command}; +help lists them")),
    }
}

/// A command about somebody; none when something is missing.
fn about(command: &str, who: String, rest: &str) -> Result<Option<Request>, String> {
    let order = match command {
        "+kick" => Order::Kick {
            nick: who,
            reason: reason(rest),
        },
        "+ban" => {
            let (for_ms, rest) = duration(rest);
            Order::Ban {
                target: ban_target(&who),
                for_ms,
                reason: reason(rest),
            }
        }
        "+mute" => Order::Mute {
            nick: who,
            for_ms: duration(rest).0,
        },
        "+unmute" => Order::Unmute { nick: who },
        "+unreg" => Order::RemoveAccount { nick: who },
        "+redirect" => {
            let (is_for_good, rest) = match take(rest)? {
                (word, rest) if word == "permanent" => (true, rest),
                _ => (false, rest),
            };
            let (address, rest) = take(rest)?;
            if address.is_empty() {
                return Ok(None);
            }
            let (nick, reason) = (who, reason(rest));
            if is_for_good {
                Order::RedirectForGood {
                    nick,
                    address,
                    reason,
                }
            } else {
                Order::Redirect {
                    nick,
                    address,
                    reason,
                }
            }
        }
        _ => {
            let (class, password) = take(rest)?;
            let class = Class::ALL.into_iter().find(|one| one.name() == class);
            let Some(class) = class.filter(|_| !password.is_empty()) else {
                return Ok(None);
            };
            return Ok(Some(Request::RegisterOther {
                nick: who,
                class,
                password: password.to_owned(),
            }));
        }
    };
    Ok(Some(Request::Order(order)))
}

fn usage(command: &str) -> &'static str {
    let is_it = |line: &&(&'static str, Class, &str)| {
        line.0.starts_with(command) && line.0[command.len()..].starts_with(' ')
    };
    COMMANDS.iter().find(is_it).map_or("+help", |(usage, ..)| usage)
}

/// The first word, or what is in quotes, and the rest.
fn take(text: &str) -> Result<(String, &str), String> {
    let text = text.trim_start();
    if let Some(quoted) = text.strip_prefix('"') {
        let (word, rest) = quoted.split_once('"').ok_or("A quote is not closed")?;
        return Ok((word.to_owned(), rest.trim()));
    }
    let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
    Ok((word.to_owned(), rest.trim()))
}

/// A leading duration such as `30m`, in milliseconds, and the rest.
fn duration(text: &str) -> (Option<u64>, &str) {
    let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
    match parse_duration(word) {
        Some(duration) => (Some(duration), rest.trim()),
        None => (None, text),
    }
}

/// A duration such as `90s`, `30m`, `2h` or `7d`, in milliseconds.
#[must_use]
pub fn parse_duration(text: &str) -> Option<u64> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let seconds: u64 = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(seconds * 1000)
}

fn reason(text: &str) -> String {
    if text.is_empty() {
        "no reason was given".to_owned()
    } else {
        text.to_owned()
    }
}

/// Whom a ban is to hit: `cid:CID`, an address, a network, else a nick.
#[must_use]
pub fn ban_target(text: &str) -> BanTarget {
    let cid = text.strip_prefix("cid:").and_then(|cid| cid.parse::<Cid>().ok());
    if let Some(cid) = cid {
        return BanTarget::Cid(cid);
    }
    let (address, prefix) = text.split_once('/').unwrap_or((text, ""));
    if let Ok(address) = address.parse::<IpAddr>() {
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.parse().ok().filter(|prefix| *prefix <= bits);
        if let Some(prefix) = prefix.or_else(|| (!text.contains('/')).then_some(bits)) {
            return BanTarget::Network { address, prefix };
        }
    }
    BanTarget::Nick(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_read() {
        let kick = |nick: &str, reason: &str| {
            Ok(Request::Order(Order::Kick {
                nick: nick.to_owned(),
                reason: reason.to_owned(),
            }))
        };
        assert_eq!(parse("+kick bob be nice"), kick("bob", "be nice"));
        assert_eq!(parse("+kick \"bob b\"  "), kick("bob b", "no reason was given"));
        let ban = |target, for_ms, reason: &str| {
            Ok(Request::Order(Order::Ban {
                target,
                for_ms,
                reason: reason.to_owned(),
            }))
        };
        let nick = BanTarget::Nick("bob".to_owned());
        assert_eq!(
            parse("+ban bob 30m spam it"),
            ban(nick.clone(), Some(1_800_000), "spam it")
        );
        assert_eq!(parse("+ban bob spam"), ban(nick, None, "spam"));
        let network = BanTarget::Network {
            address: "10.1.0.0".parse().unwrap(),
            prefix: 16,
        };
        assert_eq!(
            parse("+ban 10.1.0.0/16 1d x"),
            ban(network, Some(86_400_000), "x")
        );
        let (nick, address) = ("bob b".to_owned(), "adc://x,adcs://y".to_owned());
        assert_eq!(
            parse("+redirect \"bob b\" adc://x,adcs://y we moved"),
            Ok(Request::Order(Order::Redirect {
                nick: nick.clone(),
                address: address.clone(),
                reason: "we moved".to_owned()
            }))
        );
        assert_eq!(
            parse("+redirect \"bob b\" permanent adc://x,adcs://y"),
            Ok(Request::Order(Order::RedirectForGood {
                nick,
                address,
                reason: "no reason was given".to_owned()
            }))
        );
        assert!(parse("+redirect bob permanent").is_err());
        assert_eq!(parse("+topic"), Ok(Request::Topic));
        assert_eq!(
            parse("+topic a b"),
            Ok(Request::Order(Order::Topic {
                topic: Some("a b".to_owned())
            }))
        );
        assert_eq!(
            parse("+reg ann operator pass word"),
            Ok(Request::RegisterOther {
                nick: "ann".to_owned(),
                class: Class::Operator,
                password: "pass word".to_owned()
            })
        );
    }

    #[test]
    fn commands_that_are_none_are_explained() {
        assert_eq!(
            parse("+kick").unwrap_err(),
            "The command is not complete: +kick NICK [REASON]"
        );
        assert!(parse("+reg ann king x").unwrap_err().contains("+reg NICK"));
        assert!(parse("+fly").unwrap_err().contains("+help"));
        assert!(parse("+kick \"bob").is_err());
        assert!(is_command("+help") && !is_command("+1") && !is_command("+") && !is_command("a +help"));
        assert!(!help(Class::Guest).contains("+kick") && help(Class::Owner).contains("+reg "));
        assert_eq!(parse_duration("99999999999999999999d"), None);
        assert_eq!(
            ban_target("10.0.0.0/33"),
            BanTarget::Nick("10.0.0.0/33".to_owned())
        );
    }
}
