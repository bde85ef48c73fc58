//! `pacegate logout`: removes a login after a confirmation.

use std::{
    fs,
    io::{self, IsTerminal, Write},
    process::ExitCode,
};

use anyhow::Context;
use serde_json::json;
use tokio::runtime;

use super::{
    UsageError,
    source::{ConfigArgs, with_login},
};
use crate::{
    config,
    credentials::{lock::CredentialsLock, store::CredentialsFile, store::ReadError},
    wall_clock::system_clock,
};

/// Options of `pacegate logout`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Log out of this upstream [default: the only one that has a login]
    #[arg(long, value_name = "NAME")]
    upstream: Option<String>,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// Say it as JSON
    #[arg(long, requires = "yes")]
    json: bool,
    #[command(flatten)]
    config: ConfigArgs,
}

/// Runs the command.
///
/// # Errors
///
/// An invalid config, no terminal for the confirmation, a lock that another program holds, or a file
/// that cannot be removed.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let config = config::without_secrets(&args.config.source())?;
    let (upstream, oauth) = with_login(&config, args.upstream.as_deref())?;
    let file = CredentialsFile::new(&oauth.file);
    let path = file.path();
    let there = match file.read_once() {
        Err(ReadError::Missing(_)) => false,
        Err(error @ ReadError::NotRegular(_)) => return Err(error.into()),
        // An unreadable file, too: the user wants it removed.
        _ => true,
    };
    if there && !args.yes && !confirmed(&upstream.name, &file)? {
        writeln!(io::stdout().lock(), "nothing was changed")?;
        return Ok(ExitCode::FAILURE);
    }
    if there {
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        // The lock, so that a program that refreshes the token now does not write the file again.
        let _lock = runtime.block_on(CredentialsLock::acquire(path, &system_clock()))?;
        fs::remove_file(path).with_context(|| path.display().to_string())?;
    }
    let mut out = io::stdout().lock();
    if args.json {
        let text = json!({ "upstream": upstream.name, "file": path, "forgotten": there });
        writeln!(out, "{text}")?;
    } else if there {
        writeln!(
            out,
            "logged out of {}: {} is gone\nnote: a pacegate that runs still holds the login, and saves it again when it \
             renews the token; restart it",
            upstream.name,
            path.display()
        )?;
    } else {
        writeln!(out, "nobody was logged in to {}", upstream.name)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn confirmed(upstream: &str, file: &CredentialsFile) -> anyhow::Result<bool> {
    if !io::stdin().is_terminal() {
        let text = "there is no terminal to ask on\n  hint: add --yes";
        return Err(UsageError(text.into()).into());
    }
    let mut out = io::stdout().lock();
    write!(
        out,
        "forget the login of {upstream} in {}, for every program that shares it? [y/N] ",
        file.path().display()
    )?;
    out.flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    let answer = answer.trim().to_ascii_lowercase();
    Ok(answer == "y" || answer == "yes")
}
