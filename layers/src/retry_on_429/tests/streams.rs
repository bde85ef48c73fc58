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
struct StreamsFail;

impl Classify for StreamsFail {
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
async fn only_a_stream_that_can_be_read_is_held_back() {
    let kind = ("content-type", "text/event-stream; charset=utf-8");
    let encoded = [kind, ("content-encoding", "gzip")];
    for (fields, tries) in [(&[kind][..], 2), (&encoded, 1)] {
        let script = Script::new([answer(200, fields, "data: {}\n\n")]);
        let layer = RetryOn429Layer::new(StreamsFail);
        let service = layer.layer(script.service());
        let response = service.oneshot(Request::new(())).await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(script.asked().len(), tries, "{fields:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_keeps_failing_is_handed_on_as_a_429() {
    let kind = [("content-type", "text/event-stream")];
    let script = Script::new((0..9).map(|_| answer(200, &kind, "data: {}\n\n")));
    let layer = RetryOn429Layer::new(StreamsFail);
    let service = layer.layer(script.service());
    let response = service.oneshot(Request::new(())).await.unwrap();
    assert_eq!(response.status(), 429);
    assert_eq!(response.headers()["x-should-retry"], "false");
    assert!(response.headers().contains_key("retry-after"));
    assert_eq!(text(response).await, "data: {}\n\n");
    assert_eq!(script.asked().len(), 3);
}

/// A body whose only chunk arrives late.
struct Late(Pin<Box<Sleep>>, Option<&'static str>);

impl Body for Late {
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
struct Says;

impl Classify for Says {
    fn inspects_streams(&self) -> bool {
        true
    }

    fn classify(&self, answer: &PeekedResponse<'_>) -> Verdict {
        if answer.body.starts_with(b"data: refused") {
            Verdict::RETRY
        } else {
            Verdict::Pass
        }
    }
}

/// Refuses the first request at once and the second after two seconds, both in a stream.
fn late_upstream(
    asked: &Arc<Mutex<Vec<Instant>>>,
) -> impl Service<Request<()>, Response = Response<Late>, Error = BoxError, Future: Send>
+ Clone
+ Send
+ use<> {
    let asked = Arc::clone(asked);
    service_fn(move |_: Request<()>| {
        let mut asked = asked.lock().unwrap();
        asked.push(Instant::now());
        let (seconds, chunk) = match asked.len() {
            1 => (0, "data: refused\n\n"),
            2 => (2, "data: refused\n\n"),
            _ => (0, "data: fine\n\n"),
        };
        let body = Late(Box::pin(sleep(Duration::from_secs(seconds))), Some(chunk));
        let answer = Response::builder().header("content-type", "text/event-stream");
        async move { Ok(answer.body(body).unwrap()) }
    })
}

/// The response headers of the probe said 200 and opened the gate, two seconds before its first
/// event closed it again: all waiting requests left in between.
#[tokio::test(start_paused = true)]
async fn a_probe_that_is_answered_with_a_stream_is_judged_by_its_first_event() {
    let gate = Gate::new(
        Pacing::new().concurrency(NonZeroUsize::new(2)),
        StdRng::seed_from_u64(1),
    );
    let asked = Arc::default();
    let service = ServiceBuilder::new()
        .layer(RetryOn429Layer::new(Says).feedback(gate.clone()))
        .layer(JitterThrottleLayer::new(gate.clone()).feedback_from_outside())
        .service(late_upstream(&asked));

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
    let asked = asked.lock().unwrap();
    assert!(asked[1] - asked[0] >= Duration::from_secs(60));
    assert!(asked[2] - asked[1] >= Duration::from_secs(62));
    assert_eq!(asked.len(), 5);
}
