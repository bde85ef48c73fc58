//! The retry rules, on a paused clock.

use std::{
    collections::VecDeque,
    num::NonZeroUsize,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use rand::{SeedableRng, rngs::StdRng};
use tokio::time::Instant;
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};

use super::*;
use crate::{
    JitterThrottleLayer,
    context::RequestContext,
    error::{BoxError, NotSent, SlowDown},
    pacing::Feedback,
    pacing::{Gate, Pacing},
};

mod streams;

type Outcome = Result<Response<Full<Bytes>>, BoxError>;

/// An upstream that plays outcomes in order, then responds 200, and records when it was called.
#[derive(Clone, Default)]
struct Script {
    outcomes: Arc<Mutex<VecDeque<Outcome>>>,
    calls: Arc<Mutex<Vec<Instant>>>,
}

impl Script {
    fn new(outcomes: impl IntoIterator<Item = Outcome>) -> Self {
        Self {
            outcomes: Arc::new(Mutex::new(outcomes.into_iter().collect())),
            calls: Arc::default(),
        }
    }

    fn service(
        &self,
    ) -> impl Service<Request<()>, Response = Response<Full<Bytes>>, Error = BoxError, Future: Send>
    + Clone
    + Send
    + use<> {
        let this = self.clone();
        service_fn(move |_: Request<()>| {
            this.calls.lock().unwrap().push(Instant::now());
            let next = this.outcomes.lock().unwrap().pop_front();
            async move { next.unwrap_or_else(|| Ok(Response::new(Full::new("fine".into())))) }
        })
    }

    fn calls(&self) -> Vec<Instant> {
        self.calls.lock().unwrap().clone()
    }
}

fn respond(status: u16, fields: &[(&str, &str)], body: &'static str) -> Outcome {
    let mut response = Response::builder().status(status);
    for (name, value) in fields {
        response = response.header(*name, *value);
    }
    Ok(response.body(Full::new(body.into())).unwrap())
}

fn slow_down(seconds: &str) -> Outcome {
    respond(429, &[("retry-after", seconds)], "slow down")
}

fn layer() -> RetryOn429Layer {
    RetryOn429Layer::default().rng(StdRng::seed_from_u64(5))
}

async fn text(response: Response<PeekedBody<Full<Bytes>>>) -> Bytes {
    response.into_body().collect().await.unwrap().to_bytes()
}

/// Whether `waited` is `requested` plus at most a tenth of jitter.
fn is_about(waited: Duration, requested: Duration) -> bool {
    (requested..=requested + requested / 10 + Duration::from_millis(1)).contains(&waited)
}

#[tokio::test(start_paused = true)]
async fn waits_as_long_as_requested_and_retries() {
    let script = Script::new([slow_down("3"), slow_down("5")]);
    let response = layer()
        .layer(script.service())
        .oneshot(Request::new(()))
        .await
        .unwrap();
    assert_eq!(text(response).await, "fine");
    let calls = script.calls();
    assert!(is_about(calls[1] - calls[0], Duration::from_secs(3)));
    assert!(is_about(calls[2] - calls[1], Duration::from_secs(5)));
}

#[tokio::test(start_paused = true)]
async fn waits_the_default_without_a_sensible_retry_after() {
    let script = Script::new([slow_down("NaN"), respond(429, &[], "")]);
    layer()
        .layer(script.service())
        .oneshot(Request::new(()))
        .await
        .unwrap();
    let calls = script.calls();
    assert!(is_about(calls[1] - calls[0], Duration::from_secs(60)));
    assert!(is_about(calls[2] - calls[1], Duration::from_secs(60)));
}

#[tokio::test(start_paused = true)]
async fn never_retries_within_a_second() {
    let script = Script::new([slow_down("0.2")]);
    layer()
        .layer(script.service())
        .oneshot(Request::new(()))
        .await
        .unwrap();
    let calls = script.calls();
    assert!(is_about(calls[1] - calls[0], Duration::from_secs(1)));
}

#[tokio::test(start_paused = true)]
async fn a_delay_in_the_body_is_read_and_the_body_returned_whole() {
    let script = Script::new([
        respond(429, &[], "Please try again in 4s."),
        respond(429, &[], "Please try again in 4s."),
        respond(429, &[], "Please try again in 4s."),
    ]);
    let response = layer()
        .layer(script.service())
        .oneshot(Request::new(()))
        .await
        .unwrap();
    let calls = script.calls();
    assert!(is_about(calls[1] - calls[0], Duration::from_secs(4)));
    assert_eq!(calls.len(), 3);
    assert_eq!(response.status(), 429);
    assert_eq!(text(response).await, "Please try again in 4s.");
}

#[tokio::test(start_paused = true)]
async fn returns_the_last_response_when_no_retry_is_left() {
    let script = Script::new((0..3).map(|_| slow_down("2")));
    let response = layer()
        .layer(script.service())
        .oneshot(Request::new(()))
        .await
        .unwrap();
    assert_eq!(script.calls().len(), 3);
    assert_eq!(response.status(), 429);
    assert_eq!(response.headers()["retry-after"], "3");
    assert_eq!(response.headers()["x-should-retry"], "false");
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_does_not_fit_is_not_begun() {
    let before = Instant::now();
    let wait_headers = [("retry-after", "300"), ("retry-after-ms", "300000")];
    let script = Script::new([respond(429, &wait_headers, "slow down")]);
    let response = layer()
        .layer(script.service())
        .oneshot(Request::new(()))
        .await
        .unwrap();
    assert_eq!(before.elapsed(), Duration::ZERO);
    assert_eq!(script.calls().len(), 1);
    assert_eq!(response.status(), 429);
    let seconds: u64 = response.headers()["retry-after"]
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    assert!((300..=330).contains(&seconds));
    assert!(!response.headers().contains_key("retry-after-ms"));
    assert!(!response.headers().contains_key("x-should-retry"));
}

#[tokio::test(start_paused = true)]
async fn no_request_waits_for_hours_and_the_pause_is_capped() {
    let gate = Gate::new(Pacing::new(), StdRng::seed_from_u64(1));
    let script = Script::new([slow_down("561600")]);
    let response = layer()
        .max_hold(Duration::from_secs(1_000_000))
        .feedback(gate.clone())
        .layer(script.service())
        .oneshot(Request::new(()))
        .await
        .unwrap();
    assert_eq!(response.status(), 429);
    assert!(is_about(gate.estimate(), Duration::from_secs(900)));
}

#[tokio::test(start_paused = true)]
async fn retries_503_only_with_a_retry_after() {
    let script = Script::new([
        respond(503, &[("retry-after", "1")], ""),
        respond(503, &[], ""),
    ]);
    let service = layer().layer(script.service());
    let response = service.oneshot(Request::new(())).await.unwrap();
    assert_eq!(response.status(), 503);
    assert_eq!(script.calls().len(), 2);
    assert!(!response.headers().contains_key("retry-after"));
}

#[tokio::test(start_paused = true)]
async fn other_errors_pass_at_once() {
    for status in [400, 401, 403, 404, 500, 502, 504] {
        let script = Script::new([respond(status, &[("retry-after", "1")], "theirs")]);
        let response = layer()
            .layer(script.service())
            .oneshot(Request::new(()))
            .await
            .unwrap();
        assert_eq!(response.status(), status);
        assert_eq!(text(response).await, "theirs");
        assert_eq!(script.calls().len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_that_is_no_response_closes_the_gate_for_everyone() {
    let script = Script::new([Err(SlowDown("calm".into()).into())]);
    let gate = Gate::new(Pacing::new(), StdRng::seed_from_u64(1));
    let service = ServiceBuilder::new()
        .layer(
            RetryOn429Layer::default()
                .default_wait(Duration::from_secs(20))
                .feedback(gate.clone()),
        )
        .layer(JitterThrottleLayer::new(gate.clone()).feedback_from_outside())
        .service(script.service());
    let other = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        service.clone().oneshot(Request::new(())).await
    };
    let (first, other) = tokio::join!(service.clone().oneshot(Request::new(())), other);
    for response in [first, other] {
        assert_eq!(response.unwrap().status(), 200);
    }
    let calls = script.calls();
    assert_eq!(calls.len(), 3);
    assert!(calls[1] - calls[0] >= Duration::from_secs(20));
}

#[tokio::test(start_paused = true)]
async fn retries_a_request_that_was_not_sent_and_no_other_failure() {
    let refused = || Err(Box::new(NotSent("refused".into())) as BoxError);
    let script = Script::new([refused(), refused()]);
    let response = layer()
        .layer(script.service())
        .oneshot(Request::new(()))
        .await
        .unwrap();
    assert_eq!(response.status(), 200);
    let calls = script.calls();
    assert!(calls[1] - calls[0] >= Duration::from_millis(500));
    assert!(calls[2] - calls[1] <= Duration::from_secs(20));

    let script = Script::new([Err("reset".into())]);
    layer()
        .layer(script.service())
        .oneshot(Request::new(()))
        .await
        .unwrap_err();
    assert_eq!(script.calls().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn gives_up_on_an_upstream_that_stays_away() {
    let script = Script::new((0..9).map(|_| Err(NotSent("refused".into()).into())));
    let error = layer()
        .layer(script.service())
        .oneshot(Request::new(()))
        .await
        .unwrap_err();
    assert!(error.is::<NotSent>());
    assert_eq!(script.calls().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn one_refusal_pauses_all_requests_and_keeps_their_order() {
    let pacing = Pacing::new()
        .min_interval(Duration::from_secs(1))
        .concurrency(NonZeroUsize::new(1));
    let gate = Gate::new(pacing, StdRng::seed_from_u64(1));
    let script = Script::new([slow_down("3"), slow_down("3")]);
    let service = ServiceBuilder::new()
        .layer(layer().feedback(gate.clone()))
        .layer(JitterThrottleLayer::new(gate.clone()).feedback_from_outside())
        .service(script.service());

    let finished = Arc::new(Mutex::new(Vec::new()));
    let mut tasks = tokio::task::JoinSet::new();
    for index in 0..20 {
        let (service, finished) = (service.clone(), Arc::clone(&finished));
        tasks.spawn(async move {
            let context = RequestContext::new();
            let mut request = Request::new(());
            request.extensions_mut().insert(context.clone());
            let response = service.oneshot(request).await.unwrap();
            assert_eq!(response.status(), 200);
            finished.lock().unwrap().push(index);
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    assert!(finished.lock().unwrap().iter().copied().eq(0..20));
    let calls = script.calls();
    assert_eq!(calls.len(), 22);
    assert_eq!(gate.dispatched(), 22, "every try passes the gate");
    assert!(calls[1] - calls[0] >= Duration::from_secs(3));
    assert!(calls[2] - calls[1] >= Duration::from_secs(3));
    assert_eq!((gate.waiting(), gate.in_flight()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_gets_a_success_without_a_body_opens_the_gate() {
    let gate = Gate::new(Pacing::new(), StdRng::seed_from_u64(1));
    let script = Script::new([slow_down("3"), respond(200, &[], "")]);
    let service = ServiceBuilder::new()
        .layer(layer().feedback(gate.clone()))
        .layer(JitterThrottleLayer::new(gate.clone()).feedback_from_outside())
        .service(script.service());
    service.oneshot(Request::new(())).await.unwrap();
    assert_eq!(script.calls().len(), 2);
    // While closed the gate lets one through and holds the next.
    let _one = gate.acquire(None).await.unwrap();
    let two = tokio::time::timeout(Duration::from_millis(1), gate.acquire(None));
    two.await.unwrap().unwrap();
}
