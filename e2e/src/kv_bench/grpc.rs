//! gRPC, which is HTTP/2 (RFC 9113) with header compression (RFC 7541), many requests at a time on each connection, as etcd's
//! own clients do it. Only as much of it as a client of the key-value service of etcd or of Quorate needs.

use anyhow::{bail, ensure};

use super::wire::{Answered, Operation, Request, Wire};

/// RFC 9113 §3.4.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// RFC 9113 §4.1.
const FRAME_HEAD: usize = 9;
/// RFC 9113 §6.9.2, unless the server's settings say otherwise; etcd's do not.
const WINDOW: usize = 65_535;
/// How much the server may send before it is given leave to send more. Given back in halves.
const OUR_WINDOW: u32 = 1 << 30;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;

const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

/// Whose service is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Api {
    /// etcd's rpc.proto.
    Etcd,
    /// Quorate's kv.proto.
    Quorate,
}

impl Api {
    fn path(self, operation: Operation) -> &'static [u8] {
        match (self, operation) {
            (Self::Etcd, Operation::Put) => b"/etcdserverpb.KV/Put",
            (Self::Etcd, _) => b"/etcdserverpb.KV/Range",
            (Self::Quorate, Operation::Put) => b"/quorate.kv.v1.Kv/Set",
            (Self::Quorate, _) => b"/quorate.kv.v1.Kv/Get",
        }
    }

    /// Both name the key in field 1 and the value in field 2. A get without a quorum is `serializable = 7` of a `RangeRequest`,
    /// or `terms = 2` with `local = 1` of a `KeyRequest`.
    fn message(self, request: Request<'_>, out: &mut Vec<u8>) {
        bytes_field(1, request.key.as_bytes(), out);
        match (request.operation, self) {
            (Operation::Put, _) => bytes_field(2, request.value, out),
            (Operation::Get, _) => {}
            (Operation::LocalGet, Self::Etcd) => out.extend_from_slice(&[7 << 3, 1]),
            (Operation::LocalGet, Self::Quorate) => bytes_field(2, &[1 << 3, 1], out),
        }
    }

    /// Whether a message, the five bytes before it included, is what a client hopes for, with a value of `wanted` bytes. An
    /// `Answer` of Quorate says so itself: `valid = 1` is true, and `timeout = 2` is not.
    fn is_right(self, data: &[u8], wanted: usize) -> bool {
        let says_so = match self {
            Self::Etcd => true,
            Self::Quorate => data.get(5..7) == Some(&[1 << 3, 1]) && data.get(7) != Some(&(2 << 3)),
        };
        says_so && data.len() > 5 + wanted
    }
}

/// One connection to a store.
#[derive(Debug)]
pub struct Grpc {
    api: Api,
    /// The next stream; 0 before the preface was sent.
    next: u32,
    /// The header fields that the server remembers (RFC 7541 §2.3.2), the oldest first.
    remembered: Vec<&'static [u8]>,
    /// What may still be sent before the server gives leave for more.
    window: usize,
    /// Requests for which there was no leave yet.
    held: Vec<u8>,
    /// What was heard since the server was given leave for more.
    heard: u32,
    /// Streams under way: their numbers, what they must return, and whether a right message came.
    streams: Vec<(u32, usize, bool)>,
    scratch: Vec<u8>,
}

impl Grpc {
    /// A connection on which nothing was sent yet.
    #[must_use]
    pub fn new(api: Api) -> Self {
        Self {
            api,
            next: 0,
            remembered: Vec::new(),
            window: 0,
            held: Vec::new(),
            heard: 0,
            streams: Vec::new(),
            scratch: Vec::new(),
        }
    }

    fn begin(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(PREFACE);
        // SETTINGS_ENABLE_PUSH off, SETTINGS_INITIAL_WINDOW_SIZE (RFC 9113 §6.5.2).
        frame(out, SETTINGS, 0, 0, &[0, 2, 0, 0, 0, 0, 0, 4, 0x40, 0, 0, 0]);
        frame(out, WINDOW_UPDATE, 0, 0, &(OUR_WINDOW - 65_535).to_be_bytes());
        self.next = 1;
        self.window = WINDOW;
    }

    /// The head of a request. What the server remembers from an earlier one takes one byte.
    fn head(&mut self, path: &'static [u8], out: &mut Vec<u8>) {
        // :method POST, :scheme http (RFC 7541 appendix A).
        out.extend_from_slice(&[0x83, 0x86]);
        // With incremental indexing (§6.2.1), the name by its place in the static table or as it is.
        let fields: [(&[u8], &'static [u8]); 4] = [
            (&[0x44], path),
            (&[0x41], b"bench"),
            (&[0x5f], b"application/grpc"),
            (b"\x40\x02te", b"trailers"),
        ];
        for (name, value) in fields {
            if let Some(place) = self.remembered.iter().rev().position(|known| *known == value) {
                // §6.1; the dynamic table begins at 62, with the newest.
                out.push(0x80 | (62 + u8::try_from(place).expect("five fields are remembered")));
            } else {
                out.extend_from_slice(name);
                out.push(u8::try_from(value.len()).expect("short values"));
                out.extend_from_slice(value);
                self.remembered.push(value);
            }
        }
    }

    fn finish(&mut self, stream: u32, is_whole: bool, answered: &mut Vec<Answered>) {
        if let Some(place) = self.streams.iter().position(|(id, _, _)| *id == stream) {
            let (ticket, _, is_right) = self.streams.swap_remove(place);
            answered.push(Answered {
                ticket,
                is_right: is_right && is_whole,
            });
        }
    }

    /// A message of gRPC: five bytes before it (compressed or not, length), here always in one frame of HTTP/2.
    fn message(&mut self, stream: u32, data: &[u8]) {
        if let Some((_, wanted, is_right)) = self.streams.iter_mut().find(|(id, _, _)| *id == stream) {
            *is_right |= self.api.is_right(data, *wanted);
        }
    }

    fn frame(
        &mut self,
        (kind, flags, stream): (u8, u8, u32),
        body: &[u8],
        out: &mut Vec<u8>,
        answered: &mut Vec<Answered>,
    ) -> anyhow::Result<()> {
        match kind {
            DATA => {
                self.message(stream, body);
                self.heard += u32::try_from(body.len())?;
                if self.heard > OUR_WINDOW / 2 {
                    frame(out, WINDOW_UPDATE, 0, 0, &self.heard.to_be_bytes());
                    self.heard = 0;
                }
                if flags & END_STREAM != 0 {
                    self.finish(stream, true, answered);
                }
            }
            // The last headers end the stream; a refusal is nothing but those.
            HEADERS if flags & END_STREAM != 0 => self.finish(stream, true, answered),
            RST_STREAM => self.finish(stream, false, answered),
            SETTINGS if flags & ACK == 0 => frame(out, SETTINGS, ACK, 0, &[]),
            PING if flags & ACK == 0 => frame(out, PING, ACK, 0, body),
            GOAWAY => bail!("the store closes the connection: {}", body.escape_ascii()),
            WINDOW_UPDATE if stream == 0 => {
                ensure!(body.len() == 4, "a WINDOW_UPDATE of {} bytes", body.len());
                let more = u32::from_be_bytes([body[0] & 0x7f, body[1], body[2], body[3]]);
                self.window += usize::try_from(more)?;
            }
            _ => {}
        }
        Ok(())
    }
}

impl Wire for Grpc {
    fn ask(&mut self, request: Request<'_>, out: &mut Vec<u8>) -> u32 {
        if self.next == 0 {
            self.begin(out);
        }
        let stream = self.next;
        self.next += 2;
        let wanted = match request.operation {
            Operation::Put => 0,
            Operation::Get | Operation::LocalGet => request.value.len(),
        };
        self.streams.push((stream, wanted, false));
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        self.head(self.api.path(request.operation), &mut scratch);
        frame(out, HEADERS, END_HEADERS, stream, &scratch);
        scratch.clear();
        scratch.extend_from_slice(&[0; 5]);
        self.api.message(request, &mut scratch);
        let length = u32::try_from(scratch.len() - 5).expect("a few KiB");
        scratch[1..5].copy_from_slice(&length.to_be_bytes());
        if self.held.is_empty() && scratch.len() <= self.window {
            self.window -= scratch.len();
            frame(out, DATA, END_STREAM, stream, &scratch);
        } else {
            frame(&mut self.held, DATA, END_STREAM, stream, &scratch);
        }
        self.scratch = scratch;
        stream
    }

    fn hear(
        &mut self,
        input: &[u8],
        out: &mut Vec<u8>,
        answered: &mut Vec<Answered>,
    ) -> anyhow::Result<usize> {
        let mut taken = 0;
        while let Some((head, end)) = next_frame(&input[taken..]) {
            self.frame(head, &input[taken + FRAME_HEAD..taken + end], out, answered)?;
            taken += end;
        }
        while let Some((_, end)) = next_frame(&self.held) {
            if end - FRAME_HEAD > self.window {
                break;
            }
            self.window -= end - FRAME_HEAD;
            out.extend(self.held.drain(..end));
        }
        Ok(taken)
    }
}

/// The type, flags and stream of the first frame, and where it ends; none before it is whole (RFC 9113 §4.1).
fn next_frame(bytes: &[u8]) -> Option<((u8, u8, u32), usize)> {
    let head = bytes.get(..FRAME_HEAD)?;
    let end = FRAME_HEAD + (usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]));
    let stream = u32::from_be_bytes([head[5] & 0x7f, head[6], head[7], head[8]]);
    (bytes.len() >= end).then_some(((head[3], head[4], stream), end))
}

fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, body: &[u8]) {
    let length = u32::try_from(body.len()).expect("a few KiB").to_be_bytes();
    out.extend_from_slice(&length[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(body);
}

fn bytes_field(number: u8, bytes: &[u8], out: &mut Vec<u8>) {
    out.push(number << 3 | 2);
    let mut length = bytes.len();
    while length >= 0x80 {
        out.push(u8::try_from(length & 0x7f).expect("seven bits") | 0x80);
        length >>= 7;
    }
    out.push(u8::try_from(length).expect("seven bits"));
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    const PUT_K: Request<'_> = Request {
        operation: Operation::Put,
        key: "k",
        value: b"abc",
    };

    #[test]
    fn fields_that_the_server_remembers_take_one_byte() {
        let mut grpc = Grpc::new(Api::Etcd);
        let put = Api::Etcd.path(Operation::Put);
        let mut first = Vec::new();
        grpc.head(put, &mut first);
        assert_eq!(&first[..4], b"\x83\x86\x44\x14");
        assert_eq!(&first[first.len() - 12..], b"\x02te\x08trailers");
        let mut second = Vec::new();
        grpc.head(put, &mut second);
        assert_eq!(second, [0x83, 0x86, 0x80 | 65, 0x80 | 64, 0x80 | 63, 0x80 | 62]);
        let mut other = Vec::new();
        grpc.head(Api::Etcd.path(Operation::Get), &mut other);
        assert_eq!(&other[..4], b"\x83\x86\x44\x16");
        // The newest comes first, so that all others move on by one.
        assert_eq!(&other[other.len() - 3..], [0x80 | 65, 0x80 | 64, 0x80 | 63]);
    }

    #[test]
    fn messages_are_written() {
        for api in [Api::Etcd, Api::Quorate] {
            let mut out = Vec::new();
            api.message(PUT_K, &mut out);
            assert_eq!(out, b"\x0a\x01k\x12\x03abc");
        }
        let local = Request {
            operation: Operation::LocalGet,
            ..PUT_K
        };
        let mut out = Vec::new();
        Api::Quorate.message(local, &mut out);
        assert_eq!(out, b"\x0a\x01k\x12\x02\x08\x01");
        let mut long = Vec::new();
        bytes_field(2, &[0; 300], &mut long);
        assert_eq!(&long[..3], b"\x12\xac\x02");
    }

    #[test]
    fn an_answer_is_right_with_a_message_and_wrong_without() {
        let mut grpc = Grpc::new(Api::Etcd);
        let (first, second) = (grpc.ask(PUT_K, &mut Vec::new()), grpc.ask(PUT_K, &mut Vec::new()));
        let mut input = Vec::new();
        frame(&mut input, HEADERS, END_HEADERS, first, &[0x88]);
        frame(&mut input, DATA, 0, first, &[0, 0, 0, 0, 2, 0x0a, 0]);
        frame(&mut input, HEADERS, END_HEADERS | END_STREAM, first, &[]);
        frame(&mut input, HEADERS, END_HEADERS | END_STREAM, second, &[]);
        let mut answered = Vec::new();
        let whole = input.len();
        input.extend_from_slice(&[0, 0, 9]);
        assert_eq!(grpc.hear(&input, &mut Vec::new(), &mut answered).unwrap(), whole);
        let [right, wrong] = answered[..] else {
            panic!("{answered:?}")
        };
        assert_eq!((right.ticket, right.is_right), (first, true));
        assert_eq!((wrong.ticket, wrong.is_right), (second, false));
    }

    #[test]
    fn an_answer_of_quorate_says_itself_whether_it_is_right() {
        let answer = |fields: &[u8]| Api::Quorate.is_right(&[&[0; 5], fields].concat(), 0);
        assert!(answer(&[8, 1]) && answer(&[8, 1, 0x20, 7]));
        assert!(!answer(&[]) && !answer(&[0x10, 1]) && !answer(&[8, 1, 0x10, 1]));
    }

    #[test]
    fn requests_wait_for_leave() {
        let mut grpc = Grpc::new(Api::Etcd);
        let large = Request {
            value: &[0; 40_000],
            ..PUT_K
        };
        let mut out = Vec::new();
        grpc.ask(large, &mut out);
        grpc.ask(large, &mut out);
        assert!(out.len() < WINDOW);
        let (mut leave, mut more) = (Vec::new(), Vec::new());
        frame(&mut leave, WINDOW_UPDATE, 0, 0, &40_000_u32.to_be_bytes());
        grpc.hear(&leave, &mut more, &mut Vec::new()).unwrap();
        assert!(more.len() > 40_000);
    }
}
