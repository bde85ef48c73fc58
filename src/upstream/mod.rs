//! The way to the upstream: an HTTP client for one base URL.
//!
//! HTTP/1.1 is spoken in `h1`, by whoever waits for the answer: the small chunks of a token stream
//! cost no task switch and leave together. HTTP/2 is hyper's, its connections are shared and have
//! their own tasks.
//!
//! ```text
//! Client ─► Target ─► Connections ─► pool (idle HTTP/1.1) ─► h1 ┐
//!           base URL  one origin  ├► shared ───────────────► h2 ├► ResponseBody ─► pool
//!                                 └► Connector ────────► either ┘
//!                                    name, TCP, proxy, TLS
//! ```
//!
//! What never left is told apart from what the upstream may have seen: only the first is wrapped in
//! [`NotSent`](pacegate_layers::error::NotSent). The errors are in [`error`].

mod base;
mod body;
mod client;
mod connect;
mod connections;
pub mod dialect;
pub mod error;
mod exchange;
mod h1;
mod h2;
mod patience;
mod pool;
mod proxy;
mod stream;
mod target;
mod tls;

pub use body::ResponseBody;
pub use client::{Client, ClientOptions, ResponseFuture};
