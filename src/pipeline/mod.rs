//! Folds the config's list of layer names over the HTTP client.

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response, header};
use http_body_util::{BodyExt, Full};
use pacegate_layers::{
    BearerAuthLayer, HeaderAlignLayer, JitterThrottleLayer, RetryOn429Layer, TokenRefreshLayer,
    error::BoxError,
    header_align::{NotPassable, Rule, SetAsideLayer},
    jitter_throttle::{Busy, Gate, Order, Pacing, Quota, ReversedJitter},
    token::TokenSource,
};
use tower::{Layer, Service, ServiceExt};

use crate::{
    body::Body,
    config::{self, HeaderRule, LayerName},
    quotas::Book,
    upstream::dialect::DialectClassifier,
};

mod assemble;
mod fleet;
mod shared;

pub use self::{
    assemble::{AssembleError, Endpoint, assemble, endpoint_client},
    fleet::{Changes, Fleet},
    shared::{Shared, SharedFuture, SharedService},
};

/// A pipeline and what others may want to know of it; clones are the same one.
#[derive(Clone, Debug)]
pub struct Pipeline {
    /// Takes requests whose paths are relative to the upstream's base URL.
    pub service: SharedService,
    /// The gate, if there is one in the list.
    pub gate: Option<Gate>,
    /// What the gate counts over restarts, if there are quotas.
    pub quotas: Option<Arc<Book>>,
}

/// A pipeline that cannot be built. A checked config makes none of these.
#[derive(Debug, thiserror::Error)]
pub enum PipelineError {
    /// See [`NotPassable`].
    #[error(transparent)]
    HeaderAlign(#[from] NotPassable),
    /// See [`ReversedJitter`].
    #[error(transparent)]
    JitterThrottle(#[from] ReversedJitter),
    /// A layer that needs a token, and credentials of the kind `none`.
    #[error("{0:?} needs a token, but the credentials are of the kind none")]
    NoToken(LayerName),
}

/// Puts the layers of `upstream`, in the order listed, around `client`. The gate obeys `quotas`.
///
/// # Errors
///
/// [`PipelineError`] where settings contradict themselves.
pub fn build<C>(
    upstream: &config::Upstream,
    client: C,
    source: Option<Arc<dyn TokenSource>>,
    quotas: Option<Arc<Book>>,
) -> Result<Pipeline, PipelineError>
where
    C: Service<Request<Full<Bytes>>, Response = Response<Body>, Error = BoxError>
        + Clone
        + Send
        + Sync
        + 'static,
    C::Future: Send,
{
    let gate = gate(upstream, quotas.as_ref())?;
    around(upstream, client, source, gate, quotas)
}

/// The gate of `upstream`, if there is one in its list.
fn gate(
    upstream: &config::Upstream,
    quotas: Option<&Arc<Book>>,
) -> Result<Option<Gate>, ReversedJitter> {
    let throttled = upstream.pipeline.contains(&LayerName::JitterThrottle);
    let pacing = throttled
        .then(|| pacing(&upstream.jitter_throttle))
        .transpose()?;
    Ok(pacing.map(|pacing| {
        let quotas = quotas.map(|book| Arc::clone(book) as Arc<dyn Quota>);
        Gate::with_quotas(pacing, quotas.into_iter().collect(), rand::make_rng())
    }))
}

/// [`build`] with a gate that is there already.
fn around<C>(
    upstream: &config::Upstream,
    client: C,
    source: Option<Arc<dyn TokenSource>>,
    gate: Option<Gate>,
    quotas: Option<Arc<Book>>,
) -> Result<Pipeline, PipelineError>
where
    C: Service<Request<Full<Bytes>>, Response = Response<Body>, Error = BoxError>
        + Clone
        + Send
        + Sync
        + 'static,
    C::Future: Send,
{
    let token_for = |layer| source.clone().ok_or(PipelineError::NoToken(layer));

    let mut service = SharedService::new(client);
    for step in steps(&upstream.pipeline).into_iter().rev() {
        let name = match step {
            Step::Layer(name) => name,
            Step::SetAside => {
                service = SharedService::new(SetAsideLayer.layer(service));
                continue;
            }
        };
        service = match name {
            LayerName::HeaderAlign => SharedService::new(header_align(upstream)?.layer(service)),
            LayerName::RetryOn429 => {
                let settings = &upstream.retry_on_429;
                let mut layer = RetryOn429Layer::new(DialectClassifier::new(&upstream.dialect))
                    .max_retries(settings.max_retries)
                    .max_hold(settings.max_hold)
                    .default_wait(settings.default_wait)
                    .budget(settings.budget);
                if let Some(gate) = &gate {
                    layer = layer.cooldown(gate.clone());
                }
                boxed(layer.layer(service))
            }
            LayerName::TokenRefresh => {
                let statuses = upstream
                    .dialect
                    .refresh_on
                    .iter()
                    .map(|status| status.as_u16());
                let layer = TokenRefreshLayer::new(token_for(name)?).refresh_on(statuses);
                SharedService::new(layer.layer(service))
            }
            LayerName::JitterThrottle => match &gate {
                Some(gate) => boxed(JitterThrottleLayer::new(gate.clone()).layer(service)),
                None => service,
            },
            LayerName::BearerAuth => {
                SharedService::new(BearerAuthLayer::new(token_for(name)?).layer(service))
            }
        };
    }
    Ok(Pipeline {
        service,
        gate,
        quotas,
    })
}

/// What a request passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Layer(LayerName),
    SetAside,
}

/// The layers as listed, but header-align in two parts: the layers behind it that know no headers and
/// copy requests for retries see none, and its own are built behind them.
fn steps(listed: &[LayerName]) -> Vec<Step> {
    let mut steps: Vec<_> = listed.iter().copied().map(Step::Layer).collect();
    let Some(at) = listed.iter().position(|it| *it == LayerName::HeaderAlign) else {
        return steps;
    };
    let knows_none = |name: &&LayerName| {
        use LayerName::{BearerAuth, HeaderAlign, JitterThrottle, RetryOn429, TokenRefresh};
        match name {
            JitterThrottle | RetryOn429 | TokenRefresh => true,
            BearerAuth | HeaderAlign => false,
        }
    };
    let behind = listed[at + 1..].iter().take_while(knows_none).count();
    if behind > 0 {
        steps[at..=at + behind].rotate_left(1);
        steps.insert(at, Step::SetAside);
    }
    steps
}

/// Boxes a service whose layer has changed the body type.
pub(crate) fn boxed<S, B>(service: S) -> SharedService
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>, Error = BoxError>
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send,
    B: http_body::Body<Data = Bytes, Error = BoxError> + Send + 'static,
{
    SharedService::new(service.map_response(|response| response.map(BodyExt::boxed_unsync)))
}

fn header_align(upstream: &config::Upstream) -> Result<HeaderAlignLayer, NotPassable> {
    let authorized = upstream.pipeline.contains(&LayerName::BearerAuth);
    let mut layer = HeaderAlignLayer::new();
    for field in &upstream.header_align.fields {
        let rule = match &field.rule {
            HeaderRule::Narrow(list) => Rule::Narrow(list.clone()),
            // An empty value stays only where something is sure to replace it.
            HeaderRule::Place if field.name == header::HOST => Rule::Place,
            HeaderRule::Place if field.name == header::AUTHORIZATION && authorized => Rule::Place,
            HeaderRule::Place => continue,
            HeaderRule::Set(value) => Rule::Set(value.clone()),
            HeaderRule::SetIfAbsent(value) => Rule::SetIfAbsent(value.clone()),
        };
        layer = layer.field(field.name.clone(), rule);
    }
    upstream
        .header_align
        .pass
        .iter()
        .try_fold(layer, |layer, name| layer.pass(name.clone()))
}

/// How a gate with these settings spaces requests out.
///
/// # Errors
///
/// [`ReversedJitter`]; a checked config has none.
pub fn pacing(settings: &config::JitterThrottle) -> Result<Pacing, ReversedJitter> {
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
            config::Order::Fair => Order::Fair,
            config::Order::Fifo => Order::Fifo,
        }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_built_behind_the_layers_that_copy_requests() {
        use LayerName::{BearerAuth, HeaderAlign, JitterThrottle, RetryOn429, TokenRefresh};
        let written = |listed: &[LayerName]| -> Vec<_> {
            let steps = steps(listed).into_iter();
            steps
                .map(|step| match step {
                    Step::Layer(name) => Some(name),
                    Step::SetAside => None,
                })
                .collect()
        };
        let whole = [
            HeaderAlign,
            RetryOn429,
            TokenRefresh,
            JitterThrottle,
            BearerAuth,
        ];
        assert_eq!(
            written(&whole),
            [
                None,
                Some(RetryOn429),
                Some(TokenRefresh),
                Some(JitterThrottle),
                Some(HeaderAlign),
                Some(BearerAuth)
            ]
        );
        let late = [RetryOn429, HeaderAlign, JitterThrottle];
        assert_eq!(
            written(&late),
            [
                Some(RetryOn429),
                None,
                Some(JitterThrottle),
                Some(HeaderAlign)
            ]
        );
        for alone in [&[HeaderAlign, BearerAuth][..], &[RetryOn429], &[]] {
            assert_eq!(
                written(alone),
                alone.iter().copied().map(Some).collect::<Vec<_>>()
            );
        }
    }
}
