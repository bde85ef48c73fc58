//! Builds an upstream from its config: client, credentials, pipeline.

use std::{path::Path, sync::Arc, time::SystemTime};

use bytes::Bytes;
use http::{Request, Uri, uri::PathAndQuery};
use http_body_util::Full;
use hyper_util::client::proxy::matcher::Matcher;
use pacegate_layers::{
    pacing::{Gate, ReversedJitter},
    retry_on_429::RetryBudget,
    token::TokenSource,
};
use tokio::sync::watch;
use tokio_util::task::TaskTracker;
use tower::util::MapRequest;
use tracing::{info, warn};

use super::{Pipeline, PipelineError, gate, stack};
use crate::{
    client::{Client, ClientOptions, error::ClientError},
    config::{self, Credentials, LayerName, OAuth},
    credentials::{
        api_key::{ApiKeyError, ApiKeySource},
        source::{OAuthSource, Settings},
    },
    quotas::{self, QuotaLedger},
};

/// An upstream that cannot be built.
#[derive(Debug, thiserror::Error)]
#[error("upstream {name}")]
pub struct AssembleError {
    name: String,
    source: AssembleCause,
}

#[derive(Debug, thiserror::Error)]
enum AssembleCause {
    #[error(transparent)]
    ApiKey(#[from] ApiKeyError),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Pipeline(#[from] PipelineError),
    #[error(transparent)]
    Quotas(#[from] quotas::OpenError),
}

impl AssembleError {
    pub(super) fn of_pacing(upstream: &str, error: ReversedJitter) -> Self {
        Self {
            name: upstream.to_owned(),
            source: PipelineError::from(error).into(),
        }
    }

    pub(super) fn of_quotas(upstream: &str, error: quotas::OpenError) -> Self {
        Self {
            name: upstream.to_owned(),
            source: error.into(),
        }
    }
}

/// Builds the pipeline of `upstream`. Its quota ledger is stored in `state_dir`, which no other
/// process may use for this upstream at the same time; without a `state_dir` it stays in memory.
/// Work that must end before the process does, such as a token refresh, runs on `tasks`.
///
/// # Errors
///
/// [`AssembleError`] names the upstream and the cause.
///
/// # Panics
///
/// Outside a tokio runtime.
pub fn assemble(
    upstream: &config::Upstream,
    state_dir: Option<&Path>,
    tasks: &TaskTracker,
) -> Result<Pipeline, AssembleError> {
    assemble_with(upstream, Reused::default(), state_dir, tasks)
}

/// Parts that an upstream takes from its predecessor of the same name.
#[derive(Debug, Default)]
pub(super) struct Reused {
    pub(super) ledger: Option<Arc<QuotaLedger>>,
    pub(super) gate: Option<Gate>,
    pub(super) retry_budget: Option<RetryBudget>,
}

/// [`assemble`] with the parts in `reused`.
pub(super) fn assemble_with(
    upstream: &config::Upstream,
    reused: Reused,
    state_dir: Option<&Path>,
    tasks: &TaskTracker,
) -> Result<Pipeline, AssembleError> {
    try_assemble(upstream, reused, state_dir, tasks).map_err(|source| AssembleError {
        name: upstream.name.clone(),
        source,
    })
}

fn try_assemble(
    upstream: &config::Upstream,
    reused: Reused,
    state_dir: Option<&Path>,
    tasks: &TaskTracker,
) -> Result<Pipeline, AssembleCause> {
    let client = Client::new(
        upstream.base_url.clone(),
        ClientOptions::new(upstream, Matcher::from_env()),
    )?;
    let source: Option<Arc<dyn TokenSource>> = match &upstream.credentials {
        Credentials::None => None,
        Credentials::ApiKey(key) => Some(Arc::new(ApiKeySource::new(key)?)),
        Credentials::OAuth(oauth) => {
            let source = oauth_source(upstream, oauth, tasks)?;
            if !upstream.base_url_written {
                follow_base_url(&source, &client, tasks);
            }
            Some(Arc::new(source))
        }
    };
    let quotas = ledger(upstream, reused.ledger, state_dir)?;
    let gate = match reused.gate {
        Some(gate) => Some(gate),
        None => gate(upstream, quotas.as_ref()).map_err(PipelineError::from)?,
    };
    let retry_budget = reused
        .retry_budget
        .unwrap_or_else(|| RetryBudget::new(upstream.retry_on_429.budget));
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

fn ledger(
    upstream: &config::Upstream,
    reused: Option<Arc<QuotaLedger>>,
    state_dir: Option<&Path>,
) -> Result<Option<Arc<QuotaLedger>>, quotas::OpenError> {
    let quotas = &upstream.jitter_throttle.quotas;
    if quotas.is_empty() || !upstream.pipeline.contains(&LayerName::JitterThrottle) {
        return Ok(None);
    }
    match reused {
        Some(ledger) => Ok(Some(ledger)),
        None => {
            let wall = Arc::new(SystemTime::now);
            let ledger = QuotaLedger::open(&upstream.name, quotas, state_dir, wall)?;
            Ok(Some(Arc::new(ledger)))
        }
    }
}

fn oauth_source(
    upstream: &config::Upstream,
    oauth: &OAuth,
    tasks: &TaskTracker,
) -> Result<OAuthSource, ClientError> {
    let service = endpoint_client(upstream, &oauth.token_url)?;
    let hint = format!(
        "run `pacegate login --upstream {}`, then send the request again",
        upstream.name
    );
    let settings = Settings::new(oauth, &upstream.token_refresh, hint);
    Ok(OAuthSource::new(settings, service, tasks.clone()))
}

/// A client for the OAuth endpoint `url` of `upstream`. It takes requests with absolute URLs, and
/// connects with the upstream's own options.
///
/// # Errors
///
/// [`ClientError`] names the option that cannot be used.
pub fn endpoint_client(
    upstream: &config::Upstream,
    url: &Uri,
) -> Result<EndpointClient, ClientError> {
    let options = ClientOptions::new(upstream, Matcher::from_env());
    let client = Client::new(origin(url), options)?;
    Ok(MapRequest::new(client, |mut request| {
        *request.uri_mut() = target(request.uri());
        request
    }))
}

/// The client that [`endpoint_client`] returns.
pub type EndpointClient = MapRequest<Client, fn(Request<Full<Bytes>>) -> Request<Full<Bytes>>>;

/// Updates the client's base URL whenever the credentials' `resource_url` changes.
fn follow_base_url(source: &OAuthSource, client: &Client, tasks: &TaskTracker) {
    let mut changes = source.resource_changes();
    apply(&mut changes, client);
    let client = client.clone();
    tasks.spawn(async move {
        while changes.changed().await.is_ok() {
            apply(&mut changes, &client);
        }
    });
}

fn apply(changes: &mut watch::Receiver<Option<Uri>>, client: &Client) {
    let Some(base) = changes.borrow_and_update().clone() else {
        return;
    };
    match client.set_base_url(base.clone()) {
        Ok(()) => info!(%base, "Base URL taken from the credentials"),
        Err(error) => warn!(%error, "Base URL of the credentials not usable"),
    }
}

/// Scheme and authority only.
fn origin(uri: &Uri) -> Uri {
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::from_static("/"));
    // Parts of a complete URI with the shortest path make a URI again.
    Uri::from_parts(parts).unwrap_or_default()
}

/// Path and query only.
fn target(uri: &Uri) -> Uri {
    uri.path_and_query()
        .cloned()
        .map_or_else(Uri::default, Uri::from)
}
