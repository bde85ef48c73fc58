//! slowhttptest, which holds 500 connections as slowly as it can, against a good client's answers.

use std::{
    io,
    process::{Command, Stdio},
    time::Duration,
};

use socket2::SockRef;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::{Instant, sleep},
};
use tokio_util::task::TaskTracker;

use crate::support::{
    gateway::{Gateway, upstream},
    lateness::{Lateness, not_judged},
};

/// What the gateway is told to bear. As long as slowhttptest waits between two of its bytes, so that
/// it is never the one who gives up.
const BEARS: Duration = Duration::from_secs(3);

/// By how much a good client's answers may be later.
const MOST_GROWTH: Duration = Duration::from_millis(100);

/// Other programs share the machine: what only one round in so many shows was theirs.
const ROUNDS: usize = 3;

/// Answers every request with much more than a socket takes, in a thread of its own: a good client's
/// waits are to be the gateway's.
fn large_upstream() -> String {
    let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    SockRef::from(&server)
        .set_send_buffer_size(64 * 1024)
        .unwrap();
    let base = format!("http://{}/v1", server.local_addr().unwrap());
    server.set_nonblocking(true).unwrap();
    // It ends with the process of the tests.
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async move {
            let tasks = TaskTracker::new();
            let server = TcpListener::from_std(server).unwrap();
            while let Ok((socket, _)) = server.accept().await {
                tasks.spawn(pour(socket));
            }
        });
    });
    base
}

/// Sixteen megabytes, or as much as is taken.
async fn pour(mut socket: TcpStream) -> io::Result<()> {
    let mut read = Vec::new();
    while !read.ends_with(b"\r\n\r\n") {
        if socket.read_buf(&mut read).await? == 0 {
            return Ok(());
        }
    }
    socket
        .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 16777216\r\n\r\n")
        .await?;
    for _ in 0..256 {
        socket.write_all(&[b'x'; 65_536]).await?;
    }
    Ok(())
}

/// What a good client sees meanwhile.
#[derive(Debug, Default)]
struct Seen {
    /// The 99th percentile of how long `/v1/models` takes over a new connection.
    p99: Duration,
    /// The most connections that were open, and when there were last more than the client's own.
    most: u64,
    crowded_until: Duration,
}

async fn look(gateway: &Gateway, mut meanwhile: impl FnMut(usize) -> bool) -> Seen {
    let begun = Instant::now();
    let mut seen = Seen::default();
    let mut took = Vec::new();
    while meanwhile(took.len()) {
        let start = Instant::now();
        assert_eq!(gateway.get("/v1/models").await.status, 200);
        took.push(start.elapsed());
        let open = gateway.metrics().await.sum("pacegate_connections");
        seen.most = seen.most.max(open);
        if open > 2 {
            seen.crowded_until = begun.elapsed();
        }
        sleep(Duration::from_millis(10)).await;
    }
    took.sort();
    seen.p99 = took[took.len() * 99 / 100];
    seen
}

async fn withstands(mode: &[&str], path: &str) {
    let program = std::env::var("PACEGATE_SLOWHTTPTEST").unwrap_or("slowhttptest".into());
    let seconds = BEARS.as_secs();
    let limits = format!(
        "[limits]\nfirst-byte-timeout = \"{seconds}s\"\nheader-timeout = \"{seconds}s\"\n\
         body-idle-timeout = \"{seconds}s\"\nbody-timeout = \"{seconds}s\"\n\
         write-timeout = \"{seconds}s\"\nkeep-alive-timeout = \"{seconds}s\"\n"
    );
    let base = large_upstream();
    let open = upstream(&base, "pipeline = [\"header-align\"]");
    let quiet = "log = { level = \"warn\", format = \"json\" }\n".to_owned();
    let gateway = Gateway::start(&(quiet + &open + &limits));
    let mut report = String::new();
    let mut latest = Duration::ZERO;
    for _ in 0..ROUNDS {
        let lateness = Lateness::watch();
        let alone = look(&gateway, |asked| asked < 200).await;
        let mut attack = Command::new(&program)
            .args(mode)
            .args(["-c", "500", "-r", "500", "-i", "1", "-l", "8", "-p", "20"])
            .args(["-u", &gateway.url(path)])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("slowhttptest is a package of Debian's; tests/run installs it");
        let under = look(&gateway, |_| attack.try_wait().unwrap().is_none()).await;
        report += &format!("{mode:?}: alone {alone:?}, under attack {under:?}\n");
        // On a busy machine the attack takes longer to begin.
        assert!(
            under.crowded_until < 2 * BEARS + lateness.total(),
            "slow connections are kept: {report}"
        );
        if under.most > 300 && under.p99 < alone.p99 + MOST_GROWTH {
            println!("{report}");
            return;
        }
        latest = latest.max(lateness.most());
    }
    let what = "that was no attack, or a good client waits";
    assert!(latest > MOST_GROWTH / 4, "{what}: {report}");
    not_judged(&format!("{what}: {}", report.replace('\n', " ")));
}

#[tokio::test]
#[ignore = "needs slowhttptest; tests/run slow brings it"]
async fn slow_headers_are_closed_in_time_and_delay_nobody() {
    withstands(&["-H"], "/v1/models").await;
}

#[tokio::test]
#[ignore = "needs slowhttptest; tests/run slow brings it"]
async fn slow_bodies_are_closed_in_time_and_delay_nobody() {
    let body = ["-B", "-s", "8192", "-f", "application/json", "-x", "10"];
    withstands(&body, "/v1/chat/completions").await;
}

#[tokio::test]
#[ignore = "needs slowhttptest; tests/run slow brings it"]
async fn slow_readers_are_closed_in_time_and_delay_nobody() {
    let read = [
        "-X", "-w", "10", "-y", "20", "-n", "5", "-z", "5", "-k", "1",
    ];
    withstands(&read, "/v1/large").await;
}
