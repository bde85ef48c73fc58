//! A panic in any layer, before the head or in the body, costs the request that met it and nothing
//! else. The layers themselves have no switch for that: the pipeline is built around a service that
//! panics, at every place in the list, and the gateway serves it in this process.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{Request, Response, Uri};
use http_body::Frame;
use http_body_util::{BodyExt, Full};
use hyper_util::client::proxy::matcher::Matcher;
use pacegate::{
    body::Body,
    client::{Client, ClientOptions},
    config::{self, Config, LayerName, Listen, Sample},
    edge::Gateway,
    simulator::{Options, Simulator},
    upstreams::{Pipeline, UpstreamService, build},
};
use pacegate_layers::{
    error::BoxError,
    token::{StaticToken, TokenSource},
};
use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;
use tower::{ServiceExt, service_fn};

use super::{simulator, streamed};
use crate::support::client::{self, post_json};

/// When the service panics that stands somewhere in the list.
#[derive(Clone, Copy, Debug, PartialEq)]
enum When {
    /// Before it calls what is inside it.
    Called,
    /// Once the head of the answer is there.
    Answered,
    /// After the first chunk of the body.
    Streaming,
}

/// The request that panics asks for this model.
const CURSED: &str = "cursed";

/// A body that panics at its second frame.
struct Trap {
    inner: Body,
    passed: bool,
}

impl http_body::Body for Trap {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        assert!(!self.passed, "a test wants this panic");
        let frame = Pin::new(&mut self.inner).poll_frame(cx);
        self.passed = frame.is_ready();
        frame
    }
}

/// `inner`, but the cursed request panics.
fn trapped(inner: UpstreamService, when: When) -> UpstreamService {
    UpstreamService::new(service_fn(move |request: Request<Full<Bytes>>| {
        let inner = inner.clone();
        async move {
            let body = request.body().clone().collect().await?.to_bytes();
            let cursed = body.windows(CURSED.len()).any(|it| it == CURSED.as_bytes());
            assert!(!cursed || when != When::Called, "a test wants this panic");
            let response = inner.oneshot(request).await?;
            assert!(!cursed || when != When::Answered, "a test wants this panic");
            let trap = |inner| {
                let passed = false;
                Trap { inner, passed }.boxed_unsync()
            };
            Ok::<Response<Body>, BoxError>(match cursed {
                true => response.map(trap),
                false => response,
            })
        }
    }))
}

fn config(simulator: &Simulator) -> Config {
    let mut config = config::sample(&Sample::Preset("local".into()), &|_| None).unwrap();
    config.listen = Listen::Tcp(([127, 0, 0, 1], 0).into());
    let upstream = &mut config.upstreams[0];
    upstream.base_url = simulator.base_url().parse::<Uri>().unwrap();
    upstream.pipeline = vec![
        LayerName::HeaderAlign,
        LayerName::RetryOn429,
        LayerName::TokenRefresh,
        LayerName::JitterThrottle,
        LayerName::BearerAuth,
    ];
    let throttle = &mut upstream.jitter_throttle;
    throttle.min_interval = Duration::ZERO;
    throttle.jitter = (Duration::ZERO, Duration::ZERO);
    config
}

/// The whole pipeline with the trap inside the first `place` layers.
fn pipeline(config: &Config, place: usize, when: When) -> Pipeline {
    let source: Arc<dyn TokenSource> = Arc::new(StaticToken::new("token").unwrap());
    let upstream = &config.upstreams[0];
    let options = ClientOptions::new(upstream, Matcher::builder().build());
    let client = Client::new(upstream.base_url.clone(), options).unwrap();
    let client = client.map_response(|response| response.map(BodyExt::boxed_unsync));
    let part = |layers: &[LayerName]| {
        let mut part = upstream.clone();
        part.pipeline = layers.to_vec();
        part
    };
    let (outer, inner) = upstream.pipeline.split_at(place);
    let inside = build(&part(inner), client, Some(source.clone()), None).unwrap();
    let trapped = trapped(inside.service, when);
    let mut whole = build(&part(outer), trapped, Some(source), None).unwrap();
    whole.gate = whole.gate.or(inside.gate);
    whole
}

#[tokio::test]
async fn of_a_hundred_streams_ninety_nine_finish_wherever_the_other_one_panics() {
    let simulator = simulator(Options {
        chunks: 5,
        chunk_gap: Duration::from_millis(5),
        ..Options::default()
    })
    .await;
    let config = config(&simulator);
    for place in 0..=config.upstreams[0].pipeline.len() {
        for when in [When::Called, When::Answered, When::Streaming] {
            let at = format!("{when:?} inside {place} layers");
            let pipeline = pipeline(&config, place, when);
            let gate = pipeline.gate.clone().unwrap();
            let gateway = Gateway::bind(&config, vec![pipeline]).await.unwrap();
            let address = gateway.to_string();
            let (stop, stopped) = oneshot::channel::<()>();
            let tasks = TaskTracker::new();
            let serving = tasks.spawn(gateway.serve(async {
                let _told = stopped.await;
            }));

            let url = format!("{address}/v1/chat/completions");
            let answers: Vec<_> = stream::iter(0..100)
                .map(|number| {
                    let model = if number == 50 { CURSED } else { "m" };
                    post_json(&url, streamed(model), &[])
                })
                .buffered(100)
                .collect()
                .await;
            for (number, answer) in answers.into_iter().enumerate() {
                match (number, when, answer) {
                    (50, When::Streaming, answer) => {
                        answer.expect_err("a clean end");
                    }
                    (50, _, answer) => {
                        super::assert_refused(&answer.unwrap(), 500, "internal_error")
                    }
                    (_, _, answer) => {
                        let answer = answer.unwrap_or_else(|error| panic!("{at}: {error}"));
                        assert!(answer.text().ends_with("data: [DONE]\n\n"), "{at}");
                    }
                }
            }
            let metrics = client::get(&format!("{address}/metrics")).await.unwrap();
            for (name, open) in [("connections", 1), ("requests_in_flight", 1)] {
                let line = format!("pacegate_{name} {open}\n");
                assert!(metrics.text().contains(&line), "{at}: {}", metrics.text());
            }
            assert_eq!((gate.in_flight(), gate.waiting()), (0, 0), "{at}");
            stop.send(()).unwrap();
            serving.await.unwrap();
        }
    }
}
