//! One service per upstream: everything about it, from the client's wait to the connection.
//!
//! In come requests whose paths are relative to the upstream's base URL; out go its responses, or
//! errors that say what failed. It puts the layers that the config lists around the HTTP
//! [`client`](crate::client), and uses the upstream's [`credentials`](crate::credentials),
//! [`quotas`](crate::quotas) and [`dialect`](crate::dialect). While a client waits, it writes
//! comments and error events in the shape of the `api`.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use pacegate_layers::{
    error::BoxError,
    header_align::NotPassable,
    pacing::{Busy, Gate, Ledger, Order, Pacing, ReversedJitter},
    retry_on_429::RetryBudget,
    token::TokenSource,
};

use crate::{
    config::{self, LayerName},
    quotas::QuotaLedger,
};

mod assemble;
mod keep_waiting;
pub mod record;
mod request_headers;
mod response_headers;
mod service;
mod set;
mod stack;

pub use self::{
    assemble::{AssembleError, EndpointClient, assemble, endpoint_client},
    service::{ArcService, ServiceFuture, UpstreamService},
    set::{Changes, UpstreamSet},
};

pub(crate) use self::keep_waiting::{LateError, MaxHoldExceeded};

pub use self::stack::HttpService;
use self::stack::stack;

/// A pipeline with its gate and its quotas; clones share them.
#[derive(Clone, Debug)]
pub struct Pipeline {
    /// Takes requests whose paths are relative to the upstream's base URL.
    pub service: UpstreamService,
    /// The gate, if jitter-throttle is listed.
    pub gate: Option<Gate>,
    /// The quota ledger, if there are quotas.
    pub quotas: Option<Arc<QuotaLedger>>,
    /// Limits the account's retries.
    pub retry_budget: RetryBudget,
}

/// A pipeline that cannot be built. A checked config never causes this.
#[derive(Debug, thiserror::Error)]
pub enum PipelineError {
    /// See [`NotPassable`].
    #[error(transparent)]
    HeaderAlign(#[from] NotPassable),
    /// See [`ReversedJitter`].
    #[error(transparent)]
    JitterThrottle(#[from] ReversedJitter),
    /// A layer needs a token, and the credentials are of the kind `none`.
    #[error("{0:?} needs a token, but the credentials are of the kind none")]
    NoToken(LayerName),
}

/// Puts the layers that `upstream` lists around `client`. The gate asks `quotas`.
///
/// # Errors
///
/// [`PipelineError`] if settings contradict each other.
pub fn build<C, B>(
    upstream: &config::Upstream,
    client: C,
    source: Option<Arc<dyn TokenSource>>,
    quotas: Option<Arc<QuotaLedger>>,
) -> Result<Pipeline, PipelineError>
where
    C: HttpService<B>,
    B: http_body::Body<Data = Bytes, Error = BoxError> + Send + Unpin + 'static,
{
    let gate = gate(upstream, quotas.as_ref())?;
    let retry_budget = RetryBudget::new(upstream.retry_on_429.budget);
    Ok(Pipeline {
        service: stack(
            upstream,
            client,
            gate.as_ref(),
            source,
            retry_budget.clone(),
        )?,
        gate,
        quotas,
        retry_budget,
    })
}

/// A connection does not idle for longer before it is used.
const MAX_PREPARE_WITHIN: Duration = Duration::from_secs(5);

/// The gate of `upstream`, if jitter-throttle is listed.
fn gate(
    upstream: &config::Upstream,
    quotas: Option<&Arc<QuotaLedger>>,
) -> Result<Option<Gate>, ReversedJitter> {
    Ok(gate_pacing(upstream)?
        .map(|pacing| Gate::with_ledgers(pacing, ledgers(quotas), rand::make_rng())))
}

/// The ledgers that a gate asks.
fn ledgers(quotas: Option<&Arc<QuotaLedger>>) -> Vec<Arc<dyn Ledger>> {
    let quotas = quotas.map(|ledger| Arc::clone(ledger) as Arc<dyn Ledger>);
    quotas.into_iter().collect()
}

/// The pacing of the gate of `upstream`, if jitter-throttle is listed.
fn gate_pacing(upstream: &config::Upstream) -> Result<Option<Pacing>, ReversedJitter> {
    if !upstream.pipeline.contains(&LayerName::JitterThrottle) {
        return Ok(None);
    }
    let pacing = pacing(&upstream.jitter_throttle)?;
    // A connection is there in half the time that it may take, unless something is wrong.
    let ahead = (upstream.connect_timeout / 2).min(MAX_PREPARE_WITHIN);
    Ok(Some(pacing.prepare_within(ahead)))
}

/// The pacing of a gate with these settings.
///
/// # Errors
///
/// [`ReversedJitter`]; a checked config never causes it.
pub fn pacing(settings: &config::JitterThrottleSettings) -> Result<Pacing, ReversedJitter> {
    let (least, most) = settings.jitter;
    let pacing = match &settings.busy {
        Some(busy) => Pacing::new().busy(Busy {
            from: busy.from,
            within: busy.within,
            jitter: busy.jitter.0..=busy.jitter.1,
        })?,
        None => Pacing::new(),
    };
    Ok(pacing
        .min_interval(settings.min_interval)
        .jitter(least..=most)?
        .idle_jitter(settings.idle_jitter)
        .concurrency(settings.concurrency)
        .max_queue(settings.max_queue)
        .max_wait(settings.max_wait)
        .order(match settings.order {
            config::QueueOrder::Fair => Order::Fair,
            config::QueueOrder::Fifo => Order::Fifo,
        }))
}
