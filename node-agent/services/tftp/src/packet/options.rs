//! What a server grants of the options of a request (RFC 2347, 2348, 2349, 7440).

use super::{RequestOption, encode_oack};

/// Bytes of a block unless another size was negotiated (RFC 1350 §2).
const BLOCK_SIZE_DEFAULT: u16 = 512;
/// RFC 2348: from 8 octets.
const BLOCK_SIZE_MIN: u16 = 8;
/// RFC 2348: to 65,464 octets.
const BLOCK_SIZE_MAX: u16 = 65_464;
/// A window must be a small part of the 16-bit block numbers, or an ACK could mean two blocks.
const WINDOW_SIZE_MAX: u16 = 8_192;

/// What the server is willing to grant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The largest block; 8 to 65,464, anything else counts as the nearest of the two.
    pub block_size_max: u16,
    /// The largest window; 1 to 8,192, anything else counts as the nearest of the two.
    pub window_size_max: u16,
    /// Bytes of the file as it appears on the wire (after netascii), for `tsize`; of a write request, what the client said.
    pub file_len: u64,
}

/// The terms of a transfer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Negotiated {
    /// Bytes of each block but the last.
    pub block_size: u16,
    /// Blocks that may be under way.
    pub window_size: u16,
    /// The retransmission interval that the client asked for, in seconds.
    pub timeout: Option<u8>,
    /// The whole OACK packet, or `None` when nothing was granted: then the first answer is DATA 1, or ACK 0.
    pub oack: Option<Vec<u8>>,
}

/// Decides which options of a request are granted.
///
/// Unknown options and options with an invalid value are left out of the OACK, never an error: RFC 2347 leaves that
/// to the option, and a client that asked for nonsense still gets its file by the defaults. Nothing enters the OACK
/// that was not asked for.
pub fn negotiate(options: &[RequestOption], limits: &Limits) -> Negotiated {
    let mut negotiated = Negotiated {
        block_size: BLOCK_SIZE_DEFAULT,
        window_size: 1,
        timeout: None,
        oack: None,
    };
    let mut granted = Vec::new();
    for option in options {
        let value = match option.name.to_ascii_lowercase().as_str() {
            // RFC 2348: the reply may be smaller than the request, never larger.
            "blksize" => capped(
                &option.value,
                BLOCK_SIZE_MIN,
                limits.block_size_max.min(BLOCK_SIZE_MAX),
            )
            .map(|size| {
                negotiated.block_size = size;
                size.to_string()
            }),
            // RFC 7440 §3: likewise.
            "windowsize" => {
                capped(&option.value, 1, limits.window_size_max.min(WINDOW_SIZE_MAX)).map(|size| {
                    negotiated.window_size = size;
                    size.to_string()
                })
            }
            // RFC 2349: the reply must equal the request, so its very digits are repeated.
            "timeout" => number(&option.value).and_then(|seconds| {
                negotiated.timeout = Some(u8::try_from(seconds).ok().filter(|&seconds| seconds > 0)?);
                Some(option.value.clone())
            }),
            // RFC 2349: 0 in the request, the size in the reply. A size of 0 is left out: curl takes it for an error.
            "tsize" => number(&option.value)
                .filter(|_| limits.file_len > 0)
                .map(|_| limits.file_len.to_string()),
            _ => None,
        };
        if let Some(value) = value {
            granted.push(RequestOption {
                name: option.name.clone(),
                value,
            });
        }
    }
    if !granted.is_empty() {
        negotiated.oack = Some(encode_oack(&granted));
    }
    negotiated
}

/// The `tsize` of a write request (RFC 2349): the size of the file as sent; 0 when the client does not know or say it.
pub fn transfer_size(options: &[RequestOption]) -> u64 {
    let named = |option: &&RequestOption| option.name.eq_ignore_ascii_case("tsize");
    let option = options.iter().find(named);
    option.and_then(|option| number(&option.value)).unwrap_or(0)
}

/// A wish of at least `min`, cut to `max`.
fn capped(value: &str, min: u16, max: u16) -> Option<u16> {
    let wish = number(value).filter(|&wish| wish >= u64::from(min))?;
    Some(u16::try_from(wish).unwrap_or(u16::MAX).min(max.max(min)))
}

/// Decimal digits only; what is beyond the range counts as the largest number.
fn number(value: &str) -> Option<u64> {
    if value.is_empty() || !value.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(value.parse().unwrap_or(u64::MAX))
}
