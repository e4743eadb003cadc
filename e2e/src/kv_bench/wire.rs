//! What the generator asks of a protocol.

use std::fmt;

use serde::Serialize;

/// What a request does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Operation {
    /// Stores a value under a quorum.
    Put,
    /// Reads linearizably.
    Get,
    /// Reads what the asked member has, without a quorum (etcd: serializable).
    LocalGet,
}

/// One request.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// What it does.
    pub operation: Operation,
    /// The key.
    pub key: &'a str,
    /// The value that a put stores, or that a get must return as many bytes of.
    pub value: &'a [u8],
}

/// An answer that has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answered {
    /// What [`Wire::ask`] called the request.
    pub ticket: u32,
    /// Whether the answer is what a client hopes for.
    pub is_right: bool,
}

/// A client's half of one connection.
pub trait Wire: fmt::Debug {
    /// Writes a request to `out` and names it.
    fn ask(&mut self, request: Request<'_>, out: &mut Vec<u8>) -> u32;

    /// Takes the whole answers off the front of `input` and returns how many bytes they had; may write to `out`.
    ///
    /// # Errors
    /// When the server has ended the connection or does not speak the protocol.
    fn hear(
        &mut self,
        input: &[u8],
        out: &mut Vec<u8>,
        answered: &mut Vec<Answered>,
    ) -> anyhow::Result<usize>;
}
