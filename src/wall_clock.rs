//! The wall clock as a value, so that tests can set it.

use std::{sync::Arc, time::SystemTime};

/// Returns the current time of day.
pub type WallClock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// The machine's wall clock.
pub fn system_clock() -> WallClock {
    Arc::new(SystemTime::now)
}
