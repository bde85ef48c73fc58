//! `pacegate login`: a login in a browser, on this machine or another, into the credentials file.

use std::{
    fs::DirBuilder, io, os::unix::fs::DirBuilderExt, path::Path, process::ExitCode,
    time::SystemTime,
};

use anyhow::Context;
use tokio::runtime;
use tracing::warn;

use self::screen::Screen;
use super::{
    serve::signals,
    source::{ConfigArgs, with_login},
};
use crate::{
    config::{self, Log, LogFormat, OAuth, Upstream},
    credentials::{
        lock::Lock,
        store::{Credentials, CredentialsFile, ReadError},
        system_clock,
    },
    oauth::{
        device::{self, DeviceEndpoint},
        pkce::Verifier,
        refresh::{Grant, TokenEndpoint},
    },
    process, telemetry,
    upstreams::endpoint_client,
};

mod screen;

/// Options of `pacegate login`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Log in to this upstream [default: the only one that has a login]
    #[arg(long, value_name = "NAME")]
    upstream: Option<String>,
    /// Open no browser
    #[arg(long)]
    no_browser: bool,
    #[command(flatten)]
    config: ConfigArgs,
}

/// Runs the verb.
///
/// # Errors
///
/// A config that cannot be used, no upstream with a login, a login that was denied, refused or not
/// confirmed in time, or a file that cannot be written.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let no_dumps = process::disable_core_dumps();
    let config = config::without_secrets(&args.config.source())?;
    let (upstream, oauth) = with_login(&config, args.upstream.as_deref())?;
    telemetry::log::init(&quiet(&config.log, &args.config))?;
    if let Err(error) = no_dumps {
        warn!(%error, "A crash may leave a core dump");
    }
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut signals = signals()?;
        let screen = Screen::new();
        tokio::select! {
            done = login(upstream, oauth, &screen, args.no_browser) => {
                done.map(|()| ExitCode::SUCCESS)
            }
            _signal = signals.recv() => {
                screen.end_line();
                anyhow::bail!("stopped; nothing was saved")
            }
        }
    })
}

/// Warnings only, unless more was asked for here: the screen says the rest.
fn quiet(log: &Log, args: &ConfigArgs) -> Log {
    let level = if args.log_level.is_some() {
        log.level.clone()
    } else {
        "warn".into()
    };
    let format = match log.format {
        LogFormat::Auto => LogFormat::Pretty,
        chosen => chosen,
    };
    Log { level, format }
}

async fn login(
    upstream: &Upstream,
    oauth: &OAuth,
    screen: &Screen,
    no_browser: bool,
) -> anyhow::Result<()> {
    let file = CredentialsFile::new(&oauth.file);
    // Before the person has gone to the page for nothing.
    if let Err(error @ ReadError::NotRegular(_)) = file.read_once() {
        return Err(error.into());
    }
    let endpoint = DeviceEndpoint {
        url: oauth.device_code_url.clone(),
        scope: oauth.scope.clone(),
        token: TokenEndpoint::configured(oauth),
    };
    let verifier = Verifier::generate(&mut rand::rng());
    let client = endpoint_client(upstream, &endpoint.url)?;
    let login = device::begin(client, &endpoint, &verifier)
        .await
        .with_context(|| endpoint.url.to_string())?;

    screen.ask(upstream, &login, no_browser)?;
    let client = endpoint_client(upstream, &endpoint.token.url)?;
    let poll = device::poll(client, &endpoint.token, &login, &verifier, |it| {
        screen.trouble(&it);
    });
    let granted = tokio::select! {
        granted = poll => granted,
        never = screen.count_down(login.expires) => match never {},
    };
    screen.end_line();
    let grant =
        granted.map_err(|error| anyhow::anyhow!("{error}\n  hint: run `pacegate login` again"))?;
    let credentials = save(&file, grant).await.map_err(|error| {
        anyhow::anyhow!(
            "the login is not saved: {error:#}\n  hint: mend that and run `pacegate login` again"
        )
    })?;
    screen.done(&file, &credentials)?;
    Ok(())
}

/// Under the lock of those who share the file, or without it: what was just confirmed by a person
/// is not given up for a lock that somebody left behind.
async fn save(file: &CredentialsFile, grant: Grant) -> anyhow::Result<Credentials> {
    let credentials = Credentials {
        expiry_date: grant.expiry_date(SystemTime::now()),
        access_token: grant.access_token,
        token_type: grant.token_type,
        refresh_token: grant.refresh_token.unwrap_or_default(),
        resource_url: grant.resource_url,
    };
    if let Some(directory) = file.path().parent() {
        make(directory).with_context(|| directory.display().to_string())?;
    }
    let lock = Lock::acquire(file.path(), &system_clock()).await;
    if let Err(error) = &lock {
        warn!(%error, "Saving the login without the lock");
    }
    file.write(&credentials)?;
    Ok(credentials)
}

/// For the lock, which lies beside the file.
fn make(directory: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(0o700).create(directory)
}
