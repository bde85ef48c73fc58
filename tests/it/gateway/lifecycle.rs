//! From the start to the end: what keeps it from starting, and what it finishes before it goes.

use std::{os::unix::fs::PermissionsExt, time::Duration};

use bytes::Bytes;
use http::Request;
use http_body_util::BodyExt;
use pacegate::simulator::Options;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UnixStream},
    time::{Instant, sleep},
};

use super::{assert_ok, dial, eventually, pair, plain, request, simulator, streamed};
use crate::support::{
    client::{send, send_over, whole},
    gateway::{Gateway, upstream},
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
        Some(pacegate::simulator::Outcome::Completed)
    );
}

#[tokio::test]
async fn sigterm_lets_those_in_the_queue_have_their_turn() {
    let pacing = "[upstream.jitter-throttle]\nmin-interval = \"700ms\"\njitter = \"0s..0s\"";
    let (_simulator, mut gateway) = pair(&[], pacing).await;
    let told = async {
        eventually("nobody waits", async || {
            gateway.metrics().await.sum("pacegate_queue_waiting") == 2
        })
        .await;
        gateway.terminate();
    };
    let chat = || gateway.chat(plain("m"));
    let (one, two, three, ()) = tokio::join!(chat(), chat(), chat(), told);
    for answer in [one, two, three] {
        assert_ok(&answer.unwrap());
    }
    assert_eq!(gateway.ended().await, Some(0));
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let (simulator, mut gateway) = pair(&["stall@1"], "").await;
    let mut client = dial(&gateway).await;
    let chat = request("POST /v1/chat/completions", JSON, &streamed("m"));
    client.write_all(&chat).await.unwrap();
    client.read_u8().await.unwrap();
    gateway.terminate();
    sleep(Duration::from_millis(100)).await;
    assert_eq!(simulator.in_flight(), 1, "the first signal cut the stream");
    let start = Instant::now();
    assert_eq!(gateway.stop().await, Some(1));
    assert!(start.elapsed() < Duration::from_secs(1));
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
