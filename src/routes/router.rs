//! Which upstream a request goes to.

use std::{
    future::ready,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{
    Method, Request, Response, Uri,
    uri::{InvalidUri, PathAndQuery},
};
use http_body_util::Full;
use pacegate_layers::{context::RequestContext, error::BoxError};
use tower::Service;

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

/// A path that leads to an upstream.
#[derive(Clone, Copy, Debug)]
pub(super) struct ApiPath<'p, 'r> {
    /// The upstream that the path names.
    pub(super) named: Option<&'r Route>,
    /// The part that follows `/v1`, without the query.
    pub(super) below_v1: &'p str,
}

/// A path without a route.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoRoute {
    #[error("nothing here; the API is under /v1/, and under /u/NAME/v1/ for one upstream")]
    Path,
    #[error("no upstream of that name is in the config; `pacegate check` lists them")]
    Upstream,
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
        let path = ApiPath::parse(head.uri.path(), &self.0)?;
        let params = if head.method == Method::POST {
            ChatParams::of(path.below_v1, &body)?
        } else {
            ChatParams::default()
        };
        let route = path
            .named
            .unwrap_or_else(|| self.by_model(params.model.as_deref()));
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

// === impl ApiPath ===

impl<'p, 'r> ApiPath<'p, 'r> {
    /// What `path` means among `routes`.
    ///
    /// # Errors
    ///
    /// [`NoRoute`] if it leads to none of them.
    pub(super) fn parse(path: &'p str, routes: &'r [Route]) -> Result<Self, NoRoute> {
        let (named, api) = match path.strip_prefix("/u/") {
            None => (None, path),
            Some(rest) => {
                let slash = rest.find('/').ok_or(NoRoute::Path)?;
                let (name, api) = rest.split_at(slash);
                let route = routes.iter().find(|route| &*route.name == name);
                (Some(route.ok_or(NoRoute::Upstream)?), api)
            }
        };
        let below_v1 = api
            .strip_prefix("/v1")
            .filter(|rest| rest.len() > 1 && rest.starts_with('/'));
        Ok(Self {
            named,
            below_v1: below_v1.ok_or(NoRoute::Path)?,
        })
    }

    /// `uri`, to which this path belongs, without the part before [`below_v1`](Self::below_v1).
    pub(super) fn relative(&self, uri: &Uri) -> Result<Uri, InvalidUri> {
        let whole = uri.path_and_query().map_or("/", PathAndQuery::as_str);
        let start = uri.path().len() - self.below_v1.len();
        whole[start..].parse::<PathAndQuery>().map(Uri::from)
    }
}

#[cfg(test)]
mod tests {
    use tower::service_fn;

    use super::*;

    #[test]
    fn the_upstreams_part_of_a_path_keeps_its_query() {
        let service = service_fn(async |_| Err::<Response<Body>, BoxError>("down".into()));
        let routes = [Route {
            name: "x".into(),
            models: Vec::new(),
            service: UpstreamService::new(service),
        }];
        let relative = |uri: &'static str| {
            let uri = Uri::from_static(uri);
            let path = ApiPath::parse(uri.path(), &routes).unwrap();
            let relative = path.relative(&uri).unwrap().to_string();
            (path.named.is_some(), relative)
        };
        let of_first = (false, "/models?a=/v1/".to_owned());
        assert_eq!(relative("/v1/models?a=/v1/"), of_first);
        let named = (true, "/chat/completions".to_owned());
        assert_eq!(relative("/u/x/v1/chat/completions"), named);
        let error = |path: &'static str| ApiPath::parse(path, &routes).unwrap_err();
        assert!(matches!(error("/u/y/v1/models"), NoRoute::Upstream));
        assert!(matches!(error("/u/y/models"), NoRoute::Upstream));
        assert!(matches!(error("/u/x/models"), NoRoute::Path));
        assert!(matches!(error("/v1/"), NoRoute::Path));
    }
}
