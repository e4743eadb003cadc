//! What `local` shows: a live table on a terminal, plain lines of what changed elsewhere, or lines of JSON.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError};

use operator_api::{MemberStatus, Role, ServiceKind};
use serde::Serialize;

use crate::status;

/// The output of `local`, shared by its groups.
#[derive(Debug, Clone)]
pub(crate) struct Screen(Arc<Mutex<Drawn>>);

/// What is shown.
#[derive(Debug)]
struct Drawn {
    form: Form,
    /// What each group last reported: its members, and what it waits for.
    groups: BTreeMap<ServiceKind, (Vec<MemberStatus>, String)>,
    members: Vec<MemberStatus>,
    note: String,
    /// Lines of the table that stand above the cursor.
    drawn: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Table { color: bool },
    Lines,
    Json,
}

/// The JSON form, as `quorate-agent status --json` prints it.
#[derive(Debug, Serialize)]
struct Listing<'a> {
    members: &'a [MemberStatus],
}

impl Screen {
    /// JSON when asked for, else the form that suits standard output.
    pub(crate) fn new(json: bool) -> Self {
        let form = if json {
            Form::Json
        } else if std::io::stdout().is_terminal() {
            // https://no-color.org: present and not empty.
            let color = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
            Form::Table { color }
        } else {
            Form::Lines
        };
        Self(Arc::new(Mutex::new(Drawn {
            form,
            groups: BTreeMap::new(),
            members: Vec::new(),
            note: String::new(),
            drawn: 0,
        })))
    }

    /// Tells something that happened.
    pub(crate) fn say(&self, text: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).say(text);
    }

    /// Shows how the members of one group are, and what it waits for.
    pub(crate) fn show(&self, service: ServiceKind, members: Vec<MemberStatus>, note: &str) {
        let mut drawn = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        drawn.groups.insert(service, (members, note.to_owned()));
        let members: Vec<_> = drawn
            .groups
            .values()
            .flat_map(|(members, _)| members)
            .cloned()
            .collect();
        let notes = drawn.groups.values().map(|(_, note)| note.as_str());
        let note = notes
            .filter(|note| !note.is_empty())
            .collect::<Vec<_>>()
            .join("; ");
        drawn.show(&members, &note);
    }
}

impl Drawn {
    fn say(&mut self, text: &str) {
        match self.form {
            Form::Json => put(std::io::stderr(), &format!("{text}\n")),
            Form::Lines => put(std::io::stdout(), &format!("{text}\n")),
            Form::Table { color } => self.redraw(&format!("{text}\n"), color),
        }
    }

    fn show(&mut self, members: &[MemberStatus], note: &str) {
        if self.members == members && self.note == note {
            return;
        }
        let before = std::mem::replace(&mut self.members, members.to_vec());
        let note_before = std::mem::replace(&mut self.note, note.to_owned());
        match self.form {
            Form::Table { color } => self.redraw("", color),
            Form::Lines => {
                let mut text = changes(&before, members);
                if !note.is_empty() && note != note_before {
                    text.push_str(&format!("{note}\n"));
                }
                put(std::io::stdout(), &text);
            }
            Form::Json => {
                if before != members
                    && let Ok(line) = serde_json::to_string(&Listing { members })
                {
                    put(std::io::stdout(), &format!("{line}\n"));
                }
            }
        }
    }

    /// Replaces the table by `above` and the table below it, in one write so that nothing flickers.
    fn redraw(&mut self, above: &str, color: bool) {
        let (width, height) = window();
        let lines = frame(&self.members, &self.note, width, height, color);
        // Without auto-wrap (DECAWM) a line is a line, also while the window is made narrower.
        let mut text = "\x1b[?25l\x1b[?7l".to_owned();
        if self.drawn > 0 {
            text.push_str(&format!("\x1b[{}A", self.drawn));
        }
        text.push_str("\r\x1b[J\x1b[?7h");
        text.push_str(above);
        text.push_str("\x1b[?7l");
        for line in &lines {
            text.push_str(line);
            text.push('\n');
        }
        text.push_str("\x1b[?7h\x1b[?25h");
        self.drawn = lines.len();
        put(std::io::stdout(), &text);
    }
}

/// The table and the note, cut to the window.
fn frame(members: &[MemberStatus], note: &str, width: usize, height: usize, color: bool) -> Vec<String> {
    if members.is_empty() {
        return Vec::new();
    }
    let table = status::render(members);
    let colors = std::iter::once("1").chain(members.iter().map(color_of));
    let rows = table.lines().zip(colors);
    let note = (!note.is_empty()).then_some((note, "33"));
    rows.chain(note)
        // The cursor stands on the line below.
        .take(height.saturating_sub(1))
        .map(|(line, paint)| {
            let line: String = line.chars().take(width).collect();
            if color && !paint.is_empty() {
                format!("\x1b[{paint}m{line}\x1b[0m")
            } else {
                line
            }
        })
        .collect()
}

/// The SGR code of a member's row: the leader stands out, and so does a member that is down.
fn color_of(member: &MemberStatus) -> &'static str {
    match (member.pid, member.role) {
        (None, _) => "31",
        (_, Role::Leader) => "32",
        _ => "",
    }
}

/// What changed, one line a member; log positions change all the time and do not count.
fn changes(before: &[MemberStatus], now: &[MemberStatus]) -> String {
    let mut text = String::new();
    for member in now {
        let key = |member: &MemberStatus| (member.pid, member.role, member.node_id, member.term);
        let old = before.iter().find(|old| old.name == member.name);
        if old.map(key) == Some(key(member)) {
            continue;
        }
        let line = match (member.pid, member.node_id) {
            (None, _) => format!("{} is down\n", member.name),
            // It has not answered yet, or has not joined yet.
            (Some(pid), _) if member.term == 0 => format!("{} runs as process {pid}\n", member.name),
            (Some(pid), None) => format!("{} runs as process {pid} without a node id\n", member.name),
            (Some(pid), Some(id)) => format!(
                "{} is {} (node id {id}, term {}, process {pid})\n",
                member.name, member.role, member.term
            ),
        };
        text.push_str(&line);
    }
    for gone in before
        .iter()
        .filter(|old| !now.iter().any(|new| new.name == old.name))
    {
        text.push_str(&format!("{} has left the group\n", gone.name));
    }
    text
}

fn window() -> (usize, usize) {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok();
    size.filter(|size| size.ws_col > 0 && size.ws_row > 0)
        .map_or(WINDOW_DEFAULT, |size| (size.ws_col.into(), size.ws_row.into()))
}

/// A reader that has gone does not stop the group.
fn put(mut out: impl Write, text: &str) {
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .unwrap_or(());
}

/// The terminal of old, for those that do not say.
const WINDOW_DEFAULT: (usize, usize) = (80, 24);

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use operator_api::ServiceKind;

    use super::*;

    fn member(number: u16, pid: Option<u32>, role: Role) -> MemberStatus {
        MemberStatus {
            service: ServiceKind::Tftp,
            name: format!("tftp-{number}"),
            node_id: (number < 2).then_some(u64::from(number) + 1),
            pid,
            role,
            term: 3,
            commit_index: 9,
            applied_index: 9,
            client_address: "127.0.0.1:6969".to_owned(),
            admin_address: format!("127.0.0.1:{}", 9401 + number),
            detail: None,
        }
    }

    fn members() -> Vec<MemberStatus> {
        vec![
            member(0, Some(10), Role::Leader),
            member(1, None, Role::Learner),
            member(2, Some(12), Role::Learner),
        ]
    }

    fn with_starting() -> Vec<MemberStatus> {
        let mut starting = member(3, Some(13), Role::Learner);
        starting.term = 0;
        members().into_iter().chain([starting]).collect()
    }

    #[test]
    fn lines_tell_changes_and_only_changes() {
        expect![[r#"
            tftp-0 is leader (node id 1, term 3, process 10)
            tftp-1 is down
            tftp-2 runs as process 12 without a node id
            tftp-3 runs as process 13
        "#]]
        .assert_eq(&changes(&[], &with_starting()));
        let mut later = members();
        later[0].commit_index += 1;
        assert_eq!(changes(&members(), &later), "");
        later.pop();
        later[0].role = Role::Follower;
        expect![[r#"
            tftp-0 is follower (node id 1, term 3, process 10)
            tftp-2 has left the group
        "#]]
        .assert_eq(&changes(&members(), &later));
    }

    #[test]
    fn table_respects_the_window() {
        let lines = frame(&members(), "waiting for tftp-2 to catch up", 20, 24, false);
        expect![[r#"
            SERVICE  NAME    ID 
            tftp     tftp-0  1  
            tftp     tftp-1  2  
            tftp     tftp-2  -  
            waiting for tftp-2 t"#]]
        .assert_eq(&lines.join("\n"));
        assert_eq!(frame(&members(), "", 80, 3, false).len(), 2);
    }

    #[test]
    fn leader_is_green_and_a_dead_member_red() {
        let lines = frame(&members(), "", 200, 24, true);
        assert!(lines[1].starts_with("\x1b[32mtftp     tftp-0") && lines[1].ends_with("\x1b[0m"));
        assert!(lines[2].starts_with("\x1b[31m"));
        assert!(!lines[3].contains('\x1b'));
    }

    #[test]
    fn json_has_the_shape_of_status() {
        let json = serde_json::to_string(&Listing {
            members: &members()[1..2],
        })
        .unwrap();
        expect![[r#"{"members":[{"service":"tftp","name":"tftp-1","nodeId":2,"pid":null,"role":"learner","term":3,"commitIndex":9,"appliedIndex":9,"clientAddress":"127.0.0.1:6969","adminAddress":"127.0.0.1:9402"}]}"#]]
        .assert_eq(&json);
    }
}
