//! A disk that is slow to sync must not bring departures together, nor hold up anything else.

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::BodyExt;
use pacegate::simulator::Options;
use tokio::time::{Instant, sleep};

use super::{Promise, config, home, recorder::Recorder, served};
use crate::support::{
    client::{self, send},
    gateway::Gateway,
    lateness::{Lateness, not_judged},
    slow_disk::SlowDisk,
};

/// What a sync takes that must not hold up anything.
const SYNC: Duration = Duration::from_millis(500);

#[tokio::test]
async fn a_window_holds_on_a_slow_disk() {
    let recorder = Recorder::start(Options::default()).await;
    let home = home(&recorder);
    let disk = SlowDisk::new(&home, 100..=500);
    let quotas = "quotas = [{ requests = 30, per = \"3s\" }]";
    let pacing = format!("min-interval = \"0s\"\n{quotas}\nconcurrency = 128");
    let config = config(&recorder, "", &pacing);
    let gateway = Gateway::start_with(home, &config, &disk.environment());
    served(&gateway, 75).await;
    assert!(disk.delayed() > 0, "the disk was not slow");
    let record = recorder.record();
    assert_eq!(record.len(), 75);
    let promise = Promise {
        windows: vec![(30, Duration::from_secs(3))],
        ..Promise::default()
    };
    promise.assert_kept(&record);
}

#[tokio::test]
async fn a_gap_holds_on_a_slow_disk() {
    let recorder = Recorder::start(Options::default()).await;
    let home = home(&recorder);
    let disk = SlowDisk::new(&home, 10..=400);
    let quotas = "quotas = [{ requests = 1000, per = \"day\", zone = \"UTC\" }]";
    let pacing = format!("min-interval = \"100ms\"\n{quotas}\nconcurrency = 128");
    let config = config(&recorder, "", &pacing);
    let gateway = Gateway::start_with(home, &config, &disk.environment());
    served(&gateway, 20).await;
    assert!(disk.delayed() > 0, "the disk was not slow");
    let promise = Promise {
        min_interval: Duration::from_millis(100),
        ..Promise::default()
    };
    promise.assert_kept(&recorder.record());
}

#[tokio::test]
async fn nothing_but_a_dispatch_notices_that_the_disk_is_slow() {
    let gap = Duration::from_millis(50);
    let limit = Duration::from_millis(20);
    let recorder = Recorder::start(Options {
        chunks: 60,
        chunk_gap: gap,
        ..Options::default()
    })
    .await;
    let home = home(&recorder);
    let millis = SYNC.as_millis() as u64;
    let disk = SlowDisk::new(&home, millis..=millis);
    let quotas = "quotas = [{ requests = 1000, per = \"day\", zone = \"UTC\" }]";
    let pacing = format!("min-interval = \"0s\"\n{quotas}\nconcurrency = 16");
    let config = config(&recorder, "", &pacing);
    let gateway = Gateway::start_with(home, &config, &disk.environment());
    let url = gateway.url("/v1/chat/completions");
    let request = Request::post(&url)
        .header("content-type", "application/json")
        .body(Bytes::from(r#"{"model":"m","messages":[],"stream":true}"#))
        .unwrap();
    let mut stream = send(request).await.unwrap();
    assert_eq!(stream.status(), 200);
    stream.frame().await.unwrap().unwrap();

    let lateness = Lateness::watch();
    let streaming = async {
        let (mut last, mut longest) = (Instant::now(), Duration::ZERO);
        while let Some(frame) = stream.frame().await {
            frame.unwrap();
            longest = longest.max(last.elapsed());
            last = Instant::now();
        }
        longest
    };
    let others = async {
        // In the midst of the stream.
        sleep(4 * gap).await;
        served(&gateway, 8).await;
    };
    let probing = async {
        let (start, mut slowest) = (Instant::now(), Duration::ZERO);
        while start.elapsed() < 50 * gap {
            let asked = Instant::now();
            let health = client::get(&gateway.url("/healthz")).await.unwrap();
            assert_eq!(health.status, 200);
            slowest = slowest.max(asked.elapsed());
            sleep(Duration::from_millis(10)).await;
        }
        slowest
    };
    let (longest, (), slowest) = tokio::join!(streaming, others, probing);
    assert!(disk.delayed() > 0, "the disk was not slow");
    for (what, took, limit) in [
        ("/healthz", slowest, limit),
        ("an event", longest, gap + limit),
    ] {
        // Each is passed on a few times. A sync that is waited for is seen on any machine.
        let late = (4 * lateness.most()).min(SYNC / 2);
        assert!(
            took <= limit + late,
            "{what}: {took:?} of {limit:?}, {late:?} late"
        );
        if took > limit {
            not_judged(&format!("{what}: {took:?} of {limit:?}, {late:?} late"));
        }
    }
}
