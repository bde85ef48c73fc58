//! Connections that die without a word: what was written fails in time and says so, what was not
//! written goes on over another connection.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::SocketAddr,
    os::fd::AsFd,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use pacegate::simulator::{ConnectionOptions, Options};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::{
    runtime::Builder,
    time::{Instant, sleep},
};

use super::{Outcome, SLACK, ask, pair};
use crate::support::lateness::not_judged;

/// A request that was written to a dead connection fails within this time.
const LIMIT: Duration = Duration::from_secs(30);

/// Longer than that: it must not be what ends them.
const HEAD_TIMEOUT: &str = "head-timeout = \"40s\"";

/// The outcome of a request that was written, and may have been received.
#[track_caller]
fn assert_written(outcome: &Outcome) {
    assert!(outcome.took <= LIMIT + SLACK, "{:?}", outcome.took);
    let answer = outcome.answer.as_ref().unwrap();
    assert!([502, 504].contains(&answer.status.as_u16()), "{answer:?}");
    assert!(answer.text().contains("may have"), "{}", answer.text());
}

#[tokio::test]
async fn a_peer_that_stops_reading_costs_only_what_was_written() {
    let options = Options {
        connections: ConnectionOptions {
            silent_after: Some(1),
            ..ConnectionOptions::default()
        },
        ..Options::default()
    };
    // One at a time, so that the second of two is not written while the first is in flight.
    let pacing = "min-interval = \"0s\"\nconcurrency = 1";
    let keys = format!("http = \"h2\"\n{HEAD_TIMEOUT}");
    let (recorder, gateway) = pair(options, &keys, pacing).await;
    ask(&gateway).await.assert_ok();
    let start = Instant::now();
    let next = async {
        sleep(SLACK).await;
        let outcome = ask(&gateway).await;
        (outcome, start.elapsed())
    };
    let (written, (unwritten, at)) = tokio::join!(ask(&gateway), next);
    assert_written(&written);
    unwritten.assert_ok();
    assert!(at < written.took + 2 * SLACK, "{at:?}");
    let arrivals = recorder.simulator().arrivals();
    assert_eq!(arrivals.len(), 2);
    assert_ne!(arrivals[0].connection, arrivals[1].connection);
}

/// A network of its own, for the thread that enters it and the processes that it starts.
struct Network(Child);

impl Network {
    /// `None` if this process may not create one.
    fn new() -> Option<Self> {
        let script = "ip link set lo up && iptables -L -n >/dev/null && echo ready && exec cat";
        let child = Command::new("unshare")
            .args(["--net", "sh", "-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let mut network = Self(child.ok()?);
        let mut line = String::new();
        let stdout = network.0.stdout.take().unwrap();
        BufReader::new(stdout).read_line(&mut line).unwrap();
        (line == "ready\n").then_some(network)
    }

    /// For the thread that calls this.
    fn enter(&self) {
        let file = fs::File::open(format!("/proc/{}/ns/net", self.0.id())).unwrap();
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _gone = self.0.wait();
    }
}

/// Drops all packets of the connections to `server` that are open now. Others are not touched.
fn drop_packets(server: SocketAddr) {
    // Columns: number, local and remote address in hex, state (1 is ESTABLISHED).
    let table = fs::read_to_string("/proc/thread-self/net/tcp").unwrap();
    let remote = format!(":{:04X}", server.port());
    let ports = table.lines().filter_map(|line| {
        let columns: Vec<_> = line.split_whitespace().collect();
        let open = columns[2].ends_with(&remote) && columns[3] == "01";
        let (_, port) = columns[1].split_once(':').filter(|_| open)?;
        Some(u16::from_str_radix(port, 16).unwrap())
    });
    let ports: Vec<_> = ports.collect();
    assert!(!ports.is_empty(), "no connection to {server}: {table}");
    for port in ports {
        for (from, to) in [(port, server.port()), (server.port(), port)] {
            let (from, to) = (from.to_string(), to.to_string());
            let rule = ["-A", "INPUT", "-p", "tcp", "--sport", &from];
            let dropped = Command::new("iptables")
                .args(rule)
                .args(["--dport", &to, "-j", "DROP"])
                .status();
            assert!(dropped.unwrap().success());
        }
    }
}

async fn forgotten_by_the_network(http: &str) {
    let pacing = "min-interval = \"0s\"\nconcurrency = 1";
    let keys = format!("http = \"{http}\"\n{HEAD_TIMEOUT}");
    let (recorder, gateway) = pair(Options::default(), &keys, pacing).await;
    ask(&gateway).await.assert_ok();
    drop_packets(recorder.simulator().address());
    let start = Instant::now();
    let next = async {
        sleep(SLACK).await;
        let outcome = ask(&gateway).await;
        (outcome, start.elapsed())
    };
    let (written, (unwritten, at)) = tokio::join!(ask(&gateway), next);
    assert_written(&written);
    unwritten.assert_ok();
    assert!(at < written.took + 2 * SLACK, "{at:?}");
}

#[test]
fn a_network_that_forgets_a_connection_costs_only_what_was_written() {
    let threads = ["h1", "h2"].map(|http| {
        thread::spawn(move || {
            let Some(network) = Network::new() else {
                not_judged("only root can have a network of its own, with iptables in it");
                return;
            };
            network.enter();
            let runtime = Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(forgotten_by_the_network(http));
        })
    });
    for thread in threads {
        thread.join().unwrap();
    }
}
