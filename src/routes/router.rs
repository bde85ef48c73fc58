//! Which upstream a request goes to.

use std::{
    future::ready,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::Full;
use pacegate_layers::{context::RequestContext, error::BoxError};
use tower::Service;

use super::path::{ApiPath, NoRoute};
use crate::{
    api::chat_completions::ChatParams,
    body::Body,
    config::Model,
    upstreams::{ServiceFuture, UpstreamService},
};

/// Sends a request to the upstream that its path names, else to the one that lists its model, else
/// to the first.
#[derive(Clone, Debug)]
pub(crate) struct Router(Arc<[Route]>);

/// An upstream, as routing sees it.
#[derive(Clone, Debug)]
pub(crate) struct Route {
    pub(crate) name: Arc<str>,
    pub(crate) models: Vec<Model>,
    /// Takes requests whose paths are relative to the upstream's base URL.
    pub(crate) service: UpstreamService,
}

// === impl Router ===

impl Router {
    /// A router to `routes`, which must not be empty.
    pub(crate) fn new(routes: Arc<[Route]>) -> Self {
        Self(routes)
    }

    fn route(
        &self,
        request: Request<Bytes>,
    ) -> Result<ServiceFuture<Response<Body>, BoxError>, BoxError> {
        let (mut head, body) = request.into_parts();
        let path = ApiPath::parse(head.uri.path())?;
        let named = path.upstream.map(|name| self.by_name(name)).transpose()?;
        let params = if head.method == Method::POST {
            ChatParams::of(path.below_v1, &body)?
        } else {
            ChatParams::default()
        };
        let route = named.unwrap_or_else(|| self.by_model(params.model.as_deref()));
        if let Some(context) = head.extensions.get::<RequestContext>() {
            context.set_upstream(Arc::clone(&route.name));
            if params.stream {
                context.expect_stream();
            }
        }
        head.uri = path.relative(&head.uri)?;
        let request = Request::from_parts(head, Full::new(body));
        Ok(route.service.clone().call(request))
    }

    fn by_name(&self, name: &str) -> Result<&Route, NoRoute> {
        let mut routes = self.0.iter();
        let found = routes.find(|route| &*route.name == name);
        found.ok_or(NoRoute::Upstream)
    }

    /// The upstream that lists `model`, else the first.
    fn by_model(&self, model: Option<&str>) -> &Route {
        let lists = |route: &&Route| {
            let mut models = route.models.iter();
            model.is_some_and(|model| models.any(|known| known.id == model))
        };
        self.0.iter().find(lists).unwrap_or(&self.0[0])
    }
}

impl Service<Request<Bytes>> for Router {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = ServiceFuture<Response<Body>, BoxError>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Bytes>) -> Self::Future {
        self.route(request)
            .unwrap_or_else(|error| Box::pin(ready(Err(error))))
    }
}
