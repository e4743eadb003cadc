//! A small TFTP client of our own: it shows every packet, takes any options, and asks for names that stock clients
//! would refuse to send.

use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, bail, ensure};

use crate::clock::{PATIENCE, now};
use crate::wire::{Packet, ack, decode, request, unwrap_block};

/// How long a client waits before it repeats itself.
const REPEAT_AFTER: Duration = Duration::from_secs(1);

/// A client's socket, connected to the server: an ICMP port-unreachable shows as a refused connection.
#[derive(Debug)]
pub struct RawClient {
    socket: UdpSocket,
    buffer: Vec<u8>,
}

/// A file that was read, and what the server said about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawDownload {
    /// The file.
    pub bytes: Vec<u8>,
    /// The options the server granted; none when it sent no OACK.
    pub granted: Option<Vec<(String, String)>>,
}

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The file came.
    File(RawDownload),
    /// The server refused.
    Refused {
        /// The ERROR's code.
        code: u16,
        /// The ERROR's words.
        message: String,
    },
}

impl RawClient {
    /// A client of the server on `port` of loopback.
    pub fn connect(port: u16) -> anyhow::Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).context("binding a client port")?;
        socket
            .connect((Ipv4Addr::LOCALHOST, port))
            .context("connecting the client's socket")?;
        Ok(Self {
            socket,
            buffer: vec![0; 65_535],
        })
    }

    /// Sends a datagram; a refused connection (an ICMP error that came back earlier) is an error.
    pub fn send(&self, datagram: &[u8]) -> anyhow::Result<()> {
        self.socket.send(datagram).context("sending a datagram")?;
        Ok(())
    }

    /// The next datagram, or none within the time; a refused connection is an error.
    pub fn receive(&mut self, within: Duration) -> anyhow::Result<Option<&[u8]>> {
        self.socket
            .set_read_timeout(Some(within))
            .context("setting a read time-out")?;
        match self.socket.recv(&mut self.buffer) {
            Ok(len) => Ok(Some(&self.buffer[..len])),
            Err(error)
                if matches!(
                    error.kind(),
                    std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                ) =>
            {
                Ok(None)
            }
            Err(error) => Err(error).context("receiving a datagram"),
        }
    }

    /// Sends a request until something answers it.
    pub fn ask(&mut self, datagram: &[u8]) -> anyhow::Result<&[u8]> {
        let started = now();
        loop {
            self.send(datagram)?;
            if let Some(len) = self.receive(REPEAT_AFTER)?.map(<[u8]>::len) {
                return Ok(&self.buffer[..len]);
            }
            ensure!(
                started.elapsed() < PATIENCE,
                "no answer to the request after {} s",
                PATIENCE.as_secs()
            );
        }
    }

    /// Reads a file in octet mode with the given options (RFC 2347, 2348, 2349, 7440).
    pub fn download(&mut self, name: &str, options: &[(&str, &str)]) -> anyhow::Result<Answer> {
        self.download_as(name, "octet", options, |_| Ok(()))
    }

    /// Reads a file in the given mode; `on_block` hears of each block before it is acknowledged.
    pub fn download_as(
        &mut self,
        name: &str,
        mode: &str,
        options: &[(&str, &str)],
        mut on_block: impl FnMut(u64) -> anyhow::Result<()>,
    ) -> anyhow::Result<Answer> {
        let mut last_sent = request(1, name, mode, options);
        let mut download = RawDownload {
            bytes: Vec::new(),
            granted: None,
        };
        let (mut block_size, mut window, mut in_window) = (512, 1, 0);
        let mut blocks = 0_u64;
        self.send(&last_sent)?;
        let mut heard = now();
        loop {
            let Some(datagram) = self.receive(REPEAT_AFTER)? else {
                ensure!(heard.elapsed() < PATIENCE, "nothing more after block {blocks}");
                self.send(&last_sent)?;
                in_window = 0;
                continue;
            };
            heard = now();
            match decode(datagram)? {
                Packet::Error { code, message } => return Ok(Answer::Refused { code, message }),
                Packet::Oack { options: granted } if blocks == 0 => {
                    block_size = granted_number(&granted, "blksize")?.unwrap_or(512);
                    window = granted_number(&granted, "windowsize")?.unwrap_or(1);
                    download.granted = Some(granted);
                    last_sent = ack(0).to_vec();
                    self.send(&last_sent)?;
                }
                Packet::Data { block, bytes } => {
                    let ended = bytes.len() < block_size;
                    let in_order = unwrap_block(block, blocks) == blocks + 1;
                    if in_order {
                        blocks += 1;
                        in_window += 1;
                        download.bytes.extend_from_slice(bytes);
                        on_block(blocks)?;
                    }
                    // RFC 7440 section 4: ACK a full window, the end, or the last block in order when one is missing.
                    if !in_order || ended || in_window >= window {
                        in_window = 0;
                        last_sent = ack((blocks & 0xffff) as u16).to_vec();
                        self.send(&last_sent)?;
                    }
                    if in_order && ended {
                        return Ok(Answer::File(download));
                    }
                }
                other => bail!("unexpected packet {other:?}"),
            }
        }
    }
}

impl Answer {
    /// The file; a refusal is an error.
    pub fn file(self) -> anyhow::Result<RawDownload> {
        match self {
            Self::File(download) => Ok(download),
            Self::Refused { code, message } => bail!("the server refused with code {code}: {message}"),
        }
    }

    /// The refusal; a file is an error.
    pub fn refusal(self) -> anyhow::Result<(u16, String)> {
        match self {
            Self::Refused { code, message } => Ok((code, message)),
            Self::File(download) => bail!("the server sent a file of {} bytes", download.bytes.len()),
        }
    }
}

fn granted_number(options: &[(String, String)], name: &str) -> anyhow::Result<Option<usize>> {
    let Some((_, value)) = options.iter().find(|(option, _)| option == name) else {
        return Ok(None);
    };
    Ok(Some(value.parse().with_context(|| {
        format!("the server granted {name} = {value:?}")
    })?))
}
