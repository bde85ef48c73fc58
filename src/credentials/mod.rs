//! Tokens of upstreams: where they are read from, refreshed and stored.
//!
//! [`source`] serves the tokens of a credentials file ([`store`]) that other programs read and
//! refresh as well. Every refresh therefore happens under their [`lock`], and the file is read
//! again before each decision. [`api_key`] serves an API key.

pub mod api_key;
pub mod file_version;
pub mod lock;
pub mod source;
mod stale_files;
pub mod store;
