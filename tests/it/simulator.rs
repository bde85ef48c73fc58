//! The fake upstream over real sockets: a test that trusts its record trusts these.

// Always so here; it tells clippy that helpers of tests may unwrap as tests do.
#![cfg(test)]

use std::time::Duration;

use pacegate::simulator::{Options, Simulator};
use sha2::{Digest, Sha256};
use tokio::time::{self, timeout};

use crate::support::{
    client::{self, BoxError, post_json},
    gateway::PATIENCE,
};

mod answers;
mod connections;
mod faults;
mod hindrances;
mod limits;
mod oauth;
mod program;
mod record;

const PLAIN: &str = r#"{"model":"m","messages":[]}"#;
const STREAMED: &str =
    r#"{"model":"m","messages":[],"stream":true,"stream_options":{"include_usage":true}}"#;

async fn start(options: Options) -> Simulator {
    Simulator::start(options).await.unwrap()
}

async fn chat(simulator: &Simulator, body: &str) -> Result<client::Answer, BoxError> {
    let url = format!("{}/chat/completions", simulator.base_url());
    post_json(&url, body.to_owned(), &[]).await
}

/// A fresh simulator with one fault, and the answer to one chat.
async fn chat_with(fault: &str, body: &str) -> (Simulator, Result<client::Answer, BoxError>) {
    let simulator = start(Options {
        faults: vec![fault.parse().unwrap()],
        ..Options::default()
    })
    .await;
    let answer = chat(&simulator, body).await;
    (simulator, answer)
}

fn sha256_hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Waits until nothing is under way.
async fn idle(simulator: &Simulator) {
    let quiet = async {
        while simulator.in_flight() > 0 || simulator.connections() > 0 {
            time::sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(PATIENCE, quiet)
        .await
        .expect("something is still under way");
}
