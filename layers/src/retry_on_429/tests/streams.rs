//! Refusals inside an event stream, under a success status.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http_body::{Body, Frame};
use tokio::time::{Sleep, sleep};

use super::*;

/// Classifies every event stream as a refusal.
#[derive(Clone)]
struct RefuseStreams;

impl Classify for RefuseStreams {
    fn inspects_streams(&self) -> bool {
        true
    }

    fn classify(&self, _: &PeekedResponse<'_>) -> Verdict {
        Verdict::RETRY
    }
}

/// An unreadable stream was held back for half a minute, or until 8 KiB had arrived: no event was
/// ever found.
#[tokio::test(start_paused = true)]
async fn only_a_readable_stream_is_held_back() {
    let kind = ("content-type", "text/event-stream; charset=utf-8");
    let encoded = [kind, ("content-encoding", "gzip")];
    for (fields, attempts) in [(&[kind][..], 2), (&encoded, 1)] {
        let script = Script::new([respond(200, fields, "data: {}\n\n")]);
        let layer = RetryOn429Layer::new(RefuseStreams);
        let service = layer.layer(script.service());
        let response = service.oneshot(Request::new(())).await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(script.calls().len(), attempts, "{fields:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_keeps_failing_becomes_a_429() {
    let kind = [("content-type", "text/event-stream")];
    let script = Script::new((0..9).map(|_| respond(200, &kind, "data: {}\n\n")));
    let layer = RetryOn429Layer::new(RefuseStreams);
    let service = layer.layer(script.service());
    let response = service.oneshot(Request::new(())).await.unwrap();
    assert_eq!(response.status(), 429);
    assert_eq!(response.headers()["x-should-retry"], "false");
    assert!(response.headers().contains_key("retry-after"));
    assert_eq!(text(response).await, "data: {}\n\n");
    assert_eq!(script.calls().len(), 3);
}

/// A body whose only chunk arrives late.
struct LateBody(Pin<Box<Sleep>>, Option<&'static str>);

impl Body for LateBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        ready!(self.0.as_mut().poll(cx));
        let chunk = self.1.take();
        Poll::Ready(chunk.map(|chunk| Ok(Frame::data(Bytes::from_static(chunk.as_bytes())))))
    }
}

/// Classifies a body by its text, also in a stream.
#[derive(Clone)]
struct RefuseByText;

impl Classify for RefuseByText {
    fn inspects_streams(&self) -> bool {
        true
    }

    fn classify(&self, response: &PeekedResponse<'_>) -> Verdict {
        if response.body.starts_with(b"data: refused") {
            Verdict::RETRY
        } else {
            Verdict::Pass
        }
    }
}

/// Refuses the first request at once and the second after two seconds, both in a stream.
fn late_upstream(
    calls: &Arc<Mutex<Vec<Instant>>>,
) -> impl Service<Request<()>, Response = Response<LateBody>, Error = BoxError, Future: Send>
+ Clone
+ Send
+ use<> {
    let calls = Arc::clone(calls);
    service_fn(move |_: Request<()>| {
        let mut calls = calls.lock().unwrap();
        calls.push(Instant::now());
        let (seconds, chunk) = match calls.len() {
            1 => (0, "data: refused\n\n"),
            2 => (2, "data: refused\n\n"),
            _ => (0, "data: fine\n\n"),
        };
        let body = LateBody(Box::pin(sleep(Duration::from_secs(seconds))), Some(chunk));
        let response = Response::builder().header("content-type", "text/event-stream");
        async move { Ok(response.body(body).unwrap()) }
    })
}

/// The response headers of the probe said 200 and opened the gate, two seconds before its first
/// event closed it again: all waiting requests left in between.
#[tokio::test(start_paused = true)]
async fn a_probes_stream_is_judged_by_its_first_event() {
    let gate = Gate::new(
        Pacing::new().concurrency(NonZeroUsize::new(2)),
        StdRng::seed_from_u64(1),
    );
    let calls = Arc::default();
    let service = ServiceBuilder::new()
        .layer(RetryOn429Layer::new(RefuseByText).feedback(gate.clone()))
        .layer(JitterThrottleLayer::new(gate.clone()).feedback_from_outside())
        .service(late_upstream(&calls));

    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..3 {
        let service = service.clone();
        tasks.spawn(async move {
            let response = service.oneshot(Request::new(())).await.unwrap();
            response.into_body().collect().await.unwrap().to_bytes()
        });
    }
    while let Some(done) = tasks.join_next().await {
        assert_eq!(done.unwrap(), "data: fine\n\n");
    }
    let calls = calls.lock().unwrap();
    assert!(calls[1] - calls[0] >= Duration::from_secs(60));
    assert!(calls[2] - calls[1] >= Duration::from_secs(62));
    assert_eq!(calls.len(), 5);
}
