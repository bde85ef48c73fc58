//! Log lines on stderr: pretty for people, JSON for programs.

use std::io::{self, IsTerminal};

use tracing_subscriber::{fmt, layer::SubscriberExt, registry, util::SubscriberInitExt};

use crate::config::{BadFilter, Log, LogFormat};

/// Starts logging as `log` configures. A second call in one process changes nothing.
///
/// # Errors
///
/// If the level is no valid filter.
pub fn init(log: &Log) -> Result<(), BadFilter> {
    let targets = log.targets()?;
    let terminal = io::stderr().is_terminal();
    let lines = fmt::layer().with_writer(io::stderr);
    let pretty = match log.format {
        LogFormat::Auto => terminal,
        LogFormat::Json => false,
        LogFormat::Pretty => true,
    };
    // Only the first subscriber of a process counts; tests start several gateways in one.
    let _already_set = if pretty {
        let lines = lines.with_ansi(terminal).with_target(false);
        registry().with(lines).with(targets).try_init()
    } else {
        let lines = lines.json().flatten_event(true);
        registry().with(lines).with(targets).try_init()
    };
    Ok(())
}
