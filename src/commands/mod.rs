//! The verbs of the command line, one file each: arguments in, exit code out.

use std::{
    io::{self, Write},
    process::ExitCode,
};

#[cfg(feature = "tools")]
pub mod bench;
pub mod check;
pub mod config;
#[cfg(feature = "tools")]
pub mod demo;
mod descriptors;
pub mod health;
pub mod login;
pub mod logout;
mod reload;
pub mod serve;
#[cfg(feature = "tools")]
pub mod simulate;
pub mod source;
pub mod status;

/// An argument is missing or wrong; the text says which.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct UsageError(String);

/// clap's exit code, too.
const USAGE: u8 = 2;

/// `EX_CONFIG` of sysexits(3): the configuration is wrong.
const EX_CONFIG: u8 = 78;

/// Reports a failed verb on stderr and picks the exit code: 78 for a bad config, 2 for a wrong
/// use, 1 for the rest.
pub fn exit_code(outcome: anyhow::Result<ExitCode>) -> ExitCode {
    match outcome {
        Ok(code) => code,
        Err(error) => {
            // If stderr is closed, there is no other place to report to.
            let _closed = writeln!(io::stderr().lock(), "error: {error:#}");
            if error.is::<crate::config::Error>() {
                ExitCode::from(EX_CONFIG)
            } else if error.is::<UsageError>() {
                ExitCode::from(USAGE)
            } else {
                ExitCode::FAILURE
            }
        }
    }
}
