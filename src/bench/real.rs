//! Runs over sockets: clients, the real gateway for our own policies, the simulator.

use std::{collections::HashMap, fmt::Write, sync::Arc, time::Duration};

use http::Uri;
use http_body_util::BodyExt;
use hyper_util::client::proxy::matcher::Matcher;
use sha2::{Digest, Sha256};
use tokio::{runtime, sync::oneshot, time::Instant};
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use super::{
    BenchError, Scenario,
    client::{Shared, body, serve},
    log::{Book, Log, Try},
    pattern::Request,
    policy::{Paced, Policy, Rule, Sent, counted, variable},
    report::Outcome,
};
use crate::{
    client::{Client, ClientOptions},
    config::{self, Credentials, LayerName, Listen, Sample},
    edge::Gateway,
    simulator::{Arrival, Limits, Options, Simulator},
    upstreams::{UpstreamService, assemble},
};

/// What `policy` makes of `scenario` over sockets; `ended` is called for every request that is
/// through.
///
/// # Errors
///
/// When something cannot be put together or cannot listen.
///
/// # Panics
///
/// Inside a tokio runtime: it has one of its own.
pub fn really(
    policy: &Policy,
    scenario: &Scenario,
    ended: &dyn Fn(),
) -> Result<Outcome, BenchError> {
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
        // A house of its own, so that the policy has forgotten it when the others come.
        let (lone, _) = run(policy, scenario, vec![lone], &|| {}).await?;
        let (log, sent) = run(policy, scenario, scenario.requests.clone(), ended).await?;
        Ok(Outcome::new(policy, &scenario.requests, log, sent, &lone))
    })
}

async fn run(
    policy: &Policy,
    scenario: &Scenario,
    requests: Vec<Request>,
    ended: &dyn Fn(),
) -> Result<(Log, u64), BenchError> {
    // The simulator's clock starts with it.
    let epoch = Instant::now();
    let simulator = Simulator::start(Options {
        latency: scenario.answer_time,
        limits: Limits {
            windows: policy.limits.iter().map(|limit| limit.window()).collect(),
            concurrency: None,
        },
        ..Options::default()
    })
    .await?;
    let house = House::build(policy, &simulator.base_url(), scenario.seed).await?;
    let book = Arc::new(Book::default());
    let shared = Shared {
        requests,
        policy: house.paced.service.clone(),
        book: Arc::clone(&book),
        epoch,
    };
    serve(shared, ended).await;
    let sent = house.paced.sent.count();
    house.close().await;
    let mut log = book.take();
    log.tries = tries(&simulator.arrivals(), log.asked.len());
    simulator.shutdown().await;
    Ok((log, sent))
}

/// The policy, and the gateway if it is ours.
struct House {
    paced: Paced,
    tasks: TaskTracker,
    stop: Option<oneshot::Sender<()>>,
}

// === impl House ===

impl House {
    async fn build(policy: &Policy, upstream: &str, seed: u64) -> Result<Self, BenchError> {
        let tasks = TaskTracker::new();
        match &policy.rule {
            Rule::Configured(configured) => Self::gateway(configured, upstream, tasks).await,
            Rule::Other(other) => Ok(Self {
                paced: other.around(client(upstream)?, seed),
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
        // Without a state dir: a bench must not spend the account's day.
        let pipeline = assemble(&configured, None, &tasks)?;
        let gate = pipeline.gate.clone();
        let mut config = built_in()?;
        config.listen = Listen::Tcp(([127, 0, 0, 1], 0).into());
        config.upstreams = vec![configured];
        let gateway = Gateway::bind(&config, vec![pipeline]).await?;
        let (service, counted) = counted(client(&format!("{gateway}/v1"))?);
        let (stop, stopped) = oneshot::channel::<()>();
        tasks.spawn(gateway.serve(async {
            // An error means that the sender is gone, which is a stop, too.
            let _told = stopped.await;
        }));
        Ok(Self {
            paced: Paced {
                service,
                sent: gate.map_or(counted, Sent::Gate),
            },
            tasks,
            stop: Some(stop),
        })
    }

    async fn close(self) {
        // Idle connections of the client would keep the gateway from ending.
        drop(self.paced);
        drop(self.stop);
        self.tasks.close();
        self.tasks.wait().await;
    }
}

fn built_in() -> Result<config::Config, config::Error> {
    config::sample(&Sample::BuiltIn, &variable)
}

/// `configured` without anything that needs an account, and with another address.
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
        // Behind a gateway that holds requests, whatever the preset says of its upstream.
        head_timeout: Duration::from_secs(3600),
        ..ClientOptions::new(&upstream, Matcher::builder().build())
    };
    let client = Client::new(upstream.base_url, options)?;
    Ok(UpstreamService::new(client.map_response(|response| {
        response.map(BodyExt::boxed_unsync)
    })))
}

/// An address that the simulator or the gateway has given.
fn parse(base_url: &str) -> Uri {
    base_url.parse().unwrap_or_default()
}

/// What the simulator has seen, told apart by the bodies.
fn tries(arrivals: &[Arrival], asked: usize) -> Vec<Try> {
    let known: HashMap<String, usize> = (0..asked)
        .map(|ticket| (hex(&Sha256::digest(body(ticket))), ticket))
        .collect();
    arrivals
        .iter()
        .filter_map(|arrival| {
            Some(Try {
                asked: *known.get(arrival.body_sha256.as_ref()?)?,
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
