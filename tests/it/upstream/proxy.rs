//! Proxies. The upstream has a name that nobody resolves: only the proxy is asked for it.

use hyper_util::client::proxy::matcher::Matcher;
use pacegate::client::{
    Client,
    error::{ConnectError, Stage},
};
use pacegate_layers::error::NotSent;
use tokio::join;

use super::support::*;

fn through(proxy: &Server) -> Matcher {
    let proxy = format!("http://user:canary@{}", proxy.address());
    Matcher::builder().all(proxy).build()
}

/// base64 of `user:canary`
const BASIC: &str = "Basic dXNlcjpjYW5hcnk=";

#[tokio::test]
async fn an_https_upstream_is_reached_through_a_tunnel() {
    let certificate = Certificate::for_name("api.test");
    let file = certificate.file();
    let proxy = Server::bind().await;
    let mut options = trusting(&file);
    options.proxy = through(&proxy);
    let client = Client::new("https://api.test/v1".parse().unwrap(), options).unwrap();
    let serving = async {
        let mut peer = proxy.accept().await;
        let connect = peer
            .answer("HTTP/1.1 200 Connection established\r\n\r\n")
            .await;
        let mut peer = peer.tls(certificate.server(&["http/1.1"])).await.unwrap();
        let request = peer.answer(OK).await;
        (connect, request)
    };
    let ((connect, request), response) = join!(serving, post(&client, "{}"));
    assert_eq!(text(response.unwrap()).await.unwrap(), "ok");
    assert!(
        connect.starts_with("CONNECT api.test:443 HTTP/1.1\r\n"),
        "{connect}"
    );
    assert!(connect.contains(BASIC), "{connect}");
    assert!(
        request.starts_with("POST /v1/chat/completions HTTP/1.1\r\n"),
        "{request}"
    );
    assert!(!request.contains(BASIC), "{request}");
}

#[tokio::test]
async fn an_http_upstream_is_reached_with_the_whole_url() {
    let proxy = Server::bind().await;
    let mut options = options();
    options.proxy = through(&proxy);
    let client = Client::new("http://api.test/v1".parse().unwrap(), options).unwrap();
    let ((_peer, request), response) = join!(proxy.answer(OK), get(&client, "/models?x=1"));
    response.unwrap();
    assert!(
        request.starts_with("GET http://api.test/v1/models?x=1 HTTP/1.1\r\n"),
        "{request}"
    );
    assert!(request.contains("host: api.test\r\n"), "{request}");
    assert!(
        request.contains(&format!("proxy-authorization: {BASIC}\r\n")),
        "{request}"
    );
}

#[tokio::test]
async fn a_proxy_that_refuses_is_named_without_its_password() {
    let proxy = Server::bind().await;
    let mut options = options();
    options.proxy = through(&proxy);
    let client = Client::new("https://api.test/v1".parse().unwrap(), options).unwrap();
    let refusal = "HTTP/1.1 407 Proxy Authentication Required\r\n\r\n";
    let (_, response) = join!(proxy.answer(refusal), post(&client, "{}"));
    let error = response.unwrap_err();
    let NotSent(cause) = NotSent::in_chain(&*error).unwrap();
    let cause = cause.downcast_ref::<ConnectError>().unwrap();
    assert_eq!(cause.stage, Stage::Proxy);
    assert_eq!(cause.address, proxy.address().to_string());
    let debug = format!("{error} {error:?} {client:?}");
    assert!(
        !debug.contains("canary") && !debug.contains(BASIC),
        "{debug}"
    );
}

#[tokio::test]
async fn a_loopback_upstream_is_reached_directly() {
    let (proxy, server) = (Server::bind().await, Server::bind().await);
    let mut options = options();
    options.proxy = through(&proxy);
    let client = Client::new(server.url(), options).unwrap();
    let ((_peer, request), response) = join!(server.answer(OK), get(&client, "/models"));
    response.unwrap();
    assert!(request.starts_with("GET /v1/models "), "{request}");
}
