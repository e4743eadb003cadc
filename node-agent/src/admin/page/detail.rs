//! What a service adds to the status page, drawn without knowing the service: a list of objects is a table, an object
//! is a list of values and of further tables.

use std::fmt::{self, Write};

use serde_json::{Map, Value};

use super::Text;

/// Writes the part of the service, if there is one.
pub(super) fn write(page: &mut String, title: &str, detail: &Value) -> fmt::Result {
    match detail {
        Value::Null => Ok(()),
        Value::Array(rows) => write_table(page, title, rows),
        Value::Object(fields) => {
            let (tables, values): (Vec<_>, Vec<_>) = fields.iter().partition(|(_, value)| value.is_array());
            if !values.is_empty() {
                writeln!(page, "<h2>Service</h2>\n<section class=\"card\"><dl>")?;
                for (name, value) in values {
                    writeln!(
                        page,
                        "<div><dt>{}</dt><dd>{}</dd></div>",
                        words(name),
                        cell(value)
                    )?;
                }
                writeln!(page, "</dl></section>")?;
            }
            for (name, value) in tables {
                write_table(page, &words(name), value.as_array().map_or(&[], Vec::as_slice))?;
            }
            Ok(())
        }
        other => writeln!(
            page,
            "<h2>{title}</h2>\n<section class=\"card\">{}</section>",
            cell(other)
        ),
    }
}

/// `title` is HTML.
fn write_table(page: &mut String, title: &str, rows: &[Value]) -> fmt::Result {
    writeln!(
        page,
        "<h2>{title} <span class=\"soft\">({})</span></h2>",
        rows.len()
    )?;
    if rows.is_empty() {
        return writeln!(page, "<section class=\"card soft\">none</section>");
    }
    let columns = columns(rows);
    page.write_str("<div class=\"card scroll\"><table>\n<thead><tr>")?;
    for column in &columns {
        let is_number = rows
            .iter()
            .take(ROWS_MAX)
            .all(|row| row.get(*column).is_some_and(Value::is_number));
        let class = if is_number { " class=\"number\"" } else { "" };
        write!(page, "<th{class}>{}</th>", words(column))?;
    }
    page.write_str("</tr></thead>\n<tbody>\n")?;
    for row in rows.iter().take(ROWS_MAX) {
        page.write_str("<tr>")?;
        match row.as_object() {
            Some(fields) => {
                for column in &columns {
                    write_cell(page, fields, column)?;
                }
            }
            None => write!(page, "<td>{}</td>", cell(row))?,
        }
        page.write_str("</tr>\n")?;
    }
    page.write_str("</tbody></table></div>\n")?;
    match rows.len().checked_sub(ROWS_MAX) {
        None | Some(0) => Ok(()),
        Some(more) => writeln!(page, "<p class=\"soft\">and {more} more, see the JSON</p>"),
    }
}

fn write_cell(page: &mut String, fields: &Map<String, Value>, column: &str) -> fmt::Result {
    match fields.get(column) {
        Some(value @ Value::Number(_)) => write!(page, "<td class=\"number\">{}</td>", cell(value)),
        Some(value) => write!(page, "<td>{}</td>", cell(value)),
        None => page.write_str("<td></td>"),
    }
}

/// The columns of all rows that are shown, in the order in which they first appear.
fn columns(rows: &[Value]) -> Vec<&str> {
    let mut columns: Vec<&str> = Vec::new();
    for name in rows
        .iter()
        .take(ROWS_MAX)
        .filter_map(Value::as_object)
        .flat_map(Map::keys)
    {
        if columns.len() < COLUMNS_MAX && !columns.contains(&name.as_str()) {
            columns.push(name);
        }
    }
    columns
}

/// A value as HTML.
fn cell(value: &Value) -> String {
    match value {
        Value::Null => "–".to_owned(),
        Value::String(text) => Text(text).to_string(),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        other => Text(&other.to_string()).to_string(),
    }
}

/// `clientAddress` as `client address`, as HTML.
fn words(name: &str) -> String {
    let mut words = String::with_capacity(name.len() + 2);
    for character in name.chars() {
        if character.is_ascii_uppercase() {
            words.push(' ');
        }
        words.push(character.to_ascii_lowercase());
    }
    Text(words.trim()).to_string()
}

/// A page that people read; the JSON has them all.
const ROWS_MAX: usize = 200;

/// Wider tables are not readable.
const COLUMNS_MAX: usize = 16;
