//! A gateway that may open few files.

use http::Request;
use pacegate::simulator::{Options, Simulator};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UnixStream},
    time::timeout,
};

use super::{
    assert_ok, dial,
    limits::{assert_served, crowd},
    listen_tls::{LISTEN_TLS, certificate, dial_tls},
    plain, request, simulator,
};
use crate::support::{
    client::{send_over, whole},
    gateway::{Gateway, PATIENCE, upstream},
};

const JSON: &str = "content-type: application/json\r\n";

/// No connection ends because its time is over.
const PATIENT: &str = "first-byte-timeout = \"300s\"\nheader-timeout = \"300s\"\n";

/// The config for a simulator that never ends a stream.
fn config(simulator: &Simulator, limits: &str) -> String {
    let at_once = "jitter-throttle.concurrency = 1000\nretry-on-429.max-retries = 0";
    format!(
        "{}[limits]\n{limits}\n",
        upstream(&simulator.base_url(), at_once)
    )
}

async fn endless() -> Simulator {
    pacegate::process::raise_descriptor_limit().unwrap();
    simulator(Options {
        faults: vec!["every/stall@1".parse().unwrap()],
        ..Options::default()
    })
    .await
}

#[tokio::test]
async fn what_two_descriptors_a_stream_leave_no_room_for_is_told_so() {
    let simulator = endless().await;
    let gateway = Gateway::start_with_descriptors(256, &config(&simulator, ""));
    assert_served(&crowd(&gateway, 150).await, 82);
    let log = gateway.log();
    assert_eq!(log.matches("lowered from 512 to 82").count(), 1, "{log}");
    assert!(!log.contains("Too many open files"), "{log}");
}

#[tokio::test]
async fn a_reload_that_asks_for_more_than_there_is_gets_what_there_is() {
    let simulator = endless().await;
    let few = config(&simulator, "max-connections = 10");
    let gateway = Gateway::start_with_descriptors(256, &few);
    assert!(!gateway.log().contains("lowered"));
    gateway.reload(&config(&simulator, "max-connections = 500"));
    gateway.logged("Config reloaded").await;
    assert!(gateway.log().contains("lowered from 500 to 82"));
    assert_served(&crowd(&gateway, 100).await, 82);
}

#[tokio::test]
async fn with_sixty_four_descriptors_silent_connections_keep_nobody_out() {
    let simulator = endless().await;
    let gateway = Gateway::start_with_descriptors(64, &config(&simulator, PATIENT));
    let mut silent = Vec::new();
    for _ in 0..10 {
        for _ in 0..10 {
            silent.push(dial(&gateway).await);
        }
        assert_eq!(gateway.get("/v1/models").await.status, 200);
    }
    assert!(!gateway.log().contains("No file descriptor"));
}

/// Where clients connect.
#[derive(Clone, Copy, Debug)]
enum Door {
    Tcp,
    Tls,
    Unix,
}

#[tokio::test]
async fn where_no_descriptor_is_left_the_oldest_silent_connection_makes_room_for_a_client() {
    for door in [Door::Tcp, Door::Tls, Door::Unix] {
        let simulator = endless().await;
        let folder = tempfile::tempdir().unwrap();
        let pem = certificate(folder.path());
        let socket = folder.path().join("s");
        let listen = match door {
            Door::Tcp => String::new(),
            Door::Tls => LISTEN_TLS.to_owned(),
            Door::Unix => format!("listen = \"unix:{}\"\n", socket.display()),
        };
        let config = listen + &config(&simulator, PATIENT);
        let gateway = Gateway::start_in(folder, &config);
        // Other programs may take what was free at the start, so this can happen at any time.
        gateway.limit_descriptors(Some(40));
        let (mut tcp, mut unix) = (Vec::new(), Vec::new());
        for _ in 0..60 {
            match door {
                Door::Unix => unix.push(UnixStream::connect(&socket).await.unwrap()),
                Door::Tcp | Door::Tls => {
                    let (_, authority) = gateway.address().split_once("://").unwrap();
                    tcp.push(TcpStream::connect(authority).await.unwrap());
                }
            }
        }
        let models = Request::get("http://localhost/v1/models");
        let models = models.body(bytes::Bytes::new()).unwrap();
        let asking = async {
            match door {
                Door::Tcp => send_over(dial(&gateway).await, models).await,
                Door::Tls => {
                    let stream = dial_tls(&gateway, &pem, &[]).await.unwrap();
                    send_over(stream, models).await
                }
                Door::Unix => send_over(UnixStream::connect(&socket).await.unwrap(), models).await,
            }
        };
        let answer = timeout(PATIENCE, asking).await;
        let answer = answer.unwrap_or_else(|_| panic!("{door:?}: it waits"));
        assert_ok(&whole(answer.unwrap()).await.unwrap());
        gateway.logged("No file descriptor").await;
        let reports = gateway.log().matches("No file descriptor").count();
        assert_eq!(reports, 1, "{door:?}: {}", gateway.log());
    }
}

#[tokio::test]
async fn a_connection_to_the_upstream_that_finds_no_descriptor_is_not_the_upstreams_fault() {
    let simulator = simulator(Options::default()).await;
    let gateway = Gateway::start(&config(&simulator, ""));
    let mut client = dial(&gateway).await;
    let chat = request("POST /v1/chat/completions", JSON, &plain("m"));
    let (head, rest) = chat.split_at(chat.len() - 1);
    client.write_all(head).await.unwrap();
    // The request is under way, and with it the scraper's own.
    super::eventually("it is not begun", async || {
        gateway.metrics().await.sum("pacegate_requests_in_flight") == 2
    })
    .await;
    gateway.limit_descriptors(Some(3));
    client.write_all(rest).await.unwrap();
    let mut answer = String::new();
    timeout(PATIENCE, client.read_to_string(&mut answer))
        .await
        .expect("no answer")
        .unwrap();
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(answer.contains("x-pacegate-error: overloaded"), "{answer}");
    assert!(answer.contains("limit on open files"), "{answer}");

    gateway.limit_descriptors(None);
    assert_ok(&gateway.chat(plain("m")).await.unwrap());
    assert_eq!(simulator.arrivals().len(), 1);
}
