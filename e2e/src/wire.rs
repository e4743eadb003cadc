//! TFTP packets as the tests see them: written apart from the product, so that one mistake is not made twice.

use anyhow::{Context, bail, ensure};

/// A decoded packet; borrowed from the datagram.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packet<'a> {
    /// RRQ or WRQ (RFC 1350 section 5).
    Request {
        /// Whether it asks to write.
        write: bool,
        /// The file's name.
        name: String,
        /// The transfer mode.
        mode: String,
        /// The options in their order (RFC 2347).
        options: Vec<(String, String)>,
    },
    /// DATA.
    Data {
        /// The block number on the wire.
        block: u16,
        /// The content.
        bytes: &'a [u8],
    },
    /// ACK.
    Ack {
        /// The block number on the wire.
        block: u16,
    },
    /// ERROR.
    Error {
        /// The error code.
        code: u16,
        /// The words for people.
        message: String,
    },
    /// OACK (RFC 2347).
    Oack {
        /// The options that are granted.
        options: Vec<(String, String)>,
    },
}

/// Reads a datagram.
pub fn decode(datagram: &[u8]) -> anyhow::Result<Packet<'_>> {
    let opcode = number(datagram, 0)?;
    let rest = datagram.get(2..).unwrap_or_default();
    Ok(match opcode {
        1 | 2 => {
            let mut words = strings(rest)?.into_iter();
            let name = words.next().context("a request without a name")?;
            let mode = words.next().context("a request without a mode")?;
            Packet::Request {
                write: opcode == 2,
                name,
                mode,
                options: pairs(words.collect())?,
            }
        }
        3 => Packet::Data {
            block: number(datagram, 2)?,
            bytes: rest.get(2..).unwrap_or_default(),
        },
        4 => Packet::Ack {
            block: number(datagram, 2)?,
        },
        5 => Packet::Error {
            code: number(datagram, 2)?,
            message: strings(rest.get(2..).unwrap_or_default())?
                .into_iter()
                .next()
                .unwrap_or_default(),
        },
        6 => Packet::Oack {
            options: pairs(strings(rest)?)?,
        },
        other => bail!("opcode {other} is none of TFTP's"),
    })
}

/// The bytes of a request: opcode 1 reads, 2 writes.
#[must_use]
pub fn request(opcode: u8, name: &str, mode: &str, options: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = vec![0, opcode];
    for word in [name, mode]
        .into_iter()
        .chain(options.iter().flat_map(|(name, value)| [*name, *value]))
    {
        bytes.extend_from_slice(word.as_bytes());
        bytes.push(0);
    }
    bytes
}

/// The bytes of an ACK.
#[must_use]
pub fn ack(block: u16) -> [u8; 4] {
    let [high, low] = block.to_be_bytes();
    [0, 4, high, low]
}

/// The 64-bit block number nearest to `near` that ends in the 16 bits `wire` (block numbers roll over to 0).
#[must_use]
pub fn unwrap_block(wire: u16, near: u64) -> u64 {
    let forward = u64::from(wire.wrapping_sub((near & 0xffff) as u16));
    if forward < 0x8000 {
        near + forward
    } else {
        (near + forward).saturating_sub(0x1_0000)
    }
}

fn number(bytes: &[u8], at: usize) -> anyhow::Result<u16> {
    match bytes.get(at..at + 2) {
        Some(&[high, low]) => Ok(u16::from_be_bytes([high, low])),
        _ => bail!("a datagram of only {} bytes", bytes.len()),
    }
}

/// Strings that each end in NUL.
fn strings(bytes: &[u8]) -> anyhow::Result<Vec<String>> {
    let Some((0, body)) = bytes.split_last() else {
        ensure!(bytes.is_empty(), "the last string has no NUL");
        return Ok(Vec::new());
    };
    Ok(body
        .split(|byte| *byte == 0)
        .map(|word| String::from_utf8_lossy(word).into_owned())
        .collect())
}

fn pairs(words: Vec<String>) -> anyhow::Result<Vec<(String, String)>> {
    ensure!(words.len().is_multiple_of(2), "an option without a value");
    Ok(words
        .chunks_exact(2)
        .map(|pair| (pair[0].to_ascii_lowercase(), pair[1].clone()))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_round_trips() {
        let bytes = request(1, "a/b", "octet", &[("blksize", "1428"), ("tsize", "0")]);
        let Packet::Request {
            write,
            name,
            mode,
            options,
        } = decode(&bytes).unwrap()
        else {
            panic!("{bytes:?}")
        };
        assert_eq!((write, name.as_str(), mode.as_str()), (false, "a/b", "octet"));
        assert_eq!(
            options,
            [("blksize".into(), "1428".into()), ("tsize".into(), "0".into())]
        );
    }

    #[test]
    fn blocks_unwrap_across_the_roll_over() {
        assert_eq!(unwrap_block(0, 65_535), 65_536);
        assert_eq!(unwrap_block(65_535, 65_536), 65_535);
        assert_eq!(unwrap_block(5, 3 * 65_536 - 1), 3 * 65_536 + 5);
        assert_eq!(unwrap_block(7, 7), 7);
        assert_eq!(unwrap_block(65_535, 0), 0, "nothing comes before the first block");
    }

    #[test]
    fn broken_packets_are_errors() {
        for bytes in [
            &b""[..],
            b"\0",
            b"\0\x03\0",
            b"\0\x01name",
            b"\0\x06blksize\0",
            b"\0\x09",
        ] {
            assert!(decode(bytes).is_err(), "{bytes:?}");
        }
    }
}
