//! The gate's guarantees, on a paused clock.

use std::{num::NonZeroUsize, sync::Arc, time::Duration};

use rand::{SeedableRng, rngs::StdRng};
use tokio::{sync::Mutex, task::JoinSet, time::Instant};

use super::*;
use crate::{JitterThrottleLayer, context::RequestContext, error::BoxError};

mod backpressure;
mod bounds;
mod cancellation;
mod concurrency;
mod dispatch;
mod drain;
mod estimates;
mod gap;
mod mixture;
mod order;
mod readiness;
mod window;

const MIN: Duration = Duration::from_secs(1);
const JITTER: (Duration, Duration) = (Duration::from_millis(500), Duration::from_millis(1500));

fn reference() -> Pacing {
    Pacing::new()
        .min_interval(MIN)
        .jitter(JITTER.0..=JITTER.1)
        .unwrap()
}

fn gate(pacing: Pacing) -> Gate {
    Gate::new(pacing, StdRng::seed_from_u64(7))
}

/// The upstream refuses a request that was sent long ago.
fn close(gate: &Gate, until: Instant) {
    gate.refused(&RequestContext::new(), until, Recovery::Same);
}

/// The refusal that a turn ended with.
fn refusal(turn: Result<Permit, BoxError>) -> Refused {
    *turn.unwrap_err().downcast().unwrap()
}

/// Sends `count` requests at once and returns which left when, in the order they left.
async fn burst(gate: &Gate, count: usize) -> Vec<(usize, Instant)> {
    let left = Arc::new(Mutex::new(Vec::new()));
    let mut tasks = JoinSet::new();
    for index in 0..count {
        let (gate, left) = (gate.clone(), Arc::clone(&left));
        tasks.spawn(async move {
            let _permit = gate.acquire(None).await.unwrap();
            left.lock().await.push((index, Instant::now()));
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    Arc::into_inner(left).unwrap().into_inner()
}

fn gaps(left: &[(usize, Instant)]) -> Vec<Duration> {
    left.windows(2).map(|pair| pair[1].1 - pair[0].1).collect()
}
