//! `pacegate demo`.

use std::process::ExitCode;

/// Options of `pacegate demo`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the verb.
///
/// # Errors
///
/// Whatever kept it from its work.
pub fn run(_args: &Args) -> anyhow::Result<ExitCode> {
    anyhow::bail!("not here yet")
}
