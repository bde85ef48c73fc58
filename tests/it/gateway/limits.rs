//! Every bound of `[limits]`, over the real program: what just fits passes, one more does not.

use std::{io::Write, time::Duration};

use futures_util::future::join_all;
use pacegate::simulator::{Options, ResponseKind};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};

use super::{
    assert_ok, assert_refused, dial, eventually, pair, plain, raw, request, simulator, streamed,
};
use crate::support::{
    client,
    gateway::{Gateway, PATIENCE, upstream},
    lateness::Lateness,
};

const JSON: &str = "content-type: application/json\r\n";

/// A gateway with these `[limits]` in front of a simulator that never ends a stream.
async fn limited(limits: &str) -> (pacegate::simulator::Simulator, Gateway) {
    let simulator = simulator(Options {
        faults: vec!["stall@1".parse().unwrap(); 64],
        ..Options::default()
    })
    .await;
    let config = upstream(&simulator.base_url(), "") + "[limits]\n" + limits + "\n";
    let gateway = Gateway::start(&config);
    (simulator, gateway)
}

/// Begins a stream that does not end, and reads the beginning of its answer.
async fn busy(gateway: &Gateway) -> TcpStream {
    let mut client = dial(gateway).await;
    let chat = request("POST /v1/chat/completions", JSON, &streamed("m"));
    client.write_all(&chat).await.unwrap();
    client.read_u8().await.unwrap();
    client
}

/// The beginnings of the answers to so many streams, all of which stay open. Twenty arrive at a
/// time, each with its request: one without would be evicted for the next.
pub(super) async fn crowd(gateway: &Gateway, count: usize) -> Vec<(String, TcpStream)> {
    let chat = request("POST /v1/chat/completions", JSON, &streamed("m"));
    let mut answers = Vec::new();
    while answers.len() < count {
        let burst = (count - answers.len()).min(20);
        let clients: Vec<_> = (0..burst)
            .map(|_| {
                let mut client = std::net::TcpStream::connect(gateway.authority()).unwrap();
                client.write_all(&chat).unwrap();
                client.set_nonblocking(true).unwrap();
                client
            })
            .collect();
        answers.extend(join_all(clients.into_iter().map(head_of)).await);
    }
    answers
}

/// Reads the head of the answer.
async fn head_of(client: std::net::TcpStream) -> (String, TcpStream) {
    let mut client = TcpStream::from_std(client).unwrap();
    let mut head = Vec::new();
    while !head.windows(4).any(|it| it == b"\r\n\r\n") {
        let read = timeout(PATIENCE, client.read_buf(&mut head)).await;
        assert_ne!(read.expect("no answer").unwrap(), 0, "closed unanswered");
    }
    (String::from_utf8(head).unwrap(), client)
}

/// Checks that so many of the answers are streams, and the others 503s with their reason.
#[track_caller]
pub(super) fn assert_served(answers: &[(String, TcpStream)], expected: usize) {
    let mut served = 0;
    for (head, _) in answers {
        if head.starts_with("HTTP/1.1 200 ") {
            served += 1;
        } else {
            assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
            assert!(head.contains("x-pacegate-error: overloaded"), "{head}");
        }
    }
    assert_eq!(served, expected);
}

/// Whether the gateway ends the connection.
async fn is_closed(client: &mut TcpStream) -> bool {
    let mut rest = Vec::new();
    let end = client.read_to_end(&mut rest);
    // A reset is an end, too.
    timeout(PATIENCE, end).await.is_ok()
}

fn status(answer: &str) -> &str {
    answer.get(9..12).unwrap_or(answer)
}

/// `GET /v1/models` with a target of this length and, `host` and `connection` included, so many
/// fields of so many bytes together.
fn head(target: usize, fields: usize, size: usize) -> Vec<u8> {
    let path = "/v1/models?";
    let mut head = format!("GET {path}{} HTTP/1.1\r\n", "q".repeat(target - path.len()));
    let line = head.len();
    head += "host: localhost\r\nconnection: close\r\n";
    for number in 0..fields - 3 {
        head += &format!("x-{number:04}: v\r\n");
    }
    let large = "x-large: ";
    let rest = size - (head.len() - line) - large.len() - 2;
    head += &format!("{large}{}\r\n\r\n", "v".repeat(rest));
    head.into_bytes()
}

#[tokio::test]
async fn the_largest_head_is_served_and_anything_more_is_refused_with_its_reason() {
    let (_simulator, gateway) = pair(&[], "").await;
    const KIB: usize = 1024;
    let (target, fields, size) = (8 * KIB, 64, 32 * KIB);
    let answer = raw(&gateway, &head(target, fields, size)).await;
    assert_eq!(status(&answer), "200", "{answer}");
    for (head, code, key) in [
        (head(target + 1, fields, size), "414", "max-target"),
        (head(target, fields + 1, size), "431", "max-header-fields"),
        (head(target, fields, size + 1), "431", "max-header-size"),
    ] {
        let answer = raw(&gateway, &head).await;
        assert_eq!(status(&answer), code, "{answer}");
        assert!(
            answer.contains("x-pacegate-error: request_too_large"),
            "{answer}"
        );
        assert!(answer.contains(key), "{answer}");
    }
    // What does not end is read for a while, for the answer's sake, and kept by nobody.
    let mut client = dial(&gateway).await;
    let flood = async {
        client.write_all(b"GET / HTTP/1.1\r\nx: ").await?;
        for _ in 0..10 * 1024 {
            client.write_all(&[b'v'; 64 * KIB]).await?;
        }
        Ok::<_, std::io::Error>(())
    };
    flood.await.unwrap_err();
}

#[tokio::test]
async fn bodies_together_have_a_limit_that_leaves_with_them() {
    let body = streamed("m");
    let most = 3 * body.len();
    let limits = format!("max-bodies = \"{most}B\"");
    let simulator = simulator(Options {
        faults: vec!["stall".parse().unwrap(); 3],
        ..Options::default()
    })
    .await;
    let config = format!(
        "max-body = \"{most}B\"\n{}[limits]\n{limits}\n",
        upstream(&simulator.base_url(), "")
    );
    let gateway = Gateway::start(&config);
    // Until its head comes, an answer may need its request again.
    let chat = || gateway.chat(body.clone());
    let one_more = async {
        eventually("three are not held", async || {
            gateway.metrics().await.sum("pacegate_upstream_in_flight") == 3
        })
        .await;
        gateway.chat(body.clone()).await
    };
    let refused = tokio::select! {
        _ = async { tokio::join!(chat(), chat(), chat()) } => panic!("they are held"),
        refused = one_more => refused.unwrap(),
    };
    assert_refused(&refused, 503, "overloaded");
    assert_eq!(refused.header("retry-after"), "1");
    // The three have left.
    eventually("their room stays taken", async || {
        chat().await.unwrap().status == 200
    })
    .await;
    assert_ok(&chat().await.unwrap());
}

#[tokio::test]
async fn one_connection_more_costs_an_idle_one_and_where_none_is_idle_it_is_told() {
    let (_simulator, gateway) = limited("max-connections = 3").await;
    let mut idle = dial(&gateway).await;
    idle.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .await
        .unwrap();
    idle.read_u8().await.unwrap();
    let _streams = [busy(&gateway).await, busy(&gateway).await];
    let third = busy(&gateway).await;
    assert!(is_closed(&mut idle).await, "the idle one kept its place");
    let answer = gateway.chat(streamed("m")).await.unwrap();
    assert_refused(&answer, 503, "overloaded");
    assert_eq!(answer.header("retry-after"), "1");
    assert_eq!(answer.header("connection"), "close");
    assert_eq!(
        gateway.get("/healthz").await.text(),
        "ok\n",
        "a probe is answered"
    );
    drop(third);
    eventually("its place stays taken", async || {
        gateway.get("/v1/models").await.status == 200
    })
    .await;
}

#[tokio::test]
async fn a_crowd_of_silent_connections_keeps_nobody_out() {
    // Not because their time is over.
    let limits = "max-connections = 8\nfirst-byte-timeout = \"300s\"\nheader-timeout = \"300s\"";
    let (_simulator, gateway) = limited(limits).await;
    let mut crowd = Vec::new();
    for number in 0..40 {
        let mut silent = dial(&gateway).await;
        if number % 2 == 0 {
            silent.write_all(b"GET /v1/mod").await.unwrap();
        }
        crowd.push(silent);
        if number % 10 == 9 {
            assert_eq!(gateway.get("/v1/models").await.status, 200);
        }
    }
    let mut first = crowd.swap_remove(0);
    assert!(is_closed(&mut first).await);
}

#[tokio::test]
async fn of_a_burst_beyond_the_limit_every_client_gets_an_answer() {
    let simulator = simulator(Options {
        faults: vec!["every/stall@1".parse().unwrap()],
        ..Options::default()
    })
    .await;
    let at_once = upstream(&simulator.base_url(), "jitter-throttle.concurrency = 1000");
    let gateway = Gateway::start(&(at_once + "[limits]\nmax-connections = 25\n"));
    assert_served(&crowd(&gateway, 60).await, 25);
}

#[tokio::test]
async fn whoever_is_silent_or_slow_before_the_head_is_closed() {
    let limits = "first-byte-timeout = \"300ms\"\nheader-timeout = \"400ms\"\nkeep-alive-timeout = \"500ms\"";
    let (_simulator, gateway) = limited(limits).await;
    let mut silent = dial(&gateway).await;
    let mut slow = dial(&gateway).await;
    let mut kept = dial(&gateway).await;
    kept.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .await
        .unwrap();
    let dripping = async {
        for _ in 0..1000 {
            if slow.write_all(b"G").await.is_err() {
                return true;
            }
            sleep(Duration::from_millis(20)).await;
        }
        false
    };
    let (silent, slow, kept) = tokio::join!(is_closed(&mut silent), dripping, is_closed(&mut kept));
    assert!(silent && slow && kept, "{silent} {slow} {kept}");
}

#[tokio::test]
async fn a_body_that_stops_or_trickles_is_answered_and_closed() {
    let limits = "body-idle-timeout = \"2s\"\nbody-timeout = \"3s\"";
    let (simulator, gateway) = limited(limits).await;
    let lateness = Lateness::watch();
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n{JSON}content-length: 1000\r\n\r\n{{"
    );
    for (gap, words) in [
        (PATIENCE, "stopped arriving"),
        (Duration::from_millis(50), "body-timeout"),
    ] {
        let mut client = dial(&gateway).await;
        client.write_all(head.as_bytes()).await.unwrap();
        let (mut answer, mut body) = client.into_split();
        let trickle = async {
            loop {
                sleep(gap).await;
                let _closed = body.write_all(b" ").await;
            }
        };
        let mut read = [0; 2048];
        let length = tokio::select! {
            length = answer.read(&mut read) => length.unwrap(),
            () = trickle => unreachable!(),
        };
        let answer = String::from_utf8_lossy(&read[..length]);
        assert_eq!(status(&answer), "408", "{answer}");
        let margin = Duration::from_secs(1);
        assert!(
            answer.contains(words) || lateness.excuses("a body that trickles", margin),
            "{answer}"
        );
    }
    assert!(simulator.arrivals().is_empty());
}

#[tokio::test]
async fn an_answer_that_nobody_reads_is_given_up() {
    let simulator = simulator(Options {
        response: ResponseKind::Blob(64 << 20),
        ..Options::default()
    })
    .await;
    let limits = "[limits]\nwrite-timeout = \"600ms\"\n";
    let gateway = Gateway::start(&(upstream(&simulator.base_url(), "") + limits));
    let mut client = dial(&gateway).await;
    let chat = request("POST /v1/chat/completions", JSON, &plain("m"));
    client.write_all(&chat).await.unwrap();
    // The scraper's own is counted, too.
    eventually("it is kept", async || {
        gateway.metrics().await.sum("pacegate_requests_in_flight") == 1
    })
    .await;
    let error = client.read_to_end(&mut Vec::new()).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    eventually("the upstream goes on for nobody", async || {
        simulator.in_flight() == 0
    })
    .await;
}

/// Answers one chat with a head whose fields take so many bytes, line ends included.
async fn upstream_with_head(size: usize) -> client::Answer {
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}/v1", server.local_addr().unwrap());
    let gateway = Gateway::start(&upstream(
        &base,
        "max-head = \"20KiB\"\nretry-on-429.max-retries = 0",
    ));
    let serving = async {
        let (mut socket, _) = server.accept().await.unwrap();
        let mut read = Vec::new();
        while !read.ends_with(b"}") {
            assert_ne!(socket.read_buf(&mut read).await.unwrap(), 0);
        }
        let fields = "content-length: 2\r\nx-large: ";
        let large = "v".repeat(size - fields.len() - 4);
        let answer = format!("HTTP/1.1 200 OK\r\n{fields}{large}\r\n\r\nok");
        socket.write_all(answer.as_bytes()).await.unwrap();
        socket
    };
    let (answer, _socket) = tokio::join!(gateway.chat(plain("m")), serving);
    answer.unwrap()
}

#[tokio::test]
async fn the_largest_head_of_an_upstream_passes_and_one_byte_more_does_not() {
    const MOST: usize = 20 * 1024;
    assert_ok(&upstream_with_head(MOST).await);
    for size in [MOST + 1, MOST + 4096, 4 * MOST] {
        let answer = upstream_with_head(size).await;
        assert_refused(&answer, 502, "upstream_unreachable");
        assert!(
            answer.text().contains("max-head"),
            "{size}: {}",
            answer.text()
        );
    }
}
