//! An HTTP client for one upstream, or for one of its OAuth endpoints.
//!
//! In come requests with their whole bodies, whose paths are relative to a base URL; out go
//! response headers with a streaming body, or an [`error`] that says how far the request got. It
//! calls hyper, the system's resolver and rustls. Of pacegate it uses the types of the
//! [`config`](crate::config), the idle timer, and the layers' errors and request context.
//!
//! hyper speaks HTTP. An HTTP/1.1 connection is polled by the task that waits for the response; an
//! HTTP/2 connection is shared and has a task of its own.
//!
//! ```text
//! Client ─► Endpoint ─► Connections ─► pool (idle HTTP/1.1) ─► h1 ┐
//!           base URL  one origin  ├► shared ───────────────► h2 ├► ResponseBody ─► pool
//!                                 └► Connector ────────► either ┘
//!                                    name, TCP, proxy, TLS
//! ```
//!
//! A request that was never sent is distinguished from one that the upstream may have seen: only
//! the first is wrapped in [`NotSent`](pacegate_layers::error::NotSent).

mod body;
mod connections;
mod connector;
mod endpoint;
pub mod error;
mod exchange;
mod h1;
mod h2;
mod proxy;
mod service;
mod tcp;
mod tls;

pub use body::ResponseBody;
pub use service::{Client, ClientOptions, ResponseFuture};
