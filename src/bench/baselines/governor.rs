//! governor's `until_ready_with_jitter`, on tokio's clock.
//!
//! The original sleeps on a thread of its own and does not see tokio's paused clock. Its loop: check
//! the cell; if it is taken, sleep until it is free plus a jitter; check again.

use std::{ops::RangeInclusive, sync::Arc, time::Duration};

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use parking_lot::Mutex;
use rand::{RngExt, rngs::StdRng};
use tokio::time::{Instant, sleep};
use tower::{ServiceExt, service_fn};

use crate::upstreams::UpstreamService;

struct GovernorCell {
    free: Option<Instant>,
    rng: StdRng,
}

const PERIOD: Duration = Duration::from_secs(1);
const JITTER: RangeInclusive<Duration> = Duration::from_millis(500)..=Duration::from_millis(1500);

/// A limiter of one request a second with jitter, around `upstream`. It does not retry.
pub(super) fn governor(upstream: UpstreamService, rng: StdRng) -> UpstreamService {
    let cell = Arc::new(Mutex::new(GovernorCell { free: None, rng }));
    UpstreamService::new(service_fn(move |request: Request<Full<Bytes>>| {
        let (cell, upstream) = (Arc::clone(&cell), upstream.clone());
        async move {
            loop {
                let wait = cell.lock().take();
                match wait {
                    Some(wait) => sleep(wait).await,
                    None => return upstream.oneshot(request).await,
                }
            }
        }
    }))
}

// === impl GovernorCell ===

impl GovernorCell {
    /// Takes the cell, or returns how long to sleep before the next check.
    fn take(&mut self) -> Option<Duration> {
        let now = Instant::now();
        match self.free.filter(|free| *free > now) {
            Some(free) => Some(free - now + self.rng.random_range(JITTER)),
            None => {
                self.free = Some(now + PERIOD);
                None
            }
        }
    }
}
