//! The header with which a load balancer says where a client connects from (HAProxy's PROXY protocol, versions 1 and 2).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// How version 2 begins (PROXY protocol, 2.2).
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// The longest header of version 1, its end included (PROXY protocol, 2.1).
const LINE_BYTES_MAX: usize = 107;

/// What the first bytes of a connection say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyHeader {
    /// More has to be read.
    Incomplete,
    /// A whole header.
    Complete {
        /// Where the client connects from; none when the balancer speaks for itself.
        address: Option<IpAddr>,
        /// Bytes of the header.
        length: usize,
    },
}

/// Reads a header.
///
/// # Errors
/// When there is none.
pub fn proxy_header(bytes: &[u8]) -> Result<ProxyHeader, &'static str> {
    let common = bytes.len().min(SIGNATURE.len());
    if bytes[..common] == SIGNATURE[..common] {
        return version_2(bytes);
    }
    let end = bytes.windows(2).position(|pair| pair == b"\r\n");
    let Some(end) = end else {
        let begins = bytes.len().min(6);
        return if bytes[..begins] == b"PROXY "[..begins] && bytes.len() < LINE_BYTES_MAX {
            Ok(ProxyHeader::Incomplete)
        } else {
            Err("no PROXY header")
        };
    };
    let line = std::str::from_utf8(&bytes[..end]).map_err(|_| "no PROXY header")?;
    let mut words = line.split(' ');
    let address = match (words.next(), words.next()) {
        (Some("PROXY"), Some("UNKNOWN")) => None,
        (Some("PROXY"), Some("TCP4" | "TCP6")) => {
            let source = words.next().and_then(|word| word.parse().ok());
            Some(source.ok_or("no address in the PROXY header")?)
        }
        _ => return Err("no PROXY header"),
    };
    let length = end + 2;
    Ok(ProxyHeader::Complete { address, length })
}

fn version_2(bytes: &[u8]) -> Result<ProxyHeader, &'static str> {
    let Some((head, rest)) = bytes.split_at_checked(16) else {
        return Ok(ProxyHeader::Incomplete);
    };
    let size = usize::from(u16::from_be_bytes([head[14], head[15]]));
    let Some(addresses) = rest.get(..size) else {
        return Ok(ProxyHeader::Incomplete);
    };
    let first = |count: usize| addresses.get(..count).ok_or("no address in the PROXY header");
    let address = match (head[12], head[13] >> 4) {
        (0x20, _) => None,
        (0x21, 1) => {
            let bytes: [u8; 4] = first(4)?.try_into().map_err(|_| "no address")?;
            Some(Ipv4Addr::from(bytes).into())
        }
        (0x21, 2) => {
            let bytes: [u8; 16] = first(16)?.try_into().map_err(|_| "no address")?;
            Some(IpAddr::from(Ipv6Addr::from(bytes)).to_canonical())
        }
        (0x21, _) => None,
        _ => return Err("unknown version of the PROXY header"),
    };
    let length = 16 + size;
    Ok(ProxyHeader::Complete { address, length })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_however_they_are_cut() {
        let mut binary = SIGNATURE.to_vec();
        binary.extend_from_slice(&[0x21, 0x11, 0, 12, 192, 0, 2, 7, 10, 0, 0, 1, 1, 2, 3, 4]);
        let text = b"PROXY TCP4 192.0.2.7 10.0.0.1 5 1511\r\n".to_vec();
        for header in [binary, text] {
            let whole = [&header[..], b"HSUP"].concat();
            for cut in 1..header.len() {
                assert_eq!(proxy_header(&whole[..cut]), Ok(ProxyHeader::Incomplete), "{cut}");
            }
            let address = Some("192.0.2.7".parse().unwrap());
            let length = header.len();
            assert_eq!(
                proxy_header(&whole),
                Ok(ProxyHeader::Complete { address, length })
            );
        }
        let unknown = ProxyHeader::Complete {
            address: None,
            length: 15,
        };
        assert_eq!(proxy_header(b"PROXY UNKNOWN\r\nHSUP"), Ok(unknown));
        for none in [
            &b"HSUP ADBASE"[..],
            b"PROXY TCP4 x\r\n",
            b"GET / HTTP/1.1\r\n",
            &[b'P'; 200],
        ] {
            assert!(proxy_header(none).is_err());
        }
    }
}
