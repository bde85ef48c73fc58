//! Keeps a request's headers out of the copies that are made of it.

use std::task::{Context, Poll};

use http::Request;
use tower_layer::Layer;
use tower_service::Service;

use crate::progress::Progress;

/// Applies [`SetAside`]; see the [module documentation](super#in-two-parts).
#[derive(Clone, Copy, Debug, Default)]
pub struct SetAsideLayer;

/// Takes the headers off a request, for [`HeaderAlign`](super::HeaderAlign) further in; see the
/// [module documentation](super#in-two-parts).
#[derive(Clone, Debug)]
pub struct SetAside<S> {
    inner: S,
}

impl<S> Layer<S> for SetAsideLayer {
    type Service = SetAside<S>;

    fn layer(&self, inner: S) -> Self::Service {
        SetAside { inner }
    }
}

impl<S, B> Service<Request<B>> for SetAside<S>
where
    S: Service<Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let client = std::mem::take(request.headers_mut());
        let progress: &mut Progress = request.extensions_mut().get_or_insert_default();
        // A request that comes a second time, such as through another pipeline, keeps its headers.
        if let Err(client) = progress.set_aside(client) {
            *request.headers_mut() = client;
        }
        self.inner.call(request)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use http::{HeaderValue, Response, StatusCode, header};
    use tokio::sync::mpsc;
    use tower::{ServiceBuilder, ServiceExt, service_fn};

    use super::*;
    use crate::{HeaderAlignLayer, RetryOn429Layer, error::BoxError, header_align::Rule};

    #[tokio::test(start_paused = true)]
    async fn every_try_gets_the_headers_that_one_layer_would_have_built() {
        let (tell, mut told) = mpsc::unbounded_channel();
        let tries = Arc::new(AtomicUsize::new(0));
        let refuses_the_first = service_fn(move |request: Request<()>| {
            tell.send(request.headers().clone()).unwrap();
            let mut response = Response::new(String::new());
            if tries.fetch_add(1, Ordering::Relaxed) == 0 {
                *response.status_mut() = StatusCode::TOO_MANY_REQUESTS;
            }
            async { Ok::<_, BoxError>(response) }
        });
        let agent = Rule::SetIfAbsent(HeaderValue::from_static("own"));
        let align = HeaderAlignLayer::default().field(header::USER_AGENT, agent);
        let in_two = ServiceBuilder::new()
            .layer(SetAsideLayer)
            .layer(RetryOn429Layer::default())
            .layer(align.clone())
            .service(refuses_the_first.clone());
        let request = || {
            let request = Request::builder()
                .header("accept", "a")
                .header("accept", "b");
            request.header("cookie", "c").body(()).unwrap()
        };
        let response = in_two.oneshot(request()).await.unwrap();
        assert!(response.status().is_success());
        align
            .layer(refuses_the_first)
            .oneshot(request())
            .await
            .unwrap();
        let [first, second, whole] = [(); 3].map(|()| told.try_recv().unwrap());
        assert_eq!(whole.len(), 3);
        assert_eq!((&first, &second), (&whole, &whole));
    }
}
