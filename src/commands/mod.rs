//! The verbs of the command line, one file each: arguments in, exit code out.

use std::{
    io::{self, Write},
    process::ExitCode,
};

pub mod bench;
pub mod check;
pub mod config;
pub mod demo;
pub mod health;
pub mod serve;
pub mod simulate;
pub mod source;

/// `EX_CONFIG` of sysexits(3): the configuration is wrong.
const EX_CONFIG: u8 = 78;

/// Reports a failed verb on stderr and picks the exit code: 78 for a bad config, 1 for the rest.
pub fn exit_code(outcome: anyhow::Result<ExitCode>) -> ExitCode {
    match outcome {
        Ok(code) => code,
        Err(error) => {
            // Nobody is left to tell if stderr is closed.
            let _closed = writeln!(io::stderr().lock(), "error: {error:#}");
            if error.is::<crate::config::Error>() {
                ExitCode::from(EX_CONFIG)
            } else {
                ExitCode::FAILURE
            }
        }
    }
}
