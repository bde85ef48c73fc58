//! Proxies. The upstream has a name that nobody resolves: only the proxy is asked for it.

use hyper_util::client::proxy::matcher::Matcher;
use pacegate::client::{
    Client,
    error::{ConnectError, ProxyAuthRequired, Stage},
};
use pacegate_layers::error::{BoxError, NotSent};
use tokio::join;

use super::support::*;
use crate::support::gateway::{Gateway, upstream};

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

/// The error of a request through a tunnel that `proxy`, at `url`, responds to with `refusal`.
async fn refused(proxy: &Server, url: &str, refusal: &str) -> BoxError {
    let mut options = options();
    options.proxy = Matcher::builder().all(url).build();
    let client = Client::new("https://api.test/v1".parse().unwrap(), options).unwrap();
    let answering = async { drop(proxy.answer(refusal).await) };
    let ((), response) = join!(answering, post(&client, "{}"));
    let error = response.unwrap_err();
    let debug = format!("{error} {error:?} {client:?}");
    assert!(
        !debug.contains("canary") && !debug.contains(BASIC),
        "{debug}"
    );
    error
}

#[tokio::test]
async fn a_proxy_that_refuses_is_named_without_its_password() {
    for refusal in [
        "HTTP/1.1 403 Forbidden\r\n\r\n",
        "HTTP/1.1 502 Bad Gateway\r\n\r\n",
        "SSH-2.0-OpenSSH_9\r\n\r\n",
        "",
    ] {
        let proxy = Server::bind().await;
        let url = format!("http://user:canary@{}", proxy.address());
        let error = refused(&proxy, &url, refusal).await;
        let NotSent(cause) = NotSent::in_chain(&*error).unwrap();
        let cause = cause.downcast_ref::<ConnectError>().unwrap();
        assert_eq!(cause.stage, Stage::Proxy, "{refusal}");
        assert_eq!(cause.address, proxy.address().to_string());
    }
}

#[tokio::test]
async fn a_proxy_that_wants_credentials_is_named_with_advice_and_not_asked_again() {
    for (user_info, has_credentials, advice) in [
        ("", false, "http://USER:PASSWORD@"),
        ("user:canary@", true, "did not accept"),
    ] {
        for refusal in [
            "HTTP/1.1 407 Proxy Authentication Required\r\n\r\n",
            "HTTP/1.0 407 Denied\r\nproxy-authenticate: Basic realm=\"p\"\r\n\r\n<p>no",
        ] {
            let proxy = Server::bind().await;
            let address = proxy.address();
            let error = refused(&proxy, &format!("http://{user_info}{address}"), refusal).await;
            assert!(NotSent::in_chain(&*error).is_none(), "a retry may follow");
            let error = error.downcast::<ProxyAuthRequired>().unwrap();
            assert_eq!(error.proxy, address.to_string());
            assert_eq!(error.has_credentials, has_credentials);
            let text = error.to_string();
            let start = format!("the proxy {address} wants credentials\nhint: ");
            assert!(text.starts_with(&start), "{text}");
            assert!(
                text.contains(advice) && text.contains("HTTPS_PROXY"),
                "{text}"
            );
        }
    }
}

#[tokio::test]
async fn a_forwarding_proxy_that_wants_credentials_is_not_taken_for_the_upstream() {
    let proxy = Server::bind().await;
    let mut options = options();
    options.proxy = through(&proxy);
    let client = Client::new("http://api.test/v1".parse().unwrap(), options).unwrap();
    let refusal = "HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 2\r\n\r\nno";
    let ((mut peer, _), response) = join!(proxy.answer(refusal), post(&client, "{}"));
    let error = response.unwrap_err();
    assert!(NotSent::in_chain(&*error).is_none(), "a retry may follow");
    let error = error.downcast::<ProxyAuthRequired>().unwrap();
    assert_eq!(error.proxy, proxy.address().to_string());
    assert!(error.has_credentials);
    assert!(peer.rest().await.is_empty());
    assert_eq!(client.open_connections(), 0);
}

#[tokio::test]
async fn a_client_is_told_of_a_proxy_that_wants_credentials_after_one_attempt() {
    let proxy = Server::bind().await;
    let address = proxy.address().to_string();
    let gateway = Gateway::start_with(
        tempfile::tempdir().unwrap(),
        &upstream("https://api.test/v1", ""),
        &[("HTTPS_PROXY", format!("http://{address}").into())],
    );
    let refusing = async {
        loop {
            let refusal = "HTTP/1.1 407 Proxy Authentication Required\r\n\r\n";
            let (_peer, request) = proxy.answer(refusal).await;
            assert!(request.starts_with("CONNECT api.test:443 "), "{request}");
        }
    };
    let answer = tokio::select! {
        () = refusing => unreachable!("it serves for ever"),
        answer = gateway.chat(r#"{"model":"m","messages":[]}"#) => answer.unwrap(),
    };
    assert_eq!(answer.status, 502, "{}", answer.text());
    assert_eq!(answer.header("x-pacegate-error"), "upstream_unreachable");
    assert_eq!(answer.header("x-pacegate-attempts"), "1");
    let error = &answer.json()["error"];
    let message = error["message"].as_str().unwrap();
    let start = format!("the proxy {address} wants credentials\nhint: ");
    assert!(message.starts_with(&start), "{message}");
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
