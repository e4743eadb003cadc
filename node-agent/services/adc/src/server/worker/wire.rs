//! What a connection's bytes are: plain lines, or TLS. One port serves both, and the first byte tells.

use std::io::{self, Read as _, Write as _};
use std::sync::Arc;

use bytes::Bytes;
use rustls::{ServerConfig, ServerConnection};

/// The first byte of a TLS handshake record (RFC 8446, 5.1). No ADC line begins with it.
const TLS_HANDSHAKE: u8 = 22;

/// A connection's bytes.
pub(super) struct Wire {
    tls: Option<Arc<ServerConfig>>,
    kind: Kind,
}

enum Kind {
    /// Nothing has come yet.
    Unknown,
    Plain,
    Tls(Box<ServerConnection>),
}

impl Wire {
    /// A connection from which nothing has come.
    pub(super) const fn new(tls: Option<Arc<ServerConfig>>) -> Self {
        Self {
            tls,
            kind: Kind::Unknown,
        }
    }

    pub(super) const fn is_tls(&self) -> bool {
        matches!(self.kind, Kind::Tls(_))
    }

    /// Takes what came from the socket, and adds the plain bytes in it to `plain`.
    ///
    /// # Errors
    /// When it breaks the protocol. What is to be said about it is outgoing.
    pub(super) fn take_in(&mut self, bytes: &[u8], plain: &mut Vec<u8>) -> io::Result<()> {
        if matches!(self.kind, Kind::Unknown) {
            self.kind = match (bytes.first(), &self.tls) {
                (Some(&TLS_HANDSHAKE), Some(config)) => {
                    let mut connection = ServerConnection::new(config.clone()).map_err(io::Error::other)?;
                    // What waits is bounded before it is encrypted.
                    connection.set_buffer_limit(None);
                    Kind::Tls(Box::new(connection))
                }
                (Some(&TLS_HANDSHAKE), None) => {
                    return Err(io::Error::other("TLS, and there is no certificate"));
                }
                _ => Kind::Plain,
            };
        }
        match &mut self.kind {
            Kind::Tls(connection) => decrypt(connection, bytes, plain),
            Kind::Unknown | Kind::Plain => {
                plain.extend_from_slice(bytes);
                Ok(())
            }
        }
    }

    /// Encrypts lines; they are outgoing then.
    pub(super) fn encrypt(&mut self, lines: &[u8]) {
        if let Kind::Tls(connection) = &mut self.kind {
            // Memory takes any bytes.
            connection.writer().write_all(lines).ok();
        }
    }

    /// Says that nothing more will come.
    pub(super) fn end(&mut self) {
        if let Kind::Tls(connection) = &mut self.kind {
            connection.send_close_notify();
        }
    }

    /// The records that are to be sent.
    pub(super) fn outgoing(&mut self) -> Option<Bytes> {
        let Kind::Tls(connection) = &mut self.kind else {
            return None;
        };
        let mut records = Vec::new();
        while connection.wants_write() && connection.write_tls(&mut records).is_ok() {}
        (!records.is_empty()).then(|| records.into())
    }
}

fn decrypt(connection: &mut ServerConnection, mut bytes: &[u8], plain: &mut Vec<u8>) -> io::Result<()> {
    while !bytes.is_empty() {
        if connection.read_tls(&mut bytes)? == 0 {
            return Ok(());
        }
        connection.process_new_packets().map_err(io::Error::other)?;
        let mut buffer = [0; 4096];
        loop {
            match connection.reader().read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(length) => plain.extend_from_slice(&buffer[..length]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}
