//! The command line's grammar.

use std::ffi::OsString;

use clap::{
    CommandFactory, Parser, Subcommand,
    error::{ContextKind, ContextValue, ErrorKind},
};

#[cfg(feature = "tools")]
use crate::commands::{bench, demo, simulate};
use crate::commands::{check, config, health, login, logout, serve, status};

/// Verbs that this build leaves out.
const LEFT_OUT: &[&str] = if cfg!(feature = "tools") {
    &[]
} else {
    &["bench", "demo", "simulate"]
};

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
    #[cfg(feature = "tools")]
    Demo(demo::Args),
    /// Run the fake upstream alone
    #[cfg(feature = "tools")]
    Simulate(Box<simulate::Args>),
    /// Show what a pacing policy does, before an account is risked on it
    #[cfg(feature = "tools")]
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

// === impl Cli ===

impl Cli {
    /// Reads the arguments, the program's name first.
    ///
    /// # Errors
    ///
    /// clap's errors; for a verb that this build leaves out, the reason.
    pub fn read(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        Self::try_parse_from(arguments).map_err(|error| {
            match error.get(ContextKind::InvalidSubcommand) {
                Some(ContextValue::String(verb)) if LEFT_OUT.contains(&verb.as_str()) => {
                    Self::command().error(
                        ErrorKind::InvalidSubcommand,
                        "this build leaves out bench, demo and simulate (cargo feature tools)",
                    )
                }
                _ => error,
            }
        })
    }
}

#[cfg(all(test, not(feature = "tools")))]
mod tests {
    use super::*;

    fn refusal(arguments: &[&str]) -> String {
        let arguments = ["pacegate"].iter().chain(arguments).map(OsString::from);
        Cli::read(arguments).unwrap_err().to_string()
    }

    #[test]
    fn a_verb_that_is_left_out_is_refused_with_the_reason() {
        for arguments in [
            &["bench", "throttle"][..],
            &["demo"],
            &["demo", "--once"],
            &["help", "demo"],
            &["simulate"],
        ] {
            let refusal = refusal(arguments);
            assert!(refusal.contains("(cargo feature tools)"), "{refusal}");
        }
    }

    #[test]
    fn the_help_names_no_verb_that_is_left_out() {
        let help = Cli::command().render_long_help().to_string();
        assert!(LEFT_OUT.iter().all(|verb| !help.contains(verb)), "{help}");
    }

    #[test]
    fn an_unknown_verb_is_still_only_unknown() {
        assert!(refusal(&["dmeo"]).contains("unrecognized subcommand"));
    }
}
