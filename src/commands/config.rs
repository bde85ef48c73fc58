//! `pacegate config`.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use super::source::ConfigArgs;
use crate::config;

/// Options of `pacegate config`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to do with it.
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Print every value and where it came from
    Show(ConfigArgs),
}

/// Runs the command.
///
/// # Errors
///
/// An invalid config, or a closed stdout.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let Verb::Show(args) = &args.verb;
    write!(
        io::stdout().lock(),
        "{}",
        config::annotated(&args.source())?
    )?;
    Ok(ExitCode::SUCCESS)
}
