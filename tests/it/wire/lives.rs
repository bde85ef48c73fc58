//! Lives drawn at random from fixed seeds: every promise at once, over every kind of connection, disk
//! and interruption. Each is played over real sockets and judged by the upstream's record.
//! `PACEGATE_LIFE=21` plays the life with that seed alone.

use std::{
    env,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use futures_util::future::join_all;
use pacegate::simulator::{ConnectionOptions, Options, TlsOptions};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::{
    runtime::Builder,
    sync::watch,
    time::{Instant, sleep, timeout},
};

use super::{
    CHAT, Promise, arrived, config, home,
    promise::{Seen, Shortfalls},
    recorder::Recorder,
};
use crate::support::{client::post_json, gateway::Gateway, slow_disk::SlowDisk};

/// Seeds from 0.
const LIVES: u64 = 40;

/// They wait most of the time.
const AT_ONCE: usize = 14;

/// A life that is not over by then hangs.
const LONGEST: Duration = Duration::from_secs(30);

/// One life, all of which follows from the seed.
#[derive(Clone, Debug)]
struct Life {
    seed: u64,
    protocol: Protocol,
    /// A first request is over before the others begin.
    warm: bool,
    connections: ConnectionOptions,
    /// The least and the most that a sync of the disk takes, in milliseconds.
    disk: Option<(u64, u64)>,
    /// When each request is made.
    starts: Vec<Duration>,
    latency: Duration,
    concurrency: usize,
    min_interval: Duration,
    quota: Option<(usize, Duration)>,
    interruption: Interruption,
}

#[derive(Clone, Copy, Debug)]
enum Protocol {
    Http1,
    Http2,
    Tls1,
    Tls2,
}

/// What happens once so many requests have arrived.
#[derive(Clone, Copy, Debug)]
enum Interruption {
    None,
    /// The queue becomes longer.
    ReloadQueue(usize),
    /// The interval becomes another one.
    ReloadInterval(usize, Duration),
}

/// What has been found in all lives.
#[derive(Default)]
struct Verdict {
    broken: Vec<String>,
    shortfalls: Shortfalls,
}

// === impl Life ===

impl Life {
    fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut millis =
            |range: std::ops::RangeInclusive<u64>| Duration::from_millis(rng.random_range(range));
        let (handshake_delay, settings_delay) = (millis(0..=2000), millis(0..=300));
        let (latency, min_interval, other) = (millis(0..=500), millis(50..=400), millis(50..=400));
        let (per, spread) = (millis(1000..=2000), millis(0..=1500));
        let count = rng.random_range(6..=12);
        let starts = match rng.random_range(0..3) {
            0 => vec![Duration::ZERO; count],
            1 => {
                let mut start = || spread.mul_f64(rng.random());
                (0..count).map(|_| start()).collect()
            }
            // Three bursts.
            _ => (0..count)
                .map(|number| spread * (number % 3) as u32 / 2)
                .collect(),
        };
        let at = rng.random_range(1..count - 1);
        Self {
            seed,
            protocol: match seed % 4 {
                0 => Protocol::Http1,
                1 => Protocol::Http2,
                2 => Protocol::Tls1,
                _ => Protocol::Tls2,
            },
            warm: rng.random(),
            connections: ConnectionOptions {
                handshake_delay,
                slow_handshakes: rng.random_bool(0.5).then(|| rng.random_range(1..=3)),
                max_concurrent_streams: rng.random_bool(0.5).then(|| rng.random_range(1..=4)),
                settings_delay: if rng.random() {
                    settings_delay
                } else {
                    Duration::ZERO
                },
                max_requests: rng.random_bool(0.3).then(|| rng.random_range(2..=6)),
                silent_after: None,
            },
            // Over HTTP/2 a request that has left the gate may still wait for a sync.
            disk: rng
                .random_bool(if seed.is_multiple_of(2) { 0.5 } else { 0.0 })
                .then_some((20, 300)),
            starts,
            latency,
            concurrency: rng.random_range(1..=6),
            min_interval: if rng.random_bool(0.7) {
                min_interval
            } else {
                Duration::ZERO
            },
            quota: rng.random_bool(0.6).then(|| (rng.random_range(2..=5), per)),
            interruption: match rng.random_range(0..3) {
                1 => Interruption::ReloadInterval(at, other),
                2 => Interruption::ReloadQueue(at),
                _ => Interruption::None,
            },
        }
    }

    fn options(&self) -> Options {
        let tls = |h2| {
            Some(TlsOptions {
                h2,
                ..TlsOptions::default()
            })
        };
        Options {
            tls: match self.protocol {
                Protocol::Http1 | Protocol::Http2 => None,
                Protocol::Tls1 => tls(false),
                Protocol::Tls2 => tls(true),
            },
            connections: self.connections.clone(),
            latency: self.latency,
            ..Options::default()
        }
    }

    fn config(&self, recorder: &Recorder, min_interval: Duration, max_queue: u32) -> String {
        let http = match self.protocol {
            Protocol::Http2 => "http = \"h2\"",
            Protocol::Http1 | Protocol::Tls1 | Protocol::Tls2 => "http = \"auto\"",
        };
        let quota = self.quota.map_or(String::new(), |(requests, per)| {
            let per = per.as_millis();
            format!("{{ requests = {requests}, per = \"{per}ms\" }}, ")
        });
        let day = "{ requests = 1000, per = \"day\", zone = \"UTC\" }";
        let pacing = format!(
            "min-interval = \"{}ms\"\nconcurrency = {}\nmax-queue = {max_queue}\n\
             quotas = [{quota}{day}]",
            min_interval.as_millis(),
            self.concurrency,
        );
        config(recorder, http, &pacing)
    }

    /// The least gap of a pair, where the interval was changed between these two instants.
    fn least_gap(&self, pair: [Duration; 2], changing: Option<(Duration, Duration)>) -> Duration {
        let Interruption::ReloadInterval(_, other) = self.interruption else {
            return self.min_interval;
        };
        match changing {
            Some((begun, _)) if pair[1] < begun => self.min_interval,
            Some((_, done)) if pair[0] > done => other,
            _ => self.min_interval.min(other),
        }
    }

    async fn live(&self) -> Verdict {
        let recorder = Recorder::start(self.options()).await;
        let home = home(&recorder);
        let disk = self
            .disk
            .map(|(least, most)| SlowDisk::new(&home, least..=most));
        let environment = disk.as_ref().map_or(Vec::new(), SlowDisk::environment);
        let config = self.config(&recorder, self.min_interval, 100);
        let start = || Gateway::start_with(Arc::clone(&home), &config, &environment);
        let gateway = start();
        let (address, _) = watch::channel(gateway.url("/v1/chat/completions"));
        let mut verdict = Verdict::default();
        if self.warm {
            verdict
                .broken
                .extend(request(&address, Duration::ZERO).await);
        }
        let before = usize::from(self.warm);
        let asking = join_all(self.starts.iter().map(|start| request(&address, *start)));
        let since = || recorder.simulator().record_start().elapsed();
        let interrupting = async {
            let mut changing = None;
            match self.interruption {
                Interruption::None => {}
                Interruption::ReloadQueue(at) => {
                    arrived(&recorder, before + at).await;
                    gateway.reload(&self.config(&recorder, self.min_interval, 101));
                    gateway.logged("\"Config reloaded\"").await;
                }
                Interruption::ReloadInterval(at, other) => {
                    arrived(&recorder, before + at).await;
                    let begun = since();
                    gateway.reload(&self.config(&recorder, other, 100));
                    gateway.logged("\"Config reloaded\"").await;
                    changing = Some((begun, since()));
                }
            }
            changing
        };
        let over = async { tokio::join!(asking, interrupting) };
        let Ok((failures, changing)) = timeout(LONGEST, over).await else {
            verdict.broken.push(format!("not over after {LONGEST:?}"));
            return verdict.labelled(self);
        };
        verdict.broken.extend(failures.into_iter().flatten());
        if disk.is_some_and(|disk| disk.delayed() == 0) {
            verdict.broken.push("the disk was not slow".to_owned());
        }
        self.judge(&recorder.record(), changing, &mut verdict);
        verdict.labelled(self)
    }

    fn judge(
        &self,
        record: &[Seen],
        changing: Option<(Duration, Duration)>,
        verdict: &mut Verdict,
    ) {
        let asked = self.starts.len() + usize::from(self.warm);
        if record.len() < asked {
            let text = format!("{} of {asked} arrived", record.len());
            verdict.broken.push(text);
        }
        let promise = Promise {
            min_interval: Duration::ZERO,
            windows: self.quota.into_iter().collect(),
            concurrency: Some(self.concurrency),
        };
        promise.judge(record, &mut verdict.shortfalls);
        verdict.broken.extend(promise.crowds(record));
        for pair in record.windows(2) {
            let least = self.least_gap([pair[0].at, pair[1].at], changing);
            verdict.shortfalls.add(&pair[0], &pair[1], least, "gap");
        }
    }
}

// === impl Verdict ===

impl Verdict {
    fn labelled(self, life: &Life) -> Self {
        let label = format!("seed {}", life.seed);
        let broken = self.broken.iter().map(|text| format!("{label}: {text}"));
        Self {
            broken: broken.collect(),
            shortfalls: self.shortfalls.labelled(&label),
        }
    }
}

/// Asks until there is an answer: a process that is killed gives none, and another one comes after
/// it. Says what is wrong with the answer.
async fn request(address: &watch::Sender<String>, start: Duration) -> Option<String> {
    let mut address = address.subscribe();
    sleep(start).await;
    loop {
        let url = address.borrow_and_update().clone();
        match post_json(&url, CHAT, &[]).await {
            Ok(answer) if answer.status == 200 => return None,
            Ok(answer) => return Some(format!("{}: {}", answer.status, answer.text())),
            Err(_killed) => address.changed().await.ok()?,
        }
    }
}

#[test]
fn forty_lives_keep_every_promise() {
    let alone = env::var("PACEGATE_LIFE").map(|seed| seed.parse().unwrap());
    let seeds = alone.map_or(0..LIVES, |seed| seed..seed + 1);
    let next = AtomicU64::new(seeds.start);
    let verdict = Mutex::new(Verdict::default());
    let start = Instant::now();
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                let runtime = Builder::new_current_thread().enable_all().build().unwrap();
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    let life = Life::new(seed);
                    let lived = runtime.block_on(life.live());
                    let mut verdict = verdict.lock().unwrap();
                    if !lived.broken.is_empty() {
                        println!("{life:#?}");
                    }
                    verdict.broken.extend(lived.broken);
                    verdict.shortfalls.extend(lived.shortfalls);
                }
            });
        }
    });
    let verdict = verdict.into_inner().unwrap();
    let mut broken = verdict.broken;
    broken.extend(verdict.shortfalls.broken());
    println!("all lives took {:?}", start.elapsed());
    assert!(broken.is_empty(), "{broken:#?}");
}
