//! The guarantees for untrusted input, as functions that panic if one does not hold.
//!
//! Each module is one fuzz target: its `run` takes any bytes. The integration tests include this
//! file to play the seeds, and the inputs that once failed (`corpus/`).

pub mod config;
pub mod credentials;
pub mod dialects;
pub mod event_stream;
pub mod header_policy;
pub mod input;
pub mod request_target;
pub mod retry_after;
pub mod rig;

/// A target: any bytes in, a panic if a promise is broken.
pub type Target = fn(&[u8]);

/// All targets by name.
pub const TARGETS: [(&str, Target); 7] = [
    ("config", config::run),
    ("credentials", credentials::run),
    ("dialects", dialects::run),
    ("event_stream", event_stream::run),
    ("header_policy", header_policy::run),
    ("request_target", request_target::run),
    ("retry_after", retry_after::run),
];
