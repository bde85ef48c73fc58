//! `pacegate login`: logs in by a browser, on this machine or another, and saves the credentials.

use std::{
    fs::DirBuilder, io, os::unix::fs::DirBuilderExt, path::Path, process::ExitCode,
    time::SystemTime,
};

use anyhow::Context;
use tokio::runtime;
use tracing::warn;

use self::screen::LoginScreen;
use super::{
    serve::signals,
    source::{ConfigArgs, with_login},
};
use crate::{
    config::{self, Log, LogFormat, OAuth, Upstream},
    credentials::{
        lock::CredentialsLock,
        store::{CredentialsFile, OAuthCredentials, ReadError},
    },
    oauth::{
        device::{self, DeviceEndpoint},
        pkce::Verifier,
        refresh::{IssuedTokens, TokenEndpoint},
    },
    process, telemetry,
    upstreams::endpoint_client,
    wall_clock::system_clock,
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

/// Runs the command.
///
/// # Errors
///
/// An invalid config, no upstream with a login, a login that was denied, refused or not confirmed in
/// time, or a file that cannot be written.
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
        let screen = LoginScreen::new();
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

/// Warnings only, unless `--log-level` is given: the screen shows the rest.
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
    screen: &LoginScreen,
    no_browser: bool,
) -> anyhow::Result<()> {
    let file = CredentialsFile::new(&oauth.file);
    // Checked first, so that the user does not log in for nothing.
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
            "the login is not saved: {error:#}\n  hint: fix that and run `pacegate login` again"
        )
    })?;
    screen.done(&file, &credentials)?;
    Ok(())
}

/// Saves the login under the lock of the programs that share the file. Without the lock it is saved,
/// too: a login that the user has confirmed is not lost to a stale lock.
async fn save(file: &CredentialsFile, grant: IssuedTokens) -> anyhow::Result<OAuthCredentials> {
    let credentials = OAuthCredentials {
        expiry_date: grant.expiry_date(SystemTime::now()),
        access_token: grant.access_token,
        token_type: grant.token_type,
        refresh_token: grant.refresh_token.unwrap_or_default(),
        resource_url: grant.resource_url,
    };
    if let Some(directory) = file.path().parent() {
        make(directory).with_context(|| directory.display().to_string())?;
    }
    let lock = CredentialsLock::acquire(file.path(), &system_clock()).await;
    if let Err(error) = &lock {
        warn!(%error, "Saving the login without the lock");
    }
    file.write(&credentials)?;
    Ok(credentials)
}

/// Makes the directory of the file, which also holds the lock.
fn make(directory: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(0o700).create(directory)
}
