//! Instructions of a request under valgrind: a cost that does not depend on the load of the machine.
//! Each scenario is warm and runs a hundred times. gungraun reports the counts beside those of the
//! last run; only one JSON response through the whole gateway has a limit.
//!
//! `tests/run instructions`, or, with `gungraun-runner` of gungraun's version in `PATH`:
//! `cargo bench -p pacegate-instructions`. callgrind's output is in `target/gungraun`.
#![expect(
    missing_docs,
    clippy::disallowed_methods,
    reason = "the macros of gungraun write items without docs, and end the process"
)]

use std::{
    convert::Infallible,
    hint::black_box,
    iter::{Map, RepeatN},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures_util::{FutureExt, stream};
use gungraun::{
    Callgrind, EventKind, LibraryBenchmarkConfig, library_benchmark, library_benchmark_group, main,
};
use http::{HeaderMap, HeaderValue, Request, Response, header};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody, combinators::MapErr};
use pacegate::{
    config::{self, Config, Credentials, Sample, Upstream},
    edge::Gateway,
    upstreams::{UpstreamService, assemble, build},
};
use pacegate_layers::{
    context::{RequestContext, Session},
    error::BoxError,
    pacing::{Gate, Pacing},
    token::StaticToken,
};
use rand::{SeedableRng, rngs::StdRng};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    runtime::Runtime,
    sync::Notify,
};
use tokio_util::task::TaskTracker;
use tower::{Service, ServiceExt, service_fn};

const TIMES: usize = 100;

const EVENTS: usize = 100;

const EVENT: &[u8] = b"data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"word \"}}]}\n\n";

const LAST_EVENT: &[u8] = b"data: [DONE]\n\n";

const QUESTION: &str = r#"{"model":"coder-model","messages":[{"role":"user","content":"hello"}]}"#;

/// The most instructions of one JSON response, from client to upstream and back: 1.5 times the 97,900
/// of the first measurement with hyper's client, so that only a mistake fails the run.
const ONE_JSON_ANSWER: u64 = 147_000;

fn one_json_answer() -> LibraryBenchmarkConfig {
    let limit = ONE_JSON_ANSWER * TIMES as u64;
    LibraryBenchmarkConfig::default()
        .tool(Callgrind::default().hard_limits([(EventKind::Ir, limit)]))
        .clone()
}

// === the gate ===

/// A gate without pacing that counts requests.
fn open_gate() -> Gate {
    let gate = Gate::new(Pacing::new(), StdRng::seed_from_u64(1));
    pass(&gate);
    gate
}

fn pass(gate: &Gate) {
    let session = Session::new("s1");
    let permit = gate.acquire(Some(RequestContext::of(session)));
    if let Some(Ok(permit)) = permit.now_or_never() {
        permit.accepted();
    }
}

#[library_benchmark]
#[bench::wide_open(open_gate())]
fn gate(gate: Gate) -> u64 {
    for _ in 0..TIMES {
        pass(black_box(&gate));
    }
    gate.dispatched()
}

// === the layers ===

/// The built-in upstream with all layers and no delays.
fn without_delays(config: &mut Config) -> &mut Upstream {
    let upstream = &mut config.upstreams[0];
    upstream.jitter_throttle.min_interval = Duration::ZERO;
    upstream.jitter_throttle.jitter = (Duration::ZERO, Duration::ZERO);
    upstream.jitter_throttle.quotas = Vec::new();
    upstream
}

#[expect(clippy::expect_used, reason = "the built-in config is tested")]
fn built_in() -> Config {
    // gungraun starts benches with an empty environment.
    let variable = |name: &str| (name == "HOME").then(|| "/".to_owned());
    config::sample(&Sample::BuiltIn, &variable).expect("the built-in config")
}

/// Reads every request header, as a client has to.
fn read(request: &Request<Full<Bytes>>) {
    for field in request.headers() {
        black_box(field);
    }
}

/// A client that responds at once, with any body.
trait Answers<B>:
    Service<Request<Full<Bytes>>, Response = Response<B>, Error = BoxError, Future: Send>
    + Clone
    + Send
    + Sync
    + 'static
{
}

impl<S, B> Answers<B> for S where
    S: Service<Request<Full<Bytes>>, Response = Response<B>, Error = BoxError, Future: Send>
        + Clone
        + Send
        + Sync
        + 'static
{
}

type Json = MapErr<Full<Bytes>, fn(Infallible) -> BoxError>;

type Events = StreamBody<stream::Iter<Map<RepeatN<&'static [u8]>, fn(&'static [u8]) -> Event>>>;

type Event = Result<Frame<Bytes>, BoxError>;

fn answers_json() -> impl Answers<Json> {
    service_fn(async |request: Request<Full<Bytes>>| {
        read(&request);
        let never: fn(_) -> _ = |never: Infallible| match never {};
        let body = Full::new(Bytes::from_static(b"{\"choices\":[]}"));
        Ok(Response::new(body.map_err(never)))
    })
}

fn answers_stream() -> impl Answers<Events> {
    service_fn(async |request: Request<Full<Bytes>>| {
        read(&request);
        let event: fn(_) -> _ = |event| Ok(Frame::data(Bytes::from_static(event)));
        let events = stream::iter(std::iter::repeat_n(EVENT, EVENTS).map(event));
        let mut response = Response::new(StreamBody::new(events));
        let event_stream = HeaderValue::from_static("text/event-stream");
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, event_stream);
        Ok(response)
    })
}

/// A pipeline, its runtime, and the request.
struct Layers {
    runtime: Runtime,
    service: UpstreamService,
    requests: Vec<Request<Full<Bytes>>>,
}

impl Layers {
    #[expect(clippy::expect_used, reason = "without it nothing can be measured")]
    fn over<B>(client: impl Answers<B>) -> Self
    where
        B: http_body::Body<Data = Bytes, Error = BoxError> + Send + Unpin + 'static,
    {
        let mut config = built_in();
        let token = StaticToken::new("sk-bench").expect("a token");
        let runtime = runtime();
        let entered = runtime.enter();
        let pipeline = build(
            without_delays(&mut config),
            client,
            Some(Arc::new(token)),
            None,
        );
        let service = pipeline.expect("a pipeline").service;
        drop(entered);
        Self::warm(service)
    }

    /// The base cost of every scenario: the client, one box, and reading the response.
    fn none_over<B>(client: impl Answers<B>) -> Self
    where
        B: http_body::Body<Data = Bytes, Error = BoxError> + Send + 'static,
    {
        let client =
            client.map_response(|response: Response<B>| response.map(BodyExt::boxed_unsync));
        Self::warm(UpstreamService::new(client))
    }

    fn warm(service: UpstreamService) -> Self {
        let mut this = Self {
            runtime: runtime(),
            service,
            requests: vec![request()],
        };
        this.ask();
        this.requests
            .extend(std::iter::repeat_with(request).take(TIMES));
        this
    }

    #[expect(clippy::expect_used, reason = "a broken pipeline must not look quick")]
    fn ask(&mut self) {
        let _entered = self.runtime.enter();
        for request in self.requests.drain(..) {
            let answer = async { self.service.call(request).await?.collect().await };
            let answer = answer.now_or_never().expect("answers at once");
            black_box(answer.expect("answers"));
        }
    }
}

/// A request as the edge passes it on.
fn request() -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::new(Bytes::from_static(QUESTION.as_bytes())));
    *request.uri_mut() = http::Uri::from_static("/chat/completions");
    *request.headers_mut() = sent();
    let context = RequestContext::of(Session::new("s1"));
    request.extensions_mut().insert(context);
    request
}

/// The headers of an OpenAI-compatible client.
fn sent() -> HeaderMap {
    let fields = [
        (header::ACCEPT, "application/json"),
        (header::ACCEPT_ENCODING, "gzip, deflate, br"),
        (header::CONTENT_TYPE, "application/json"),
        (header::USER_AGENT, "client/1"),
    ];
    fields
        .into_iter()
        .map(|(name, value)| (name, HeaderValue::from_static(value)))
        .collect()
}

#[expect(clippy::expect_used, reason = "without it nothing can be measured")]
fn runtime() -> Runtime {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all().build().expect("a runtime")
}

#[library_benchmark]
#[bench::one_json_answer(Layers::over(answers_json()))]
fn five_layers(mut layers: Layers) -> Layers {
    layers.ask();
    layers
}

#[library_benchmark]
#[bench::one_json_answer(Layers::none_over(answers_json()))]
fn no_layers(mut layers: Layers) -> Layers {
    layers.ask();
    layers
}

#[library_benchmark]
#[bench::a_hundred_events(Layers::none_over(answers_stream()))]
fn no_layers_and_a_stream(mut layers: Layers) -> Layers {
    layers.ask();
    layers
}

#[library_benchmark]
#[bench::a_hundred_events(Layers::over(answers_stream()))]
fn five_layers_and_a_stream(mut layers: Layers) -> Layers {
    layers.ask();
    layers
}

// === the whole gateway ===

/// The gateway between a client and an upstream that send fixed bytes, all on one thread.
struct GatewayRun {
    runtime: Runtime,
    client: TcpStream,
    /// Notified when the client has read a part.
    has_read: Arc<Notify>,
    /// The last bytes of the gateway's response.
    end: &'static [u8],
    _home: TempDir,
}

impl GatewayRun {
    #[expect(clippy::expect_used, reason = "without it nothing can be measured")]
    fn start(answer: Vec<Vec<u8>>, end: &'static [u8]) -> Self {
        let home = tempfile::tempdir().expect("a folder");
        let file = home.path().join("credentials.json");
        let credentials = r#"{"access_token":"a","refresh_token":"r","token_type":"Bearer","expiry_date":99999999999999}"#;
        std::fs::write(&file, credentials).expect("written");
        let mut config = built_in();
        config.listen = config::Listen::Tcp(SocketAddr::from(([127, 0, 0, 1], 0)));
        let upstream = without_delays(&mut config);
        upstream.base_url_written = true;
        if let Credentials::OAuth(oauth) = &mut upstream.credentials {
            oauth.file = file;
        }
        let runtime = runtime();
        let has_read = Arc::new(Notify::new());
        let may_go_on = Arc::clone(&has_read);
        let client = runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let address = listener.local_addr().expect("an address");
            config.upstreams[0].base_url = format!("http://{address}/v1").parse().expect("a URL");
            let tasks = TaskTracker::new();
            tasks.spawn(async move {
                let (mut socket, _) = listener.accept().await.expect("the gateway");
                while read_to(&mut socket, QUESTION.as_bytes(), &Notify::new()).await {
                    for (place, part) in answer.iter().enumerate() {
                        if place > 0 {
                            may_go_on.notified().await;
                        }
                        socket.write_all(part).await.expect("written");
                    }
                }
            });
            let pipeline = assemble(&config.upstreams[0], None, &tasks);
            let pipeline = pipeline.expect("a pipeline");
            let gateway = Gateway::bind(&config, vec![pipeline]).await.expect("bound");
            let address = gateway.to_string();
            tasks.spawn(gateway.serve(std::future::pending()));
            TcpStream::connect(address.trim_start_matches("http://")).await
        });
        let mut this = Self {
            runtime,
            client: client.expect("connected"),
            has_read,
            end,
            _home: home,
        };
        this.ask();
        this
    }

    fn ask(&mut self) {
        let Self {
            runtime,
            client,
            has_read,
            end,
            ..
        } = self;
        runtime.block_on(async {
            ask(client).await;
            assert!(read_to(client, end, has_read).await, "the gateway answers");
        });
    }
}

#[expect(clippy::expect_used, reason = "without it nothing can be measured")]
async fn ask(client: &mut TcpStream) {
    let length = QUESTION.len();
    let request = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\naccept: application/json\r\n\
         content-type: application/json\r\nuser-agent: client/1\r\ncontent-length: {length}\r\n\r\n\
         {QUESTION}"
    );
    client.write_all(request.as_bytes()).await.expect("written");
}

/// Reads until `end`, and notifies `has_read` after every read but the last. False if the socket was
/// closed before.
async fn read_to(socket: &mut TcpStream, end: &[u8], has_read: &Notify) -> bool {
    let mut read = Vec::with_capacity(4096);
    loop {
        if !matches!(socket.read_buf(&mut read).await, Ok(1..)) {
            return false;
        }
        if read.ends_with(end) {
            return true;
        }
        has_read.notify_one();
    }
}

/// A JSON response in one part.
fn json() -> Vec<Vec<u8>> {
    let body = r#"{"id":"chatcmpl-1","object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant","content":"hello"},"finish_reason":"stop"}]}"#;
    let length = body.len();
    let head =
        format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}");
    vec![format!("{head}\r\n\r\n{body}").into_bytes()]
}

/// A stream with each event in a part of its own, the headers with the first and the end with the
/// last. A part is sent when the client has read the one before it.
fn events() -> Vec<Vec<u8>> {
    let head =
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    let chunk =
        |event: &[u8]| [format!("{:x}\r\n", event.len()).as_bytes(), event, b"\r\n"].concat();
    let mut parts = vec![chunk(EVENT); EVENTS - 1];
    parts[0] = [head, &parts[0][..]].concat();
    parts.push([&chunk(LAST_EVENT)[..], b"0\r\n\r\n"].concat());
    parts
}

/// The same stream in one part, so that all events have arrived when the gateway reads the headers.
fn events_at_once() -> Vec<Vec<u8>> {
    vec![events().concat()]
}

#[library_benchmark(config = one_json_answer())]
#[bench::one_json_answer(GatewayRun::start(json(), b"}]}"))]
fn gateway(mut run: GatewayRun) -> GatewayRun {
    for _ in 0..TIMES {
        run.ask();
    }
    run
}

#[library_benchmark]
#[bench::a_hundred_events(GatewayRun::start(events(), b"\r\n0\r\n\r\n"))]
fn gateway_and_a_stream(mut run: GatewayRun) -> GatewayRun {
    for _ in 0..TIMES {
        run.ask();
    }
    run
}

#[library_benchmark]
#[bench::a_hundred_events_at_once(GatewayRun::start(events_at_once(), b"\r\n0\r\n\r\n"))]
fn gateway_and_a_burst(mut run: GatewayRun) -> GatewayRun {
    for _ in 0..TIMES {
        run.ask();
    }
    run
}

library_benchmark_group!(
    name = instructions,
    benchmarks = [
        gate,
        no_layers,
        five_layers,
        no_layers_and_a_stream,
        five_layers_and_a_stream,
        gateway,
        gateway_and_a_stream,
        gateway_and_a_burst
    ]
);
main!(library_benchmark_groups = instructions);
