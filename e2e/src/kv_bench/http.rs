//! Quorate's API: HTTP/1.1 on connections that are kept open, one request at a time on each.

use std::io::Write as _;

use anyhow::{Context, ensure};

use super::wire::{Answered, Operation, Request, Wire};

/// An answer whose head is longer is none of Quorate's.
const HEAD_BYTES_MAX: usize = 4096;

/// One connection to Quorate.
#[derive(Debug, Default)]
pub struct Http {
    /// The bytes of the value that the request under way must return.
    wanted: usize,
}

impl Wire for Http {
    fn ask(&mut self, request: Request<'_>, out: &mut Vec<u8>) -> u32 {
        let Request {
            operation,
            key,
            value,
        } = request;
        self.wanted = value.len();
        let written = match operation {
            Operation::Put => {
                self.wanted = 0;
                write!(
                    out,
                    "PUT /v1/kv/{key} HTTP/1.1\r\nhost: bench\r\ncontent-length: {}\r\n\r\n",
                    value.len()
                )
            }
            Operation::Get => write!(out, "GET /v1/kv/{key} HTTP/1.1\r\nhost: bench\r\n\r\n"),
            Operation::LocalGet => write!(
                out,
                "GET /v1/kv/{key}?consistent=false HTTP/1.1\r\nhost: bench\r\n\r\n"
            ),
        };
        written.expect("a vector takes everything");
        if operation == Operation::Put {
            out.extend_from_slice(value);
        }
        0
    }

    fn hear(
        &mut self,
        input: &[u8],
        _out: &mut Vec<u8>,
        answered: &mut Vec<Answered>,
    ) -> anyhow::Result<usize> {
        let Some(head_end) = find(input, b"\r\n\r\n") else {
            ensure!(input.len() < HEAD_BYTES_MAX, "an endless head");
            return Ok(0);
        };
        let (head, body) = (&input[..head_end], &input[head_end + 4..]);
        let at = find(head, b"content-length: ").context("an answer without content-length")?;
        let digits = head[at + 16..].iter().take_while(|byte| byte.is_ascii_digit());
        let length = digits.fold(0, |sum, digit| sum * 10 + usize::from(digit - b'0'));
        let Some(body) = body.get(..length) else {
            return Ok(0);
        };
        let is_right = head.starts_with(b"HTTP/1.1 200")
            && body.starts_with(br#"{"valid":true,"timeout":false"#)
            && body.len() > self.wanted;
        answered.push(Answered { ticket: 0, is_right });
        Ok(head_end + 4 + length)
    }
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GET: Request<'_> = Request {
        operation: Operation::Get,
        key: "k",
        value: b"abc",
    };

    fn hear(input: &[u8]) -> (usize, Vec<Answered>) {
        let (mut http, mut answered) = (Http::default(), Vec::new());
        http.ask(GET, &mut Vec::new());
        let taken = http.hear(input, &mut Vec::new(), &mut answered).unwrap();
        (taken, answered)
    }

    #[test]
    fn requests_are_written() {
        let mut out = Vec::new();
        let put = Request {
            operation: Operation::Put,
            ..GET
        };
        Http::default().ask(put, &mut out);
        assert_eq!(
            out,
            b"PUT /v1/kv/k HTTP/1.1\r\nhost: bench\r\ncontent-length: 3\r\n\r\nabc"
        );
    }

    #[test]
    fn answers_are_judged_once_they_are_whole() {
        let body = br#"{"valid":true,"timeout":false,"value":"abc"}"#;
        let mut whole = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len()).into_bytes();
        whole.extend_from_slice(body);
        for end in 0..whole.len() {
            assert_eq!(hear(&whole[..end]), (0, Vec::new()));
        }
        let right = Answered {
            ticket: 0,
            is_right: true,
        };
        assert_eq!(hear(&whole), (whole.len(), vec![right]));
        let (_, answered) = hear(b"HTTP/1.1 504 Gateway Timeout\r\ncontent-length: 2\r\n\r\n{}");
        assert!(!answered[0].is_right);
    }
}
