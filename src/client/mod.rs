//! The way to the upstream: an HTTP client for one base URL.
//!
//! HTTP is hyper's. An HTTP/1.1 connection is polled by the task that waits for the response, an HTTP/2
//! connection is shared and has a task of its own.
//!
//! ```text
//! Client ─► Endpoint ─► Connections ─► pool (idle HTTP/1.1) ─► h1 ┐
//!           base URL  one origin  ├► shared ───────────────► h2 ├► ResponseBody ─► pool
//!                                 └► Connector ────────► either ┘
//!                                    name, TCP, proxy, TLS
//! ```
//!
//! A request that never left is told apart from one that the upstream may have seen: only the first is
//! wrapped in [`NotSent`](pacegate_layers::error::NotSent). The errors are in [`error`].

mod base_url;
mod body;
mod connections;
mod connector;
mod endpoint;
pub mod error;
mod exchange;
mod h1;
mod h2;
mod pool;
mod proxy;
mod service;
mod tls;

pub use body::ResponseBody;
pub use service::{Client, ClientOptions, ResponseFuture};
