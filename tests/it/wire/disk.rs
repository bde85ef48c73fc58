//! A disk that is slow to sync must not bring departures together, nor hold up anything else.

use std::time::Duration;

use pacegate::simulator::Options;

use super::{Promise, config, home, recorder::Recorder, served};
use crate::support::{gateway::Gateway, slow_disk::SlowDisk};

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
