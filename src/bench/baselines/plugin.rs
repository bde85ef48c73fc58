//! The OpenCode plugin that pacegate replaces, with its race and without.

use std::{collections::VecDeque, ops::RangeInclusive, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;
use parking_lot::{Mutex, MutexGuard};
use rand::{RngExt, rngs::StdRng};
use tokio::time::{Instant, sleep};
use tower::{ServiceExt, service_fn};

use crate::{bench::client::retry_after, upstreams::UpstreamService};

/// Whether requests are paced one at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turns {
    /// A chain of promises: each request waits for the one before it.
    OneAtATime,
    /// The time of the latest request is read before the sleep and written after it, so requests in
    /// between read the same time.
    Racing,
}

struct PluginQueue {
    turns: Turns,
    chain: tokio::sync::Mutex<()>,
    state: Mutex<PluginState>,
}

struct PluginState {
    latest: Option<Instant>,
    last_minute: VecDeque<Instant>,
    rng: StdRng,
}

const MIN_INTERVAL: Duration = Duration::from_secs(1);
const JITTER: RangeInclusive<Duration> = Duration::from_millis(500)..=Duration::from_millis(1500);
const PER_MINUTE: usize = 60;
const MINUTE: Duration = Duration::from_secs(60);

/// The plugin around `upstream`.
pub(super) fn plugin(upstream: UpstreamService, turns: Turns, rng: StdRng) -> UpstreamService {
    let queue = Arc::new(PluginQueue {
        turns,
        chain: tokio::sync::Mutex::default(),
        state: Mutex::new(PluginState {
            latest: None,
            last_minute: VecDeque::new(),
            rng,
        }),
    });
    UpstreamService::new(service_fn(move |request: Request<Full<Bytes>>| {
        let (queue, upstream) = (Arc::clone(&queue), upstream.clone());
        async move {
            queue.turn().await;
            let response = upstream.clone().oneshot(request.clone()).await?;
            if response.status() != StatusCode::TOO_MANY_REQUESTS {
                return Ok(response);
            }
            // One retry, without pacing.
            sleep(retry_after(&response).unwrap_or(MINUTE)).await;
            drop(response);
            upstream.oneshot(request).await
        }
    }))
}

// === impl PluginQueue ===

impl PluginQueue {
    async fn turn(&self) {
        let _one_at_a_time = match self.turns {
            Turns::OneAtATime => Some(self.chain.lock().await),
            Turns::Racing => None,
        };
        let delay = self.state().delay();
        sleep(delay).await;
        let now = Instant::now();
        let mut state = self.state();
        state.latest = Some(now);
        state.last_minute.push_back(now);
    }

    fn state(&self) -> MutexGuard<'_, PluginState> {
        self.state.lock()
    }
}

// === impl PluginState ===

impl PluginState {
    fn delay(&mut self) -> Duration {
        let now = Instant::now();
        while self
            .last_minute
            .front()
            .is_some_and(|at| *at + MINUTE <= now)
        {
            self.last_minute.pop_front();
        }
        let until = |instant: Option<Instant>| {
            instant.map_or(Duration::ZERO, |instant| {
                instant.saturating_duration_since(now)
            })
        };
        let full = self.last_minute.len() >= PER_MINUTE;
        let place = self.last_minute.front().filter(|_| full);
        let interval = until(self.latest.map(|latest| latest + MIN_INTERVAL));
        let limit = until(place.map(|oldest| *oldest + MINUTE));
        interval.max(limit) + self.rng.random_range(JITTER)
    }
}
