//! What goes over the wire, byte for byte, against what the vendor's own program has sent.

use std::fs;

use tempfile::TempDir;

use super::{Home, simulator};
use crate::support::{gateway::Gateway, tap::tap};

const DEVICE_CODE: &str = include_str!("../captures/device-code-0.10.4.http");
const DEVICE_POLL: &str = include_str!("../captures/device-poll-0.10.4.http");
const REFRESH: &str = include_str!("../captures/refresh-0.10.4.http");

#[tokio::test]
async fn the_bytes_of_a_login_are_those_of_the_captures() {
    let simulator = simulator(&[]).await;
    let (origin, wire) = tap(&simulator).await;
    let home = Home::new(&origin);
    let said = home.run(&["login", "--no-browser"]).await;
    assert_eq!(said.code, Some(0), "{}", said.stderr);

    let wire = String::from_utf8(wire.lock().unwrap().clone()).unwrap();
    let end = wire.find("=S256").unwrap() + "=S256".len();
    let (begin, poll) = wire.split_at(end);
    assert_eq!(begin, like(DEVICE_CODE, begin, &origin));
    assert_eq!(header(begin, "x-request-id").len(), 36);
    assert_eq!(field(begin, "code_challenge").len(), 43);
    assert_eq!(poll, like(DEVICE_POLL, poll, &origin));
    assert_eq!(field(poll, "device_code").len(), 36);
    assert_eq!(field(poll, "code_verifier").len(), 43);
}

#[tokio::test]
async fn the_bytes_of_a_renewal_are_those_of_the_capture() {
    let simulator = simulator(&[]).await;
    let (origin, wire) = tap(&simulator).await;
    let folder = TempDir::new().unwrap();
    let refresh_token = simulator.issue().refresh_token;
    let credentials = format!(
        r#"{{"access_token":"old","token_type":"Bearer","refresh_token":"{refresh_token}","expiry_date":1}}"#
    );
    fs::write(folder.path().join("creds.json"), credentials).unwrap();
    // Only the places are ours: all that is sent there is the preset's.
    let config = format!(
        "[[upstream]]\nname = \"qwen\"\npreset = \"qwen-oauth\"\nbase-url = \"{}\"\n\
         [upstream.credentials]\nfile = \"creds.json\"\n\
         token-url = \"{origin}/api/v1/oauth2/token\"\n",
        simulator.base_url()
    );
    let gateway = Gateway::start_in(folder, &config);
    let body = r#"{"model":"coder-model","messages":[]}"#;
    assert_eq!(gateway.chat(body).await.unwrap().status, 200);

    let wire = String::from_utf8(wire.lock().unwrap().clone()).unwrap();
    assert_eq!(wire, like(REFRESH, &wire, &origin));
    assert_eq!(field(&wire, "refresh_token"), refresh_token);
}

/// The captured request with what is another value in each request taken from `sent`; names of
/// fields in lower case, which HTTP does not tell from upper case.
fn like(captured: &str, sent: &str, origin: &str) -> String {
    let (head, form) = captured.split_once("\r\n\r\n").unwrap();
    let (line, fields) = head.split_once("\r\n").unwrap();
    let (_, sent_form) = sent.split_once("\r\n\r\n").unwrap();
    let fields = fields.lines().map(|line| {
        let (name, value) = line.split_once(": ").unwrap();
        let name = name.to_ascii_lowercase();
        let value = match &*name {
            "content-length" => sent_form.len().to_string(),
            "host" => origin.strip_prefix("http://").unwrap().to_owned(),
            "x-request-id" => header(sent, &name).to_owned(),
            _ => value.to_owned(),
        };
        format!("{name}: {value}\r\n")
    });
    let form: Vec<_> = form
        .split('&')
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap();
            let value = match name {
                "code_challenge" | "code_verifier" | "device_code" | "refresh_token" => {
                    field(sent, name)
                }
                _ => value,
            };
            format!("{name}={value}")
        })
        .collect();
    let fields: String = fields.collect();
    format!("{line}\r\n{fields}\r\n{}", form.join("&"))
}

/// The value of a header field; empty without one.
fn header<'a>(request: &'a str, name: &str) -> &'a str {
    let (head, _) = request.split_once("\r\n\r\n").unwrap();
    head.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
        .unwrap_or_default()
}

/// The value of a form's field, as it was sent; empty without one.
fn field<'a>(request: &'a str, name: &str) -> &'a str {
    let (_, form) = request.split_once("\r\n\r\n").unwrap();
    form.split('&')
        .find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
        .unwrap_or_default()
}
