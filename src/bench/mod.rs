//! What a pacing policy does to latency, throughput and refusals, before an account is risked on it.
//!
//! ```text
//! pattern ─► clients ─► policy ─► upstream (modelled, or the simulator)
//!                └──────── log ──────┘ ─► figures ─► table, JSON, page
//! ```
//!
//! A [`Policy`] is a service around the upstream: our own layers under some configuration, or one of
//! those that pacegate is measured against. [`Pattern`] says when clients want something of it. In
//! [virtual](virtually) time a day takes a second and the same seed gives the same result; in
//! [real](really) time everything goes over sockets.

mod chart;
mod client;
mod fairness;
mod figures;
mod governor;
mod html;
mod limit;
mod log;
mod model;
mod opencode;
mod pattern;
mod plugin;
mod policy;
mod real;
mod report;
mod table;
mod trace;
mod virtual_time;

use std::time::Duration;

use pacegate_layers::pacing::ReversedJitter;

pub use self::{
    figures::Figures,
    html::page,
    limit::{Limit, Span},
    log::Log,
    pattern::{BadPattern, Extent, Pattern, Request},
    policy::{BadPolicy, Choice, Policy},
    real::really,
    report::{Outcome, Report},
    table::table,
    trace::TraceError,
    virtual_time::virtually,
};
use crate::{client::error::ClientError, config, edge::BindError, upstreams::AssembleError};

/// What every policy is put through.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// What clients want, in the order of their arrival as far as that is known beforehand.
    pub requests: Vec<Request>,
    /// Decides everything that is left to chance.
    pub seed: u64,
    /// How long the upstream takes for an answer, on average.
    pub answer_time: Duration,
}

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The gateway cannot be put together.
    #[error(transparent)]
    Assemble(#[from] AssembleError),
    /// The gateway cannot listen.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The HTTP client cannot be made.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// A policy's configuration cannot be used.
    #[error(transparent)]
    Config(#[from] config::Error),
    /// The operating system gives no thread, or no socket.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// A checked config makes none of these.
    #[error(transparent)]
    Pacing(#[from] ReversedJitter),
    /// See [`TraceError`].
    #[error(transparent)]
    Trace(#[from] TraceError),
}
