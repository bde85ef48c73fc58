//! HTTP/1.1, one exchange after the other on a connection.
//!
//! It is not hyper's connection, because a gateway needs so much less: the request is complete and
//! goes out in one write, and whoever waits for the answer reads it from the socket. There is no
//! task, no channel, and no buffer where nothing has come.
//!
//! ```text
//! Exchange ── request_head ─► Connection ─► one write
//!          ◄─ response_head ─ Connection ◄─ one read      then Body ◄─ Framing ◄─ Connection
//! ```
//!
//! How a message ends is decided by [`framing`] alone. A [`Violation`] costs the connection.

mod body;
mod chunked;
mod connection;
mod exchange;
mod framing;
mod receipt;
mod request_head;
mod response_head;
mod violation;

pub(super) use self::{
    body::Body,
    connection::{Connection, Limits},
    exchange::Exchange,
};

use self::violation::Violation;
