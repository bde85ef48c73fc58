//! Clients: they wait for the responses that they depend on, obey `Retry-After`, and give up.

use std::{error::Error, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderName, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use pacegate_layers::{
    context::{RequestContext, Session},
    error::BoxError,
    pacing::Refused,
    retry_on_429::retry_after::delay_seconds,
};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::{log::RequestLog, pattern};
use crate::{body::Body, upstreams::UpstreamService};

/// Index of a request in [`RunEvents::sent`]; an extension that a modelled upstream reads.
#[derive(Clone, Copy, Debug)]
pub(super) struct RequestId(pub(super) usize);

/// Shared by all clients.
#[derive(Debug)]
pub(super) struct ClientContext {
    pub(super) requests: Vec<pattern::Request>,
    pub(super) policy: UpstreamService,
    pub(super) log: Arc<RequestLog>,
    pub(super) epoch: Instant,
}

/// What a client does after a response.
enum ClientAction {
    Done,
    Retry { after: Duration, by_policy: bool },
    GiveUp,
}

/// The most attempts of OpenCode, the first one included.
const ATTEMPTS: usize = 6;

/// Wait before a retry without `Retry-After`.
const PAUSE: Duration = Duration::from_secs(2);

/// Set on responses of pacegate's own.
const X_PACEGATE_ERROR: HeaderName = HeaderName::from_static("x-pacegate-error");

/// Runs all clients; calls `ended` after each request.
pub(super) async fn run_clients(context: ClientContext, ended: &dyn Fn()) {
    let context = Arc::new(context);
    let answered: Arc<[CancellationToken]> = context
        .requests
        .iter()
        .map(|_| CancellationToken::new())
        .collect();
    let mut clients = JoinSet::new();
    for index in 0..context.requests.len() {
        let (context, answered) = (Arc::clone(&context), Arc::clone(&answered));
        clients.spawn(async move {
            let request = &context.requests[index];
            for needed in &request.after {
                answered[*needed].cancelled().await;
            }
            if request.after.is_empty() {
                sleep_until(context.epoch + request.pause).await;
            } else {
                sleep(request.pause).await;
            }
            send(&context, index).await;
            answered[index].cancel();
        });
    }
    while clients.join_next().await.is_some() {
        ended();
    }
}

async fn send(context: &ClientContext, index: usize) {
    for _ in 0..ATTEMPTS {
        let request_id = context.log.record_sent(index, context.epoch.elapsed());
        let result = match build_request(&context.requests[index], request_id) {
            Ok(request) => context.policy.clone().oneshot(request).await,
            Err(error) => Err(error.into()),
        };
        match read(result).await {
            ClientAction::Done => return,
            ClientAction::Retry { after, by_policy } => {
                context.log.lock().turned_away += usize::from(by_policy);
                sleep(after).await;
            }
            ClientAction::GiveUp => break,
        }
    }
    context.log.lock().given_up += 1;
}

/// The session is in an extension for the layers, and in headers for the gateway.
fn build_request(
    request: &pattern::Request,
    request_id: usize,
) -> Result<Request<Full<Bytes>>, http::Error> {
    let mut session = Session::new(Arc::clone(&request.session));
    let mut builder = Request::post("/chat/completions")
        .header(header::CONTENT_TYPE, "application/json")
        .header("x-session-id", &*request.session);
    if let Some(parent) = &request.parent {
        session = session.child_of(Arc::clone(parent));
        builder = builder.header("x-parent-session-id", &**parent);
    }
    builder
        .extension(RequestContext::of(session))
        .extension(RequestId(request_id))
        .body(Full::new(body(request_id)))
}

/// All bodies differ, so that the simulator's record tells the requests apart.
pub(super) fn body(request_id: usize) -> Bytes {
    format!(r#"{{"model":"bench","messages":[{{"role":"user","content":"{request_id}"}}]}}"#).into()
}

/// Reads a response to its end.
async fn read(result: Result<Response<Body>, BoxError>) -> ClientAction {
    let response = match result {
        Ok(response) => response,
        Err(error) => return refused(&*error),
    };
    let status = response.status();
    let after = retry_after(&response);
    let by_policy = response.headers().contains_key(X_PACEGATE_ERROR);
    let whole = response.into_body().collect().await.is_ok();
    match status {
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => ClientAction::Retry {
            after: after.unwrap_or(PAUSE),
            by_policy,
        },
        _ if status.is_success() && whole => ClientAction::Done,
        _ => ClientAction::GiveUp,
    }
}

/// What the gateway would make of `error`: a `Retry-After` in whole seconds, or no retry.
fn refused(error: &(dyn Error + 'static)) -> ClientAction {
    let mut causes = std::iter::successors(Some(error), |error| (*error).source());
    match causes.find_map(|cause| cause.downcast_ref()) {
        Some(Refused::QueueFull { estimate, .. } | Refused::WouldWaitTooLong { estimate }) => {
            ClientAction::Retry {
                after: Duration::from_secs(delay_seconds(*estimate)),
                by_policy: true,
            }
        }
        Some(Refused::Draining | Refused::QuotaExhausted { .. }) | None => ClientAction::GiveUp,
    }
}

/// Whole seconds only, as the upstreams and the gateway send it.
pub(super) fn retry_after<B>(response: &Response<B>) -> Option<Duration> {
    let seconds = response.headers().get(header::RETRY_AFTER)?.to_str().ok()?;
    seconds.parse().ok().map(Duration::from_secs)
}
