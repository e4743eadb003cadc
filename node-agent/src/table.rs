//! Plain tables for the terminal.

/// Rows of cells as text: columns are as wide as their widest cell, two spaces apart.
pub(crate) fn render<const COLUMNS: usize>(head: [&str; COLUMNS], rows: &[[String; COLUMNS]]) -> String {
    let mut widths = head.map(|cell| cell.chars().count());
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    let mut push = |cells: [&str; COLUMNS]| {
        let mut line = String::new();
        for (cell, width) in cells.into_iter().zip(widths) {
            line.push_str(&format!(
                "{}{:pad$}  ",
                printable(cell),
                "",
                pad = width - cell.chars().count()
            ));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    };
    push(head);
    for row in rows {
        push(row.each_ref().map(String::as_str));
    }
    text
}

/// A name from outside must not steer the terminal.
fn printable(cell: &str) -> String {
    cell.chars()
        .map(|character| {
            if character.is_control() {
                '\u{fffd}'
            } else {
                character
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_control_characters_are_shown() {
        let rows = [
            ["tftp-0".to_owned(), "1".to_owned()],
            ["x\u{1b}".to_owned(), "22".to_owned()],
        ];
        assert_eq!(
            render(["NAME", "ID"], &rows),
            "NAME    ID\ntftp-0  1\nx\u{fffd}      22\n"
        );
    }
}
