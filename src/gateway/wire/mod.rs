//! Between a client's socket and whole requests.
//!
//! ```text
//! socket ─► stream ─► connection ─► TLS ─► framing ─► hyper
//!           TCP, Unix  time-outs            one reading
//! ```

mod bell;
mod connection;
mod crowd;
mod framing;
mod hangup;
mod serve;
mod stall;
mod stream;
mod tls;
mod transport;
mod unix_socket;

#[cfg(test)]
pub(super) use self::framing::all as all_violations;
pub use self::tls::ListenTlsError;
pub(super) use self::{
    connection::Connection,
    crowd::{Crowd, Overcrowded},
    framing::{REFUSED_AS, Violation},
    serve::serve,
    stream::Stream,
    tls::server_config,
    unix_socket::{SocketFile, bind as bind_unix},
};
