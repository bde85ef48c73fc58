//! Runs over sockets: clients, the gateway (unless the policy is a baseline), the simulator.

use std::{collections::HashMap, fmt::Write, sync::Arc, time::Duration};

use http::Uri;
use hyper_util::client::proxy::matcher::Matcher;
use sha2::{Digest, Sha256};
use tokio::{runtime, sync::oneshot, time::Instant};
use tokio_util::task::TaskTracker;

use super::{
    BenchError, Scenario,
    client::{ClientContext, body, run_clients},
    log::{Attempt, RequestLog, RunEvents},
    pattern::Request,
    policy::{DispatchCount, PacedService, Pacer, Policy, boxed, counted, variable},
    report::PolicyResult,
};
use crate::{
    client::{Client, ClientOptions},
    config::{self, Credentials, LayerName, Listen, Sample},
    edge::Gateway,
    simulator::{Arrival, ChatLimits, Options, Simulator},
    upstreams::{UpstreamService, assemble},
};

/// Runs `scenario` under `policy` over sockets; calls `ended` after each request.
///
/// # Errors
///
/// When a part cannot be built or cannot listen.
///
/// # Panics
///
/// If called within a tokio runtime: it starts one of its own.
pub fn run_real(
    policy: &Policy,
    scenario: &Scenario,
    ended: &dyn Fn(),
) -> Result<PolicyResult, BenchError> {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let lone = Request {
            after: Vec::new(),
            pause: Duration::ZERO,
            session: "s1".into(),
            parent: None,
        };
        // A run of its own, so that it does not affect the pacing of the others.
        let (lone, _) = run(policy, scenario, vec![lone], &|| {}).await?;
        let (log, dispatches) = run(policy, scenario, scenario.requests.clone(), ended).await?;
        Ok(PolicyResult::new(
            policy,
            &scenario.requests,
            log,
            dispatches,
            &lone,
        ))
    })
}

async fn run(
    policy: &Policy,
    scenario: &Scenario,
    requests: Vec<Request>,
    ended: &dyn Fn(),
) -> Result<(RunEvents, u64), BenchError> {
    // The simulator's clock starts with it.
    let epoch = Instant::now();
    let simulator = Simulator::start(Options {
        latency: scenario.answer_time,
        limits: ChatLimits {
            windows: policy.limits.iter().map(|limit| limit.window()).collect(),
            concurrency: None,
        },
        ..Options::default()
    })
    .await?;
    let harness = Harness::build(policy, &simulator.base_url(), scenario.seed).await?;
    let log = Arc::new(RequestLog::default());
    let context = ClientContext {
        requests,
        policy: harness.paced.service.clone(),
        log: Arc::clone(&log),
        epoch,
    };
    run_clients(context, ended).await;
    let dispatches = harness.paced.dispatches.count();
    harness.close().await;
    let mut log = log.take();
    log.attempts = attempts(&simulator.arrivals(), log.sent.len());
    simulator.shutdown().await;
    Ok((log, dispatches))
}

/// The policy, with a gateway unless it is a baseline.
struct Harness {
    paced: PacedService,
    tasks: TaskTracker,
    stop: Option<oneshot::Sender<()>>,
}

// === impl Harness ===

impl Harness {
    async fn build(policy: &Policy, upstream: &str, seed: u64) -> Result<Self, BenchError> {
        let tasks = TaskTracker::new();
        match &policy.pacer {
            Pacer::Configured(configured) => Self::gateway(configured, upstream, tasks).await,
            Pacer::Baseline(baseline) => Ok(Self {
                paced: baseline.around(client(upstream)?, seed),
                tasks,
                stop: None,
            }),
        }
    }

    async fn gateway(
        configured: &config::Upstream,
        upstream: &str,
        tasks: TaskTracker,
    ) -> Result<Self, BenchError> {
        let configured = to(upstream, configured.clone());
        // Without a state dir: a bench must not spend the account's quota.
        let pipeline = assemble(&configured, None, &tasks)?;
        let gate = pipeline.gate.clone();
        let mut config = built_in()?;
        config.listen = Listen::Tcp(([127, 0, 0, 1], 0).into());
        config.upstreams = vec![configured];
        let gateway = Gateway::bind(&config, vec![pipeline]).await?;
        let (service, counted) = counted(client(&format!("{gateway}/v1"))?);
        let (stop, stopped) = oneshot::channel::<()>();
        tasks.spawn(gateway.serve(async {
            // An error means that the sender was dropped, which is a stop, too.
            let _told = stopped.await;
        }));
        Ok(Self {
            paced: PacedService {
                service,
                dispatches: gate.map_or(counted, DispatchCount::Gate),
            },
            tasks,
            stop: Some(stop),
        })
    }

    async fn close(self) {
        // Idle connections of the client would keep the gateway running.
        drop(self.paced);
        drop(self.stop);
        self.tasks.close();
        self.tasks.wait().await;
    }
}

fn built_in() -> Result<config::Config, config::Error> {
    config::sample(&Sample::BuiltIn, &variable)
}

/// `configured` without credentials, and with another base URL.
fn to(base_url: &str, mut configured: config::Upstream) -> config::Upstream {
    configured.base_url = parse(base_url);
    configured.base_url_written = true;
    configured.credentials = Credentials::None;
    configured
        .pipeline
        .retain(|layer| !matches!(layer, LayerName::BearerAuth | LayerName::TokenRefresh));
    configured
}

fn client(base_url: &str) -> Result<UpstreamService, BenchError> {
    let upstream = to(base_url, built_in()?.upstreams.swap_remove(0));
    let options = ClientOptions {
        // A gateway holds requests in its queue for longer than any preset's timeout.
        head_timeout: Duration::from_secs(3600),
        ..ClientOptions::new(&upstream, Matcher::builder().build())
    };
    Ok(boxed(Client::new(upstream.base_url, options)?))
}

/// Parses an address of the simulator or the gateway, which is valid.
fn parse(base_url: &str) -> Uri {
    base_url.parse().unwrap_or_default()
}

/// The simulator's arrivals, matched to the clients' requests by their bodies.
fn attempts(arrivals: &[Arrival], sent: usize) -> Vec<Attempt> {
    let known: HashMap<String, usize> = (0..sent)
        .map(|request_id| (hex(&Sha256::digest(body(request_id))), request_id))
        .collect();
    arrivals
        .iter()
        .filter_map(|arrival| {
            Some(Attempt {
                request_id: *known.get(arrival.body_sha256.as_ref()?)?,
                at: Duration::from_micros(arrival.at_us),
                admitted: arrival.status == Some(200),
            })
        })
        .collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _infallible = write!(text, "{byte:02x}");
        text
    })
}
