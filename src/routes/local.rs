//! The paths that pacegate serves itself, before a request's body is read.

use std::{
    future::{Ready, ready},
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use pacegate_layers::error::BoxError;
use prometheus_client::{encoding::text::encode, registry::Registry};
use serde_json::json;
use tokio_util::{either::Either, sync::CancellationToken};
use tower::{Layer, Service};

use super::router::{ApiPath, Route};
use crate::{
    api::{full, json_response},
    body::Body,
    server::{AtCapacity, Connection},
};

const HEALTHZ: &str = "/healthz";
const READYZ: &str = "/readyz";
const METRICS: &str = "/metrics";
const MODELS: &str = "/v1/models";

/// Applies [`LocalRoutes`].
#[derive(Clone, Debug)]
pub(crate) struct LocalRoutesLayer(Arc<LocalTable>);

/// Serves health, metrics and models, and refuses unknown paths; other requests pass.
#[derive(Clone, Debug)]
pub(crate) struct LocalRoutes<S> {
    inner: S,
    table: Arc<LocalTable>,
}

/// The data of local responses.
#[derive(Debug)]
pub(crate) struct LocalTable {
    pub(crate) registry: Registry,
    pub(crate) routes: Arc<[Route]>,
    /// Cancelled once the process shuts down.
    pub(crate) draining: CancellationToken,
}

/// The process is shutting down.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("pacegate is shutting down; the upstream has not seen this request")]
pub(crate) struct Draining;

/// Whether `path` is that of a liveness or readiness probe.
pub(crate) fn is_probe(path: &str) -> bool {
    matches!(path, HEALTHZ | READYZ)
}

// === impl LocalRoutesLayer ===

impl LocalRoutesLayer {
    pub(crate) fn new(table: LocalTable) -> Self {
        Self(Arc::new(table))
    }
}

impl<S> Layer<S> for LocalRoutesLayer {
    type Service = LocalRoutes<S>;

    fn layer(&self, inner: S) -> Self::Service {
        LocalRoutes {
            inner,
            table: Arc::clone(&self.0),
        }
    }
}

// === impl LocalRoutes ===

impl<S, B> Service<Request<B>> for LocalRoutes<S>
where
    S: Service<Request<B>, Response = Response<Body>, Error = BoxError>,
{
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Either<Ready<Result<Response<Body>, BoxError>>, S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        // Not needed further in, where a retry would copy it.
        let connection = request.extensions_mut().remove::<Connection>();
        let is_over_limit = connection.is_some_and(|connection| connection.is_over_limit());
        match self.table.respond(&request, is_over_limit) {
            Some(outcome) => Either::Left(ready(outcome)),
            None => Either::Right(self.inner.call(request)),
        }
    }
}

// === impl LocalTable ===

impl LocalTable {
    /// The response to `request`, unless an upstream has to respond.
    fn respond<B>(
        &self,
        request: &Request<B>,
        is_over_limit: bool,
    ) -> Option<Result<Response<Body>, BoxError>> {
        let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
        Some(match request.uri().path() {
            HEALTHZ => Ok(text("ok\n")),
            READYZ if self.draining.is_cancelled() => Err(Draining.into()),
            // A liveness probe gets its response even over the connection limit.
            _ if is_over_limit => Err(AtCapacity.into()),
            READYZ => Ok(text("ready\n")),
            METRICS => self.metrics(),
            MODELS if is_read => Ok(self.models()),
            path => match ApiPath::parse(path, &self.routes) {
                Ok(_) => return None,
                Err(error) => Err(error.into()),
            },
        })
    }

    fn models(&self) -> Response<Body> {
        let data: Vec<_> = self
            .routes
            .iter()
            .flat_map(|route| route.models.iter().map(move |model| (route, model)))
            .map(|(route, model)| {
                json!({
                    "id": model.id,
                    "object": "model",
                    "created": 0,
                    "owned_by": &*route.name,
                    "context_length": model.context,
                    "max_output_tokens": model.output,
                    "input_modalities": model.input,
                })
            })
            .collect();
        json_response(StatusCode::OK, &json!({ "object": "list", "data": data }))
    }

    fn metrics(&self) -> Result<Response<Body>, BoxError> {
        let mut document = String::new();
        encode(&mut document, &self.registry)?;
        let mut response = text(document);
        response.headers_mut().insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8"),
        );
        Ok(response)
    }
}

fn text(content: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(full(content));
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response
}
