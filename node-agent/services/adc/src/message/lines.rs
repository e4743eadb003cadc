//! Lines out of a stream of bytes, however it is cut.

use std::ops::Range;

/// Splits a stream into lines. Holds at most one unfinished line, and what was pushed last.
#[derive(Debug)]
pub struct LineReader {
    line_bytes_max: usize,
    buffer: Vec<u8>,
    /// What of the buffer has been handed out.
    taken: usize,
    /// Where the search for the next `\n` goes on.
    searched: usize,
    /// The line that is being read is too long already, and is skipped up to its end.
    skipping: bool,
}

/// A line that was not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a line longer than the limit was dropped")]
pub struct LineError;

impl LineReader {
    /// Takes lines of at most `line_bytes_max` bytes.
    #[must_use]
    pub const fn new(line_bytes_max: usize) -> Self {
        Self {
            line_bytes_max,
            buffer: Vec::new(),
            taken: 0,
            searched: 0,
            skipping: false,
        }
    }

    /// Adds what was read.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.taken);
        self.searched -= self.taken;
        self.taken = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole line without its `\n`; none when more has to be read. Empty lines (keep-alive) are lines. A
    /// line that is too long is an error once, as soon as that is known.
    pub fn next_line(&mut self) -> Option<Result<Vec<u8>, LineError>> {
        loop {
            let Some(line) = self.find_end() else {
                return self.keep_the_beginning().err().map(Err);
            };
            self.taken = line.end + 1;
            self.searched = self.taken;
            if std::mem::take(&mut self.skipping) {
                continue;
            }
            return Some(if line.len() > self.line_bytes_max {
                Err(LineError)
            } else {
                Ok(self.buffer[line].to_vec())
            });
        }
    }

    /// Ends a search that found no whole line.
    fn keep_the_beginning(&mut self) -> Result<(), LineError> {
        let too_long = self.buffer.len() - self.taken > self.line_bytes_max;
        let known = self.skipping;
        self.skipping |= too_long;
        if self.skipping || self.taken == self.buffer.len() {
            // Idle clients, which are most, hold no memory here.
            self.buffer = Vec::new();
            self.taken = 0;
            self.searched = 0;
        }
        if too_long && !known {
            Err(LineError)
        } else {
            Ok(())
        }
    }

    fn find_end(&mut self) -> Option<Range<usize>> {
        let unseen = &self.buffer[self.searched..];
        match unseen.iter().position(|byte| *byte == b'\n') {
            Some(at) => Some(self.taken..self.searched + at),
            None => {
                self.searched = self.buffer.len();
                None
            }
        }
    }
}
