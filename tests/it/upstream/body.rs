//! What a reader of a response body sees, and when.

use std::time::Duration;

use bytes::Bytes;
use http_body::Body;
use http_body_util::BodyExt;
use pacegate::client::{
    Client,
    error::{IdleTimeout, Truncated},
};
use tokio::{join, time::Instant};

use super::support::*;
use crate::support::lateness::Lateness;

#[tokio::test]
async fn a_chunk_is_seen_before_the_next_one_is_sent() {
    let server = Server::bind().await;
    let client = client(&server);
    let (seen, proof) = tokio::sync::oneshot::channel();
    let serving = async {
        let (mut peer, _) = server.answer(CHUNKED).await;
        peer.send(&chunk("one")).await;
        proof.await.unwrap();
        peer.send(&format!("{}0\r\n\r\n", chunk("two"))).await;
        peer
    };
    let reading = async {
        let mut body = post(&client, "{}").await.unwrap().into_body();
        assert_eq!(data(&mut body).await, "one");
        seen.send(()).unwrap();
        assert_eq!(data(&mut body).await, "two");
        assert!(frame(&mut body).await.is_none());
        assert!(frame(&mut body).await.is_none(), "an end stays an end");
    };
    join!(serving, reading);
}

#[tokio::test]
async fn trailers_come_after_the_data_and_the_connection_is_kept() {
    let server = Server::bind().await;
    let client = client(&server);
    let head = "HTTP/1.1 200 OK\r\ntrailer: x-sum\r\ntransfer-encoding: chunked\r\n\r\n";
    let answer = format!("{head}{}{}0\r\nx-sum: 7\r\n\r\n", chunk("a"), chunk("b"));
    let ((_peer, _), response) = join!(server.answer(&answer), post(&client, "{}"));
    let body = response.unwrap().into_body().collect().await.unwrap();
    assert_eq!(body.trailers().unwrap()["x-sum"], "7");
    assert_eq!(body.to_bytes(), "ab");
    assert_eq!(client.idle_connections(), 1);
}

#[tokio::test]
async fn the_length_is_passed_on_and_counts_down() {
    let server = Server::bind().await;
    let client = client(&server);
    let serving = async {
        let head = "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n12345";
        let (mut peer, _) = server.answer(head).await;
        peer.request().await; // never comes: the client waits for the other five
    };
    let reading = async {
        let mut body = post(&client, "{}").await.unwrap().into_body();
        assert_eq!(body.size_hint().exact(), Some(10));
        assert_eq!(data(&mut body).await, "12345");
        assert_eq!(body.size_hint().exact(), Some(5));
        assert!(!body.is_end_stream());
    };
    tokio::select! {
        () = serving => unreachable!(),
        () = reading => {}
    }
}

#[tokio::test]
async fn a_body_that_is_cut_short_is_an_error_after_its_data() {
    for (answer, arrived) in [
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n12345".to_owned(),
            "12345",
        ),
        (format!("{CHUNKED}{}", chunk("12345")), "12345"),
        (format!("{CHUNKED}5\r\n123"), "123"),
        (format!("{CHUNKED}{}zz\r\n", chunk("12345")), "12345"),
    ] {
        let server = Server::bind().await;
        let client = client(&server);
        let serving = async { drop(server.answer(&answer).await) };
        let ((), response) = join!(serving, post(&client, "{}"));
        let mut body = response.unwrap().into_body();
        assert_eq!(data(&mut body).await, arrived, "{answer}");
        assert!(!body.is_end_stream());
        let error = frame(&mut body).await.unwrap().unwrap_err();
        assert!(error.is::<Truncated>(), "{answer}: {error:?}");
        assert!(frame(&mut body).await.is_none());
        assert_eq!(client.open_connections(), 0);
    }
}

#[tokio::test]
async fn a_reset_is_an_error_and_not_an_end() {
    let server = Server::bind().await;
    let client = client(&server);
    let serving = async {
        let (peer, _) = server.answer(&format!("{CHUNKED}{}", chunk("1"))).await;
        peer.io.set_zero_linger().unwrap();
        tokio::time::sleep(SHORT).await; // the data first, then the reset
    };
    let reading = async {
        let mut body = post(&client, "{}").await.unwrap().into_body();
        assert_eq!(data(&mut body).await, "1");
        frame(&mut body).await.unwrap().unwrap_err()
    };
    let ((), error) = join!(serving, reading);
    assert!(error.is::<Truncated>(), "{error:?}");
}

#[tokio::test]
async fn only_a_silence_longer_than_the_idle_timeout_ends_a_stream() {
    const PAUSE: Duration = Duration::from_millis(400);
    const SILENCE: Duration = Duration::from_millis(1500);
    let lateness = Lateness::watch();
    let server = Server::bind().await;
    let mut options = options();
    options.idle_timeout = SILENCE;
    let client = Client::new(server.url(), options).unwrap();
    let serving = async {
        let (mut peer, _) = server.answer(CHUNKED).await;
        for _ in 0..5 {
            tokio::time::sleep(PAUSE).await;
            peer.send(&chunk("x")).await;
        }
        peer.rest().await;
    };
    let reading = async {
        let mut body = post(&client, "{}").await.unwrap().into_body();
        for _ in 0..5 {
            data(&mut body).await;
        }
        let last = Instant::now();
        let error = frame(&mut body).await.unwrap().unwrap_err();
        assert!(error.is::<IdleTimeout>(), "{error:?}");
        // It begins when the data come, which is before they are seen.
        let least = SILENCE - Duration::from_millis(40) - lateness.most();
        assert!(last.elapsed() >= least, "{:?}", last.elapsed());
        assert_eq!(client.open_connections(), 0);
    };
    join!(serving, reading);
}

#[tokio::test]
async fn the_idle_timeout_may_be_shorter_than_the_head_timeout() {
    let server = Server::bind().await;
    let mut options = options();
    options.idle_timeout = SHORT;
    options.head_timeout = 10 * LONG;
    let client = Client::new(server.url(), options).unwrap();
    let ((_peer, _), response) = join!(server.answer(CHUNKED), post(&client, "{}"));
    let started = Instant::now();
    let error = frame(&mut response.unwrap().into_body())
        .await
        .unwrap()
        .unwrap_err();
    assert!(error.is::<IdleTimeout>(), "{error:?}");
    assert!(started.elapsed() < 5 * LONG);
}

#[tokio::test]
async fn a_slow_reader_is_not_taken_for_a_silent_upstream() {
    const SILENCE: Duration = Duration::from_millis(1500);
    let server = Server::bind().await;
    let mut options = options();
    options.idle_timeout = SILENCE;
    let client = Client::new(server.url(), options).unwrap();
    let ((mut peer, _), response) = join!(server.answer(CHUNKED), post(&client, "{}"));
    let mut body = response.unwrap().into_body();
    tokio::time::sleep(SILENCE * 3 / 2).await;
    let sending = async {
        tokio::time::sleep(SILENCE / 5).await;
        peer.send(&chunk("late")).await;
    };
    let ((), data) = join!(sending, data(&mut body));
    assert_eq!(data, "late");
}

#[tokio::test]
async fn dropping_a_body_closes_its_connection_at_once() {
    let server = Server::bind().await;
    let client = client(&server);
    let answer = format!("{CHUNKED}{}", chunk("one"));
    let ((mut peer, _), response) = join!(server.answer(&answer), post(&client, "{}"));
    let mut body = response.unwrap().into_body();
    data(&mut body).await;
    drop(body);
    assert_eq!(
        (client.open_connections(), client.idle_connections()),
        (0, 0)
    );
    peer.rest().await;
}

#[tokio::test]
async fn ten_megabytes_pass_byte_for_byte_both_ways() {
    let server = Server::bind().await;
    let client = client(&server);
    let bytes: Vec<u8> = (0..10_000_000_u32).map(|n| ((n * 31) >> 3) as u8).collect();
    let bytes = Bytes::from(bytes);
    let serving = async {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut io = server.accept().await.io;
        let mut read = Vec::new();
        let head = loop {
            io.read_buf(&mut read).await.unwrap();
            if let Some(head) = read.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                break head + 4;
            }
        };
        while read.len() < head + bytes.len() {
            io.read_buf(&mut read).await.unwrap();
        }
        assert!(read[head..] == bytes, "the request body has changed");
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", bytes.len());
        io.write_all(answer.as_bytes()).await.unwrap();
        io.write_all(&bytes).await.unwrap();
        io
    };
    let asking = async {
        let response = post(&client, bytes.clone()).await.unwrap();
        let collected = response.into_body().collect().await;
        assert!(
            collected.unwrap().to_bytes() == bytes,
            "the response body has changed"
        );
    };
    let _io = join!(serving, asking);
    assert_eq!(client.idle_connections(), 1);
}
