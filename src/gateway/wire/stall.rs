//! How long a client may take nothing of an answer that is there for it.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Sleep, sleep};

/// Measures how long a write has been waiting. Most never do, so there is a timer only meanwhile.
#[derive(Debug)]
pub(in crate::gateway) struct Stall {
    limit: Duration,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Stall {
    pub(in crate::gateway) fn new(limit: Duration) -> Self {
        Self { limit, sleep: None }
    }

    /// The client has taken something.
    pub(in crate::gateway) fn is_over(&mut self) {
        self.sleep = None;
    }

    /// Ready when the wait has been too long.
    pub(in crate::gateway) fn poll_too_long(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let limit = self.limit;
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep(limit)));
        sleep.as_mut().poll(cx)
    }
}
