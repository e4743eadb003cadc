//! The status page: one HTML document without scripts and without anything from elsewhere, which reloads itself.
//!
//! Everything that comes from outside (names, addresses, what clients asked for) passes through [`Text`].

mod detail;

use std::fmt::{self, Display, Write};

use axum::http::header;
use axum::response::{Html, IntoResponse, Response};
use operator_api::admin::{GroupMember, MemberDetail, MemberStatus};
use operator_api::config::ServiceKind;
use uuid::Uuid;

/// The page as an answer, with headers that let it load nothing and run nothing.
pub(crate) fn response(status: &MemberStatus) -> Response {
    let nonce = Uuid::new_v4().simple().to_string();
    let policy = format!(
        "default-src 'none'; style-src 'nonce-{nonce}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    let headers = [
        (header::CONTENT_SECURITY_POLICY, policy),
        (header::CACHE_CONTROL, "no-store".to_owned()),
        (header::REFERRER_POLICY, "no-referrer".to_owned()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
        (header::VARY, "accept".to_owned()),
    ];
    (headers, Html(html(status, &nonce))).into_response()
}

/// The page as text.
fn html(status: &MemberStatus, nonce: &str) -> String {
    let mut page = String::with_capacity(PAGE_BYTES_USUAL);
    // Writing to a String cannot fail.
    write_page(&mut page, status, nonce).ok();
    page
}

fn write_page(page: &mut String, status: &MemberStatus, nonce: &str) -> fmt::Result {
    let name = Text(&status.name);
    write!(
        page,
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta http-equiv=\"refresh\" content=\"{REFRESH_SECONDS}\">\n\
         <title>{name} · {role} · Quorate</title>\n<style nonce=\"{nonce}\">\n{STYLE}</style>\n</head>\n<body>\n<main>\n\
         <header><h1>{name}</h1><span class=\"soft\">{service} · clients at {clients}</span></header>\n",
        role = status.role,
        service = service_name(status.service),
        clients = Text(&status.client_address),
    )?;
    let Some(detail) = &status.detail else {
        return page.write_str("</main>\n</body>\n</html>\n");
    };
    if let Some(alarm) = &detail.alarm {
        writeln!(page, "<p class=\"card alarm\" role=\"alert\">{}</p>", Text(alarm))?;
    }
    page.write_str("<div class=\"top\">\n")?;
    write_role(page, status, detail)?;
    write_numbers(page, status, detail)?;
    page.write_str("</div>\n")?;
    write_members(page, status, detail)?;
    detail::write(page, detail_title(status.service), &detail.service_detail)?;
    write!(
        page,
        "<footer>Group {group} · process {pid} · Quorate {version} · <a href=\"/metrics\">metrics</a> · \
         <a href=\"/v1/status\">JSON</a> · reloads every {REFRESH_SECONDS} s</footer>\n</main>\n</body>\n</html>\n",
        group = Text(detail.group_id.as_deref().unwrap_or("none yet")),
        pid = status.pid.unwrap_or_default(),
        version = env!("CARGO_PKG_VERSION"),
    )
}

fn write_role(page: &mut String, status: &MemberStatus, detail: &MemberDetail) -> fmt::Result {
    let leader = detail
        .leader_id
        .and_then(|id| detail.members.iter().find(|member| member.node_id == id));
    write!(
        page,
        "<section class=\"card\"><div class=\"role {role}\">{role}</div><div>{serving}</div><div class=\"soft\">{ready}</div>\
         <div class=\"soft\">",
        role = status.role,
        serving = if detail.serving {
            "serving clients"
        } else {
            "not serving clients"
        },
        ready = if detail.ready { "ready" } else { "not ready" },
    )?;
    match leader {
        Some(member) if Some(member.node_id) == status.node_id => {}
        Some(member) => write!(page, "led by {}", Link(member))?,
        None => page.write_str("no leader known")?,
    }
    page.write_str("</div></section>\n")
}

fn write_numbers(page: &mut String, status: &MemberStatus, detail: &MemberDetail) -> fmt::Result {
    let id = status
        .node_id
        .map_or_else(|| "none yet".to_owned(), |id| id.to_string());
    let numbers: [(&str, &dyn Display); 7] = [
        ("node id", &id),
        ("term", &status.term),
        ("committed", &status.commit_index),
        ("applied", &status.applied_index),
        ("first in log", &detail.first_log_index),
        ("last in log", &detail.last_log_index),
        ("snapshot at", &detail.snapshot_index),
    ];
    page.write_str("<section class=\"card\"><dl class=\"numbers\">")?;
    for (label, value) in numbers {
        write!(page, "<div><dt>{label}</dt><dd>{value}</dd></div>")?;
    }
    page.write_str("</dl></section>\n")
}

fn write_members(page: &mut String, status: &MemberStatus, detail: &MemberDetail) -> fmt::Result {
    page.write_str(
        "<h2>Members</h2>\n<div class=\"card scroll\"><table>\n<thead><tr><th class=\"number\">id</th><th>name</th>\
         <th>part</th><th class=\"number\">lag</th><th>peer address</th><th>admin address</th></tr></thead>\n<tbody>\n",
    )?;
    for member in &detail.members {
        let is_leader = detail.leader_id == Some(member.node_id);
        let part = match (is_leader, member.voter) {
            (true, _) => "<span class=\"leader\">leader</span>",
            (false, true) => "voter",
            (false, false) => "learner",
        };
        let lag = match member.matched_index {
            Some(_) if is_leader => "–".to_owned(),
            Some(matched) => detail.last_log_index.saturating_sub(matched).to_string(),
            None => "–".to_owned(),
        };
        let this = if Some(member.node_id) == status.node_id {
            " <span class=\"soft\">(this)</span>"
        } else {
            ""
        };
        writeln!(
            page,
            "<tr><td class=\"number\">{}</td><td>{}{this}</td><td>{part}</td><td class=\"number\">{lag}</td><td>{}</td>\
             <td>{}</td></tr>",
            member.node_id,
            Link(member),
            Text(&member.peer_address),
            Text(&member.admin_address),
        )?;
    }
    if detail.members.is_empty() {
        page.write_str(
            "<tr><td colspan=\"6\" class=\"soft\">this member has not joined a group yet</td></tr>\n",
        )?;
    }
    page.write_str("</tbody></table></div>\n")
}

/// A link to a member's own page.
struct Link<'a>(&'a GroupMember);

impl Display for Link<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "<a href=\"http://{}/\">{}</a>",
            Text(&self.0.admin_address),
            Text(&self.0.name)
        )
    }
}

/// Text from outside, safe between tags and inside a quoted attribute (HTML Living Standard, 13.3 `escape a string`).
pub(super) struct Text<'a>(pub(super) &'a str);

impl Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            match character {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                // Control characters could hide or reorder what follows them.
                control if control.is_control() || is_bidi_control(control) => f.write_char('\u{fffd}')?,
                character => f.write_char(character)?,
            }
        }
        Ok(())
    }
}

/// Unicode Standard Annex 9, 2: explicit directional formatting characters.
const fn is_bidi_control(character: char) -> bool {
    matches!(character, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn service_name(service: ServiceKind) -> &'static str {
    match service {
        ServiceKind::Tftp => "TFTP server",
        ServiceKind::Kv => "Key-value store",
        ServiceKind::Adc => "ADC hub",
    }
}

fn detail_title(service: ServiceKind) -> &'static str {
    match service {
        ServiceKind::Tftp => "Running transfers",
        ServiceKind::Kv => "Store",
        ServiceKind::Adc => "Hub",
    }
}

const STYLE: &str = include_str!("page/style.css");

/// Often enough to watch an election, seldom enough to read.
const REFRESH_SECONDS: u32 = 2;

/// The page of a group of three without transfers.
const PAGE_BYTES_USUAL: usize = 8 << 10;

#[cfg(test)]
mod tests;
