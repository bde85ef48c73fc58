//! All layers around an HTTP client that does not know them: hyper-util's, over real sockets.

// Always true here; it tells clippy that test helpers may unwrap.
#![cfg(test)]

use std::{
    collections::VecDeque,
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::{
    client::legacy::Client,
    rt::{TokioExecutor, TokioIo},
};
use pacegate_layers::{
    BearerAuthLayer, HeaderAlignLayer, JitterThrottleLayer, RetryOn429Layer, TokenRefreshLayer,
    error::BoxError,
    header_align::Rule,
    pacing::{Gate, Pacing},
    token::{BearerToken, TokenFuture, TokenSource},
};
use parking_lot::Mutex;
use rand::{SeedableRng, rngs::StdRng};
use tokio::{net::TcpListener, task::JoinSet, time::Instant};
use tower::{ServiceBuilder, ServiceExt};

/// The shortest wait that retry-on-429 begins; the upstream asks for less.
const WAIT: Duration = Duration::from_secs(1);

/// What the upstream saw of one attempt.
struct Arrival {
    at: Instant,
    headers: HeaderMap,
}

/// Responds with the given statuses, then with 200. Shuts down when dropped.
struct Upstream {
    address: SocketAddr,
    arrivals: Arc<Mutex<Vec<Arrival>>>,
    _connections: JoinSet<()>,
}

/// A token source that counts refreshes; each one yields the next token.
#[derive(Clone, Default)]
struct Source(Arc<AtomicU64>);

// === impl Upstream ===

impl Upstream {
    async fn start(refusals: &[StatusCode]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let arrivals = Arc::<Mutex<Vec<_>>>::default();
        let seen = Arc::clone(&arrivals);
        let refusals = Arc::new(Mutex::new(VecDeque::from(refusals.to_vec())));
        let mut connections = JoinSet::new();
        connections.spawn(async move {
            let mut each = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (seen, refusals) = (Arc::clone(&seen), Arc::clone(&refusals));
                let answer = service_fn(move |request: Request<Incoming>| {
                    let status = refusals.lock().pop_front().unwrap_or(StatusCode::OK);
                    let (head, body) = request.into_parts();
                    seen.lock().push(Arrival {
                        at: Instant::now(),
                        headers: head.headers,
                    });
                    async move {
                        let body = body.collect().await.unwrap().to_bytes();
                        let mut response = Response::new(Full::new(body));
                        *response.status_mut() = status;
                        let soon = HeaderValue::from_static("100");
                        response.headers_mut().insert("retry-after-ms", soon);
                        Ok::<_, Infallible>(response)
                    }
                });
                each.spawn(async move {
                    let connection = http1::Builder::new();
                    let _ended = connection
                        .serve_connection(TokioIo::new(stream), answer)
                        .await;
                });
            }
        });
        Self {
            address,
            arrivals,
            _connections: connections,
        }
    }

    /// Sends one request through all layers.
    async fn ask(&self, source: &Source) -> Response<Bytes> {
        let gate = Gate::new(Pacing::new(), StdRng::seed_from_u64(1));
        let set = |value| Rule::Set(HeaderValue::from_static(value));
        let align = HeaderAlignLayer::new()
            .field(header::ACCEPT, set("application/json"))
            .field(header::AUTHORIZATION, Rule::Place)
            .field(header::USER_AGENT, set("aligned/1"))
            .pass(header::CONTENT_TYPE)
            .unwrap();
        let service = ServiceBuilder::new()
            .layer(RetryOn429Layer::default().feedback(gate.clone()))
            .layer(TokenRefreshLayer::new(source.clone()))
            .layer(JitterThrottleLayer::new(gate).feedback_from_outside())
            .layer(align)
            .layer(BearerAuthLayer::new(source.clone()))
            .service(Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>());
        let request = Request::post(format!("http://{}/v1/chat/completions", self.address))
            .header("user-agent", "client/9")
            .header("content-type", "application/json")
            .header("cookie", "the client's")
            .header("authorization", "Bearer the-client's")
            .header("x-session-id", "the client's")
            .header("accept", "*/*")
            .body(Full::new(Bytes::from_static(b"{\"model\":\"m\"}")))
            .unwrap();
        let response: Result<_, BoxError> = service.oneshot(request).await;
        let (head, body) = response.unwrap().into_parts();
        Response::from_parts(head, body.collect().await.unwrap().to_bytes())
    }

    fn tokens(&self) -> Vec<String> {
        let arrivals = self.arrivals.lock();
        let token = |arrival: &Arrival| arrival.headers["authorization"].to_str().unwrap().into();
        arrivals.iter().map(token).collect()
    }
}

// === impl Source ===

impl Source {
    fn current(&self) -> BearerToken {
        let generation = self.0.load(Ordering::SeqCst);
        BearerToken::new(&format!("t{generation}"), generation).unwrap()
    }
}

impl TokenSource for Source {
    fn token(&self) -> TokenFuture {
        TokenFuture::ready(Ok(self.current()))
    }

    fn refresh(&self, _stale: &BearerToken) -> TokenFuture {
        self.0.fetch_add(1, Ordering::SeqCst);
        let this = self.clone();
        TokenFuture::wait(async move { Ok(this.current()) })
    }
}

#[tokio::test]
async fn headers_arrive_aligned_and_in_order() {
    let upstream = Upstream::start(&[]).await;
    let response = upstream.ask(&Source::default()).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.body(), "{\"model\":\"m\"}");
    let arrivals = upstream.arrivals.lock();
    let names = arrivals[0].headers.keys().map(HeaderName::as_str);
    let (of_the_client, of_the_list): (Vec<_>, Vec<_>) =
        names.partition(|name| ["content-length", "host"].contains(name));
    assert_eq!(
        of_the_list,
        ["accept", "authorization", "user-agent", "content-type"]
    );
    assert_eq!(of_the_client.len(), 2, "what the HTTP client adds");
    assert_eq!(arrivals[0].headers["user-agent"], "aligned/1");
    assert_eq!(arrivals[0].headers["authorization"], "Bearer t0");
}

#[tokio::test]
async fn a_401_causes_one_refresh_and_one_replay() {
    let upstream = Upstream::start(&[StatusCode::UNAUTHORIZED]).await;
    let source = Source::default();
    let response = upstream.ask(&source).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.body(), "{\"model\":\"m\"}", "the replay is whole");
    assert_eq!(upstream.tokens(), ["Bearer t0", "Bearer t1"]);
}

#[tokio::test]
async fn a_429_is_waited_out_and_the_retry_is_the_same_request() {
    let refusals = [StatusCode::TOO_MANY_REQUESTS, StatusCode::UNAUTHORIZED];
    let upstream = Upstream::start(&refusals).await;
    let response = upstream.ask(&Source::default()).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(
        upstream.tokens(),
        ["Bearer t0", "Bearer t0", "Bearer t1"],
        "a retry may be replayed as well"
    );
    let arrivals = upstream.arrivals.lock();
    // No earlier: the wait begins after the first arrival. A busy machine may be later.
    assert!(arrivals[1].at - arrivals[0].at >= WAIT);
    let fields = |arrival: &Arrival| -> Vec<_> {
        let fields = arrival.headers.iter();
        fields
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect()
    };
    assert_eq!(fields(&arrivals[1]), fields(&arrivals[0]));
}
