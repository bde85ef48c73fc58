//! pacegate: a sidecar gateway between a coding agent and a rate-limited upstream.

pub mod body;
pub mod cli;
pub mod commands;
pub mod config;
pub mod credentials;
pub mod oauth;
pub mod simulator;
pub mod upstream;
