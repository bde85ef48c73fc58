//! From the start to the end: what keeps it from starting, and what it finishes before it goes.

use std::{os::unix::fs::PermissionsExt, time::Duration};

use bytes::Bytes;
use http::Request;
use http_body_util::BodyExt;
use pacegate::simulator::{Options, ResponseKind, Simulator};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UnixStream},
    time::{Instant, sleep},
};

use super::{
    assert_ok, assert_refused, dial, eventually, pair, plain, queued, request, simulator, streamed,
};
use crate::support::{
    client::{send, send_over, whole},
    gateway::{Gateway, upstream},
    lateness::Lateness,
};

const JSON: &str = "content-type: application/json\r\n";

#[tokio::test]
async fn a_port_in_use_is_named_with_a_hint() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap();
    let config = format!("listen = \"{address}\"\n") + &upstream("http://127.0.0.1:1/v1", "");
    let (code, said) = Gateway::fails(&config);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains(&address.to_string()), "{said}");
    assert!(
        said.contains("hint: ") && said.contains("--listen"),
        "{said}"
    );
}

#[tokio::test]
async fn a_config_that_cannot_be_used_ends_it_with_78() {
    for (config, words) in [
        ("no-such-key = 1\n", "no-such-key"),
        ("listen = \"0.0.0.0:0\"\n", "client key"),
    ] {
        let config = config.to_owned() + &upstream("http://127.0.0.1:1/v1", "");
        let (code, said) = Gateway::fails(&config);
        assert_eq!(code, Some(78), "{said}");
        assert!(said.contains(words) && said.contains("hint: "), "{said}");
    }
}

#[tokio::test]
async fn sigterm_lets_a_stream_finish_and_no_new_client_in() {
    let simulator = simulator(Options {
        chunks: 5,
        chunk_gap: Duration::from_millis(100),
        ..Options::default()
    })
    .await;
    let mut gateway = Gateway::start(&upstream(&simulator.base_url(), ""));
    let url = gateway.url("/v1/chat/completions");
    let chat = Request::post(url).header("content-type", "application/json");
    let response = send(chat.body(streamed("m").into()).unwrap())
        .await
        .unwrap();
    let mut idle = dial(&gateway).await;

    gateway.terminate();
    assert_eq!(
        idle.read(&mut [0; 1]).await.unwrap(),
        0,
        "an idle connection is kept"
    );
    TcpStream::connect(gateway.authority()).await.unwrap_err();
    let text = response.into_body().collect().await.unwrap().to_bytes();
    assert!(text.ends_with(b"data: [DONE]\n\n"));
    assert_eq!(gateway.ended().await, Some(0));
    assert_eq!(
        simulator.arrivals()[0].outcome,
        Some(pacegate::simulator::ResponseEnd::Completed)
    );
}

#[tokio::test]
async fn sigterm_tells_those_in_the_queue_to_ask_again_and_ends_what_has_left() {
    let pacing = "[upstream.jitter-throttle]\nmin-interval = \"60s\"\njitter = \"0s..0s\"";
    let simulator = simulator(Options {
        latency: Duration::from_millis(500),
        ..Options::default()
    })
    .await;
    let mut gateway = Gateway::start(&upstream(&simulator.base_url(), pacing));
    let told = async {
        eventually("nobody waits", async || {
            gateway.metrics().await.sum("pacegate_queue_waiting") == 2
        })
        .await;
        gateway.terminate();
    };
    let chat = || gateway.chat(plain("m"));
    let (one, two, three, ()) = tokio::join!(chat(), chat(), chat(), told);
    let answers = [one, two, three].map(Result::unwrap);
    let (done, queued): (Vec<_>, Vec<_>) = answers.iter().partition(|it| it.status == 200);
    assert_eq!((done.len(), queued.len()), (1, 2));
    for answer in queued {
        assert_refused(answer, 503, "draining");
        assert_eq!(answer.header("retry-after"), "5");
    }
    assert_eq!(simulator.arrivals().len(), 1);
    assert_eq!(gateway.ended().await, Some(0));
}

#[tokio::test]
async fn a_half_sent_head_or_body_does_not_hold_the_drain() {
    // So long that nobody waits for it.
    let simulator = simulator(Options::default()).await;
    let config = "drain-timeout = \"300s\"\n".to_owned() + &upstream(&simulator.base_url(), "");
    let mut gateway = Gateway::start(&config);
    let mut head = dial(&gateway).await;
    head.write_all(b"POST /v1/chat/completions HTTP/1.1\r\nhost: loc")
        .await
        .unwrap();
    let mut body = dial(&gateway).await;
    let whole = request("POST /v1/chat/completions", JSON, &plain("m"));
    body.write_all(&whole[..whole.len() - 1]).await.unwrap();
    eventually("the body is not being read", async || {
        gateway.metrics().await.sum("pacegate_requests_in_flight") == 2
    })
    .await;
    gateway.terminate();
    let mut read = Vec::new();
    assert_eq!(head.read_to_end(&mut read).await.unwrap_or(0), 0);
    body.read_to_end(&mut read).await.unwrap();
    let read = String::from_utf8(read).unwrap();
    assert!(read.starts_with("HTTP/1.1 503 "), "{read}");
    assert!(read.contains("retry-after: 5\r\n"), "{read}");
    assert_eq!(gateway.ended().await, Some(0));
}

/// As many requests at once as a test wants.
const AT_ONCE: &str = "jitter-throttle.concurrency = 100";

/// Clients whose answers lie in the sockets' buffers and the gateway's: of some the gateway has let go
/// already. Each comes with the size of its answer.
async fn tails(gateway: &Gateway, simulator: &Simulator) -> Vec<(TcpStream, usize)> {
    let mut clients = Vec::new();
    for size in (200_000..700_000).step_by(20_000) {
        let body = format!(r#"{{"model":"m","x":"{}"}}"#, "x".repeat(size));
        let mut client = dial(gateway).await;
        let chat = request("POST /v1/chat/completions", JSON, &body);
        client.write_all(&chat).await.unwrap();
        client.read_u8().await.unwrap();
        clients.push((client, body.len()));
    }
    eventually("no answer is in the buffers", async || {
        simulator.in_flight() < clients.len() / 2
    })
    .await;
    clients
}

async fn assert_whole(clients: Vec<(TcpStream, usize)>) {
    for (mut client, size) in clients {
        let mut read = Vec::new();
        client.read_to_end(&mut read).await.unwrap();
        let head = read.windows(4).position(|it| it == b"\r\n\r\n").unwrap();
        assert_eq!(read.len() - head - 4, size);
    }
}

#[tokio::test]
async fn a_client_that_reads_slowly_gets_all_of_its_answer_from_a_process_that_winds_down() {
    let simulator = simulator(Options {
        response: ResponseKind::Echo,
        ..Options::default()
    })
    .await;
    let config =
        "drain-timeout = \"300s\"\n".to_owned() + &upstream(&simulator.base_url(), AT_ONCE);
    let mut gateway = Gateway::start(&config);
    let clients = tails(&gateway, &simulator).await;
    gateway.terminate();
    gateway.logged("\"Draining\"").await;
    assert_whole(clients).await;
    assert_eq!(gateway.ended().await, Some(0));
}

#[tokio::test]
async fn a_client_that_reads_slowly_keeps_its_place_until_its_answer_is_whole() {
    let simulator = simulator(Options {
        response: ResponseKind::Echo,
        ..Options::default()
    })
    .await;
    let limits = "\n[limits]\nmax-connections = 25\n";
    let gateway = Gateway::start(&(upstream(&simulator.base_url(), AT_ONCE) + limits));
    let clients = tails(&gateway, &simulator).await;
    assert_eq!(clients.len(), 25);
    // They take the places of clients that are done, and then of one another.
    let mut newcomers = Vec::new();
    for _ in 0..30 {
        let mut newcomer = dial(&gateway).await;
        newcomer
            .write_all(b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\n\r\n")
            .await
            .unwrap();
        newcomer.read_u8().await.unwrap();
        newcomers.push(newcomer);
    }
    assert_whole(clients).await;
}

#[tokio::test]
async fn a_stream_that_outlasts_the_drain_is_broken_off_and_not_ended() {
    let simulator = simulator(Options {
        faults: vec!["stall@1".parse().unwrap()],
        ..Options::default()
    })
    .await;
    let config = "drain-timeout = \"300ms\"\n".to_owned() + &upstream(&simulator.base_url(), "");
    let mut gateway = Gateway::start(&config);
    let mut client = dial(&gateway).await;
    let chat = request("POST /v1/chat/completions", JSON, &streamed("m"));
    client.write_all(&chat).await.unwrap();
    client.read_u8().await.unwrap();
    gateway.terminate();
    let error = client.read_to_end(&mut Vec::new()).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!(gateway.ended().await, Some(0));
    gateway.logged("Breaking off").await;
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let simulator = simulator(Options {
        faults: vec!["stall@1".parse().unwrap()],
        ..Options::default()
    })
    .await;
    let config = "drain-timeout = \"300s\"\n".to_owned() + &upstream(&simulator.base_url(), "");
    let mut gateway = Gateway::start(&config);
    let mut client = dial(&gateway).await;
    let chat = request("POST /v1/chat/completions", JSON, &streamed("m"));
    client.write_all(&chat).await.unwrap();
    client.read_u8().await.unwrap();
    gateway.terminate();
    // Two signals at once would be one.
    gateway.logged("\"Stopping\"").await;
    sleep(Duration::from_millis(100)).await;
    assert_eq!(simulator.in_flight(), 1, "the first signal cut the stream");
    let lateness = Lateness::watch();
    let start = Instant::now();
    assert_eq!(gateway.stop().await, Some(1));
    lateness.assert_within("its end", start.elapsed(), Duration::from_secs(1));
}

#[tokio::test]
async fn a_connection_serves_one_request_after_another_and_so_does_the_upstreams() {
    let (simulator, gateway) = pair(&[], "").await;
    let mut client = dial(&gateway).await;
    let body = plain("m");
    for _ in 0..3 {
        let chat = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n{JSON}content-length: {}\
             \r\n\r\n{body}",
            body.len()
        );
        client.write_all(chat.as_bytes()).await.unwrap();
        let mut read = Vec::new();
        while !read.ends_with(b"}}") {
            assert_ne!(client.read_buf(&mut read).await.unwrap(), 0);
        }
    }
    let connections: Vec<_> = simulator
        .arrivals()
        .iter()
        .map(|it| it.connection)
        .collect();
    assert_eq!(connections, [1, 1, 1]);
}

#[tokio::test]
async fn a_unix_socket_answers_its_owner_only_and_is_removed_at_the_end() {
    let simulator = simulator(Options::default()).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pacegate.sock");
    // What a crashed process leaves behind is in nobody's way.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let config =
        format!("listen = \"unix:{}\"\n", path.display()) + &upstream(&simulator.base_url(), "");
    let mut gateway = Gateway::start_in(folder, &config);
    assert_eq!(gateway.address(), format!("unix:{}", path.display()));
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    let stream = UnixStream::connect(&path).await.unwrap();
    let chat = Request::post("http://localhost/v1/chat/completions")
        .header("content-type", "application/json")
        .body(Bytes::from(streamed("m")))
        .unwrap();
    let answer = whole(send_over(stream, chat).await.unwrap()).await.unwrap();
    assert_ok(&answer);
    assert!(answer.text().ends_with("data: [DONE]\n\n"));

    let (code, said) = Gateway::fails(&config);
    assert_eq!(code, Some(1), "{said}");
    assert!(path.exists(), "a second one took the socket away");

    assert_eq!(gateway.stop().await, Some(0));
    assert!(!path.exists());
}

#[tokio::test]
async fn a_state_dir_that_is_missing_and_cannot_be_made_is_told_and_the_gateway_goes_on() {
    let simulator = simulator(Options::default()).await;
    let quotas = "jitter-throttle.quotas = [{ requests = 9, per = \"day\", zone = \"UTC\" }]";
    let in_proc = "state-dir = \"/proc/self/state\"\n".to_owned();
    let gateway = Gateway::start(&(in_proc + &upstream(&simulator.base_url(), quotas)));
    assert_ok(&gateway.chat(plain("m")).await.unwrap());
    gateway.logged("Quotas are counted in memory only").await;
    gateway.logged("a restart forgets").await;
    gateway.logged("\"level\":\"WARN\"").await;
    assert_eq!(gateway.metrics().await.sum("pacegate_quota_used"), 1);
}

#[tokio::test]
async fn a_state_dir_that_stops_taking_counts_is_told_once_and_the_gateway_goes_on() {
    let simulator = simulator(Options::default()).await;
    let more = "jitter-throttle = { min-interval = \"0s\", jitter = \"0s..0s\", \
                quotas = [{ requests = 9, per = \"day\", zone = \"UTC\" }] }";
    let config = "state-dir = \"state\"\n".to_owned() + &upstream(&simulator.base_url(), more);
    let gateway = Gateway::start(&config);
    // A folder where the next file is to be written keeps root out, too; permissions would not.
    let temporary = gateway.folder().join("state/quotas-sim.json.tmp");
    std::fs::create_dir(&temporary).unwrap();
    for _ in 0..2 {
        assert_ok(&gateway.chat(plain("m")).await.unwrap());
    }
    let told = "a restart would forget what is spent from now on";
    gateway.logged(told).await;
    assert_eq!(gateway.log().matches(told).count(), 1);
    std::fs::remove_dir(&temporary).unwrap();
    assert_ok(&gateway.chat(plain("m")).await.unwrap());
    gateway.logged("Quota counts can be written again").await;
}

/// A gap so long that every request after the first waits, and a stream gets its headers at once.
const LONG_GAP: &str = "retry-on-429 = { max-hold = \"100ms\" }\n\
                        jitter-throttle = { min-interval = \"60s\", jitter = \"0s..0s\" }";

#[tokio::test]
async fn a_queued_stream_that_has_its_headers_is_told_of_the_shutdown_by_its_last_event() {
    let simulator = simulator(Options::default()).await;
    let mut gateway = Gateway::start(&upstream(&simulator.base_url(), LONG_GAP));
    assert_ok(&gateway.chat(plain("first")).await.unwrap());
    let mut waiting = dial(&gateway).await;
    let whole = request("POST /v1/chat/completions", JSON, &streamed("m"));
    waiting.write_all(&whole).await.unwrap();
    let mut read = vec![0; 4096];
    let mut text = String::new();
    while !text.contains(": queued place=1") {
        let length = waiting.read(&mut read).await.unwrap();
        assert!(length > 0, "{text}");
        text += &String::from_utf8_lossy(&read[..length]);
    }
    assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
    gateway.terminate();
    waiting.read_to_end(&mut read).await.unwrap();
    let rest = String::from_utf8_lossy(&read);
    assert!(rest.contains(r#""code":"draining""#), "{rest}");
    // A clean end: the event said all.
    assert!(rest.ends_with("0\r\n\r\n"), "{rest}");
    assert_eq!(gateway.ended().await, Some(0));
    assert_eq!(simulator.arrivals().len(), 1);
}

#[tokio::test]
async fn a_shutdown_reaches_those_who_wait_at_the_gate_of_an_earlier_config() {
    let simulator = simulator(Options::default()).await;
    let config = |pacing: &str| upstream(&simulator.base_url(), pacing);
    let gap = "jitter-throttle = { min-interval = \"60s\", jitter = \"0s..0s\" }";
    let mut gateway = Gateway::start(&config(gap));
    assert_ok(&gateway.chat(plain("first")).await.unwrap());
    let mut waiting = dial(&gateway).await;
    let whole = request("POST /v1/chat/completions", JSON, &plain("m"));
    waiting.write_all(&whole).await.unwrap();
    queued(&gateway, 1).await;
    gateway.reload(&config(
        "jitter-throttle = { min-interval = \"1s\", jitter = \"0s..0s\" }",
    ));
    gateway.logged("Config reloaded").await;
    gateway.terminate();
    let mut read = Vec::new();
    waiting.read_to_end(&mut read).await.unwrap();
    let read = String::from_utf8_lossy(&read);
    assert!(read.starts_with("HTTP/1.1 503 "), "{read}");
    assert!(read.contains("x-pacegate-error: draining\r\n"), "{read}");
    assert_eq!(gateway.ended().await, Some(0));
}
