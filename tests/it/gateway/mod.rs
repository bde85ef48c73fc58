//! The gateway over real sockets: the real program in front of the simulator, whose record says
//! what an upstream saw, and when.

// Always so here; it tells clippy that helpers of tests may unwrap as tests do.
#![cfg(test)]

use std::time::Duration;

use http::StatusCode;
use pacegate::simulator::{Arrival, Options, Simulator};
use sha2::{Digest, Sha256};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

use crate::support::{
    client::Answer,
    gateway::{Gateway, PATIENCE, upstream},
    lateness::Lateness,
};

mod crowd;
mod descriptors;
mod doors;
mod failures;
mod framing;
mod guard;
mod headers;
mod leaks;
mod leaving;
mod lifecycle;
mod limits;
mod listen_tls;
mod oddities;
mod offers;
mod pacing;
mod panics;
mod reload;
mod routing;
mod sessions;
mod slow;
mod storm;
mod streams;
mod tls;
mod tokens;
mod waiting;

/// A chat request for `model`.
fn plain(model: impl AsRef<str>) -> String {
    format!(r#"{{"model":"{}","messages":[]}}"#, model.as_ref())
}

/// The same, answered as a stream.
fn streamed(model: impl AsRef<str>) -> String {
    format!(
        r#"{{"model":"{}","messages":[],"stream":true}}"#,
        model.as_ref()
    )
}

async fn simulator(options: Options) -> Simulator {
    Simulator::start(options).await.unwrap()
}

/// A simulator with faults, and a gateway that paces nothing in front of it.
async fn pair(faults: &[&str], more: &str) -> (Simulator, Gateway) {
    let simulator = simulator(Options {
        faults: faults.iter().map(|fault| fault.parse().unwrap()).collect(),
        ..Options::default()
    })
    .await;
    let gateway = Gateway::start(&upstream(&simulator.base_url(), more));
    (simulator, gateway)
}

/// The chats among what arrived.
fn chats(simulator: &Simulator) -> Vec<Arrival> {
    let mut arrivals = simulator.arrivals();
    arrivals.retain(|arrival| arrival.target == "/v1/chat/completions");
    arrivals
}

fn models(arrivals: &[Arrival]) -> Vec<&str> {
    arrivals
        .iter()
        .map(|arrival| arrival.model.as_deref().unwrap())
        .collect()
}

/// Waits until nothing is open or under way on either side, which may take `limit`.
async fn assert_at_rest(gateway: &Gateway, simulator: &Simulator, limit: Duration) {
    let start = Instant::now();
    let lateness = Lateness::watch();
    loop {
        let metrics = gateway.metrics().await;
        let gauges = [
            // The scraper's own connection and request are counted too.
            metrics.sum("pacegate_connections") - 1,
            metrics.sum("pacegate_requests_in_flight") - 1,
            metrics.sum("pacegate_queue_waiting"),
            metrics.sum("pacegate_upstream_in_flight"),
            simulator.in_flight() as u64,
        ];
        if gauges == [0; 5] {
            return lateness.assert_within("coming to rest", start.elapsed(), limit);
        }
        assert!(start.elapsed() < PATIENCE, "{gauges:?} after {PATIENCE:?}");
        sleep(Duration::from_millis(5)).await;
    }
}

/// Milliseconds between one arrival and the next.
fn gaps_ms(arrivals: &[Arrival]) -> Vec<f64> {
    arrivals
        .windows(2)
        .map(|pair| (pair[1].at_us - pair[0].at_us) as f64 / 1000.0)
        .collect()
}

/// Checks that pacegate itself answered, and in which shape.
#[track_caller]
fn assert_refused(answer: &Answer, status: u16, code: &str) {
    assert_eq!(answer.status, status, "{}", answer.text());
    assert_eq!(answer.header("x-pacegate-error"), code);
    assert_eq!(answer.header("content-type"), "application/json");
    let body = answer.json();
    let error = &body["error"];
    assert_eq!(error["code"], code);
    assert!(error["type"].is_string() && error["param"].is_null());
    assert!(error["message"].as_str().unwrap().len() > 10, "{body}");
    assert_marked(answer);
}

/// Checks the headers that every answer carries.
#[track_caller]
fn assert_marked(answer: &Answer) {
    for name in ["x-pacegate-attempts", "x-pacegate-queued-ms"] {
        answer.header(name).parse::<u64>().unwrap();
    }
    assert!(!answer.header("x-request-id").is_empty());
}

#[track_caller]
fn assert_ok(answer: &Answer) {
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    assert_eq!(answer.header("x-pacegate-error"), "");
    assert_marked(answer);
}

fn sha256_hex(bytes: &[u8]) -> Option<String> {
    let digest = Sha256::digest(bytes);
    Some(digest.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Waits for something that has to come.
async fn eventually(what: &str, happened: impl AsyncFn() -> bool) {
    let waiting = async {
        while !happened().await {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, waiting).await.expect(what);
}

/// Waits until so many requests stand in the queue.
async fn queued(gateway: &Gateway, count: u64) {
    eventually("they do not wait", async || {
        gateway.metrics().await.sum("pacegate_queue_waiting") == count
    })
    .await;
}

/// A connection that is spoken by hand.
async fn dial(gateway: &Gateway) -> TcpStream {
    TcpStream::connect(gateway.authority()).await.unwrap()
}

/// Sends `bytes` as they are, and returns what comes until the gateway ends the connection.
async fn raw(gateway: &Gateway, bytes: &[u8]) -> String {
    let mut stream = dial(gateway).await;
    stream.write_all(bytes).await.unwrap();
    let mut read = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut read))
        .await
        .expect("the connection is kept")
        .unwrap();
    String::from_utf8(read).unwrap()
}

/// A whole request in text form, after which the connection ends.
fn request(line: &str, fields: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "{line} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {length}\r\n\
         {fields}\r\n{body}"
    )
    .into_bytes()
}
