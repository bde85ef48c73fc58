//! Who is let in, and with what.

use bytes::Bytes;
use http::{Request, StatusCode};
use pacegate::simulator::Options;
use tokio::io::AsyncWriteExt;

use super::{assert_ok, assert_refused, pair, plain, raw, request, simulator};
use crate::support::{
    client::{Answer, post_json, send, whole},
    gateway::{Gateway, upstream},
};

const CHAT: &str = "/v1/chat/completions";

async fn get_with(gateway: &Gateway, path: &str, fields: &[(&str, &str)]) -> Answer {
    let mut request = Request::get(gateway.url(path));
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    let response = send(request.body(Bytes::new()).unwrap()).await.unwrap();
    whole(response).await.unwrap()
}

/// The status and the code of an answer in text form; every refusal has both.
#[track_caller]
fn refusal(answer: &str) -> (u16, &str) {
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    let (_, rest) = answer.split_once("x-pacegate-error: ").expect(answer);
    (status, rest.split_once("\r\n").unwrap().0)
}

#[tokio::test]
async fn only_hosts_on_the_list_are_answered_for() {
    let simulator = simulator(Options::default()).await;
    let config =
        "allowed-hosts = [\"pacegate.lan\"]\n".to_owned() + &upstream(&simulator.base_url(), "");
    let gateway = Gateway::start(&config);
    for (host, passes) in [
        ("localhost", true),
        ("127.0.0.1:9", true),
        ("[::1]", true),
        ("Pacegate.LAN:7223", true),
        ("rebound.example", false),
        ("localhost.evil.example", false),
    ] {
        let bytes = format!("GET /v1/models HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
        let answer = raw(&gateway, bytes.as_bytes()).await;
        if passes {
            assert!(
                answer.starts_with("HTTP/1.1 200 OK\r\n"),
                "{host}: {answer}"
            );
        } else {
            assert_eq!(refusal(&answer), (403, "host_not_allowed"), "{host}");
        }
    }
    for hosts in ["", "host: localhost\r\nhost: localhost\r\n"] {
        let bytes = format!("GET /v1/models HTTP/1.1\r\n{hosts}connection: close\r\n\r\n");
        let answer = raw(&gateway, bytes.as_bytes()).await;
        assert_eq!(refusal(&answer), (400, "host_missing"), "{hosts}");
    }
}

#[tokio::test]
async fn a_web_page_is_refused_unless_it_is_listed_and_never_gets_cors_headers() {
    let simulator = simulator(Options::default()).await;
    let config = "allowed-origins = [\"https://app.example\"]\n".to_owned()
        + &upstream(&simulator.base_url(), "");
    let gateway = Gateway::start(&config);
    for origin in ["https://evil.example", "null", "http://localhost:3000"] {
        let answer = get_with(&gateway, "/v1/models", &[("origin", origin)]).await;
        assert_refused(&answer, 403, "origin_not_allowed");
    }
    let listed = [("origin", "https://app.example")];
    let answer = get_with(&gateway, "/v1/models", &listed).await;
    assert_ok(&answer);
    let cors = |name: &http::HeaderName| name.as_str().starts_with("access-control");
    assert!(!answer.headers.keys().any(cors));
}

#[tokio::test]
async fn post_takes_json_only() {
    let (simulator, gateway) = pair(&[], "").await;
    for kind in [
        "",
        "content-type: text/plain\r\n",
        "content-type: multipart/form-data\r\n",
    ] {
        let bytes = request(&format!("POST {CHAT}"), kind, &plain("m"));
        let answer = raw(&gateway, &bytes).await;
        assert_eq!(
            refusal(&answer),
            (415, "unsupported_content_type"),
            "{kind}"
        );
    }
    assert!(simulator.arrivals().is_empty());
    let kind = "content-type: Application/JSON;charset=utf-8\r\n";
    let answer = raw(
        &gateway,
        &request(&format!("POST {CHAT}"), kind, &plain("m")),
    )
    .await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
}

#[tokio::test]
async fn a_target_that_can_be_read_two_ways_or_lies_elsewhere_is_refused() {
    let (simulator, gateway) = pair(&[], "").await;
    for target in [
        "//v1/models",
        "/v1//files",
        "/v1/../admin",
        "/v1/%2e%2E/admin",
        "/v1/a%2fb",
        "/v1/a%5cb",
        "http://evil.example/v1/files",
        "http://localhost/v1/files",
        "*",
    ] {
        let answer = raw(&gateway, &request(&format!("GET {target}"), "", "")).await;
        assert_eq!(refusal(&answer), (400, "invalid_target"), "{target}");
    }
    let tunnel = raw(&gateway, &request("CONNECT evil.example:443", "", "")).await;
    assert_eq!(refusal(&tunnel), (405, "method_not_allowed"));
    assert!(simulator.arrivals().is_empty());
}

#[tokio::test]
async fn a_client_key_opens_the_door_and_goes_no_further() {
    const KEY: &str = "0123456789abcdef0123456789abcdef";
    let simulator = simulator(Options::default()).await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("key"), format!("{KEY}\n")).unwrap();
    let config =
        "client-keys = [{ file = \"key\" }]\n".to_owned() + &upstream(&simulator.base_url(), "");
    let gateway = Gateway::start_in(folder, &config);
    let url = gateway.url(CHAT);
    for wrong in ["Bearer 0123456789abcdef", "Bearer ", "Basic x"] {
        let fields = [("authorization", wrong)];
        let answer = post_json(&url, plain("m"), &fields).await.unwrap();
        assert_refused(&answer, 401, "invalid_client_key");
    }
    for path in ["/v1/models", "/metrics", "/nowhere"] {
        assert_refused(&gateway.get(path).await, 401, "invalid_client_key");
    }
    assert_ok(&gateway.get("/healthz").await);
    assert!(simulator.arrivals().is_empty());

    let bearer = format!("Bearer {KEY}");
    for field in [("authorization", &*bearer), ("x-api-key", KEY)] {
        assert_ok(&post_json(&url, plain("m"), &[field]).await.unwrap());
    }
    for arrival in simulator.arrivals() {
        assert!(!format!("{:?}", arrival.headers).contains(KEY));
    }
    assert!(!gateway.log().contains(KEY));
}

#[tokio::test]
async fn a_body_may_be_as_large_as_max_body_and_not_one_byte_larger() {
    let simulator = simulator(Options::default()).await;
    let config = "max-body = \"100KiB\"\n".to_owned() + &upstream(&simulator.base_url(), "");
    let gateway = Gateway::start(&config);
    let body = |length: usize| {
        let empty = r#"{"model":"m","messages":""}"#;
        empty.replace(
            r#""""#,
            &format!("\"{}\"", "x".repeat(length - empty.len())),
        )
    };
    let (fits, too_large) = (body(100 * 1024), body(100 * 1024 + 1));
    assert_ok(&gateway.chat(fits.clone()).await.unwrap());
    let answer = gateway.chat(too_large.clone()).await.unwrap();
    assert_refused(&answer, 413, "request_too_large");

    // The same where the client does not say how long it is going to be.
    let chunked = |body: &str| {
        let mut bytes = format!(
            "POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
             connection: close\r\ntransfer-encoding: chunked\r\n\r\n"
        );
        for chunk in body.as_bytes().chunks(1000) {
            let text = str::from_utf8(chunk).unwrap();
            bytes += &format!("{:x}\r\n{text}\r\n", chunk.len());
        }
        (bytes + "0\r\n\r\n").into_bytes()
    };
    let answer = raw(&gateway, &chunked(&fits)).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    let answer = raw(&gateway, &chunked(&too_large)).await;
    assert_eq!(refusal(&answer), (413, "request_too_large"));

    let arrivals = simulator.arrivals();
    assert_eq!(arrivals.len(), 2);
    for arrival in arrivals {
        assert_eq!(arrival.body_bytes, fits.len());
        assert_eq!(
            arrival.header("content-length"),
            Some(&*fits.len().to_string())
        );
    }
}

#[tokio::test]
async fn a_huge_body_is_refused_before_it_has_been_sent() {
    let (simulator, gateway) = pair(&[], "").await;
    let mut client = super::dial(&gateway).await;
    let head = format!(
        "POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
         content-length: 1000000000\r\n\r\n{{"
    );
    client.write_all(head.as_bytes()).await.unwrap();
    let mut answer = vec![0; 12];
    tokio::io::AsyncReadExt::read_exact(&mut client, &mut answer)
        .await
        .unwrap();
    assert_eq!(answer, b"HTTP/1.1 413");
    assert!(simulator.arrivals().is_empty());
}

#[tokio::test]
async fn a_body_that_is_no_json_or_names_no_model_is_refused() {
    let (simulator, gateway) = pair(&[], "").await;
    for (body, code) in [
        ("not json", "invalid_json"),
        (r#"{"model":"m""#, "invalid_json"),
        (r#"["model"]"#, "invalid_json"),
        (r#"{"model":7}"#, "invalid_json"),
        (r#"{"messages":[]}"#, "model_missing"),
        (r#"{"model":null}"#, "model_missing"),
        ("", "model_missing"),
    ] {
        let answer = gateway.chat(body).await.unwrap();
        assert_refused(&answer, StatusCode::BAD_REQUEST.as_u16(), code);
        assert!(!answer.text().contains("not json"), "it quotes the body");
    }
    assert!(simulator.arrivals().is_empty());
}
