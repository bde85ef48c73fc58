//! Whom the client trusts, and what an upstream that it doesn't trust gets to see: nothing.

use std::sync::Arc;

use pacegate::{
    client::{
        Client, ClientOptions,
        error::{CertificateError, ConnectError, Stage},
    },
    config::HttpVersion,
};
use pacegate_layers::error::NotSent;
use rustls::ServerConfig;
use tokio::{io::AsyncReadExt, join};

use super::support::*;

/// The error of a request to a server with this certificate, after checking that no HTTP came.
async fn refused(options: ClientOptions, config: Arc<ServerConfig>) -> CertificateError {
    let server = Server::bind().await;
    let client = Client::new(server.https_url(), options).unwrap();
    let serving = async {
        // In TLS 1.3 the server's handshake may end before the client's refusal arrives.
        if let Ok(mut peer) = server.accept().await.tls(config).await {
            let mut read = Vec::new();
            let _refusal = peer.io.read_buf(&mut read).await;
            assert!(read.is_empty(), "the server saw {read:?}");
        }
    };
    let ((), response) = join!(serving, post(&client, "{\"secret\":1}"));
    let error = response.unwrap_err();
    assert!(
        NotSent::in_chain(&*error).is_none(),
        "it must not be retried"
    );
    *error.downcast().unwrap()
}

#[tokio::test]
async fn a_self_signed_certificate_is_refused_with_advice() {
    let certificate = Certificate::for_name("localhost");
    let error = refused(options(), certificate.server(&[])).await;
    assert_eq!(error.host, "localhost");
    let text = error.to_string();
    assert!(
        text.contains("ca-file") && text.contains("roots = \"system\""),
        "{text}"
    );
}

#[tokio::test]
async fn a_certificate_for_another_name_is_refused() {
    let certificate = Certificate::for_name("other.test");
    let file = certificate.file();
    let text = refused(trusting(&file), certificate.server(&[]))
        .await
        .to_string();
    assert!(
        text.contains("not valid for name") && text.contains("base-url"),
        "{text}"
    );
}

#[tokio::test]
async fn an_expired_certificate_is_refused() {
    let mut params = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
    params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    let certificate = Certificate::new(params);
    let file = certificate.file();
    let text = refused(trusting(&file), certificate.server(&[]))
        .await
        .to_string();
    assert!(text.contains("expired") && text.contains("clock"), "{text}");
}

#[tokio::test]
async fn a_certificate_in_the_ca_file_is_trusted_and_forced_http1_is_all_that_is_offered() {
    let certificate = Certificate::for_name("localhost");
    let file = certificate.file();
    let server = Server::bind().await;
    let mut options = trusting(&file);
    options.http = HttpVersion::H1;
    let client = Client::new(server.https_url(), options).unwrap();
    let serving = async {
        let config = certificate.server(&["h2", "http/1.1"]);
        let mut peer = server.accept().await.tls(config).await.unwrap();
        assert_eq!(peer.io.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
        peer.answer(OK).await;
        peer.answer(OK).await;
        peer
    };
    let asking = async {
        for _ in 0..2 {
            let response = post(&client, "{}").await.unwrap();
            assert_eq!(text(response).await.unwrap(), "ok");
        }
    };
    let (mut peer, ()) = join!(serving, asking);
    drop(client);
    assert!(peer.rest().await.is_empty());
}

#[tokio::test]
async fn a_server_without_alpn_gets_http1_unless_http2_is_demanded() {
    let certificate = Certificate::for_name("localhost");
    let file = certificate.file();
    let server = Server::bind().await;
    let client = Client::new(server.https_url(), trusting(&file)).unwrap();
    let serving = async {
        let mut peer = server
            .accept()
            .await
            .tls(certificate.server(&[]))
            .await
            .unwrap();
        peer.answer(OK).await;
        peer
    };
    let (_peer, response) = join!(serving, post(&client, "{}"));
    assert_eq!(text(response.unwrap()).await.unwrap(), "ok");

    let mut options = trusting(&file);
    options.http = HttpVersion::H2;
    let client = Client::new(server.https_url(), options).unwrap();
    let serving = async { server.accept().await.tls(certificate.server(&[])).await };
    let (_peer, response) = join!(serving, post(&client, "{}"));
    let error = response.unwrap_err();
    let NotSent(cause) = NotSent::in_chain(&*error).unwrap();
    let cause = cause.downcast_ref::<ConnectError>().unwrap();
    assert_eq!(cause.stage, Stage::Tls);
    assert!(
        cause.source.to_string().contains("http = \"auto\""),
        "{cause:?}"
    );
}

#[tokio::test]
async fn a_tls_stream_that_ends_without_a_goodbye_is_cut_short() {
    let certificate = Certificate::for_name("localhost");
    let file = certificate.file();
    let server = Server::bind().await;
    let client = Client::new(server.https_url(), trusting(&file)).unwrap();
    let serving = async {
        let mut peer = server
            .accept()
            .await
            .tls(certificate.server(&[]))
            .await
            .unwrap();
        // Framed by the end of the connection: only TLS can tell an end from a cut.
        peer.answer("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\npart")
            .await;
    };
    let reading = async { text(post(&client, "{}").await.unwrap()).await };
    let ((), outcome) = join!(serving, reading);
    assert!(outcome.is_err(), "{outcome:?}");
}
