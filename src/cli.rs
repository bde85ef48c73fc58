//! The command line: what may be typed, and nothing about what it does.

use clap::{Parser, Subcommand};

use crate::commands::{bench, check, config, demo, health, login, logout, serve, simulate, status};

/// A sidecar that sends a coding agent's requests upstream at the right moment.
#[derive(Debug, Parser)]
#[command(name = "pacegate", version, args_conflicts_with_subcommands = true)]
pub struct Cli {
    /// The verb; without one, `serve`.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// The options of `serve`, for use without the verb.
    #[command(flatten)]
    pub serve: serve::Args,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve clients (the default)
    Serve(serve::Args),
    /// Simulator and gateway in one process: a burst through it, drawn as it happens
    Demo(demo::Args),
    /// Run the fake upstream alone
    Simulate(Box<simulate::Args>),
    /// Show what a pacing policy does, before an account is risked on it
    Bench(Box<bench::Args>),
    /// Log in to an upstream on a page in a browser, here or on another device
    Login(login::Args),
    /// Forget an upstream's login
    Logout(logout::Args),
    /// Show who is logged in, until when, and what is left of each quota
    Status(status::Args),
    /// Check the configuration and print what would run
    Check(check::Args),
    /// Show the configuration
    Config(config::Args),
    /// Ask a running pacegate whether it is well (for a container's health check)
    Health(health::Args),
}
