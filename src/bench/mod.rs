//! Measures the latency, throughput and refusals of pacing policies without a real account.
//!
//! ```text
//! pattern ─► clients ─► policy ─► upstream (modelled, or the simulator)
//!                └──────── log ──────┘ ─► figures ─► table, JSON, page
//! ```
//!
//! A [`Policy`] is a service around the upstream: pacegate's layers under some configuration, or a
//! baseline. A [`Pattern`] says when clients send requests. In
//! [virtual](run_virtual) time a day takes a second and the same seed gives the same result; in
//! [real](run_real) time everything goes over sockets.

mod baselines;
mod chart;
mod client;
mod fairness;
mod figures;
mod html;
mod limit;
mod log;
mod model;
mod opencode;
mod pattern;
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
    log::RunEvents,
    pattern::{BadPattern, Extent, Pattern, Request},
    policy::{BadPolicy, Policy, PolicyChoice},
    real::run_real,
    report::{BenchReport, PolicyResult},
    table::table,
    trace::TraceError,
    virtual_time::run_virtual,
};
use crate::{client::error::ClientError, config, edge::BindError, upstreams::AssembleError};

/// The requests, the same for every policy.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// The requests, in the order of their arrival where that does not depend on responses.
    pub requests: Vec<Request>,
    /// Seed of all random numbers.
    pub seed: u64,
    /// The mean time that the upstream takes for a response.
    pub answer_time: Duration,
}

/// Why a bench failed.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The pipeline cannot be built.
    #[error(transparent)]
    Assemble(#[from] AssembleError),
    /// The gateway cannot listen.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The HTTP client cannot be built.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The configuration of a policy is invalid.
    #[error(transparent)]
    Config(#[from] config::Error),
    /// The runtime or a socket cannot be made.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// A validated config never causes this.
    #[error(transparent)]
    Pacing(#[from] ReversedJitter),
    /// See [`TraceError`].
    #[error(transparent)]
    Trace(#[from] TraceError),
}
