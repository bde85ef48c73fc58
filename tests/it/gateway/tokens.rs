//! Tokens of a credentials file, as the upstream and the token endpoint saw them.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    thread,
    time::{Duration, SystemTime},
};

use futures_util::future::join_all;
use pacegate::simulator::{Access, Behaviour, Options, RefreshFault, Simulator, TokenPair};
use serde_json::json;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use super::{assert_ok, assert_refused, chats, eventually, plain, simulator};
use crate::support::{
    gateway::{Gateway, Metrics, PATIENCE, upstream},
    lateness::{Lateness, not_judged},
};

mod processes;
mod rejected;

/// A simulator that accepts only tokens it has issued, which work for `lifetime`.
async fn issuer(lifetime: Duration) -> Simulator {
    simulator(Options {
        access: Access::Issued,
        oauth: Behaviour {
            token_lifetime: lifetime,
            refresh_once: true,
            ..Behaviour::default()
        },
        ..Options::default()
    })
    .await
}

/// The file `creds.json` in `folder`, for tokens that were issued just now.
fn write_credentials(folder: &std::path::Path, grant: &TokenPair, lifetime: Duration) {
    let expiry = SystemTime::now() + lifetime;
    let expiry = expiry.duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let credentials = json!({
        "access_token": grant.access_token,
        "token_type": "Bearer",
        "refresh_token": grant.refresh_token,
        "expiry_date": expiry.as_millis() as u64,
    });
    fs::write(folder.join("creds.json"), credentials.to_string()).unwrap();
}

/// The config of a gateway that takes its tokens from `creds.json`.
fn with_tokens(simulator: &Simulator, throttle: &str) -> String {
    let origin = simulator.origin();
    let more = format!(
        r#"
        dialect = "openai"
        pipeline = ["retry-on-429", "token-refresh", "jitter-throttle", "bearer-auth"]
        [upstream.credentials]
        kind = "oauth"
        file = "creds.json"
        device-code-url = "{origin}/api/v1/oauth2/device/code"
        token-url = "{origin}/api/v1/oauth2/token"
        client-id = "test"
        scope = "test"
        resource-hosts = []
        [upstream.jitter-throttle]
        jitter = "0s..0s"
        {throttle}
        "#
    );
    upstream(&simulator.base_url(), &more)
}

fn refreshes(simulator: &Simulator) -> usize {
    let arrivals = simulator.arrivals();
    arrivals
        .iter()
        .filter(|it| it.target == "/api/v1/oauth2/token")
        .count()
}

/// A sum of `/metrics`, read while this thread is blocked.
fn scrape(gateway: &Gateway, name: &str) -> u64 {
    let mut stream = TcpStream::connect(gateway.authority()).unwrap();
    stream
        .write_all(&super::request("GET /metrics", "", ""))
        .unwrap();
    let mut metrics = String::new();
    stream.read_to_string(&mut metrics).unwrap();
    Metrics::new(metrics).sum(name)
}

#[tokio::test]
async fn a_token_that_expires_while_requests_wait_is_renewed_once_and_none_fails() {
    const LIFETIME: Duration = Duration::from_secs(5);
    let simulator = issuer(LIFETIME).await;
    let folder = tempfile::tempdir().unwrap();
    write_credentials(folder.path(), &simulator.issue(), LIFETIME);
    let issued = Instant::now();
    // The third leaves when the first token is over and the second is still young.
    let gateway = Gateway::start_in(folder, &with_tokens(&simulator, "min-interval = \"3s\""));
    let asking = (0..3).map(|_| gateway.chat(plain("m")));
    for answer in join_all(asking).await {
        let answer = answer.unwrap();
        assert_ok(&answer);
        assert_eq!(answer.header("x-pacegate-attempts"), "1");
    }
    // A token is renewed after three quarters of its life.
    if issued.elapsed() < LIFETIME * 3 / 2 + LIFETIME / 5 {
        assert_eq!(refreshes(&simulator), 1);
    } else {
        not_judged("how often a token is renewed: it took too long");
    }
    let tokens: Vec<_> = chats(&simulator)
        .iter()
        .map(|it| it.header("authorization").unwrap().to_owned())
        .collect();
    assert_eq!(tokens.len(), 3);
    assert_ne!(tokens[0], tokens[2]);
}

#[tokio::test]
async fn ten_refusals_at_once_cost_one_refresh_and_ten_replays() {
    const LIFETIME: Duration = Duration::from_secs(3600);
    let simulator = issuer(LIFETIME).await;
    let folder = tempfile::tempdir().unwrap();
    write_credentials(folder.path(), &simulator.issue(), LIFETIME);
    let pacing = "min-interval = \"0s\"\nconcurrency = 10";
    let gateway = Gateway::start_in(folder, &with_tokens(&simulator, pacing));
    simulator.revoke_access_tokens();

    // The simulator lives on this thread: as long as that is blocked nobody is answered, so all
    // ten are at the upstream with the old token before the first learns that it is refused.
    let clients: Vec<_> = (0..10)
        .map(|_| {
            let mut client = TcpStream::connect(gateway.authority()).unwrap();
            let json = "content-type: application/json\r\n";
            let chat = super::request("POST /v1/chat/completions", json, &plain("m"));
            client.write_all(&chat).unwrap();
            client
        })
        .collect();
    let deadline = Instant::now() + PATIENCE;
    while scrape(&gateway, "pacegate_upstream_in_flight") < 10 {
        assert!(Instant::now() < deadline, "they do not leave");
        thread::sleep(Duration::from_millis(20));
    }
    // What was counted is written in the next moment.
    thread::sleep(Duration::from_millis(500));
    let answers = tokio::task::spawn_blocking(|| {
        let read = |mut client: TcpStream| {
            let mut answer = String::new();
            client.read_to_string(&mut answer).unwrap();
            answer
        };
        clients.into_iter().map(read).collect::<Vec<_>>()
    });
    for answer in answers.await.unwrap() {
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(answer.contains("x-pacegate-attempts: 2\r\n"), "{answer}");
    }
    assert_eq!(refreshes(&simulator), 1);
    let statuses: Vec<_> = chats(&simulator)
        .iter()
        .filter_map(|it| it.status)
        .collect();
    assert_eq!(statuses, [[401; 10], [200; 10]].concat());
}

#[tokio::test]
async fn a_refresh_outlives_the_client_that_waited_for_it() {
    const LIFETIME: Duration = Duration::from_secs(3600);
    let simulator = issuer(LIFETIME).await;
    simulator.push_refresh_fault(RefreshFault::Delay(Duration::from_millis(300)));
    let folder = tempfile::tempdir().unwrap();
    write_credentials(folder.path(), &simulator.issue(), Duration::ZERO);
    let gateway = Gateway::start_in(folder, &with_tokens(&simulator, "min-interval = \"0s\""));
    tokio::select! {
        _ = gateway.chat(plain("leaves")) => panic!("the refresh takes longer"),
        () = eventually("nobody refreshes", async || refreshes(&simulator) == 1) => {}
    }
    assert_ok(&gateway.chat(plain("stays")).await.unwrap());
    assert_eq!(
        refreshes(&simulator),
        1,
        "the refresh token was spent twice"
    );
}

#[tokio::test]
async fn a_login_is_required_while_there_is_no_whole_file_and_picked_up_afterwards() {
    const LIFETIME: Duration = Duration::from_secs(3600);
    let simulator = issuer(LIFETIME).await;
    let folder = TempDir::new().unwrap();
    let gateway = Gateway::start_in(folder, &with_tokens(&simulator, "min-interval = \"0s\""));
    let refused = gateway.chat(plain("m")).await.unwrap();
    assert_refused(&refused, 401, "login_required");
    assert!(refused.text().contains("creds.json"), "{}", refused.text());

    fs::write(
        gateway.folder().join("creds.json"),
        r#"{"access_token": "sim"#,
    )
    .unwrap();
    let refused = gateway.chat(plain("m")).await.unwrap();
    assert_refused(&refused, 401, "login_required");

    write_credentials(gateway.folder(), &simulator.issue(), LIFETIME);
    let lateness = Lateness::watch();
    let written = Instant::now();
    while gateway.chat(plain("m")).await.unwrap().status == 401 {
        assert!(written.elapsed() < PATIENCE, "it is not picked up");
        sleep(Duration::from_millis(50)).await;
    }
    let took = written.elapsed();
    lateness.assert_within("picking up a login", took, Duration::from_secs(6));
    assert_eq!(chats(&simulator).len(), 1, "it asked without a token");
    assert_eq!(refreshes(&simulator), 0);
    for secret in ["sim-access", "sim-refresh"] {
        assert!(!gateway.log().contains(secret));
    }
}
