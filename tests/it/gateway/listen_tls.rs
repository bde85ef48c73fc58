//! Clients over TLS.

use std::{
    path::Path,
    process::{Command, Output},
    sync::Arc,
    time::Duration,
};

use http::Request;
use pacegate::simulator::{Options, ResponseKind};
use rcgen::{CertificateParams, KeyPair};
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, timeout},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{assert_ok, eventually, request, simulator, streamed};
use crate::support::{
    client::{send_over, whole},
    gateway::{Gateway, PATIENCE, upstream},
    lateness::Lateness,
};

/// A certificate for `localhost`, signed by itself, in a folder with its key.
pub(super) fn certificate(folder: &Path) -> String {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(["localhost".to_owned()]).unwrap();
    let pem = params.self_signed(&key).unwrap().pem();
    std::fs::write(folder.join("cert.pem"), &pem).unwrap();
    std::fs::write(folder.join("key.pem"), key.serialize_pem()).unwrap();
    pem
}

pub(super) const LISTEN_TLS: &str =
    "listen-tls = { cert-file = \"cert.pem\", key-file = \"key.pem\" }\n";

/// A connection to a gateway that listens with TLS, whose certificate is trusted.
pub(super) async fn dial_tls(
    gateway: &Gateway,
    pem: &str,
    alpn: &[&str],
) -> std::io::Result<TlsStream<TcpStream>> {
    use rustls_pki_types::{CertificateDer, pem::PemObject};
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(pem.as_bytes()).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    let address = gateway.address().strip_prefix("https://").unwrap();
    let tcp = TcpStream::connect(address).await?;
    let name = "localhost".try_into().unwrap();
    TlsConnector::from(Arc::new(config))
        .connect(name, tcp)
        .await
}

fn chat(body: String) -> Request<bytes::Bytes> {
    Request::post("https://localhost/v1/chat/completions")
        .header("content-type", "application/json")
        .body(body.into())
        .unwrap()
}

#[tokio::test]
async fn clients_may_connect_over_tls_and_then_only_so() {
    let simulator = simulator(Options::default()).await;
    let folder = tempfile::tempdir().unwrap();
    let pem = certificate(folder.path());
    let config = LISTEN_TLS.to_owned() + &upstream(&simulator.base_url(), "");
    let gateway = Gateway::start_in(folder, &config);

    for alpn in [&[][..], &["http/1.1"], &["h2", "http/1.1"]] {
        let stream = dial_tls(&gateway, &pem, alpn).await.unwrap();
        let spoken = stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
        assert_eq!(spoken.is_some(), !alpn.is_empty());
        assert!(spoken.is_none_or(|name| name == b"http/1.1"));
        let answer = send_over(stream, chat(streamed("m"))).await.unwrap();
        let answer = whole(answer).await.unwrap();
        assert_ok(&answer);
        assert!(answer.text().ends_with("data: [DONE]\n\n"));
    }
    dial_tls(&gateway, &pem, &["h2"])
        .await
        .map(drop)
        .unwrap_err();
    assert_eq!(simulator.arrivals().len(), 3);

    // Malformed requests are no better inside TLS.
    let mut stream = dial_tls(&gateway, &pem, &[]).await.unwrap();
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost localhost\r\n\r\n")
        .await
        .unwrap();
    let mut answer = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut answer))
        .await
        .unwrap()
        .unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");

    // Plain HTTP gets an alert, and nothing of the API.
    let address = gateway.address().strip_prefix("https://").unwrap();
    let mut plain = TcpStream::connect(address).await.unwrap();
    plain
        .write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .await
        .unwrap();
    let mut answer = Vec::new();
    let _reset = timeout(PATIENCE, plain.read_to_end(&mut answer))
        .await
        .unwrap();
    assert!(
        !String::from_utf8_lossy(&answer).contains("HTTP"),
        "{answer:?}"
    );
    assert_eq!(simulator.arrivals().len(), 3);
}

/// What a gateway with TLS says on `path`.
async fn get_tls(mut stream: TlsStream<TcpStream>, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn a_reload_takes_up_a_new_certificate_and_with_a_broken_one_changes_nothing() {
    let simulator = simulator(Options::default()).await;
    let folder = tempfile::tempdir().unwrap();
    let old = certificate(folder.path());
    let config = |requests| {
        let quota = format!("quotas = [{{ requests = {requests}, per = \"5h\" }}]");
        let paced = format!("jitter-throttle = {{ {quota} }}");
        format!(
            "state-dir = \"state\"\n{LISTEN_TLS}{}",
            upstream(&simulator.base_url(), &paced)
        )
    };
    let gateway = Gateway::start_in(folder, &config(9));
    let open = dial_tls(&gateway, &old, &[]).await.unwrap();

    std::fs::write(gateway.folder().join("key.pem"), "no key").unwrap();
    gateway.reload(&config(7));
    gateway.logged("no private key in").await;
    let stream = dial_tls(&gateway, &old, &[]).await.unwrap();
    let metrics = get_tls(stream, "/metrics").await;
    assert!(metrics.contains("quota=\"9 per 5h\"} 9"), "{metrics}");

    let new = certificate(gateway.folder());
    gateway.reload(&config(7));
    gateway.logged("\"Config reloaded\"").await;
    dial_tls(&gateway, &old, &[]).await.map(drop).unwrap_err();
    let stream = dial_tls(&gateway, &new, &[]).await.unwrap();
    let metrics = get_tls(stream, "/metrics").await;
    assert!(metrics.contains("quota=\"7 per 5h\"} 7"), "{metrics}");

    // What was connected stays.
    let answer = get_tls(open, "/healthz").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[tokio::test]
async fn a_stream_that_breaks_off_has_no_goodbye_in_tls_either() {
    let (simulator, folder) = (
        simulator(Options::default()).await,
        tempfile::tempdir().unwrap(),
    );
    simulator.push_fault("truncate@3".parse().unwrap());
    let pem = certificate(folder.path());
    let config = LISTEN_TLS.to_owned() + &upstream(&simulator.base_url(), "");
    let gateway = Gateway::start_in(folder, &config);
    let mut stream = dial_tls(&gateway, &pem, &[]).await.unwrap();
    // HTTP/1.0: the end of the connection is the end of the answer.
    let body = streamed("m");
    let request = format!(
        "POST /v1/chat/completions HTTP/1.0\r\nhost: localhost\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let outcome = timeout(PATIENCE, stream.read_to_end(&mut Vec::new()))
        .await
        .unwrap();
    outcome.expect_err("it ends as if it were complete");
}

#[tokio::test]
async fn a_client_that_does_not_finish_its_handshake_does_not_hold_the_end() {
    let folder = tempfile::tempdir().unwrap();
    certificate(folder.path());
    let config = LISTEN_TLS.to_owned() + &upstream("http://127.0.0.1:1", "");
    let mut gateway = Gateway::start_in(folder, &config);
    let address = gateway
        .address()
        .strip_prefix("https://")
        .unwrap()
        .to_owned();
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(b"\x16\x03\x01").await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    // Well below the ten seconds that a handshake may take.
    let lateness = Lateness::watch();
    let start = Instant::now();
    assert_eq!(gateway.stop().await, Some(0));
    lateness.assert_within("its end", start.elapsed(), Duration::from_secs(8));
}

/// What `pacegate check` says of `config`.
fn check(folder: &TempDir, config: &str) -> (Option<i32>, String) {
    let file = folder.path().join("checked.toml");
    std::fs::write(&file, config).unwrap();
    let Output { status, stderr, .. } = Command::new(env!("CARGO_BIN_EXE_pacegate"))
        .args(["check", "--config"])
        .arg(file)
        .env_clear()
        .env("HOME", folder.path())
        .output()
        .unwrap();
    (status.code(), String::from_utf8(stderr).unwrap())
}

#[test]
fn a_certificate_that_cannot_be_used_is_named_and_not_quoted() {
    let folder = tempfile::tempdir().unwrap();
    certificate(folder.path());
    let other = tempfile::tempdir().unwrap();
    certificate(other.path());
    let path = |folder: &TempDir, name: &str| folder.path().join(name).display().to_string();
    let (cert, key) = (path(&folder, "cert.pem"), path(&folder, "key.pem"));
    let empty = path(&folder, "empty");
    std::fs::write(&empty, "").unwrap();
    for (cert_file, key_file, said) in [
        ("/nowhere/cert.pem", &*key, "cannot read /nowhere/cert.pem"),
        (&cert, "/nowhere/key.pem", "cannot read /nowhere/key.pem"),
        (&key, &key, "no certificate in"),
        (&empty, &key, "no certificate in"),
        (&cert, &cert, "no private key in"),
        (&cert, &path(&other, "key.pem"), "cannot be used"),
    ] {
        let config = format!(
            "listen-tls = {{ cert-file = \"{cert_file}\", key-file = \"{key_file}\" }}\n{}",
            upstream("http://127.0.0.1:1", "")
        );
        let (code, log) = Gateway::fails(&config);
        assert_eq!(code, Some(1), "{log}");
        let (code, checked) = check(&folder, &config);
        assert_eq!(code, Some(1), "{checked}");
        assert!(log.ends_with(&checked), "{checked}{log}");
        assert!(log.matches("(os error").count() <= 1, "{log}");
        assert!(
            log.contains(said) && log.contains("hint: "),
            "{said}: {log}"
        );
        assert!(!log.contains("PRIVATE KEY-----\nM"), "{log}");
    }
    for (tls, said) in [
        ("listen-tls = { cert-file = \"c\" }", "key-file"),
        ("listen-tls = \"c\"", "expected a table"),
        (
            "listen-tls = { cert-file = \"c\", key-file = \"k\", ca = \"x\" }",
            "unknown key",
        ),
        (
            "listen = \"unix:s\"\nlisten-tls = { cert-file = \"c\", key-file = \"k\" }",
            "Unix socket",
        ),
    ] {
        let (code, log) = Gateway::fails(&format!("{tls}\n{}", upstream("http://127.0.0.1:1", "")));
        assert_eq!(code, Some(78), "{log}");
        assert!(
            log.contains(said) && log.contains("hint: "),
            "{said}: {log}"
        );
    }
}

/// Some answers are in the sockets' buffers whole, of some the gateway has the end in its own.
#[tokio::test]
async fn a_client_that_reads_slowly_over_tls_gets_all_of_its_answer_from_a_process_that_winds_down()
{
    let simulator = simulator(Options {
        response: ResponseKind::Echo,
        ..Options::default()
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let pem = certificate(folder.path());
    let at_once = upstream(&simulator.base_url(), "jitter-throttle.concurrency = 100");
    let config = "drain-timeout = \"300s\"\n".to_owned() + LISTEN_TLS + &at_once;
    let mut gateway = Gateway::start_in(folder, &config);
    let mut clients = Vec::new();
    for size in (200_000..700_000).step_by(20_000) {
        let body = format!(r#"{{"model":"m","x":"{}"}}"#, "x".repeat(size));
        let json = "content-type: application/json\r\n";
        let mut client = dial_tls(&gateway, &pem, &[]).await.unwrap();
        let chat = request("POST /v1/chat/completions", json, &body);
        client.write_all(&chat).await.unwrap();
        client.flush().await.unwrap();
        client.read_u8().await.unwrap();
        clients.push((client, body.len()));
    }
    eventually("no answer is in the buffers", async || {
        simulator.in_flight() < clients.len() / 2
    })
    .await;
    gateway.terminate();
    gateway.logged("\"Draining\"").await;
    for (mut client, size) in clients {
        let mut read = Vec::new();
        client.read_to_end(&mut read).await.unwrap();
        let head = read.windows(4).position(|it| it == b"\r\n\r\n").unwrap();
        assert_eq!(read.len() - head - 4, size);
    }
    assert_eq!(gateway.ended().await, Some(0));
}
