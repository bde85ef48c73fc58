//! How names become addresses where there is nothing but the program.

use std::{
    fs,
    sync::{Arc, Mutex},
};

use pacegate::simulator::{Options, Simulator};
use tokio::net::UdpSocket;
use tokio_util::task::TaskTracker;

use super::{ADDRESS, KEY, authorized, config, podman::Container};
use crate::{container::podman::inside, gateway::exchange};

/// The port of every resolver.
const RESOLVER: &str = "127.0.0.1:53";

/// Names that were asked for.
type Asked = Arc<Mutex<Vec<String>>>;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_are_found_in_the_hosts_file_and_by_dns() {
    if !inside("names::names_are_found_in_the_hosts_file_and_by_dns").await {
        return;
    }
    let simulator = Simulator::start(Options::default()).await.unwrap();
    let asked = Asked::default();
    let socket = UdpSocket::bind(RESOLVER).await.unwrap();
    TaskTracker::new().spawn(resolve(socket, Arc::clone(&asked)));

    let port = simulator.address().port();
    let upstreams = ["hosts", "dns", "nowhere"].map(|name| {
        format!(
            "[[upstream]]\nname = \"{name}\"\npreset = \"local\"\n\
             base-url = \"http://{name}.example:{port}/v1\"\n"
        )
    });
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pacegate.toml");
    fs::write(&file, config(&upstreams.concat())).unwrap();
    let options = ["--dns=127.0.0.1", "--add-host=hosts.example:127.0.0.1"];
    let mounts = [(&*file, "/etc/pacegate/pacegate.toml:ro")];
    let mut container = Container::start_with(&options, Some(KEY), &mounts, &[]);
    container.listening().await;

    let ask = |name| {
        let path = format!("/u/{name}/v1/chat/completions");
        exchange(
            ADDRESS,
            &authorized("POST", &path, r#"{"model":"m","messages":[]}"#),
        )
    };
    for name in ["hosts", "dns"] {
        let answer = ask(name);
        assert!(answer.starts_with("HTTP/1.1 200 "), "{name}: {answer}");
    }
    let answer = ask("nowhere");
    assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
    let asked = asked.lock().unwrap().clone();
    assert!(asked.iter().any(|name| name == "dns.example"), "{asked:?}");
    assert!(asked.iter().any(|name| name == "nowhere.example"));
    assert!(!asked.iter().any(|name| name == "hosts.example"));
}

/// Answers one question a datagram ([RFC 1035 §4]): `dns.example` is this machine, and nothing else
/// is there.
///
/// [RFC 1035 §4]: https://www.rfc-editor.org/rfc/rfc1035#section-4
async fn resolve(socket: UdpSocket, asked: Asked) {
    let mut query = [0; 512];
    loop {
        let (length, client) = socket.recv_from(&mut query).await.unwrap();
        let (name, end) = question(&query[..length]);
        let is_address = query[end - 4..end] == [0, 1, 0, 1];
        let (code, answers) = match &*name {
            "dns.example" => (0, u8::from(is_address)),
            _ => (3, 0),
        };
        // The query's id and question, and flags: an answer, recursion available.
        let mut answer = query[..end].to_vec();
        answer[2..12].copy_from_slice(&[0x81, 0x80 | code, 0, 1, 0, answers, 0, 0, 0, 0]);
        if answers > 0 {
            // The name is at offset 12; type A, class IN, a minute, four bytes.
            answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 127, 0, 0, 1]);
        }
        asked.lock().unwrap().push(name);
        socket.send_to(&answer, client).await.unwrap();
    }
}

/// The name in a query, and where its type and class end.
fn question(query: &[u8]) -> (String, usize) {
    let mut labels = Vec::new();
    let mut at = 12;
    while query[at] > 0 {
        let end = at + 1 + usize::from(query[at]);
        labels.push(str::from_utf8(&query[at + 1..end]).unwrap());
        at = end;
    }
    (labels.join(".").to_ascii_lowercase(), at + 5)
}
