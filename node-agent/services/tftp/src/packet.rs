//! TFTP packets: bytes to values and back (RFC 1350, 2347, 2348, 2349, 7440).
//!
//! Pure: never reads a clock or a socket, never panics, whatever the bytes. Nothing is sent from here; what a server
//! should answer to bytes it cannot read is [`DecodeError::error_code`].

mod options;

use thiserror::Error;

pub use options::{Limits, Negotiated, negotiate, transfer_size};

/// The longest request that is read. RFC 2347 allows 512 octets; a little more is harmless, and firmware that pads
/// its request or asks for a long path is not worth refusing.
pub const REQUEST_BYTES_MAX: usize = 1024;

/// The longest message of an ERROR that is sent: it fits any terminal line and never outgrows the request by much.
pub const ERROR_MESSAGE_BYTES_MAX: usize = 100;

/// Bytes of a DATA packet before its payload.
pub const DATA_HEADER_BYTES: usize = 4;

const READ_REQUEST: u8 = 1;
const WRITE_REQUEST: u8 = 2;
const DATA: u8 = 3;
const ACK: u8 = 4;
const ERROR: u8 = 5;
const OACK: u8 = 6;

/// One datagram.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packet<'a> {
    /// RRQ or WRQ.
    Request(Request),
    /// DATA: a block of the file.
    Data {
        /// Its number modulo 65,536.
        block: u16,
        /// Its bytes.
        payload: &'a [u8],
    },
    /// ACK: the number of the last block received in order, modulo 65,536.
    Ack(u16),
    /// ERROR: the peer gives up.
    Error {
        /// As sent; see [`ErrorCode`] for the known ones.
        code: u16,
        /// For people. Bytes that are no UTF-8 are replaced.
        message: String,
    },
    /// OACK: the options that the server grants.
    Oack(Vec<RequestOption>),
}

/// RRQ or WRQ (RFC 1350 §5, RFC 2347).
///
/// ```text
///  2 bytes    string  1 byte  string 1 byte   string  1 byte string  1 byte
/// | opcode  | path  |   0   | mode |   0   | option |   0  | value |   0  | ...
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Whether the peer wants to read or to write.
    pub kind: RequestKind,
    /// The path as sent: not normalised, not checked, perhaps empty.
    pub path: String,
    /// How the bytes of the file appear on the wire.
    pub mode: Mode,
    /// In the order of the packet; no name occurs twice.
    pub options: Vec<RequestOption>,
}

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestKind {
    /// RRQ.
    Read,
    /// WRQ.
    Write,
}

/// The transfer mode (RFC 1350 §1); its case does not matter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// The bytes as they are.
    Octet,
    /// Text, with the line ends of a network virtual terminal.
    Netascii,
    /// Obsolete (RFC 1350 §1); a server should refuse it (RFC 1123 §4.2.2.1).
    Mail,
    /// Any other word, as sent; to be refused.
    Unknown(String),
}

/// One option with its value, both as sent (RFC 2347). Names are compared without regard to case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestOption {
    /// As sent, so that an OACK can repeat the peer's own spelling.
    pub name: String,
    /// As sent.
    pub value: String,
}

/// The codes of ERROR packets (RFC 1350 appendix I, RFC 2347).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum ErrorCode {
    /// See the message.
    NotDefined = 0,
    /// No such file.
    FileNotFound = 1,
    /// The peer may not do that.
    AccessViolation = 2,
    /// Disk full, or the file is too large.
    DiskFull = 3,
    /// The packet makes no sense. U-Boot starts again, forever, after any code but 1 and 2.
    IllegalOperation = 4,
    /// Nobody transfers anything from this address and port.
    UnknownTransferId = 5,
    /// The file is there already.
    FileExists = 6,
    /// Obsolete with the mode `mail`.
    NoSuchUser = 7,
    /// The options were refused (RFC 2347).
    OptionsRefused = 8,
}

/// Bytes that are no TFTP packet.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// Too short for an opcode, or for the opcode it has.
    #[error("packet of {bytes} bytes is too short")]
    TooShort {
        /// Its length.
        bytes: usize,
    },
    /// An opcode that no RFC names.
    #[error("opcode {opcode} is unknown")]
    UnknownOpcode {
        /// As sent.
        opcode: u16,
    },
    /// A request longer than [`REQUEST_BYTES_MAX`].
    #[error("request of {bytes} bytes is longer than {REQUEST_BYTES_MAX}")]
    RequestTooLong {
        /// Its length.
        bytes: usize,
    },
    /// A string of a request or an OACK is not closed by a NUL, or an option has no value.
    #[error("{field} is missing or does not end with a NUL")]
    Unterminated {
        /// What was being read.
        field: &'static str,
        /// Whether that was in a request, which deserves an answer.
        in_request: bool,
    },
    /// A path that is no UTF-8: no file here can have that name.
    #[error("path is not UTF-8")]
    PathNotUtf8,
    /// A mode or an option that is no UTF-8.
    #[error("{field} is not UTF-8")]
    NotUtf8 {
        /// What was being read.
        field: &'static str,
        /// Whether that was in a request, which deserves an answer.
        in_request: bool,
    },
    /// An option that is there twice (RFC 2347: each at most once).
    #[error("option {name:?} is there twice")]
    DuplicateOption {
        /// As sent.
        name: String,
        /// Whether that was in a request, which deserves an answer.
        in_request: bool,
    },
}

impl DecodeError {
    /// The ERROR to answer with, or `None` to stay silent.
    ///
    /// Only a request deserves an answer: answering other unreadable packets lets a forged one start an endless
    /// exchange of ERRORs between two servers.
    pub fn error_code(&self) -> Option<ErrorCode> {
        match self {
            Self::RequestTooLong { .. } => Some(ErrorCode::IllegalOperation),
            Self::PathNotUtf8 => Some(ErrorCode::FileNotFound),
            Self::Unterminated { in_request, .. } | Self::NotUtf8 { in_request, .. } => {
                in_request.then_some(ErrorCode::IllegalOperation)
            }
            Self::DuplicateOption { in_request, .. } => in_request.then_some(ErrorCode::OptionsRefused),
            Self::TooShort { .. } | Self::UnknownOpcode { .. } => None,
        }
    }
}

impl Packet<'_> {
    /// Reads one datagram. Bytes after the two numbers of an ACK are ignored, as some firmware pads it.
    ///
    /// # Errors
    /// When the bytes are no packet of the RFCs above.
    pub fn decode(bytes: &[u8]) -> Result<Packet<'_>, DecodeError> {
        let too_short = DecodeError::TooShort { bytes: bytes.len() };
        let Some((opcode, body)) = take_u16(bytes) else {
            return Err(too_short);
        };
        // The first byte of every opcode is 0.
        match u8::try_from(opcode).unwrap_or_default() {
            READ_REQUEST => decode_request(RequestKind::Read, body).map(Packet::Request),
            WRITE_REQUEST => decode_request(RequestKind::Write, body).map(Packet::Request),
            DATA => {
                let (block, payload) = take_u16(body).ok_or(too_short)?;
                Ok(Packet::Data { block, payload })
            }
            ACK => take_u16(body)
                .map(|(block, _)| Packet::Ack(block))
                .ok_or(too_short),
            ERROR => {
                let (code, text) = take_u16(body).ok_or(too_short)?;
                // Some clients leave out the NUL; what they say is clear without it.
                let text = text.split(|&byte| byte == 0).next().unwrap_or_default();
                Ok(Packet::Error {
                    code,
                    message: String::from_utf8_lossy(text).into_owned(),
                })
            }
            OACK => decode_options(body, false).map(Packet::Oack),
            _ => Err(DecodeError::UnknownOpcode { opcode }),
        }
    }

    /// Writes the datagram. The server sends DATA by [`data_header`] instead, without copying the payload.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Packet::Request(request) => {
                let opcode = match request.kind {
                    RequestKind::Read => READ_REQUEST,
                    RequestKind::Write => WRITE_REQUEST,
                };
                let mut bytes = vec![0, opcode];
                put_string(&mut bytes, &request.path);
                put_string(&mut bytes, request.mode.as_str());
                put_options(&mut bytes, &request.options);
                bytes
            }
            Packet::Data { block, payload } => {
                let mut bytes = data_header(*block).to_vec();
                bytes.extend_from_slice(payload);
                bytes
            }
            Packet::Ack(block) => encode_ack(*block).to_vec(),
            Packet::Error { code, message } => encode_error_bytes(*code, message),
            Packet::Oack(options) => encode_oack(options),
        }
    }
}

/// The four bytes before the payload of DATA (RFC 1350 §5).
///
/// ```text
///  2 bytes   2 bytes    0..=blksize bytes (RFC 2348; 512 unless negotiated)
/// | opcode=3 | block u16 | data ... |        shorter than blksize ends the transfer
/// ```
/// Block numbers wrap to 0 after 65,535: the RFC is silent, most clients do this.
pub fn data_header(block: u16) -> [u8; DATA_HEADER_BYTES] {
    let [high, low] = block.to_be_bytes();
    [0, DATA, high, low]
}

/// ACK of `block` (RFC 1350 §5).
pub fn encode_ack(block: u16) -> [u8; 4] {
    let [high, low] = block.to_be_bytes();
    [0, ACK, high, low]
}

/// ERROR (RFC 1350 §5). A message longer than [`ERROR_MESSAGE_BYTES_MAX`] is cut at a character's border.
///
/// ```text
///  2 bytes    2 bytes     string  1 byte
/// | opcode=5 | code u16 | message |  0  |
/// ```
pub fn encode_error(code: ErrorCode, message: &str) -> Vec<u8> {
    encode_error_bytes(code as u16, message)
}

/// OACK (RFC 2347): the options that are granted.
///
/// ```text
///  2 bytes   string  1 byte string 1 byte
/// | opcode=6 | name |   0  | value |  0  | ...
/// ```
pub fn encode_oack(options: &[RequestOption]) -> Vec<u8> {
    let mut bytes = vec![0, OACK];
    put_options(&mut bytes, options);
    bytes
}

impl Mode {
    fn from_word(word: String) -> Self {
        if word.eq_ignore_ascii_case("octet") {
            Self::Octet
        } else if word.eq_ignore_ascii_case("netascii") {
            Self::Netascii
        } else if word.eq_ignore_ascii_case("mail") {
            Self::Mail
        } else {
            Self::Unknown(word)
        }
    }

    /// The word on the wire.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Octet => "octet",
            Self::Netascii => "netascii",
            Self::Mail => "mail",
            Self::Unknown(word) => word,
        }
    }
}

fn decode_request(kind: RequestKind, body: &[u8]) -> Result<Request, DecodeError> {
    let bytes = body.len() + 2;
    if bytes > REQUEST_BYTES_MAX {
        return Err(DecodeError::RequestTooLong { bytes });
    }
    let (path, rest) = take_terminated(body, "path", true)?;
    let path = str::from_utf8(path)
        .map_err(|_| DecodeError::PathNotUtf8)?
        .to_owned();
    let (mode, rest) = take_string(rest, "mode", true)?;
    let options = decode_options(rest, true)?;
    Ok(Request {
        kind,
        path,
        mode: Mode::from_word(mode),
        options,
    })
}

/// Reads name and value pairs to the end. NULs after the last pair are padding.
fn decode_options(mut rest: &[u8], in_request: bool) -> Result<Vec<RequestOption>, DecodeError> {
    let mut options: Vec<RequestOption> = Vec::new();
    while rest.iter().any(|&byte| byte != 0) {
        let (name, after_name) = take_string(rest, "option name", in_request)?;
        let (value, after_value) = take_string(after_name, "option value", in_request)?;
        // RFC 2347: an option may be specified at most once; which of two values would count is anyone's guess.
        if options.iter().any(|known| known.name.eq_ignore_ascii_case(&name)) {
            return Err(DecodeError::DuplicateOption { name, in_request });
        }
        options.push(RequestOption { name, value });
        rest = after_value;
    }
    Ok(options)
}

fn take_u16(bytes: &[u8]) -> Option<(u16, &[u8])> {
    let (number, rest) = bytes.split_first_chunk::<2>()?;
    Some((u16::from_be_bytes(*number), rest))
}

fn take_terminated<'a>(
    bytes: &'a [u8],
    field: &'static str,
    in_request: bool,
) -> Result<(&'a [u8], &'a [u8]), DecodeError> {
    let end = bytes.iter().position(|&byte| byte == 0);
    let end = end.ok_or(DecodeError::Unterminated { field, in_request })?;
    Ok((&bytes[..end], &bytes[end + 1..]))
}

fn take_string<'a>(
    bytes: &'a [u8],
    field: &'static str,
    in_request: bool,
) -> Result<(String, &'a [u8]), DecodeError> {
    let (string, rest) = take_terminated(bytes, field, in_request)?;
    let string = str::from_utf8(string).map_err(|_| DecodeError::NotUtf8 { field, in_request })?;
    Ok((string.to_owned(), rest))
}

fn put_string(bytes: &mut Vec<u8>, string: &str) {
    debug_assert!(!string.contains('\0'), "a NUL would end the string early");
    bytes.extend_from_slice(string.as_bytes());
    bytes.push(0);
}

fn put_options(bytes: &mut Vec<u8>, options: &[RequestOption]) {
    for option in options {
        put_string(bytes, &option.name);
        put_string(bytes, &option.value);
    }
}

fn encode_error_bytes(code: u16, message: &str) -> Vec<u8> {
    let message = message.split('\0').next().unwrap_or_default();
    let message = &message[..message.floor_char_boundary(ERROR_MESSAGE_BYTES_MAX)];
    let mut bytes = vec![0, ERROR];
    bytes.extend_from_slice(&code.to_be_bytes());
    put_string(&mut bytes, message);
    bytes
}

#[cfg(test)]
mod tests;
