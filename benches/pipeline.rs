//! The cost of the whole pipeline beside the bare service behind it. Pacing is off, because it waits
//! on purpose.
//!
//! `cargo bench --bench pipeline`

use std::{convert::Infallible, env, hint::black_box, sync::Arc, time::Duration};

use bytes::Bytes;
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use futures_util::{FutureExt, stream};
use http::{Request, Response, header};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use pacegate::{
    body::Body,
    config::{self, Sample, Upstream},
    upstreams::{UpstreamService, build},
};
use pacegate_layers::{error::BoxError, token::StaticToken};
use tower::{ServiceExt, service_fn};

const EVENTS: usize = 100;

const EVENT: &[u8] = b"data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"word \"}}]}\n\n";

/// Reads every request header, as a client has to.
fn read(request: &Request<Full<Bytes>>) {
    for field in request.headers() {
        black_box(field);
    }
}

fn answers_json() -> UpstreamService {
    UpstreamService::new(service_fn(async |request: Request<Full<Bytes>>| {
        read(&request);
        let body =
            Full::new(Bytes::from_static(b"{\"choices\":[]}")).map_err(|never| match never {});
        Ok(Response::new(body.boxed_unsync()))
    }))
}

fn answers_stream() -> UpstreamService {
    UpstreamService::new(service_fn(async |request: Request<Full<Bytes>>| {
        read(&request);
        let events = stream::iter(
            std::iter::repeat_n(EVENT, EVENTS)
                .map(|event| Ok::<_, Infallible>(Frame::data(Bytes::from_static(event)))),
        );
        let body = StreamBody::new(events).map_err(|never| match never {});
        let mut response: Response<Body> = Response::new(body.boxed_unsync());
        response.headers_mut().insert(
            header::CONTENT_TYPE,
            header::HeaderValue::from_static("text/event-stream"),
        );
        Ok::<_, BoxError>(response)
    }))
}

/// The built-in upstream with all layers and no delays.
fn upstream() -> Upstream {
    let variable = |name: &str| env::var(name).ok();
    #[expect(clippy::expect_used, reason = "the built-in config is tested")]
    let config = config::sample(&Sample::BuiltIn, &variable).expect("the built-in config");
    let mut upstream = config.upstreams[0].clone();
    upstream.jitter_throttle.min_interval = Duration::ZERO;
    upstream.jitter_throttle.jitter = (Duration::ZERO, Duration::ZERO);
    upstream.jitter_throttle.quotas = Vec::new();
    upstream
}

#[expect(clippy::expect_used, reason = "the built-in config is tested")]
fn whole(client: UpstreamService) -> UpstreamService {
    let token = StaticToken::new("sk-bench").expect("a token");
    let pipeline = build(&upstream(), client, Some(Arc::new(token)), None);
    pipeline.expect("a pipeline").service
}

fn request() -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::new(Bytes::from_static(b"{\"model\":\"m\"}")));
    *request.uri_mut() = http::Uri::from_static("/chat/completions");
    let json = header::HeaderValue::from_static("application/json");
    request.headers_mut().insert(header::CONTENT_TYPE, json);
    request
}

fn to_the_end(criterion: &mut Criterion, name: &str, service: &UpstreamService) {
    criterion.bench_function(name, |bencher| {
        bencher.iter_batched(
            request,
            |request| {
                let answer = async { service.clone().oneshot(request).await?.collect().await };
                assert!(
                    matches!(black_box(answer.now_or_never()), Some(Ok(_))),
                    "answers at once"
                );
            },
            BatchSize::SmallInput,
        );
    });
}

#[expect(
    clippy::expect_used,
    reason = "a bench without a runtime measures nothing"
)]
fn pipeline(criterion: &mut Criterion) {
    // The first event of a stream has a time-out, which needs a timer.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime");
    let _inside = runtime.enter();
    for (scenario, client) in [
        ("one_json_answer", answers_json()),
        ("stream_100_events", answers_stream()),
    ] {
        to_the_end(criterion, &format!("bare_{scenario}"), &client);
        let all = whole(client);
        to_the_end(criterion, &format!("all_layers_{scenario}"), &all);
    }
}

criterion_group!(benches, pipeline);
criterion_main!(benches);
