//! What several test modules need.

// Always so here; it tells clippy that helpers of tests may unwrap as tests do.
#![cfg(test)]

pub(crate) mod client;
pub(crate) mod gateway;
pub(crate) mod lateness;
pub(crate) mod slow_disk;
pub(crate) mod tap;
pub(crate) mod terminal;
