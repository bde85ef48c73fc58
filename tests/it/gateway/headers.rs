//! Header fields, as the upstream and the client saw them.

use bytes::Bytes;
use http::{Request, Response, Version};
use http_body_util::BodyExt;
use pacegate::simulator::{Arrival, Options};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    join,
    net::TcpListener,
};

use super::{assert_marked, assert_ok, pair, plain, simulator};
use crate::support::{
    client::{post_json, send},
    gateway::{Gateway, upstream},
};

/// What an OpenCode of another version might send, and more that must not get through.
const CLIENT: [(&str, &str); 11] = [
    ("authorization", "Bearer client-secret"),
    ("user-agent", "opencode/1.18.33 ai-sdk"),
    ("x-session-id", "ses_1"),
    ("x-parent-session-id", "ses_0"),
    ("x-api-key", "client-secret"),
    ("cookie", "a=client-secret"),
    ("accept", "*/*"),
    ("accept-encoding", "gzip, deflate, br, zstd"),
    ("connection", "keep-alive, x-hop"),
    ("x-hop", "1"),
    ("proxy-authorization", "Basic client-secret"),
];

fn names(arrival: &Arrival) -> Vec<&str> {
    arrival.headers.iter().map(|(name, _)| &**name).collect()
}

#[tokio::test]
async fn the_upstream_sees_the_profiles_fields_in_its_order_and_nothing_else() {
    for (profile, captured) in [
        (
            "qwen-code-0.10",
            include_str!("../captures/chat-qwen-code-0.10.4.head"),
        ),
        (
            "qwen-code-0.24",
            include_str!("../captures/chat-qwen-code-0.24.4.head"),
        ),
    ] {
        let simulator = simulator(Options::default()).await;
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("key"), "upstream-secret\n").unwrap();
        let more = format!(
            r#"
            pipeline = ["header-align", "bearer-auth"]
            credentials = {{ kind = "api-key", key = {{ file = "key" }} }}
            header-align = {{ profile = "{profile}" }}
            "#
        );
        let gateway = Gateway::start_in(folder, &upstream(&simulator.base_url(), &more));
        let url = gateway.url("/v1/chat/completions");
        assert_ok(&post_json(&url, plain("m"), &CLIENT).await.unwrap());

        let arrival = simulator.arrivals().remove(0);
        let lines: Vec<_> = captured
            .lines()
            .skip(1)
            .filter_map(|it| it.split_once(": "))
            .collect();
        let expected: Vec<_> = lines.iter().map(|(name, _)| name.to_lowercase()).collect();
        assert_eq!(names(&arrival), expected, "{profile}");
        for (name, value) in lines {
            let name = name.to_lowercase();
            let own = [
                ("host", simulator.address().to_string()),
                ("authorization", "Bearer upstream-secret".to_owned()),
                ("content-length", plain("m").len().to_string()),
            ];
            let own = own.iter().find(|(known, _)| *known == name);
            // The others that differ name the machine of the capture.
            if own.is_none() && !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
                continue;
            }
            let expected = own.map_or(value, |(_, value)| value);
            assert_eq!(arrival.header(&name), Some(expected), "{profile}: {name}");
        }
        assert!(!gateway.log().contains("secret"), "{}", gateway.log());
    }
}

#[tokio::test]
async fn an_encoding_that_the_client_cannot_read_is_not_asked_for() {
    let profile = "header-align = { profile = \"qwen-code-0.10\" }";
    let (simulator, gateway) = pair(&[], profile).await;
    let url = gateway.url("/v1/chat/completions");
    for offered in ["gzip", "identity"] {
        let fields = [("accept-encoding", offered)];
        post_json(&url, plain("m"), &fields).await.unwrap();
        let arrival = simulator.arrivals().pop().unwrap();
        assert_eq!(arrival.header("accept-encoding"), Some(offered));
    }
    post_json(&url, plain("m"), &[]).await.unwrap();
    let arrival = simulator.arrivals().pop().unwrap();
    assert_eq!(arrival.header("accept-encoding"), None);
}

#[tokio::test]
async fn without_header_align_only_the_clients_connection_and_secrets_stay_behind() {
    let key = "0123456789abcdef0123456789abcdef";
    let simulator = simulator(Options::default()).await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("key"), key).unwrap();
    let config = "client-keys = [{ file = \"key\" }]\n".to_owned()
        + &upstream(&simulator.base_url(), "pipeline = []");
    let gateway = Gateway::start_in(folder, &config);
    let bearer = format!("Bearer {key}");
    let mut fields = CLIENT.to_vec();
    fields[0].1 = &bearer;
    let url = gateway.url("/v1/chat/completions");
    assert_ok(&post_json(&url, plain("m"), &fields).await.unwrap());
    let arrival = simulator.arrivals().remove(0);
    for (name, value) in &arrival.headers {
        assert!(!value.contains(key) && *name != "x-hop", "{name}: {value}");
    }
    assert_eq!(arrival.header("x-session-id"), Some("ses_1"));
    assert_eq!(arrival.header("connection"), None);
}

/// What comes of an `answer` of the upstream, spoken by hand.
async fn passed_on(answer: &str) -> Response<Bytes> {
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", server.local_addr().unwrap());
    let gateway = Gateway::start(&upstream(&base, ""));
    let serving = async {
        let (mut peer, _) = server.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            peer.read_buf(&mut head).await.unwrap();
        }
        peer.write_all(answer.as_bytes()).await.unwrap();
    };
    let asking = async {
        let request = Request::get(gateway.url("/v1/x")).body(Bytes::new());
        let (head, body) = send(request.unwrap()).await.unwrap().into_parts();
        Response::from_parts(head, body.collect().await.unwrap().to_bytes())
    };
    join!(serving, asking).1
}

#[tokio::test]
async fn fields_of_the_upstreams_connection_end_at_the_gateway() {
    let answer = passed_on(
        "HTTP/1.1 418 x\r\ntransfer-encoding: chunked\r\nconnection: x-hop\r\nx-hop: 1\r\n\
         keep-alive: timeout=5\r\nx-request-id: theirs\r\nset-cookie: a\r\nset-cookie: b\r\n\
         retry-after: 1\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    )
    .await;
    assert_eq!(
        (answer.status().as_u16(), &**answer.body()),
        (418, &b"ok"[..])
    );
    let headers = answer.headers();
    for name in ["connection", "x-hop", "keep-alive", "set-cookie"] {
        assert!(!headers.contains_key(name), "{name}");
    }
    assert_eq!(
        headers["x-request-id"], "theirs",
        "its support asks for that one"
    );
    assert_eq!(headers["retry-after"], "1");
}

/// A copied version would make the client close its connection after each answer, and take a
/// stream without a length for one that any end completes.
#[tokio::test]
async fn an_upstream_that_speaks_http_1_0_changes_nothing_for_the_client() {
    let answer = passed_on("HTTP/1.0 200 OK\r\n\r\nok").await;
    assert_eq!(answer.version(), Version::HTTP_11);
    assert_eq!(answer.headers()["transfer-encoding"], "chunked");
    assert_eq!(&**answer.body(), b"ok");
}

#[tokio::test]
async fn an_upstream_cannot_speak_for_pacegate() {
    let answer = passed_on(
        "HTTP/1.1 400 x\r\nx-pacegate-error: forged\r\nx-pacegate-attempts: 9\r\n\
         x-pacegate-queued-ms: 9\r\ncontent-length: 0\r\n\r\n",
    )
    .await;
    let headers = answer.headers();
    assert!(!headers.contains_key("x-pacegate-error"));
    assert_eq!(headers["x-pacegate-attempts"], "1");
    assert_ne!(headers["x-pacegate-queued-ms"], "9");
}

#[tokio::test]
async fn interim_answers_stay_behind_and_an_empty_one_passes() {
    let answer = "HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n";
    let answer = passed_on(answer).await;
    assert_eq!((answer.status().as_u16(), answer.body().len()), (204, 0));
    assert!(!answer.headers().contains_key("link"));
}

#[tokio::test]
async fn an_error_of_the_upstream_passes_untouched() {
    let (simulator, gateway) = pair(&["500", "400", "403:reason=day"], "").await;
    for status in [500, 400, 403] {
        let answer = gateway.chat(plain("m")).await.unwrap();
        assert_eq!(answer.status, status);
        assert_eq!(answer.header("x-pacegate-error"), "");
        assert_eq!(answer.header("x-pacegate-attempts"), "1");
        assert_marked(&answer);
        let sent = simulator.arrivals().pop().unwrap().sent_sha256;
        assert_eq!(sent, super::sha256_hex(&answer.body));
    }
}
