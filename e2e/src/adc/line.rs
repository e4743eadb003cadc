//! ADC lines as the tests' own clients read and write them. Shares nothing with the hub under test.

/// A line split at its spaces.
#[derive(Debug, Clone, Copy)]
pub struct Line<'a> {
    /// Type and command: `BMSG`.
    pub fourcc: &'a str,
    /// What follows, with the SIDs of the header.
    pub rest: &'a str,
}

impl<'a> Line<'a> {
    /// Splits a line without its `\n`.
    #[must_use]
    pub fn new(line: &'a str) -> Self {
        let (fourcc, rest) = line.split_once(' ').unwrap_or((line, ""));
        Self { fourcc, rest }
    }

    /// The parameter number `index`, escaped as it came; empty where there is none.
    #[must_use]
    pub fn param(&self, index: usize) -> &'a str {
        self.rest.split(' ').nth(index).unwrap_or_default()
    }

    /// The value of the named parameter `name` after `skipped` others, escaped as it came.
    #[must_use]
    pub fn named(&self, skipped: usize, name: &str) -> Option<&'a str> {
        let params = self.rest.split(' ').skip(skipped);
        params.filter_map(|param| param.strip_prefix(name)).next()
    }
}

/// A value as it is meant.
#[must_use]
pub fn unescape(value: &str) -> String {
    let mut plain = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(char) = chars.next() {
        match (char, char == '\\') {
            (_, true) => match chars.next() {
                Some('s') => plain.push(' '),
                Some('n') => plain.push('\n'),
                other => plain.extend(other),
            },
            (char, false) => plain.push(char),
        }
    }
    plain
}

/// A value as it is written.
#[must_use]
pub fn escape(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace(' ', "\\s")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_back() {
        let value = "two words\nand a \\s";
        assert_eq!(unescape(&escape(value)), value);
        let line = Line::new("DMSG AAAB AAAC two\\swords PMAAAB");
        assert_eq!(
            (line.fourcc, line.param(2), line.named(3, "PM")),
            ("DMSG", "two\\swords", Some("AAAB"))
        );
    }
}
