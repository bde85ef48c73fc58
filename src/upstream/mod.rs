//! The way to the upstream: an HTTP client for one base URL, built on hyper's connections.
//!
//! It is not hyper-util's pooled client, because that one drives every connection in a task of its
//! own and hands over a chunk per task switch. Here the task that waits for an answer polls the
//! HTTP/1.1 connection itself, so the small chunks of a token stream cost no switch and leave
//! together. HTTP/2 connections are shared and have their own tasks.
//!
//! ```text
//! Client ─► Target ─► Connections ─► pool (idle HTTP/1.1) ┐
//!           base URL  one origin  ├► shared HTTP/2        ├► exchange ─► ResponseBody ─► pool
//!                                 └► Connector            ┘   the head     the rest
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
mod pool;
mod proxy;
mod target;
mod tls;

pub use body::ResponseBody;
pub use client::{Client, ClientOptions, ResponseFuture};
