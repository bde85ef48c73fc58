//! The gate's promises as the upstream's own record tells them: what counts is when the first byte
//! of a request arrives, over connections that are slow, short-lived, or dead without a word.

// Always so here; it tells clippy that helpers of tests may unwrap as tests do.
#![cfg(test)]

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use pacegate::simulator::Options;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::support::{
    client::{Answer, BoxError, post_json},
    gateway::{Gateway, upstream},
};

mod connecting;
mod dead;
mod disk;
mod lives;
mod mock;
mod multiplexed;
mod promise;
mod recorder;
mod unreachable;
mod unsent;

use promise::Promise;
use recorder::Recorder;

/// How long what takes no time may take on a busy machine.
const SLACK: Duration = Duration::from_millis(500);

/// What one request of a burst got, and how long it took.
#[derive(Debug)]
struct Outcome {
    answer: Result<Answer, BoxError>,
    took: Duration,
}

/// A chat request whose model is `m`.
const CHAT: &str = r#"{"model":"m","messages":[]}"#;

// === impl Outcome ===

impl Outcome {
    /// How long the answer says that the request has waited for its turn.
    fn queued(&self) -> Duration {
        let answer = self.answer.as_ref().unwrap();
        Duration::from_millis(answer.header("x-pacegate-queued-ms").parse().unwrap())
    }

    #[track_caller]
    fn assert_ok(&self) {
        let answer = self.answer.as_ref().unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
}

async fn ask(gateway: &Gateway) -> Outcome {
    let start = Instant::now();
    let url = gateway.url("/v1/chat/completions");
    let answer = post_json(&url, CHAT, &[]).await;
    Outcome {
        answer,
        took: start.elapsed(),
    }
}

/// So many requests at once.
async fn burst(gateway: &Gateway, count: usize) -> Vec<Outcome> {
    join_all((0..count).map(|_| ask(gateway))).await
}

/// So many requests at once, all of which have to be answered well.
async fn served(gateway: &Gateway, count: usize) -> Vec<Outcome> {
    let outcomes = burst(gateway, count).await;
    outcomes.iter().for_each(Outcome::assert_ok);
    outcomes
}

/// A folder that holds the recorder's CA, if it has one.
fn home(recorder: &Recorder) -> Arc<TempDir> {
    let folder = tempfile::tempdir().unwrap();
    if let Some(pem) = recorder.simulator().ca_pem() {
        std::fs::write(folder.path().join("ca.pem"), pem).unwrap();
    }
    Arc::new(folder)
}

/// A config for `recorder`. `keys` are the upstream's, `pacing` those of its jitter-throttle.
fn config(recorder: &Recorder, keys: &str, pacing: &str) -> String {
    let simulator = recorder.simulator();
    let tls = match simulator.ca_pem() {
        Some(_) => "tls = { ca-file = \"ca.pem\" }\n",
        None => "",
    };
    paced(&simulator.base_url(), &format!("{tls}{keys}"), pacing)
}

/// The same for any upstream.
fn paced(base_url: &str, keys: &str, pacing: &str) -> String {
    let more = format!("{keys}\n[upstream.jitter-throttle]\njitter = \"0s..0s\"\n{pacing}\n");
    upstream(base_url, &more)
}

/// A recorder, and a gateway in front of it.
async fn pair(options: Options, keys: &str, pacing: &str) -> (Recorder, Gateway) {
    let recorder = Recorder::start(options).await;
    let gateway = Gateway::start_in(home(&recorder), &config(&recorder, keys, pacing));
    (recorder, gateway)
}

/// Waits until the upstream has got so many requests.
async fn arrived(recorder: &Recorder, count: usize) {
    while recorder.simulator().arrivals().len() < count {
        sleep(Duration::from_millis(2)).await;
    }
}
