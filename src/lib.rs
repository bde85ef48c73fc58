//! pacegate: a sidecar gateway between a coding agent and a rate-limited upstream.
//!
//! The path of a request: `server` (sockets, TLS, hyper) → [`edge`] (checks, metrics, errors as
//! responses) → `routes` (which upstream) → [`upstreams`] (the layers that the [`config`] lists) →
//! [`client`]. `api` has the shapes that clients expect, [`dialect`] the meaning of an upstream's
//! responses. [`credentials`] and [`oauth`] hold the tokens, [`quotas`] the counters that outlive
//! the process.
//!
//! The cargo feature `tools` adds `simulator`, a fake upstream that knows nothing of the rest;
//! `bench`, which shows the effect of a pacing policy; and `demo`, which shows one burst.

pub mod api;
#[cfg(feature = "tools")]
pub mod bench;
pub mod body;
mod calendar;
pub mod cli;
pub mod client;
pub mod commands;
pub mod config;
pub mod credentials;
#[cfg(feature = "tools")]
pub mod demo;
pub mod dialect;
pub mod edge;
mod idle_timer;
pub mod oauth;
pub mod process;
pub mod quotas;
mod routes;
mod server;
#[cfg(feature = "tools")]
pub mod simulator;
pub mod telemetry;
pub mod upstreams;
pub mod wall_clock;
