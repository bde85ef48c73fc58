//! Who holds the tokens.
//!
//! [`source`] is what a pipeline asks; it keeps the tokens of a file ([`store`]) that other
//! programs read and renew too, so every renewal happens under their [`lock`] and nothing about
//! the file is ever taken for granted.

use std::{sync::Arc, time::SystemTime};

pub mod api_key;
mod leftovers;
pub mod lock;
pub mod source;
pub mod store;

/// The wall clock: tokens expire, and locks go stale, by the time that other programs see.
pub type WallClock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// The machine's own wall clock.
pub fn system_clock() -> WallClock {
    Arc::new(SystemTime::now)
}
