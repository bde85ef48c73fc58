//! The cost of each layer beside the bare service, the cost of the gate, and the memory of a waiter.
//!
//! `cargo bench --bench layers`

use std::{
    alloc::{GlobalAlloc, Layout, System},
    convert::Infallible,
    env,
    future::{Ready, ready},
    hint::black_box,
    io::Write,
    num::NonZeroUsize,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Waker},
    time::Duration,
};

use bytes::Bytes;
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use futures_util::FutureExt;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;
use pacegate::{
    config::{self, Sample},
    dialect::DialectClassifier,
};
use pacegate_layers::{
    BearerAuthLayer, HeaderAlignLayer, JitterThrottleLayer, RetryOn429Layer, TokenRefreshLayer,
    context::{RequestContext, Session},
    header_align::Rule,
    pacing::{Acquire, Gate, Pacing, Window},
    retry_on_429::{Classify, PeekedResponse},
    token::StaticToken,
};
use rand::{SeedableRng, rngs::StdRng};
use tower::{Layer, Service, ServiceExt, service_fn};

/// The system's allocator, with a count of the allocated bytes.
struct CountingAllocator;

static HELD: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

#[expect(unsafe_code, reason = "an allocator is made no other way")]
// SAFETY: all arguments are passed to the system's allocator unchanged.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HELD.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of this very function.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of this very function.
        unsafe { System.dealloc(pointer, layout) }
    }
}

const WAITERS: usize = 10_000;

/// The most memory of a waiter: its future and its place in the queue.
const WAITER_BYTES: usize = 2048;

type Answered = Ready<Result<Response<Full<Bytes>>, Infallible>>;

/// Responds at once.
fn bare(_request: Request<Full<Bytes>>) -> Answered {
    ready(Ok(Response::new(Full::new(Bytes::from_static(b"{}")))))
}

fn request() -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::new(Bytes::from_static(b"{\"model\":\"m\"}")));
    let headers = request.headers_mut();
    for (name, value) in [
        ("accept", "*/*"),
        ("accept-encoding", "gzip, deflate, br, zstd"),
        ("content-type", "application/json"),
        ("user-agent", "client/1"),
        ("x-session-id", "ses_1"),
    ] {
        headers.insert(
            HeaderName::from_static(name),
            HeaderValue::from_static(value),
        );
    }
    request
}

fn one_request<S>(criterion: &mut Criterion, name: &str, service: &S)
where
    S: Service<Request<Full<Bytes>>> + Clone,
{
    criterion.bench_function(name, |bencher| {
        bencher.iter_batched(
            request,
            |request| {
                let answered = service.clone().oneshot(request).now_or_never();
                assert!(
                    matches!(black_box(answered), Some(Ok(_))),
                    "answers at once"
                );
            },
            BatchSize::SmallInput,
        );
    });
}

fn layers(criterion: &mut Criterion) {
    #[expect(clippy::expect_used, reason = "it is written here")]
    let token = StaticToken::new("sk-bench").expect("a token");
    let service = service_fn(bare);
    let align = HeaderAlignLayer::default().field(
        http::header::USER_AGENT,
        Rule::Set(HeaderValue::from_static("bench/1")),
    );
    one_request(criterion, "bare_service", &service);
    one_request(criterion, "header_align", &align.layer(service));
    let retry = RetryOn429Layer::default().layer(service);
    one_request(criterion, "retry_on_429_when_answered_200", &retry);
    let refresh = TokenRefreshLayer::new(token.clone()).layer(service);
    one_request(criterion, "token_refresh_when_answered_200", &refresh);
    let throttle = JitterThrottleLayer::new(without_delays()).layer(service);
    one_request(criterion, "jitter_throttle_uncontended", &throttle);
    let auth = BearerAuthLayer::new(token).layer(service);
    one_request(criterion, "bearer_auth", &auth);
}

/// A gate with an interval, a jitter and a window so short that no request waits.
fn without_delays() -> Gate {
    let instant = Duration::from_nanos(1);
    #[expect(clippy::expect_used, reason = "it is written here")]
    let pacing = Pacing::new()
        .min_interval(instant)
        .jitter(Duration::ZERO..=instant)
        .expect("forwards");
    let window = Window::new(NonZeroUsize::MIN, instant);
    Gate::with_ledgers(pacing, vec![Arc::new(window)], StdRng::seed_from_u64(1))
}

fn gate_uncontended(criterion: &mut Criterion) {
    let gate = without_delays();
    let session = Session::new("s1");
    criterion.bench_function("gate_uncontended_acquire_and_release", |bencher| {
        bencher.iter(|| {
            let permit = gate
                .acquire(Some(RequestContext::of(session.clone())))
                .now_or_never();
            assert!(matches!(black_box(permit), Some(Ok(_))), "nobody is ahead");
        });
    });
}

/// A gate that admits no request while the bench runs.
fn stopped() -> Gate {
    const HOUR: Duration = Duration::from_secs(60 * 60);
    let pacing = Pacing::new()
        .min_interval(HOUR)
        .max_queue(2 * WAITERS)
        .max_wait(HOUR * 1_000_000);
    let gate = Gate::new(pacing, StdRng::seed_from_u64(1));
    assert!(gate.acquire(None).now_or_never().is_some());
    gate
}

/// Requests of eight sessions, polled once.
fn waiters(gate: &Gate) -> Vec<Pin<Box<Acquire>>> {
    let mut context = Context::from_waker(Waker::noop());
    let sessions: Vec<_> = (0..8).map(|n| Session::new(format!("s{n}"))).collect();
    (0..WAITERS)
        .map(|number| {
            let session = sessions[number % sessions.len()].clone();
            let mut turn = Box::pin(gate.acquire(Some(RequestContext::of(session))));
            assert!(turn.as_mut().poll(&mut context).is_pending(), "it waits");
            turn
        })
        .collect()
}

fn gate_with_waiters(criterion: &mut Criterion) {
    #[expect(clippy::expect_used, reason = "without it nothing can be measured")]
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime");
    let _timers = runtime.enter();

    let gate = stopped();
    let before = HELD.load(Ordering::Relaxed);
    let crowd = waiters(&gate);
    let each = (HELD.load(Ordering::Relaxed) - before) / WAITERS;
    assert_eq!(gate.waiting(), WAITERS);
    drop(crowd);
    assert_eq!(gate.waiting(), 0, "a cancelled waiter leaves the queue");
    assert!(each < WAITER_BYTES, "a waiter weighs {each} bytes");
    let _closed = writeln!(
        std::io::stderr(),
        "gate_with_10000_waiters: {each} bytes for each"
    );

    criterion.bench_function("gate_10000_enter_and_are_cancelled", |bencher| {
        bencher.iter(|| drop(black_box(waiters(&gate))));
    });
    let crowd = waiters(&gate);
    let session = Session::new("s1");
    criterion.bench_function("gate_with_10000_waiters_enter_and_cancel", |bencher| {
        let mut context = Context::from_waker(Waker::noop());
        bencher.iter(|| {
            let mut turn = Box::pin(gate.acquire(Some(RequestContext::of(session.clone()))));
            assert!(turn.as_mut().poll(&mut context).is_pending(), "it waits");
        });
    });
    drop(crowd);
    assert_eq!(gate.waiting(), 0);
}

fn classifier(criterion: &mut Criterion) {
    let variable = |name: &str| env::var(name).ok();
    #[expect(clippy::expect_used, reason = "the presets are tested")]
    let config = config::sample(&Sample::Preset("dashscope".into()), &variable).expect("a preset");
    let classifier = DialectClassifier::new(&config.upstreams[0].dialect);
    let headers = HeaderMap::new();
    for (name, body) in [
        (
            "classifier_429_by_its_message",
            &br#"{"error":{"code":"insufficient_quota","type":"insufficient_quota","message":"You exceeded your current quota, please check your plan and billing details."}}"#[..],
        ),
        ("classifier_429_that_is_no_json", &[b'x'; 8 * 1024]),
    ] {
        let answer = PeekedResponse {
            status: StatusCode::TOO_MANY_REQUESTS,
            headers: &headers,
            body,
        };
        criterion.bench_function(name, |bencher| {
            bencher.iter(|| classifier.classify(black_box(&answer)));
        });
    }
}

criterion_group!(
    benches,
    layers,
    gate_uncontended,
    gate_with_waiters,
    classifier
);
criterion_main!(benches);
