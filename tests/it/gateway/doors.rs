//! The ways in: which names, which pages, and which sockets.

use std::{os::unix::fs::PermissionsExt, process::Command};

use pacegate::simulator::Options;
use tokio::time::timeout;

use super::{pair, plain, raw, simulator};
use crate::support::gateway::{Gateway, PATIENCE, upstream};

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
