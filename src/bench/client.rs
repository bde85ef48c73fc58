//! Clients, as they behave: they wait for what they need, do what they are told, and give up.

use std::{error::Error, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderName, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use pacegate_layers::{
    context::RequestContext, context::Session, error::BoxError, pacing::Refused,
};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::{log::Book, pattern};
use crate::{body::Body, upstreams::UpstreamService};

/// Which of the times that a client asked this is; goes with the request to a modelled upstream.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ticket(pub(super) usize);

/// Everything that clients share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) requests: Vec<pattern::Request>,
    pub(super) policy: UpstreamService,
    pub(super) book: Arc<Book>,
    pub(super) epoch: Instant,
}

/// What one answer means to a client.
enum Answer {
    Done,
    Later { after: Duration, by_policy: bool },
    Never,
}

/// OpenCode asks for an answer this often, in all.
const ATTEMPTS: usize = 6;

/// Where it is not told when to come back.
const PAUSE: Duration = Duration::from_secs(2);

/// Says that pacegate spoke, and not the upstream.
const X_PACEGATE_ERROR: HeaderName = HeaderName::from_static("x-pacegate-error");

/// Lets the clients of all requests do their work; `ended` is called for each that is through.
pub(super) async fn serve(shared: Shared, ended: &dyn Fn()) {
    let shared = Arc::new(shared);
    let answers: Arc<[CancellationToken]> = shared
        .requests
        .iter()
        .map(|_| CancellationToken::new())
        .collect();
    let mut clients = JoinSet::new();
    for index in 0..shared.requests.len() {
        let (shared, answers) = (Arc::clone(&shared), Arc::clone(&answers));
        clients.spawn(async move {
            let request = &shared.requests[index];
            for needed in &request.after {
                answers[*needed].cancelled().await;
            }
            if request.after.is_empty() {
                sleep_until(shared.epoch + request.pause).await;
            } else {
                sleep(request.pause).await;
            }
            ask(&shared, index).await;
            answers[index].cancel();
        });
    }
    while clients.join_next().await.is_some() {
        ended();
    }
}

async fn ask(shared: &Shared, index: usize) {
    for _ in 0..ATTEMPTS {
        let ticket = shared.book.ask(index, shared.epoch.elapsed());
        let sent = match dress(&shared.requests[index], ticket) {
            Ok(request) => shared.policy.clone().oneshot(request).await,
            Err(error) => Err(error.into()),
        };
        match read(sent).await {
            Answer::Done => return,
            Answer::Later { after, by_policy } => {
                shared.book.lock().turned_away += usize::from(by_policy);
                sleep(after).await;
            }
            Answer::Never => break,
        }
    }
    shared.book.lock().given_up += 1;
}

/// The session stands where our layers look for it, and where the gateway does.
fn dress(request: &pattern::Request, ticket: usize) -> Result<Request<Full<Bytes>>, http::Error> {
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
        .extension(Ticket(ticket))
        .body(Full::new(body(ticket)))
}

/// No two are equal, so that the simulator's record tells them apart.
pub(super) fn body(ticket: usize) -> Bytes {
    format!(r#"{{"model":"bench","messages":[{{"role":"user","content":"{ticket}"}}]}}"#).into()
}

/// Reads an answer to its end.
async fn read(sent: Result<Response<Body>, BoxError>) -> Answer {
    let response = match sent {
        Ok(response) => response,
        Err(error) => return refused(&*error),
    };
    let status = response.status();
    let after = retry_after(&response);
    let by_policy = response.headers().contains_key(X_PACEGATE_ERROR);
    let whole = response.into_body().collect().await.is_ok();
    match status {
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => Answer::Later {
            after: after.unwrap_or(PAUSE),
            by_policy,
        },
        _ if status.is_success() && whole => Answer::Done,
        _ => Answer::Never,
    }
}

/// What the gateway would make of `error`: whole seconds, or a word that nobody retries.
fn refused(error: &(dyn Error + 'static)) -> Answer {
    let mut causes = std::iter::successors(Some(error), |error| (*error).source());
    match causes.find_map(|cause| cause.downcast_ref()) {
        Some(Refused::QueueFull { estimate, .. } | Refused::WouldWaitTooLong { estimate }) => {
            Answer::Later {
                after: whole_seconds(*estimate),
                by_policy: true,
            }
        }
        Some(Refused::Draining | Refused::QuotaExhausted { .. }) | None => Answer::Never,
    }
}

/// In whole seconds, as upstreams send it and the gateway does.
pub(super) fn retry_after<B>(response: &Response<B>) -> Option<Duration> {
    let seconds = response.headers().get(header::RETRY_AFTER)?.to_str().ok()?;
    seconds.parse().ok().map(Duration::from_secs)
}

/// Not less than a second: a client that came back at once would be sent away again.
pub(super) fn whole_seconds(time: Duration) -> Duration {
    Duration::from_secs((time.as_secs() + u64::from(time.subsec_nanos() > 0)).max(1))
}
