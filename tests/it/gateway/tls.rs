//! Upstreams over TLS, and both versions of HTTP.

use futures_util::future::join_all;
use pacegate::simulator::{Options, Simulator, TlsOptions};

use super::{assert_ok, chats, eventually, plain, sha256_hex, simulator, streamed};
use crate::support::gateway::{Gateway, upstream};

/// A simulator that serves TLS, and a gateway that trusts its CA.
async fn over_tls(h2: bool, more: &str) -> (Simulator, Gateway) {
    let simulator = simulator(Options {
        tls: Some(TlsOptions {
            h2,
            ..TlsOptions::default()
        }),
        ..Options::default()
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("ca.pem"), simulator.ca_pem().unwrap()).unwrap();
    let more = format!("tls = {{ ca-file = \"ca.pem\" }}\n{more}");
    let gateway = Gateway::start_in(folder, &upstream(&simulator.base_url(), &more));
    (simulator, gateway)
}

#[tokio::test]
async fn both_versions_of_http_work_over_tls() {
    for (offers_h2, more, version) in [
        (true, "", "HTTP/2.0"),
        (true, "http = \"h1\"", "HTTP/1.1"),
        (true, "http = \"h2\"", "HTTP/2.0"),
        (false, "http = \"auto\"", "HTTP/1.1"),
    ] {
        let (simulator, gateway) = over_tls(offers_h2, more).await;
        let answers = join_all((0..4).map(|_| gateway.chat(streamed("m")))).await;
        let arrivals = chats(&simulator);
        assert_eq!(arrivals.len(), 4);
        for answer in answers {
            let answer = answer.unwrap();
            assert_ok(&answer);
            let sent = sha256_hex(&answer.body);
            assert!(arrivals.iter().any(|arrival| arrival.sent_sha256 == sent));
        }
        for arrival in arrivals {
            assert_eq!(arrival.version, version, "{more}");
            if version == "HTTP/2.0" {
                assert_eq!(arrival.connection, 1, "they share one connection");
                assert_eq!(arrival.header("host"), None);
            }
        }
    }
}

#[tokio::test]
async fn http2_with_prior_knowledge_works_without_tls() {
    let simulator = simulator(Options::default()).await;
    let gateway = Gateway::start(&upstream(&simulator.base_url(), "http = \"h2\""));
    assert_ok(&gateway.chat(plain("m")).await.unwrap());
    assert_eq!(simulator.arrivals()[0].version, "HTTP/2.0");
}

#[tokio::test]
async fn a_broken_http2_stream_breaks_the_clients_connection_and_no_other() {
    let (simulator, gateway) = over_tls(true, "http = \"h2\"").await;
    for fault in ["truncate@3", "end@3"] {
        simulator.push_fault(fault.parse().unwrap());
    }
    gateway.chat(streamed("m")).await.unwrap_err();
    let answer = gateway.chat(streamed("m")).await.unwrap();
    assert_ok(&answer);
    assert!(!answer.text().contains("[DONE]"));
    assert_ok(&gateway.chat(plain("m")).await.unwrap());
}

#[tokio::test]
async fn a_client_that_leaves_ends_its_http2_stream() {
    let (simulator, gateway) = over_tls(true, "").await;
    simulator.push_fault("stall@1".parse().unwrap());
    tokio::select! {
        _ = gateway.chat(streamed("m")) => panic!("the stream stalls"),
        () = eventually("it does not arrive", async || simulator.in_flight() == 1) => {}
    }
    eventually("the stream goes on", async || simulator.in_flight() == 0).await;
    assert_ok(&gateway.chat(plain("m")).await.unwrap());
    assert_eq!(
        simulator.connections(),
        1,
        "the connection was thrown away with the stream"
    );
}
