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
//! Client ─► Endpoint ─► Connections ─► Pool (idle HTTP/1.1) ─► h1 ┐
//!           base URL  one origin  ├► shared HTTP/2 ─────────► h2 ├► Reservation ─► ResponseBody
//!                                 └► Dialing ─► Connector ─► either
//!                                    how many    name, TCP, proxy, TLS
//! ```
//!
//! `poll_ready` reserves a connection over HTTP/1.1, or a stream over HTTP/2; `call` writes the request
//! at once. A request that was never sent, or that the upstream has not processed, is distinguished
//! from one that the upstream may have acted on: only the first is wrapped in
//! [`NotSent`](pacegate_layers::error::NotSent).

mod body;
mod connections;
mod connector;
mod dialing;
mod endpoint;
pub mod error;
mod exchange;
mod h1;
mod h2;
mod last_use;
mod pool;
mod proxy;
mod reservation;
mod service;
mod tcp;
mod tls;

pub use body::ResponseBody;
pub use service::{Client, ClientOptions, ResponseFuture};
