//! `pacegate serve` in front of a simulator that speaks TLS.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    process::Command,
    time::{Duration, SystemTime},
};

use pacegate::simulator::{Access, Arrival, FaultRule, Options, Simulator, TlsOptions, Wording};
use serde_json::json;
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

use crate::program::Program;

/// Nothing that the gateway does takes longer unless it hangs, however busy the machine is.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The real program, the upstream behind it, and the folder that is home to both it and its client.
pub(crate) struct Rig {
    pub(crate) home: TempDir,
    pub(crate) simulator: Simulator,
    /// The access token in the credentials file.
    pub(crate) token: String,
    address: String,
    gateway: Program,
}

impl Rig {
    /// Starts both; the upstream's chats go wrong as `faults` say.
    pub(crate) async fn start(faults: &[&str]) -> Self {
        Self::start_with(faults, "", "").await
    }

    /// The same with `keys` and `tables` added to the upstream's config. It refuses in the words
    /// of the dialect named there.
    pub(crate) async fn start_with(faults: &[&str], keys: &str, tables: &str) -> Self {
        let simulator = Simulator::start(Options {
            // What the vendor's own client offers: http/1.1 and nothing else.
            tls: Some(TlsOptions {
                h2: false,
                ..TlsOptions::default()
            }),
            access: Access::Issued,
            wording: if keys.contains("openai") {
                Wording::OpenAi
            } else {
                Wording::QwenOauth
            },
            faults: faults.iter().map(|fault| rule(fault)).collect(),
            ..Options::default()
        })
        .await
        .unwrap();
        let token = simulator.issue();

        let home = tempfile::tempdir().unwrap();
        let path = home.path();
        fs::write(path.join("ca.pem"), simulator.ca_pem().unwrap()).unwrap();
        let credentials = json!({
            "access_token": token.access_token,
            "token_type": "Bearer",
            "refresh_token": token.refresh_token,
            "resource_url": "portal.qwen.ai",
            "expiry_date": epoch_ms() + 3_600_000,
        });
        fs::write(path.join("oauth_creds.json"), credentials.to_string()).unwrap();
        let config = config(&simulator, keys) + tables;
        fs::write(path.join("pacegate.toml"), config).unwrap();

        let mut gateway = Program::start(
            Command::new(env!("CARGO_BIN_EXE_pacegate"))
                .args(["serve", "--config"])
                .arg(path.join("pacegate.toml"))
                // Nothing of this machine: a proxy in the environment would be honoured.
                .env_clear()
                .env("HOME", path),
            path,
            "pacegate",
        );
        let address = listening(&mut gateway).await;
        Self {
            home,
            simulator,
            token: token.access_token,
            address,
            gateway,
        }
    }

    /// What a client takes for its base URL.
    pub(crate) fn base_url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// The chats that the upstream saw, in order.
    pub(crate) fn chats(&self) -> Vec<Arrival> {
        let arrivals = self.simulator.arrivals();
        let chat = |arrival: &Arrival| arrival.target == "/v1/chat/completions";
        arrivals.into_iter().filter(chat).collect()
    }

    /// How many answers the gateway has given to chats, by its own count.
    pub(crate) fn answers(&self) -> u32 {
        let request = format!(
            "GET /metrics HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n",
            self.address
        );
        exchange(&self.address, &request)
            .lines()
            .filter(|line| line.starts_with("pacegate_answers_total"))
            .map(|line| line.rsplit(' ').next().unwrap().parse::<u32>().unwrap())
            .sum()
    }

    /// Asks the gateway to end, and sees to it that it does so well.
    pub(crate) async fn stop(mut self) {
        self.gateway.terminate();
        let status = self.gateway.end(PATIENCE).await;
        assert!(status.success(), "{status}\n{}", self.gateway.output());
        self.simulator.shutdown().await;
    }
}

/// Only what makes the simulator stand in for the service: the rest is the preset's.
fn config(simulator: &Simulator, keys: &str) -> String {
    // By its name, as the real service is reached.
    let origin = format!("https://localhost:{}", simulator.address().port());
    format!(
        r#"
listen = "127.0.0.1:0"
log = {{ level = "debug", format = "json" }}

[[upstream]]
name = "qwen"
preset = "qwen-oauth"
base-url = "{origin}/v1"
tls = {{ ca-file = "ca.pem" }}
{keys}

[upstream.credentials]
file = "oauth_creds.json"
device-code-url = "{origin}/api/v1/oauth2/device/code"
token-url = "{origin}/api/v1/oauth2/token"
"#
    )
}

/// Waits for the first line, which says where the gateway listens.
pub(crate) async fn listening(gateway: &mut Program) -> String {
    let said = timeout(PATIENCE, async {
        loop {
            let stdout = gateway.stdout();
            if let Some((first, _)) = stdout.split_once('\n') {
                return first.to_owned();
            }
            sleep(Duration::from_millis(20)).await;
        }
    });
    let Ok(line) = said.await else {
        panic!("pacegate does not listen\n{}", gateway.output());
    };
    line.strip_prefix("listening on http://")
        .unwrap_or_else(|| panic!("{line}"))
        .to_owned()
}

/// Asks one question over a connection of its own: head and body of the answer.
pub(crate) fn chat(address: &str) -> String {
    let body = r#"{"model":"coder-model","messages":[]}"#;
    let request = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len(),
    );
    exchange(address, &request)
}

/// Sends what has to close the connection, and reads all that comes.
pub(crate) fn exchange(address: &str, request: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn rule(text: &str) -> FaultRule {
    text.parse().unwrap()
}

fn epoch_ms() -> u64 {
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap();
    u64::try_from(now.as_millis()).unwrap()
}
