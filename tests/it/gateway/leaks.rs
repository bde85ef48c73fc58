//! What must not get from one side to the other, and where requests must not go.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt;
use pacegate::simulator::{Leaf, Options, Simulator, TlsOptions};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    time::timeout,
};

use super::{assert_ok, assert_refused, plain, raw, request, simulator};
use crate::support::{
    client::{post_json, send},
    gateway::{Gateway, upstream},
};

const CHAT: &str = "/v1/chat/completions";
const SECRET: &str = "upstream-secret";
const CANARY: &str = "canary-5a7f";

/// A gateway that sends a token.
async fn with_token(base_url: &str, more: &str, files: &[(&str, &str)]) -> Gateway {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("key"), SECRET).unwrap();
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    let more = format!(
        "pipeline = [\"header-align\", \"bearer-auth\"]\n\
         credentials = {{ kind = \"api-key\", key = {{ file = \"key\" }} }}\n{more}"
    );
    Gateway::start_in(folder, &upstream(base_url, &more))
}

async fn simulated(more: &str) -> (Simulator, Gateway) {
    let simulator = simulator(Options::default()).await;
    let gateway = with_token(&simulator.base_url(), more, &[]).await;
    (simulator, gateway)
}

#[tokio::test]
async fn of_what_a_client_sends_only_what_is_listed_arrives() {
    const NAMES: [&str; 44] = [
        "anthropic-version",
        "api-key",
        "authorization",
        "baggage",
        "cf-connecting-ip",
        "cookie",
        "cookie2",
        "dnt",
        "forwarded",
        "from",
        "http-referer",
        "if-none-match",
        "keep-alive",
        "openai-organization",
        "openai-project",
        "pragma",
        "priority",
        "proxy-authorization",
        "proxy-connection",
        "range",
        "referer",
        "sec-ch-ua",
        "sec-gpc",
        "te",
        "traceparent",
        "tracestate",
        "user-agent",
        "via",
        "warning",
        "x-amz-security-token",
        "x-api-key",
        "x-b3-traceid",
        "x-client-ip",
        "x-csrf-token",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-goog-api-key",
        "x-http-method-override",
        "x-original-url",
        "x-parent-session-id",
        "x-real-ip",
        "x-request-id",
        "x-session-id",
        "x-title",
    ];
    for profile in ["neutral", "qwen-code-0.10", "qwen-code-0.24"] {
        let align = format!("header-align = {{ profile = \"{profile}\" }}");
        let (simulator, gateway) = simulated(&align).await;
        let fields: Vec<_> = NAMES.iter().map(|name| (*name, CANARY)).collect();
        let answer = post_json(&gateway.url(CHAT), plain("m"), &fields)
            .await
            .unwrap();
        assert_ok(&answer);
        let arrival = simulator.arrivals().remove(0);
        assert_eq!(
            arrival.header("authorization"),
            Some("Bearer upstream-secret")
        );
        for (name, value) in &arrival.headers {
            assert!(!value.contains(CANARY), "{profile}: {name}");
        }
    }
}

#[tokio::test]
async fn nothing_that_connection_names_keeps_the_token_from_arriving() {
    const VALUES: [&str; 42] = [
        "authorization",
        "Authorization",
        "AUTHORIZATION",
        "close, authorization",
        "authorization, close",
        "keep-alive, authorization",
        "authorization,keep-alive",
        "authorization,authorization",
        ",authorization",
        "authorization,",
        ", ,authorization, ,",
        "  authorization  ",
        "\tauthorization\t",
        "authorization;q=1",
        "authorization=1",
        "\"authorization\"",
        "authorization keep-alive",
        "close\t,\tauthorization",
        "proxy-authorization, authorization",
        "host",
        "host, authorization",
        "content-length",
        "content-length, authorization",
        "content-type",
        "transfer-encoding",
        "te, authorization",
        "trailer",
        "upgrade",
        "user-agent",
        "accept",
        "accept-encoding",
        "cookie",
        "x-api-key",
        "connection",
        "connection, authorization",
        "x-hop",
        "x-hop, authorization",
        "keep-alive",
        "x-request-id",
        "x-session-id",
        "x-stainless-lang, x-dashscope-authtype",
        "*",
    ];
    let align = "header-align = { profile = \"qwen-code-0.10\", pass = [\"x-hop\"] }";
    let (simulator, gateway) = simulated(align).await;
    for value in VALUES {
        // Behind it a second line, which must not undo the first.
        let fields = format!(
            "content-type: application/json\r\nconnection: {value}\r\nconnection: x-hop\r\n\
             x-hop: {CANARY}\r\nkeep-alive: {CANARY}\r\nte: trailers\r\nproxy-connection: {CANARY}\r\n"
        );
        let answer = raw(
            &gateway,
            &request(&format!("POST {CHAT}"), &fields, &plain("m")),
        )
        .await;
        assert!(
            answer.starts_with("HTTP/1.1 200 OK\r\n"),
            "{value}: {answer}"
        );
        let arrival = simulator.arrivals().pop().unwrap();
        let header = |name| arrival.header(name);
        assert_eq!(
            header("authorization"),
            Some("Bearer upstream-secret"),
            "{value}"
        );
        assert_eq!(
            header("host"),
            Some(&*simulator.address().to_string()),
            "{value}"
        );
        assert_eq!(arrival.model.as_deref(), Some("m"), "{value}");
        assert_eq!(
            header("connection"),
            Some("keep-alive"),
            "the profile's own"
        );
        for name in [
            "x-hop",
            "keep-alive",
            "te",
            "proxy-connection",
            "transfer-encoding",
        ] {
            assert_eq!(header(name), None, "{value}: {name}");
        }
    }
    assert_eq!(simulator.arrivals().len(), VALUES.len());
}

/// Answers every request in the same words, and closes.
async fn serve(server: TcpListener, answer: String) {
    loop {
        let (mut peer, _) = server.accept().await.unwrap();
        let mut request = Vec::new();
        while !(request.ends_with(b"\r\n\r\n") || request.ends_with(b"}")) {
            if peer.read_buf(&mut request).await.unwrap() == 0 {
                break;
            }
        }
        peer.write_all(answer.as_bytes()).await.unwrap();
    }
}

/// What a client gets where an upstream gives `answer`, at its end.
async fn passed_on(answer: String, more: &str, post: bool) -> Response<Bytes> {
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}/v1", server.local_addr().unwrap());
    let gateway = with_token(&base, more, &[]).await;
    let asking = async {
        let request = if post {
            Request::post(gateway.url(CHAT))
        } else {
            Request::get(gateway.url("/v1/x"))
        };
        let request = request.header("content-type", "application/json");
        let body = if post {
            Bytes::from(plain("m"))
        } else {
            Bytes::new()
        };
        let (head, body) = send(request.body(body).unwrap())
            .await
            .unwrap()
            .into_parts();
        Response::from_parts(head, body.collect().await.unwrap().to_bytes())
    };
    tokio::select! {
        () = serve(server, answer) => unreachable!("it serves for ever"),
        response = asking => response,
    }
}

#[tokio::test]
async fn of_what_an_upstream_answers_only_what_is_listed_comes_back() {
    const NAMES: [&str; 47] = [
        "access-control-allow-credentials",
        "access-control-allow-headers",
        "access-control-allow-origin",
        "access-control-expose-headers",
        "accept-ch",
        "age",
        "alt-svc",
        "cf-ray",
        "clear-site-data",
        "content-location",
        "content-security-policy",
        "cross-origin-opener-policy",
        "cross-origin-resource-policy",
        "expect-ct",
        "eagleid",
        "keep-alive",
        "link",
        "location",
        "nel",
        "p3p",
        "pragma",
        "proxy-authenticate",
        "proxy-connection",
        "public-key-pins",
        "refresh",
        "report-to",
        "server",
        "server-timing",
        "service-worker-allowed",
        "set-cookie",
        "set-cookie2",
        "sourcemap",
        "strict-transport-security",
        "timing-allow-origin",
        "upgrade",
        "via",
        "warning",
        "www-authenticate",
        "x-cache",
        "x-frame-options",
        "x-hop",
        "x-pacegate-error",
        "x-pacegate-secret",
        "x-powered-by",
        "x-real-ip",
        "x-served-by",
        "x-xss-protection",
    ];
    let canaries: String = NAMES
        .iter()
        .map(|name| format!("{name}: {CANARY}\r\n"))
        .collect();
    let read = [
        ("content-type", "text/x-test"),
        ("content-encoding", "x-own"),
        ("cache-control", "no-store"),
        ("date", "Thu, 01 Jan 1970 00:00:00 GMT"),
        ("retry-after", "7"),
        ("retry-after-ms", "7000"),
        ("x-request-id", "theirs"),
        ("request-id", "theirs"),
        ("x-should-retry", "false"),
        ("x-ratelimit-remaining-tokens", "1"),
        ("openai-processing-ms", "2"),
        ("x-dashscope-something", "3"),
    ];
    let fields: String = read
        .iter()
        .map(|(name, value)| format!("{name}: {value}\r\n"))
        .collect();
    let answer = format!(
        "HTTP/1.1 200 OK\r\nconnection: close, x-hop\r\n{canaries}{fields}content-length: 2\r\n\r\nok"
    );
    let more = "response-headers = { add = [\"x-real-*\"] }";
    let response = passed_on(answer, more, false).await;
    let headers = response.headers();
    for (name, value) in headers {
        let added = name == "x-real-ip";
        assert!(
            added || !value.to_str().unwrap().contains(CANARY),
            "{name} came back"
        );
    }
    for (name, value) in read
        .into_iter()
        .chain([("x-real-ip", CANARY), ("content-length", "2")])
    {
        assert_eq!(headers.get(name).expect(name), value, "{name}");
    }
    assert_eq!(&**response.body(), b"ok");
}

#[tokio::test]
async fn an_answer_with_two_ends_does_not_come_back() {
    for fields in [
        "content-length: 1\r\ntransfer-encoding: chunked",
        "content-length: 1\r\ncontent-length: 2",
        "transfer-encoding: gzip, chunked",
    ] {
        let answer =
            format!("HTTP/1.1 200 OK\r\n{fields}\r\nconnection: close\r\n\r\n2\r\nok\r\n0\r\n\r\n");
        let response = passed_on(answer, "", false).await;
        assert_eq!(response.status().as_u16(), 502);
        assert_eq!(
            response.headers()["x-pacegate-error"],
            "upstream_unreachable"
        );
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed_and_its_target_stays_unknown() {
    let second = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let elsewhere = second.local_addr().unwrap();
    for status in [300, 301, 302, 303, 307, 308] {
        for post in [false, true] {
            let answer = format!(
                "HTTP/1.1 {status} x\r\nlocation: http://{elsewhere}/v1/x\r\nconnection: close\r\n\
                 content-length: 0\r\n\r\n"
            );
            let response = passed_on(answer, "", post).await;
            assert_eq!(response.status().as_u16(), status);
            assert_eq!(response.headers().get("location"), None);
        }
    }
    // A connection would wait in the backlog.
    let hit = timeout(Duration::from_millis(50), second.accept()).await;
    assert!(hit.is_err(), "somebody went there");
}

#[tokio::test]
async fn an_upstream_that_switches_protocols_is_a_broken_one() {
    for answer in [
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nraw",
        "HTTP/1.1 101 x\r\n\r\n",
    ] {
        let response = passed_on(answer.to_owned(), "", true).await;
        assert_eq!(response.status().as_u16(), 502);
        assert_eq!(
            response.headers()["x-pacegate-error"],
            "upstream_unreachable"
        );
    }
}

#[tokio::test]
async fn an_upstream_with_a_wrong_certificate_gets_no_request() {
    for leaf in [Leaf::Expired, Leaf::OtherName, Leaf::SelfSigned] {
        let tls = TlsOptions {
            leaf,
            ..TlsOptions::default()
        };
        let simulator = simulator(Options {
            tls: Some(tls),
            ..Options::default()
        })
        .await;
        let trust = "tls = { ca-file = \"ca.pem\" }";
        let ca = simulator.ca_pem().unwrap();
        let gateway = with_token(&simulator.base_url(), trust, &[("ca.pem", ca)]).await;
        let answer = gateway.chat(plain("m")).await.unwrap();
        assert_refused(&answer, 502, "upstream_unreachable");
        assert!(
            answer.text().contains("certificate"),
            "{leaf:?}: {}",
            answer.text()
        );
        assert!(simulator.arrivals().is_empty(), "{leaf:?}");
        assert!(!gateway.log().contains(SECRET), "{leaf:?}");
    }
}
