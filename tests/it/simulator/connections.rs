//! TLS, HTTP/2, and the end of connections.

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use pacegate::simulator::{Leaf, Options, ResponseEnd, Simulator, TlsOptions};
use rustls::{ClientConfig, RootCertStore, crypto::ring};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_util::task::TaskTracker;

use super::{STREAMED, chat_with, idle, start};
use crate::support::{
    client::{send, send_over},
    gateway::PATIENCE,
};

/// A TLS connection that trusts the simulator's CA and nothing else.
pub(super) async fn connect(
    simulator: &Simulator,
    alpn: &str,
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    let ca = CertificateDer::from_pem_slice(simulator.ca_pem().unwrap().as_bytes()).unwrap();
    roots.add(ca).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![alpn.into()];
    let name = ServerName::try_from("localhost").unwrap();
    let tcp = TcpStream::connect(simulator.address()).await.unwrap();
    TlsConnector::from(Arc::new(config))
        .connect(name, tcp)
        .await
}

#[tokio::test]
async fn serves_both_versions_of_http_under_its_ca() {
    let simulator = start(Options {
        tls: Some(TlsOptions::default()),
        ..Options::default()
    })
    .await;
    let url = format!("https://localhost:{}/v1/models", simulator.address().port());

    let stream = connect(&simulator, "http/1.1").await.unwrap();
    let request = Request::get(&url).body(Bytes::new()).unwrap();
    assert_eq!(
        send_over(stream, request).await.unwrap().status(),
        StatusCode::OK
    );

    let stream = TokioIo::new(connect(&simulator, "h2").await.unwrap());
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), stream)
        .await
        .unwrap();
    TaskTracker::new().spawn(connection);
    let request = Request::get(&url).body(Empty::<Bytes>::new()).unwrap();
    assert_eq!(
        sender.send_request(request).await.unwrap().status(),
        StatusCode::OK
    );

    let arrivals = simulator.arrivals();
    assert_eq!(
        (&*arrivals[0].version, &*arrivals[1].version),
        ("HTTP/1.1", "HTTP/2.0")
    );
    assert_eq!(arrivals[1].headers[0].0, ":authority");
}

#[tokio::test]
async fn shows_a_wrong_certificate_on_demand() {
    for leaf in [Leaf::Expired, Leaf::OtherName, Leaf::SelfSigned] {
        let tls = TlsOptions {
            leaf,
            ..TlsOptions::default()
        };
        let simulator = start(Options {
            tls: Some(tls),
            ..Options::default()
        })
        .await;
        let error = connect(&simulator, "http/1.1")
            .await
            .unwrap_err()
            .to_string();
        let expected = match leaf {
            Leaf::Expired => "certificate expired",
            Leaf::OtherName => "not valid for name",
            Leaf::Good | Leaf::SelfSigned => "UnknownIssuer",
        };
        assert!(error.contains(expected), "{leaf:?}: {error}");
    }
}

#[tokio::test]
async fn resets_and_stalls_http2_streams_without_leaking_them() {
    let simulator = start(Options {
        faults: ["stall@1", "reset@1"]
            .map(|fault| fault.parse().unwrap())
            .into(),
        ..Options::default()
    })
    .await;
    let url = format!("{}/chat/completions", simulator.base_url());
    for outcome in [ResponseEnd::ClientLeft, ResponseEnd::Aborted] {
        // Prior knowledge: no TLS, no upgrade.
        let tcp = TcpStream::connect(simulator.address()).await.unwrap();
        let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(tcp))
            .await
            .unwrap();
        let connection = TaskTracker::new().spawn(connection);
        let request = Request::post(&url)
            .body(Full::<Bytes>::from(STREAMED))
            .unwrap();
        let mut response = sender.send_request(request).await.unwrap();
        response.frame().await.unwrap().unwrap();
        if outcome == ResponseEnd::Aborted {
            response.frame().await.unwrap().unwrap_err();
        }
        drop((response, sender));
        connection.abort();
        idle(&simulator).await;
        assert_eq!(simulator.arrivals().pop().unwrap().outcome, Some(outcome));
    }
    simulator.shutdown().await;
}

#[tokio::test]
async fn stops_everything_at_shutdown() {
    let (simulator, _) = chat_with("2/stall@1", STREAMED).await;
    let url = format!("{}/chat/completions", simulator.base_url());
    let mut stalled = send(Request::post(url).body(STREAMED.into()).unwrap())
        .await
        .unwrap();
    let address = simulator.address();
    timeout(PATIENCE, simulator.shutdown()).await.unwrap();
    stalled.frame().await.unwrap().unwrap();
    stalled.frame().await.unwrap().unwrap_err();
    TcpStream::connect(address).await.unwrap_err();
}
