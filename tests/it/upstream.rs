//! The upstream client against servers that are spoken by hand: the wire is the oracle.

#![expect(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "clippy takes only #[test] functions for tests, not what they share"
)]

mod answers;
mod body;
mod exchange;
mod http2;
mod proxy;
mod reachability;
mod readiness;
mod reuse;
mod streams;
pub(crate) mod support;
mod tls;
