//! Connections that are slow to set up, end early or die unseen.

use std::{error::Error, time::Duration};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use pacegate::simulator::{ConnectionOptions, Options, Simulator, TlsOptions};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, timeout},
};
use tokio_util::task::TaskTracker;

use super::{PLAIN, connections::connect, start};

/// Long enough to be told from what takes no time.
const DELAY: Duration = Duration::from_millis(200);

async fn hindered(connections: ConnectionOptions, faults: &[&str]) -> Simulator {
    start(Options {
        connections,
        faults: faults.iter().map(|fault| fault.parse().unwrap()).collect(),
        ..Options::default()
    })
    .await
}

fn request(simulator: &Simulator) -> Request<Full<Bytes>> {
    Request::post(format!("{}/chat/completions", simulator.base_url()))
        .header("host", "localhost")
        .body(PLAIN.into())
        .unwrap()
}

async fn http2(simulator: &Simulator) -> http2::SendRequest<Full<Bytes>> {
    let tcp = TcpStream::connect(simulator.address()).await.unwrap();
    let io = TokioIo::new(tcp);
    let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
    TaskTracker::new().spawn(connection);
    sender
}

async fn http1(simulator: &Simulator) -> http1::SendRequest<Full<Bytes>> {
    let tcp = TcpStream::connect(simulator.address()).await.unwrap();
    let (sender, connection) = http1::handshake(TokioIo::new(tcp)).await.unwrap();
    TaskTracker::new().spawn(connection);
    sender
}

#[tokio::test]
async fn delays_the_first_handshakes_and_no_other() {
    let simulator = start(Options {
        tls: Some(TlsOptions::default()),
        connections: ConnectionOptions {
            handshake_delay: DELAY,
            slow_handshakes: Some(1),
            ..ConnectionOptions::default()
        },
        ..Options::default()
    })
    .await;
    for slow in [true, false] {
        let start = Instant::now();
        connect(&simulator, "h2").await.unwrap();
        assert_eq!(start.elapsed() >= DELAY, slow, "{:?}", start.elapsed());
    }
}

#[tokio::test]
async fn holds_back_its_settings_while_it_reads_requests() {
    let simulator = hindered(
        ConnectionOptions {
            settings_delay: DELAY,
            max_concurrent_streams: Some(3),
            ..ConnectionOptions::default()
        },
        &[],
    )
    .await;
    let mut client = TcpStream::connect(simulator.address()).await.unwrap();
    let start = Instant::now();
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    client.write_all(preface).await.unwrap();
    let mut head = [0; 9];
    client.read_exact(&mut head).await.unwrap();
    assert!(start.elapsed() >= DELAY, "{:?}", start.elapsed());
    assert_eq!(head[3], 4, "the first frame is SETTINGS");
    let mut settings = vec![0; usize::from(head[2])];
    client.read_exact(&mut settings).await.unwrap();
    let most = [0, 3, 0, 0, 0, 3];
    assert!(settings.chunks(6).any(|one| one == most), "{settings:?}");

    let start = simulator.record_start().elapsed();
    let mut client = http2(&simulator).await;
    client.send_request(request(&simulator)).await.unwrap();
    let waited = simulator.record_start().elapsed() - start;
    let arrived = Duration::from_micros(simulator.arrivals()[0].at_us) - start;
    assert!(
        waited >= DELAY && arrived < DELAY,
        "{waited:?}, {arrived:?}"
    );
}

#[tokio::test]
async fn ends_a_connection_with_its_last_request() {
    let simulator = hindered(
        ConnectionOptions {
            max_requests: Some(2),
            ..ConnectionOptions::default()
        },
        &[],
    )
    .await;
    let mut client = http1(&simulator).await;
    for close in [false, true] {
        let answer = client.send_request(request(&simulator)).await.unwrap();
        assert_eq!(answer.headers().contains_key("connection"), close);
        answer.into_body().collect().await.unwrap();
    }
    let mut client = http2(&simulator).await;
    for _ in 0..2 {
        let answer = client.send_request(request(&simulator)).await.unwrap();
        answer.into_body().collect().await.unwrap();
    }
    let closed = async {
        while !client.is_closed() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(10 * DELAY, closed).await.expect("no GOAWAY");
    assert_eq!(simulator.arrivals().len(), 4);
}

#[tokio::test]
async fn falls_silent_after_so_many_requests_and_keeps_the_connection() {
    let simulator = hindered(
        ConnectionOptions {
            silent_after: Some(1),
            ..ConnectionOptions::default()
        },
        &[],
    )
    .await;
    let mut client = http1(&simulator).await;
    let answer = client.send_request(request(&simulator)).await.unwrap();
    answer.into_body().collect().await.unwrap();
    let dead = client.send_request(request(&simulator));
    timeout(DELAY, dead).await.unwrap_err();

    let mut client = http2(&simulator).await;
    let answer = client.send_request(request(&simulator)).await.unwrap();
    answer.into_body().collect().await.unwrap();
    let dead = client.send_request(request(&simulator));
    timeout(DELAY, dead).await.unwrap_err();
    assert!(!client.is_closed());
    assert_eq!(simulator.arrivals().len(), 2);
}

#[tokio::test]
async fn resets_a_stream_with_an_error_code_before_the_head() {
    for (fault, reason) in [
        ("every2/refused-stream", h2::Reason::REFUSED_STREAM),
        ("every2/http-1-1-required", h2::Reason::HTTP_1_1_REQUIRED),
        ("every2/enhance-your-calm", h2::Reason::ENHANCE_YOUR_CALM),
    ] {
        let simulator = hindered(ConnectionOptions::default(), &[fault]).await;
        let mut client = http2(&simulator).await;
        for number in 1..=4 {
            let answer = client.send_request(request(&simulator)).await;
            if number % 2 == 1 {
                answer.unwrap().into_body().collect().await.unwrap();
                continue;
            }
            let error = answer.unwrap_err();
            let error = error.source().unwrap().downcast_ref::<h2::Error>().unwrap();
            assert!(error.is_remote() && error.is_reset(), "{error}");
            assert_eq!(error.reason(), Some(reason));
        }
        let answered = simulator
            .arrivals()
            .iter()
            .filter(|it| it.status == Some(200))
            .count();
        assert_eq!(answered, 2, "they share a connection, which goes on");
        http1(&simulator)
            .await
            .send_request(request(&simulator))
            .await
            .unwrap();
        http1(&simulator)
            .await
            .send_request(request(&simulator))
            .await
            .unwrap_err();
    }
}
