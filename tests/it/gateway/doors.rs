//! The ways in: which names, which pages, and which sockets.

use std::{os::unix::fs::PermissionsExt, path::Path, process::Command, sync::Arc, time::Duration};

use http::Request;
use pacegate::simulator::Options;
use rcgen::{CertificateParams, KeyPair};
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{assert_ok, pair, plain, raw, simulator, streamed};
use crate::support::{
    client::{send_over, whole},
    gateway::{Gateway, PATIENCE, upstream},
};

/// Asks `gateway` with these fields, and says whether it let them pass; whatever it does not is
/// to be a 403 with this code.
async fn passes(gateway: &Gateway, fields: &str, code: &str) -> bool {
    let bytes = format!("GET /v1/files HTTP/1.1\r\n{fields}\r\nconnection: close\r\n\r\n");
    let answer = raw(gateway, bytes.as_bytes()).await;
    if answer.starts_with("HTTP/1.1 200 ") {
        return true;
    }
    assert!(answer.starts_with("HTTP/1.1 403 "), "{fields}: {answer}");
    assert!(
        answer.contains(&format!("x-pacegate-error: {code}\r\n")),
        "{fields}: {answer}"
    );
    assert!(!answer.contains("access-control"), "{fields}: {answer}");
    false
}

#[tokio::test]
async fn of_forty_forms_of_host_exactly_the_allowed_ones_pass() {
    const FORMS: [(&str, bool); 42] = [
        ("localhost", true),
        ("LocalHost", true),
        ("localhost:7223", true),
        ("localhost:1", true),
        ("localhost:65535", true),
        ("127.0.0.1", true),
        ("127.0.0.1:7223", true),
        ("127.1.2.3", true),
        ("[::1]", true),
        ("[::1]:7223", true),
        ("[0:0:0:0:0:0:0:1]", true),
        ("pacegate.lan", true),
        ("PACEGATE.lan:80", true),
        ("localhost:", false),
        ("localhost:65536", false),
        ("localhost:-1", false),
        ("localhost:+80", false),
        ("localhost:80:80", false),
        ("localhost:http", false),
        ("localhost.", false),
        (".localhost", false),
        ("localhost.evil.example", false),
        ("evil.example", false),
        ("evil.localhost", false),
        ("xn--localhost", false),
        ("user@localhost", false),
        ("localhost@evil.example", false),
        ("localhost/", false),
        ("http://localhost", false),
        ("localhost localhost", false),
        ("localhost,localhost", false),
        ("localhost#", false),
        ("[localhost]", false),
        ("[127.0.0.1]", false),
        ("::1", false),
        ("[::1", false),
        ("[::ffff:127.0.0.1]", false),
        ("127.1", false),
        ("2130706433", false),
        ("0x7f.0.0.1", false),
        ("0.0.0.0", false),
        ("192.168.1.2", false),
    ];
    let simulator = simulator(Options::default()).await;
    let config =
        "allowed-hosts = [\"pacegate.lan\"]\n".to_owned() + &upstream(&simulator.base_url(), "");
    let gateway = Gateway::start(&config);
    for (host, allowed) in FORMS {
        let passed = passes(&gateway, &format!("host: {host}"), "host_not_allowed").await;
        assert_eq!(passed, allowed, "{host:?}");
    }
    let allowed = FORMS.iter().filter(|(_, allowed)| *allowed).count();
    assert_eq!(simulator.arrivals().len(), allowed);
}

#[tokio::test]
async fn of_thirty_forms_of_origin_exactly_the_allowed_ones_pass() {
    const FORMS: [(&str, bool); 30] = [
        ("accept: */*", true),
        ("origin: https://app.example", true),
        (
            "origin: https://app.example\r\nsec-fetch-site: cross-site",
            true,
        ),
        ("sec-fetch-site: none", true),
        ("sec-fetch-site: same-origin", true),
        ("sec-fetch-mode: cors", true),
        ("sec-fetch-site: cross-site", false),
        ("sec-fetch-site: same-site", false),
        ("sec-fetch-site: Cross-Site", false),
        ("sec-fetch-site: none\r\nsec-fetch-site: cross-site", false),
        ("sec-fetch-site:", false),
        ("origin:", false),
        ("origin: null", false),
        ("origin: *", false),
        ("origin: http://app.example", false),
        ("origin: https://app.example:443", false),
        ("origin: https://app.example:8443", false),
        ("origin: https://app.example/", false),
        ("origin: https://app.example.", false),
        ("origin: https://APP.example", false),
        ("origin: https://app.example.evil.example", false),
        ("origin: https://evil-app.example", false),
        ("origin: https://user@app.example", false),
        ("origin: https://app.example, https://app.example", false),
        ("origin: https://app.example https://evil.example", false),
        (
            "origin: https://app.example\r\norigin: https://evil.example",
            false,
        ),
        (
            "origin: https://app.example\r\norigin: https://app.example",
            false,
        ),
        ("origin: http://localhost:3000", false),
        ("origin: http://127.0.0.1:7223", false),
        ("origin: chrome-extension://abcdef", false),
    ];
    let simulator = simulator(Options::default()).await;
    let config = "allowed-origins = [\"https://app.example\"]\n".to_owned()
        + &upstream(&simulator.base_url(), "");
    let gateway = Gateway::start(&config);
    for (fields, allowed) in FORMS {
        let fields = format!("host: localhost\r\n{fields}");
        let passed = passes(&gateway, &fields, "origin_not_allowed").await;
        assert_eq!(passed, allowed, "{fields}");
    }
    let allowed = FORMS.iter().filter(|(_, allowed)| *allowed).count();
    assert_eq!(simulator.arrivals().len(), allowed);
}

#[tokio::test]
async fn a_preflight_is_refused_also_for_a_listed_page() {
    let simulator = simulator(Options::default()).await;
    let config = "allowed-origins = [\"https://app.example\"]\n".to_owned()
        + &upstream(&simulator.base_url(), "");
    let gateway = Gateway::start(&config);
    for path in [
        "/v1/chat/completions",
        "/v1/models",
        "/healthz",
        "/metrics",
        "/",
    ] {
        let bytes = format!(
            "OPTIONS {path} HTTP/1.1\r\nhost: localhost\r\norigin: https://app.example\r\n\
             access-control-request-method: POST\r\nconnection: close\r\n\r\n"
        );
        let answer = raw(&gateway, bytes.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 403 "), "{path}: {answer}");
        assert!(!answer.contains("access-control"), "{path}: {answer}");
    }
    assert!(simulator.arrivals().is_empty());
}

#[tokio::test]
async fn an_open_address_needs_a_key_that_nobody_can_guess() {
    let start = |key: &str| {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("key");
        std::fs::write(&file, key).unwrap();
        let keys = format!("client-keys = [{{ file = \"{}\" }}]\n", file.display());
        let keys = if key.is_empty() { String::new() } else { keys };
        let config = format!(
            "listen = \"0.0.0.0:0\"\n{keys}{}",
            upstream("http://127.0.0.1:1", "")
        );
        Gateway::fails(&config)
    };
    for key in [
        "",
        "short",
        "9f1c0b7ae35d48264ac1e7f09b6d23",
        "changeme",
        "changeme-changeme-changeme-changeme",
        "your-api-key",
        "0123456789abcdef0123456789abcdef",
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        "example-example-9f1c0b7ae35d48264ac1e7f0",
    ] {
        let (code, said) = start(key);
        assert_eq!(code, Some(78), "{key}: {said}");
        assert!(
            said.contains("hint: ") && said.contains("openssl rand -hex 32"),
            "{said}"
        );
        assert!(key.is_empty() || !said.contains(key), "{said}");
    }
}

#[tokio::test]
async fn a_unix_socket_is_never_open_to_others_whatever_the_umask() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("s");
    let config = folder.path().join("pacegate.toml");
    let text = format!(
        "listen = \"unix:{}\"\n{}",
        socket.display(),
        upstream("http://127.0.0.1:1", "")
    );
    std::fs::write(&config, text).unwrap();
    let script = "umask 000; exec \"$0\" serve --config \"$1\"";
    let mut child = Command::new("sh")
        .args(["-c", script, env!("CARGO_BIN_EXE_pacegate")])
        .arg(&config)
        .env("HOME", folder.path())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let modes = async {
        let mut modes = Vec::new();
        // From the moment that the file is there to the first connection.
        while tokio::net::UnixStream::connect(&socket).await.is_err() {
            modes.extend(std::fs::metadata(&socket).map(|file| file.permissions().mode() & 0o777));
            tokio::task::yield_now().await;
        }
        modes.extend(std::fs::metadata(&socket).map(|file| file.permissions().mode() & 0o777));
        modes
    };
    let modes = timeout(PATIENCE, modes).await;
    child.kill().unwrap();
    child.wait().unwrap();
    let modes = modes.expect("it does not listen");
    assert!(
        !modes.is_empty() && modes.iter().all(|mode| *mode == 0o600),
        "{modes:?}"
    );
}

/// A certificate for `localhost`, signed by itself, in a folder with its key.
fn certificate(folder: &Path) -> String {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(["localhost".to_owned()]).unwrap();
    let pem = params.self_signed(&key).unwrap().pem();
    std::fs::write(folder.join("cert.pem"), &pem).unwrap();
    std::fs::write(folder.join("key.pem"), key.serialize_pem()).unwrap();
    pem
}

const LISTEN_TLS: &str = "listen-tls = { cert-file = \"cert.pem\", key-file = \"key.pem\" }\n";

/// A connection to a gateway that listens with TLS, whose certificate is trusted.
async fn dial_tls(
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
        .write_all(b"GET / HTTP/1.1\nhost: localhost\n\n")
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
    let ended = timeout(Duration::from_secs(8), gateway.stop()).await;
    assert_eq!(ended.expect("it waits"), Some(0));
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

#[tokio::test]
async fn a_body_of_another_kind_in_disguise_is_refused() {
    let (simulator, gateway) = pair(&[], "").await;
    for kinds in [
        "content-type: application/json\r\ncontent-type: text/plain",
        "content-type: text/plain\r\ncontent-type: application/json",
        "content-type: text/plain; application/json",
        "content-type: application/json, text/plain",
        "content-type: application/x-www-form-urlencoded",
        "content-type: application/jsonp",
    ] {
        let body = plain("m");
        let bytes = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n{kinds}\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        );
        let answer = raw(&gateway, bytes.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 415 "), "{kinds}: {answer}");
    }
    assert!(simulator.arrivals().is_empty());
}
