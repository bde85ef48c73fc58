//! Upstreams that cannot be reached, do not answer, or answer with something else.

use std::time::Duration;

use pacegate::simulator::{Leaf, Options, TlsOptions};
use tokio::{net::TcpListener, time::Instant};

use super::{
    assert_marked, assert_ok, assert_refused, eventually, pair, plain, simulator, streamed,
};
use crate::support::gateway::{Gateway, upstream};

const NO_RETRIES: &str = "[upstream.retry-on-429]\nmax-retries = 0";

#[tokio::test]
async fn an_upstream_that_refuses_the_connection_is_named() {
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = closed.local_addr().unwrap();
    drop(closed);
    let gateway = Gateway::start(&upstream(&format!("http://{address}/v1"), NO_RETRIES));
    let answer = gateway.chat(plain("m")).await.unwrap();
    assert_refused(&answer, 502, "upstream_unreachable");
    assert!(
        answer.text().contains(&address.to_string()),
        "{}",
        answer.text()
    );
    gateway.logged("refused").await;
}

#[tokio::test]
async fn an_unreachable_upstream_is_tried_again_and_found() {
    let place = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = place.local_addr().unwrap();
    drop(place);
    let gateway = Gateway::start(&upstream(&format!("http://{address}/v1"), ""));
    let (answer, _simulator) = tokio::join!(gateway.chat(plain("m")), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        simulator(Options {
            listen: address,
            ..Options::default()
        })
        .await
    });
    assert_ok(&answer.unwrap());
}

#[tokio::test]
async fn a_wrong_certificate_is_refused_with_a_hint_before_anything_is_sent() {
    for (leaf, hint) in [
        (Leaf::Expired, "clock"),
        (Leaf::OtherName, "base-url"),
        (Leaf::SelfSigned, "ca-file"),
    ] {
        let simulator = simulator(Options {
            tls: Some(TlsOptions {
                leaf,
                ..TlsOptions::default()
            }),
            ..Options::default()
        })
        .await;
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.pem"), simulator.ca_pem().unwrap()).unwrap();
        // With retries: none of them would help, so none is made.
        let config = upstream(&simulator.base_url(), "tls = { ca-file = \"ca.pem\" }");
        let gateway = Gateway::start_in(folder, &config);
        let answer = gateway.chat(plain("m")).await.unwrap();
        assert_refused(&answer, 502, "upstream_unreachable");
        assert!(answer.text().contains(hint), "{leaf:?}: {}", answer.text());
        assert_eq!(answer.header("x-pacegate-attempts"), "0");
        assert!(simulator.arrivals().is_empty());
    }
}

#[tokio::test]
async fn an_upstream_that_takes_the_request_and_says_nothing_is_given_up() {
    let (simulator, gateway) = pair(&["stall"], "head-timeout = \"300ms\"").await;
    let start = Instant::now();
    let answer = gateway.chat(plain("m")).await.unwrap();
    assert_refused(&answer, 504, "upstream_timeout");
    assert!(start.elapsed() >= Duration::from_millis(295));
    assert_eq!(
        simulator.arrivals().len(),
        1,
        "it may have acted on the request"
    );
    eventually("the upstream's connection is kept", async || {
        simulator.in_flight() == 0
    })
    .await;
    assert_ok(&gateway.chat(plain("m")).await.unwrap());
}

#[tokio::test]
async fn an_upstream_that_breaks_off_before_the_head_is_not_asked_twice() {
    let (simulator, gateway) = pair(&["2/reset"], "").await;
    assert_ok(&gateway.chat(plain("warm")).await.unwrap());
    let answer = gateway.chat(streamed("m")).await.unwrap();
    assert_refused(&answer, 502, "upstream_unreachable");
    assert_eq!(simulator.arrivals().len(), 2);
}

#[tokio::test]
async fn something_that_is_not_http_is_a_bad_gateway() {
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}/v1", server.local_addr().unwrap());
    let gateway = Gateway::start(&upstream(&base, NO_RETRIES));
    let serving = async {
        let (mut peer, _) = server.accept().await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut peer, b"220 mail.example ESMTP\r\n")
            .await
            .unwrap();
        peer
    };
    let (_peer, answer) = tokio::join!(serving, gateway.chat(plain("m")));
    assert_refused(&answer.unwrap(), 502, "upstream_unreachable");
}

#[tokio::test]
async fn a_redirect_passes_and_is_not_followed() {
    let elsewhere = simulator(Options::default()).await;
    let location = format!("{}/chat/completions", elsewhere.base_url());
    let (_simulator, gateway) = pair(&[&format!("302:location={location}")], "").await;
    let answer = gateway.chat(plain("m")).await.unwrap();
    assert_eq!(answer.status, 302);
    assert_eq!(answer.header("location"), "", "the client would follow it");
    assert_marked(&answer);
    assert!(elsewhere.arrivals().is_empty());
}

#[tokio::test]
async fn an_upstream_that_is_slow_to_connect_is_given_up() {
    // Its backlog is full: the system answers nobody.
    let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = server.local_addr().unwrap();
    let mut crowd = Vec::new();
    loop {
        let connect = std::net::TcpStream::connect_timeout(&address, Duration::from_millis(200));
        match connect {
            Ok(stream) => crowd.push(stream),
            Err(_full) => break,
        }
    }
    let more = format!("connect-timeout = \"200ms\"\nhead-timeout = \"1s\"\n{NO_RETRIES}");
    let gateway = Gateway::start(&upstream(&format!("http://{address}/v1"), &more));
    let answer = gateway.chat(plain("m")).await.unwrap();
    assert_refused(&answer, 502, "upstream_unreachable");
}
