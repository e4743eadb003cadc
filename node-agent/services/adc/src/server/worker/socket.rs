//! One connection's socket: tasks that wait for it, and calls that do not wait.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc};

use crate::state::LinkId;

/// Bytes that are read at once.
const READ_BYTES: usize = 16 << 10;

/// What is heard of a socket.
#[derive(Debug)]
pub(super) enum Heard {
    /// The client sent this. Nothing more is read before it is granted.
    Bytes(Bytes),
    /// It can be written to again.
    Writable,
    /// The client has closed it, or it broke.
    End,
}

/// Reads a socket to its end, one piece at a time.
pub(super) async fn read(
    link: LinkId,
    stream: Arc<TcpStream>,
    hear: mpsc::Sender<(LinkId, Heard)>,
    granted: Arc<Notify>,
) {
    loop {
        let heard = match stream.readable().await.and_then(|()| read_some(&stream)) {
            Ok(Some(bytes)) => Heard::Bytes(bytes),
            Ok(None) => Heard::End,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(_) => Heard::End,
        };
        let is_end = matches!(heard, Heard::End);
        if hear.send((link, heard)).await.is_err() || is_end {
            return;
        }
        granted.notified().await;
    }
}

/// Not part of the task: idle connections hold no buffer.
fn read_some(stream: &TcpStream) -> io::Result<Option<Bytes>> {
    let mut buffer = [0; READ_BYTES];
    let length = stream.try_read(&mut buffer)?;
    Ok((length > 0).then(|| Bytes::copy_from_slice(&buffer[..length])))
}

/// Waits until a socket can be written to.
pub(super) async fn wait_writable(link: LinkId, stream: Arc<TcpStream>, hear: mpsc::Sender<(LinkId, Heard)>) {
    // An error shows in the next write.
    stream.writable().await.ok();
    // Fails when the thread ends.
    hear.send((link, Heard::Writable)).await.ok();
}
