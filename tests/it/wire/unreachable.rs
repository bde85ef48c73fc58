//! An upstream that cannot be reached is not worn down by clients that ask again and again.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::future::join_all;
use tokio::{
    io::AsyncReadExt,
    net::TcpListener,
    time::{Instant, sleep},
};
use tokio_util::task::TaskTracker;

use super::{SLACK, ask, paced};
use crate::support::gateway::Gateway;

const RUN: Duration = Duration::from_secs(30);
/// So far apart are attempts to connect, once a few in a row have failed.
const PAUSE: Duration = Duration::from_secs(5);
const A_FEW: usize = 5;

#[tokio::test]
async fn a_dead_upstream_sees_one_connection_in_five_seconds() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base_url = format!("https://{}/v1", listener.local_addr().unwrap());
    let connects = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&connects);
    TaskTracker::new().spawn(async move {
        loop {
            let (mut tcp, _) = listener.accept().await.unwrap();
            log.lock().unwrap().push(Instant::now());
            // The handshake breaks off after the client's part of it.
            let _hello = tcp.read(&mut [0; 1024]).await;
        }
    });
    let gateway = Gateway::start(&paced(&base_url, "", "min-interval = \"0s\""));
    let start = Instant::now();
    let clients = (0..3).map(async |_| {
        let mut outcomes = Vec::new();
        while start.elapsed() < RUN {
            let known = start.elapsed() > RUN / 2;
            outcomes.push((known, ask(&gateway).await));
            sleep(Duration::from_millis(200)).await;
        }
        outcomes
    });
    let outcomes = join_all(clients).await;
    let outcomes = outcomes.into_iter().flatten();
    let connects = connects.lock().unwrap();
    let times: Vec<_> = connects.iter().map(|at| *at - start).collect();
    let later: Vec<_> = times.iter().skip(A_FEW - 1).collect();
    for pair in later.windows(2) {
        let gap = *pair[1] - *pair[0];
        assert!(gap >= PAUSE - Duration::from_millis(20), "{times:?}");
    }
    let tried_again = times.iter().any(|at| *at > RUN / 2);
    assert!(tried_again, "{times:?}");
    let mut quick = 0;
    for (known, outcome) in outcomes {
        let answer = outcome.answer.unwrap();
        assert_eq!(answer.status, 502, "{}", answer.text());
        assert_eq!(answer.header("x-pacegate-error"), "upstream_unreachable");
        if known {
            let seconds: f64 = answer.header("retry-after").parse().unwrap();
            assert!(seconds > 0.0 && seconds <= PAUSE.as_secs_f64() + 1.0);
            assert_eq!(answer.header("x-should-retry"), "false");
            quick += usize::from(outcome.took < SLACK);
        }
    }
    // Three clients, five times a second.
    assert!(quick > 100, "{quick} were answered at once");
}
