//! Which upstream a request goes to, and the few paths that pacegate answers itself.

use std::{
    future::Future,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header,
    request::Parts,
    uri::{InvalidUri, PathAndQuery},
};
use http_body_util::Full;
use pacegate_layers::{
    context::RequestContext, error::BoxError, header_align::strip_hop_by_hop, pacing::Gate,
};
use prometheus_client::{encoding::text::encode, registry::Registry};
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tower::Service;

use crate::{
    body::Body,
    config::Model,
    edge::{
        request_body::{self, BodyReader, ChatParams, RequestBodyError},
        rescue_table::{full, json_response},
    },
    server::{AtCapacity, Connection},
    upstreams::{
        UpstreamService,
        drain::{Draining, UnlessQueued, unless_begun},
        keep_waiting::keep_waiting,
        response_headers::ResponseHeaderFilter,
    },
};

pub(crate) const HEALTHZ: &str = "/healthz";
pub(crate) const READYZ: &str = "/readyz";

/// What makes no sense without a model; whatever else lies under `/v1/` may do without.
const NEED_A_MODEL: [&str; 4] = [
    "/chat/completions",
    "/completions",
    "/embeddings",
    "/responses",
];

/// Where requests can go.
#[derive(Clone, Debug)]
pub(crate) struct Router(Arc<RouteTable>);

#[derive(Debug)]
pub(crate) struct RouteTable {
    pub(crate) upstreams: Vec<Route>,
    pub(crate) body_reader: BodyReader,
    pub(crate) registry: Registry,
    /// Cancelled once the process winds down.
    pub(crate) draining: Arc<CancellationToken>,
}

/// One upstream, as routing sees it.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) name: String,
    pub(crate) models: Vec<Model>,
    pub(crate) pipeline: UpstreamService,
    pub(crate) gate: Option<Gate>,
    pub(crate) passing: ResponseHeaderFilter,
    /// The longest that a request is held without a response head.
    pub(crate) max_hold: Duration,
    /// Whether the pipeline builds the headers anew.
    pub(crate) aligns: bool,
}

/// A path that leads nowhere.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoRoute {
    #[error("nothing here; the API is under /v1/, and under /u/NAME/v1/ for one upstream")]
    Path,
    #[error("no upstream of that name is in the config; `pacegate check` lists them")]
    Upstream,
}

// === impl Router ===

impl Router {
    pub(crate) fn new(table: RouteTable) -> Self {
        Self(Arc::new(table))
    }

    fn answer<B>(
        self,
        request: Request<B>,
    ) -> impl Future<Output = Result<Response<Body>, BoxError>>
    where
        B: http_body::Body<Data = Bytes> + Unpin,
        B::Error: Into<BoxError>,
    {
        // Here, because an async fn would keep room for the whole beside its parts.
        let (head, body) = request.into_parts();
        async move {
            let path = head.uri.path();
            match path {
                HEALTHZ => return Ok(text("ok\n")),
                READYZ if self.0.draining.is_cancelled() => return Err(Draining.into()),
                // One that only asks whether we are well may do so in any crowd.
                _ if is_over_limit(&head) => return Err(AtCapacity.into()),
                READYZ => return Ok(text("ready\n")),
                "/metrics" => return self.metrics(),
                "/v1/models" if matches!(head.method, Method::GET | Method::HEAD) => {
                    return Ok(self.models());
                }
                _ => {}
            }
            let (named, api) = self.split(path)?;
            let rest = api.len();
            let body = {
                let read = pin!(self.0.body_reader.collect(body));
                unless_begun(read, &self.0.draining).await?
            };
            // SDKs post nothing at all to paths such as /batches/ID/cancel.
            let params = if head.method == Method::POST && !body.is_empty() {
                request_body::chat_params(&body)?
            } else {
                ChatParams::default()
            };
            if head.method == Method::POST && params.model.is_none() && NEED_A_MODEL.contains(&api)
            {
                return Err(RequestBodyError::NoModel.into());
            }
            let route = named.unwrap_or_else(|| self.choose(params.model.as_deref()));
            let streams = params.stream;
            let call = self.call(route, head, rest, body)?;
            let mut response = keep_waiting(call, streams, route.max_hold).await?;
            // The version was that of the upstream's connection; the client's has its own.
            *response.version_mut() = Version::HTTP_11;
            route.passing.retain(response.headers_mut());
            Ok(response)
        }
    }

    /// The upstream that `path` names, if it names one, and what follows `/v1`.
    fn split<'a>(&self, path: &'a str) -> Result<(Option<&Route>, &'a str), NoRoute> {
        let (named, api) = match path.strip_prefix("/u/") {
            None => (None, path),
            Some(rest) => {
                let slash = rest.find('/').ok_or(NoRoute::Path)?;
                let (name, api) = rest.split_at(slash);
                let route = self.0.upstreams.iter().find(|route| route.name == name);
                (Some(route.ok_or(NoRoute::Upstream)?), api)
            }
        };
        let rest = api
            .strip_prefix("/v1")
            .filter(|rest| rest.len() > 1 && rest.starts_with('/'));
        Ok((named, rest.ok_or(NoRoute::Path)?))
    }

    /// Hands a request to the pipeline of `route`, with the last `rest` bytes of its path.
    fn call(
        &self,
        route: &Route,
        mut head: Parts,
        rest: usize,
        body: Bytes,
    ) -> Result<UnlessQueued, InvalidUri> {
        let context: RequestContext = head.extensions.get().cloned().unwrap_or_default();
        // Of no use to anybody further in, and what stays is copied for every retry that might be.
        head.extensions.remove::<Connection>();
        head.uri = relative(&head.uri, rest)?;
        // What concerns the client's connection ends here, also where no header-align is listed.
        if !route.aligns {
            strip_hop_by_hop(&mut head.headers);
            head.headers.remove(header::HOST);
            head.headers.remove(header::CONTENT_LENGTH);
            strip_ambiguous(&mut head.headers);
        }
        let request = Request::from_parts(head, Full::new(body));
        let call = route.pipeline.clone().call(request);
        let draining = Arc::clone(&self.0.draining);
        Ok(UnlessQueued::new(
            call,
            route.gate.clone(),
            context,
            draining,
        ))
    }

    /// The upstream that lists `model`, else the first.
    fn choose(&self, model: Option<&str>) -> &Route {
        let lists = |route: &&Route| {
            let mut models = route.models.iter();
            model.is_some_and(|model| models.any(|known| known.id == model))
        };
        let upstreams = &self.0.upstreams;
        upstreams.iter().find(lists).unwrap_or(&upstreams[0])
    }

    fn models(&self) -> Response<Body> {
        let data: Vec<_> = self
            .0
            .upstreams
            .iter()
            .flat_map(|route| route.models.iter().map(move |model| (route, model)))
            .map(|(route, model)| {
                json!({
                    "id": model.id,
                    "object": "model",
                    "created": 0,
                    "owned_by": route.name,
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
        encode(&mut document, &self.0.registry)?;
        let mut response = text(document);
        response.headers_mut().insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8"),
        );
        Ok(response)
    }
}

impl<B> Service<Request<B>> for Router
where
    B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, BoxError>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        Box::pin(self.clone().answer(request))
    }
}

/// Removes names with an underscore, which some servers read as a hyphen (CGI does).
fn strip_ambiguous(headers: &mut HeaderMap) {
    let ambiguous: Vec<_> = headers
        .keys()
        .filter(|name| name.as_str().contains('_'))
        .cloned()
        .collect();
    for name in ambiguous {
        headers.remove(name);
    }
}

fn is_over_limit(head: &Parts) -> bool {
    let connection = head.extensions.get::<Connection>();
    connection.is_some_and(Connection::is_over_limit)
}

fn text(content: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(full(content));
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response
}

/// The last `rest` bytes of the path, and the query: what follows the upstream's base URL.
fn relative(uri: &Uri, rest: usize) -> Result<Uri, InvalidUri> {
    let whole = uri.path_and_query().map_or("/", PathAndQuery::as_str);
    let start = uri.path().len() - rest;
    whole[start..].parse::<PathAndQuery>().map(Uri::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_upstreams_part_of_a_path_keeps_its_query() {
        let relative = |uri: &'static str, rest| relative(&Uri::from_static(uri), rest).unwrap();
        assert_eq!(relative("/v1/models?a=/v1/", 7), "/models?a=/v1/");
        assert_eq!(
            relative("/u/x/v1/chat/completions", 17),
            "/chat/completions"
        );
    }
}
