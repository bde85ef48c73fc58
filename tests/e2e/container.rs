//! The image as a container: small, as nobody, on a root that cannot be written.
//!
//! `tests/run` builds it with Debian's buildah and names it in `PACEGATE_IMAGE`. A container shares
//! the network of the test that runs it, and each test has a network of its own: the image's own
//! port is free there, and so is a resolver's.

use std::{fs, os::unix::fs::MetadataExt, time::Duration};

use pacegate::simulator::{Options, Simulator};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::gateway::exchange;

mod names;
mod podman;

use podman::{Container, inside, inspect_image, podman};

/// The image may not be larger, in bytes.
const MOST: u64 = 12_000_000;

/// Where the image's config listens.
const ADDRESS: &str = "127.0.0.1:7223";

const KEY: &str = "8f1c47d2e95ab03617c4de82f05b9a6d";

/// Long enough for the test to come while it lasts.
const CHUNK_GAP: Duration = Duration::from_millis(100);

/// What the image's own config says, and an upstream.
fn config(upstream: &str) -> String {
    include_str!("../../config/container.toml").to_owned() + upstream
}

fn request(method: &str, path: &str, more: &str, body: &str) -> String {
    format!(
        "{method} {path} HTTP/1.1\r\nhost: {ADDRESS}\r\nconnection: close\r\n{more}\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// With the client's key.
fn authorized(method: &str, path: &str, body: &str) -> String {
    let key = format!("authorization: Bearer {KEY}\r\n");
    request(method, path, &key, body)
}

#[test]
fn is_small_and_says_what_it_is() {
    let image = inspect_image();
    let size = image["Size"].as_u64().unwrap();
    println!("the image has {size} bytes");
    assert!(size <= MOST, "{size} bytes");
    let config = &image["Config"];
    assert_eq!(config["User"], "65532:65532");
    assert_eq!(config["StopSignal"], "SIGTERM");
    assert_eq!(image["Healthcheck"]["Test"][1], "/usr/bin/pacegate");
    let labels = &config["Labels"];
    let label = |name| &labels[format!("org.opencontainers.image.{name}")];
    assert_eq!(label("version"), env!("CARGO_PKG_VERSION"));
    assert_eq!(label("title"), env!("CARGO_PKG_NAME"));
    assert_eq!(label("description"), env!("CARGO_PKG_DESCRIPTION"));
    assert_eq!(label("licenses"), "MIT");
    assert_eq!(image["RootFS"]["Layers"].as_array().map(Vec::len), Some(1));
}

#[tokio::test]
async fn refuses_to_start_without_a_key_that_is_worth_one() {
    if !inside("refuses_to_start_without_a_key_that_is_worth_one").await {
        return;
    }
    for (key, reason) in [
        (None, "it is not set"),
        (Some(""), "it is empty"),
        (Some("changeme"), "a sample that everybody knows"),
        (Some("k8Jq0sXw2v"), "less than 128 bits"),
    ] {
        let mut container = Container::start(key, &[], &[]);
        assert_eq!(container.end().await, Some(78), "{}", container.output());
        assert!(
            container.output().contains(reason),
            "{}",
            container.output()
        );
    }
    // And where no config asks for one.
    let bare = ["--preset", "local", "--listen", "0.0.0.0:7223"];
    let mut container = Container::start(Some(KEY), &[], &bare);
    assert_eq!(container.end().await, Some(78), "{}", container.output());
    assert!(container.output().contains("needs a client key"));
}

#[tokio::test]
async fn says_that_it_leaves_out_what_no_container_needs() {
    if !inside("says_that_it_leaves_out_what_no_container_needs").await {
        return;
    }
    for verb in ["bench", "demo", "simulate"] {
        let mut container = Container::start(None, &[], &[verb]);
        assert_eq!(container.end().await, Some(2), "{}", container.output());
        assert!(
            container.output().contains("(cargo feature tools)"),
            "{}",
            container.output()
        );
    }
}

#[tokio::test]
async fn is_well_by_its_own_check_and_lets_in_who_has_the_key() {
    if !inside("is_well_by_its_own_check_and_lets_in_who_has_the_key").await {
        return;
    }
    let mut container = Container::start(Some(KEY), &[], &[]);
    container.listening().await;
    assert!(container.is_healthy());
    let models = exchange(ADDRESS, &authorized("GET", "/v1/models", ""));
    assert!(models.starts_with("HTTP/1.1 200 "), "{models}");
    // By the name that the sample for compose gives it.
    let by_name = authorized("GET", "/v1/models", "").replace(ADDRESS, "pacegate:7223");
    assert!(exchange(ADDRESS, &by_name).starts_with("HTTP/1.1 200 "));
    let stranger = exchange(ADDRESS, &request("GET", "/v1/models", "", ""));
    assert!(stranger.starts_with("HTTP/1.1 401 "), "{stranger}");
    drop(container);

    let mut elsewhere = Container::start(Some(KEY), &[], &["--listen", "127.0.0.1:7224"]);
    elsewhere.listening().await;
    assert!(
        !elsewhere.is_healthy(),
        "nobody answers where the check asks"
    );
}

#[tokio::test]
async fn answers_as_nobody_on_a_read_only_root_and_finishes_the_stream_before_it_ends() {
    if !inside("answers_as_nobody_on_a_read_only_root_and_finishes_the_stream_before_it_ends").await
    {
        return;
    }
    let simulator = Simulator::start(Options {
        chunks: 40,
        chunk_gap: CHUNK_GAP,
        ..Options::default()
    })
    .await
    .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let state = podman::state_in(folder.path());
    let file = folder.path().join("pacegate.toml");
    let upstream = format!(
        "[[upstream]]\nname = \"sim\"\npreset = \"local\"\nbase-url = \"http://{}/v1\"\n\
         [upstream.jitter-throttle]\nquotas = [{{ requests = 9, per = \"day\", zone = \"UTC\" }}]\n",
        simulator.address()
    );
    fs::write(&file, config(&upstream)).unwrap();
    let mounts = [
        (&*file, "/etc/pacegate/pacegate.toml:ro"),
        (&*state, "/var/lib/pacegate"),
    ];
    let mut container = Container::start(Some(KEY), &mounts, &[]);
    container.listening().await;

    let process = container.process();
    for line in [
        "Uid:\t65532\t65532\t65532\t65532",
        "Gid:\t65532\t65532\t65532\t65532",
        "CapEff:\t0000000000000000",
        "CapBnd:\t0000000000000000",
        "NoNewPrivs:\t1",
    ] {
        let status = fs::read_to_string(process.join("status")).unwrap();
        assert!(status.contains(line), "{line}\n{status}");
    }
    let mounted = fs::read_to_string(process.join("mountinfo")).unwrap();
    assert!(
        mounted.lines().any(|line| line.contains(" / / ro,")),
        "{mounted}"
    );

    let chat = r#"{"model":"m","stream":true,"messages":[]}"#;
    let mut client = TcpStream::connect(ADDRESS).await.unwrap();
    let request = authorized("POST", "/v1/chat/completions", chat);
    client.write_all(request.as_bytes()).await.unwrap();
    let mut answer = vec![0; 64];
    client.read_exact(&mut answer).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200 "));
    container.terminate();
    client.read_to_end(&mut answer).await.unwrap();
    let answer = String::from_utf8(answer).unwrap();
    // The first has the role and no text.
    assert_eq!(answer.matches("\"content\":").count(), 1 + 40, "{answer}");
    assert!(answer.contains("data: [DONE]"), "{answer}");
    assert_eq!(container.end().await, Some(0), "{}", container.output());
    assert!(container.output().contains("Draining"));

    let counts = state.join(".local/state/pacegate/quotas-sim.json");
    assert_eq!(fs::metadata(&counts).unwrap().uid(), 65532);
    let counts: Value = serde_json::from_slice(&fs::read(counts).unwrap()).unwrap();
    assert!(counts.is_object());
}

#[tokio::test]
async fn keeps_a_new_volume_for_its_own_user() {
    if !inside("keeps_a_new_volume_for_its_own_user").await {
        return;
    }
    let volume = podman::Volume::new();
    let mut container = Container::start(
        Some(KEY),
        &[(volume.name().as_ref(), "/var/lib/pacegate")],
        &[],
    );
    container.listening().await;
    let home = container.process().join("root/var/lib/pacegate");
    assert_eq!(
        fs::metadata(home.join(".local/state")).unwrap().uid(),
        65532
    );
    assert!(
        !container.output().contains("in memory only"),
        "{}",
        container.output()
    );
    podman(&["exec", container.name(), "/usr/bin/pacegate", "status"]);
}
