//! Clients' connections: sockets, TLS, time-outs, and hyper's server.
//!
//! ```text
//! socket ─► connection ─► TLS ─► hyper
//! TCP, Unix  time-outs
//! ```

mod connection;
mod connection_limit;
mod serve;
mod tls;
mod unix_socket;

pub use self::tls::ListenTlsError;
pub(crate) use self::{
    connection::{Connection, Socket},
    connection_limit::{AtCapacity, ConnectionLimit},
    serve::serve,
    tls::server_config,
    unix_socket::{SocketFile, bind as bind_unix},
};
