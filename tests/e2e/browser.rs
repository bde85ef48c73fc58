//! A real web page, in a real browser, tries to use the gateway.
//!
//! `PACEGATE_CHROMIUM` names the browser; `tests/run` looks for it. The same page tries the same on
//! a server that lets everybody in: what does not reach the upstream behind the gateway could have.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    env, fs,
    net::SocketAddr,
    process::Command,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, Response, header};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use pacegate::simulator::{Options, Simulator};
use tokio::{
    net::TcpListener,
    sync::mpsc::{self, Sender},
    time::timeout,
};
use tokio_util::task::TaskTracker;

use crate::{
    gateway::{exchange, listening},
    program::Program,
};

const PAGE: &str = include_str!("browser/page.html");

/// A name that leads to this machine in the browser: what a rebound name is to a page.
const REBOUND: &str = "rebound.example";

/// A run takes ten seconds; the browser's start on a busy machine takes the most.
const PATIENCE: Duration = Duration::from_secs(120);

/// How each try on one server ended, as the page saw it.
type Outcomes = BTreeMap<String, String>;

/// Methods and targets of what came to the server that lets everybody in.
type Seen = Arc<Mutex<Vec<(Method, String)>>>;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_page_reaches_the_upstream_by_any_way_that_a_page_has() {
    let simulator = Simulator::start(Options::default()).await.unwrap();
    let home = tempfile::tempdir().unwrap();
    let config = format!(
        "listen = \"127.0.0.1:0\"\n\
         [[upstream]]\nname = \"sim\"\npreset = \"local\"\nbase-url = \"http://{}/v1\"\n",
        simulator.address()
    );
    fs::write(home.path().join("pacegate.toml"), config).unwrap();
    // No client key: the weakest that it can be.
    let mut gateway = Program::start(
        Command::new(env!("CARGO_BIN_EXE_pacegate"))
            .args(["serve", "--config"])
            .arg(home.path().join("pacegate.toml"))
            .env_clear()
            .env("HOME", home.path()),
        home.path(),
        "pacegate",
    );
    let address = listening(&mut gateway).await;
    let port = address.rsplit(':').next().unwrap();
    let seen = Seen::default();
    let open = open_server(Arc::clone(&seen)).await;

    let names = ["127.0.0.1", "localhost", REBOUND];
    let guarded = names.map(|name| format!("http://{name}:{port}"));
    let control = format!("http://{open}");
    let bases: Vec<_> = guarded.iter().chain([&control]).cloned().collect();
    let outcomes = browse(&bases).await;

    let of = |base: &str| -> Outcomes {
        let mine = |(key, outcome): (&String, &String)| {
            let name = key.strip_prefix(base)?.trim();
            Some((name.to_owned(), outcome.clone()))
        };
        outcomes.iter().filter_map(mine).collect()
    };
    let allowed = of(&control);
    assert_eq!(allowed.len(), 20, "{outcomes:#?}");
    let seen = seen.lock().unwrap().clone();
    for name in allowed.keys() {
        let came = |(method, target): &(Method, String)| {
            method != Method::OPTIONS && target.contains(name.as_str())
        };
        assert!(seen.iter().any(came), "{name} is no try: {seen:#?}");
    }
    assert!(seen.iter().any(|(method, _)| method == Method::OPTIONS));
    assert_eq!(allowed["fetch-get"], "read", "{allowed:#?}");
    assert_eq!(allowed["fetch-post-json"], "read", "{allowed:#?}");

    for base in &guarded {
        let outcomes = of(base);
        assert_eq!(outcomes.len(), allowed.len());
        for (name, outcome) in outcomes {
            assert_ne!(outcome, "read", "{base} {name}");
        }
    }
    let arrivals = simulator.arrivals();
    assert!(arrivals.is_empty(), "{arrivals:#?}");
    // And it was the gateway that refused them.
    let tries = allowed.len() * guarded.len();
    let answers = answers(&address);
    assert!(answers >= tries, "{answers} answers to {tries} tries");
    println!("{tries} tries, {answers} answers, 0 calls of the upstream");
}

#[tokio::test]
async fn no_answer_to_a_page_speaks_of_cors() {
    let home = tempfile::tempdir().unwrap();
    let mut gateway = Program::start(
        Command::new(env!("CARGO_BIN_EXE_pacegate"))
            .args(["--preset", "local", "--listen", "127.0.0.1:0"])
            .env_clear()
            .env("HOME", home.path()),
        home.path(),
        "pacegate",
    );
    let address = listening(&mut gateway).await;
    for (method, path) in [
        ("OPTIONS", "/v1/chat/completions"),
        ("OPTIONS", "*"),
        ("GET", "/v1/models"),
        ("GET", "/healthz"),
        ("POST", "/v1/chat/completions"),
    ] {
        let answer = exchange(
            &address,
            &format!(
                "{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\
                 origin: http://127.0.0.1:1\r\naccess-control-request-method: POST\r\n\
                 access-control-request-headers: content-type\r\n\
                 access-control-request-private-network: true\r\n\
                 content-length: 0\r\n\r\n"
            ),
        );
        assert!(
            answer.starts_with("HTTP/1.1 4"),
            "{method} {path}: {answer}"
        );
        let head = answer.to_ascii_lowercase();
        assert!(!head.contains("access-control-"), "{answer}");
    }
}

/// How many answers the gateway has given to requests, by its own count.
fn answers(address: &str) -> usize {
    let request = format!("GET /metrics HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    exchange(address, &request)
        .lines()
        .filter(|line| line.starts_with("pacegate_answers_total"))
        .map(|line| line.rsplit(' ').next().unwrap().parse::<usize>().unwrap())
        .sum()
}

/// Shows the page to the browser until it has tried everything on `bases`.
async fn browse(bases: &[String]) -> Outcomes {
    let binary = env::var_os("PACEGATE_CHROMIUM")
        .expect("PACEGATE_CHROMIUM names no browser; tests/run looks for one");
    let (tell, mut told) = mpsc::channel(1);
    let script = format!("const BASES = {};", serde_json::to_string(bases).unwrap());
    let page = PAGE.replacen("<script>", &format!("<script>{script}"), 1);
    let server = page_server(page, tell).await;
    let home = tempfile::tempdir().unwrap();
    let browser = Program::start(
        Command::new(binary)
            .args([
                "--headless=new",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
            ])
            .args([
                "--no-first-run",
                "--disable-background-networking",
                "--no-proxy-server",
            ])
            .arg(format!("--host-resolver-rules=MAP {REBOUND} 127.0.0.1"))
            .arg(format!(
                "--user-data-dir={}",
                home.path().join("profile").display()
            ))
            .arg(format!("http://{server}/"))
            .env("HOME", home.path()),
        home.path(),
        "chromium",
    );
    match timeout(PATIENCE, told.recv()).await {
        Ok(Some(outcomes)) => outcomes,
        _ => panic!("the page says nothing\n{}", browser.output()),
    }
}

/// Serves the page, and takes what it tells.
async fn page_server(page: String, tell: Sender<Outcomes>) -> SocketAddr {
    serve(move |request: Request<Incoming>| {
        let (page, tell) = (page.clone(), tell.clone());
        async move {
            if request.uri().path() == "/outcomes" {
                let body = request.into_body().collect().await.unwrap().to_bytes();
                tell.send(serde_json::from_slice(&body).unwrap())
                    .await
                    .unwrap();
                return Response::new(Full::default());
            }
            let mut response = Response::new(Full::new(Bytes::from(page)));
            let kind = header::HeaderValue::from_static("text/html");
            response.headers_mut().insert(header::CONTENT_TYPE, kind);
            response
        }
    })
    .await
}

/// A server that lets every page do everything, and writes down what came.
async fn open_server(seen: Seen) -> SocketAddr {
    serve(move |request: Request<Incoming>| {
        let (method, target) = (request.method().clone(), request.uri().to_string());
        let origin = request.headers().get(header::ORIGIN).cloned();
        seen.lock().unwrap().push((method, target));
        async move {
            let mut response = Response::builder()
                .header(header::ACCESS_CONTROL_ALLOW_METHODS, "GET, POST, DELETE")
                .header(
                    header::ACCESS_CONTROL_ALLOW_HEADERS,
                    "authorization, content-type, x-anything",
                )
                .header(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, "true")
                .header("access-control-allow-private-network", "true");
            if let Some(origin) = origin {
                response = response.header(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            }
            response.body(Full::new(Bytes::from_static(b"{}"))).unwrap()
        }
    })
    .await
}

async fn serve<S, F>(answer: S) -> SocketAddr
where
    S: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<Full<Bytes>>> + Send,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let tasks = TaskTracker::new();
    tasks.clone().spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let answer = answer.clone();
            tasks.spawn(async move {
                let service = service_fn(move |request| {
                    let answer = answer(request);
                    async move { Ok::<_, Infallible>(answer.await) }
                });
                // The browser goes when it has what it wants.
                let _gone = http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    });
    address
}
