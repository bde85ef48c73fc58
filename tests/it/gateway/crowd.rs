//! A thousand streams at once, and what they weigh.

use futures_util::{StreamExt, stream};
use pacegate::simulator::Options;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::{dial, request, simulator};
use crate::support::gateway::{Gateway, PATIENCE, is_debug, upstream};

const STREAMS: usize = 1000;

/// What may be resident with requests of 1 KB, in bytes: half as much again as a bare hyper proxy takes.
const MOST_RESIDENT: u64 = 50_000_000;

/// The same with requests of 30 KB: hyper's buffer of a connection has grown with the request.
const MOST_RESIDENT_LONG: u64 = 65_000_000;

/// A stream whose request has about `size` bytes.
async fn begin(gateway: &Gateway, size: usize) -> TcpStream {
    let filling = "x".repeat(size);
    let body = format!(r#"{{"model":"m","messages":"{filling}","stream":true}}"#);
    let chat = request(
        "POST /v1/chat/completions",
        "content-type: application/json\r\n",
        &body,
    );
    let mut client = dial(gateway).await;
    client.write_all(&chat).await.unwrap();
    let mut read = Vec::new();
    while !read.windows(6).any(|it| it == b"data: ") {
        let more = timeout(PATIENCE, client.read_buf(&mut read)).await;
        assert_ne!(more.expect("no stream").unwrap(), 0);
    }
    assert!(read.starts_with(b"HTTP/1.1 200 OK\r\n"));
    client
}

#[tokio::test]
async fn a_thousand_open_streams_take_fifty_megabytes_at_most() {
    assert_light(1_000, MOST_RESIDENT).await;
}

#[tokio::test]
async fn a_thousand_open_streams_of_long_requests_take_sixty_five_megabytes_at_most() {
    assert_light(30_000, MOST_RESIDENT_LONG).await;
}

async fn assert_light(request_size: usize, most: u64) {
    // Each is a descriptor on both sides of the simulator and of the clients, all in this process.
    pacegate::process::raise_descriptor_limit().unwrap();
    let simulator = simulator(Options {
        faults: vec!["stall@1".parse().unwrap(); STREAMS],
        ..Options::default()
    })
    .await;
    let limits = "[limits]\nmax-connections = 1100\n";
    let quiet = "log = { level = \"warn\", format = \"json\" }\n".to_owned();
    let all = format!("jitter-throttle.concurrency = {STREAMS}");
    let gateway = Gateway::start(&(quiet + &upstream(&simulator.base_url(), &all) + limits));
    gateway.metrics().await;
    let before = gateway.resident_kib() * 1024;
    let streams: Vec<_> = stream::iter(0..STREAMS)
        .map(|_| begin(&gateway, request_size))
        .buffer_unordered(20)
        .collect()
        .await;
    let metrics = gateway.metrics().await;
    assert_eq!(
        metrics.sum("pacegate_requests_in_flight"),
        STREAMS as u64 + 1
    );
    let after = gateway.resident_kib() * 1024;
    println!("{before} bytes before, {after} with {STREAMS} streams");
    // A debug build weighs 20 MB before the first of them.
    let weight = if is_debug() { after - before } else { after };
    assert!(weight <= most, "{before} bytes before, {after} after");
    drop(streams);
}
