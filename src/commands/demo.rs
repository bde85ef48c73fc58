//! `pacegate demo`: shows pacing without an account or a client.

use std::{future, io, io::Write, net::SocketAddr, pin::pin, process::ExitCode};

use anyhow::Context;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::serve::{runtime, signals};
use crate::{
    config::{self, Config, Listen},
    demo::{self, DemoScreen, DemoSetup, Home},
    edge::{BindError, Gateway},
    telemetry,
    upstreams::{Pipeline, assemble},
};

/// Options of `pacegate demo`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Exit after the table; else keep serving, for a client of yours
    #[arg(long)]
    once: bool,
    /// Listen here [default: 127.0.0.1:7223, or any free port if that is taken; with --once any
    /// free one]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
}

const ANY_PORT: &str = "127.0.0.1:0";

/// Runs the command.
///
/// # Errors
///
/// If it cannot listen, or if a request of the burst fails.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let listen = match (args.listen, args.once) {
        (Some(address), _) => Some(address.to_string()),
        (None, true) => Some(ANY_PORT.into()),
        (None, false) => None,
    };
    let home = Home::new().context("cannot make a temporary directory")?;
    let config = demo::config(&home, listen)?;
    telemetry::log::init(&config.log)?;
    runtime(&config)?.block_on(play(args, home, config))
}

async fn play(args: &Args, home: Home, config: Config) -> anyhow::Result<ExitCode> {
    let mut signals = signals()?;
    let tasks = TaskTracker::new();
    let setup = DemoSetup::start(home, config).await?;
    let gateway = bind(args, setup.config(), &tasks).await?;
    let url = gateway.to_string();

    let drain = CancellationToken::new();
    let mut served = pin!(gateway.serve(drain.cancelled()));
    let shown = tokio::select! {
        () = &mut served => Ok(()),
        shown = show(args, &setup, &url) => shown,
        _first = signals.recv() => Ok(()),
    };
    // The burst's clients have disconnected: only the user's own requests are waited for.
    drain.cancel();
    tokio::select! {
        () = served => shown.map(|()| ExitCode::SUCCESS),
        _second = signals.recv() => Ok(ExitCode::FAILURE),
    }
}

/// Binds the gateway. If the default port is taken, for example by a running pacegate, any free one
/// is used, unless `--listen` names the port.
async fn bind(args: &Args, config: &Config, tasks: &TaskTracker) -> anyhow::Result<Gateway> {
    match Gateway::bind(config, pipelines(config, tasks)?).await {
        Err(error) if args.listen.is_none() && is_taken(&error) => {
            writeln!(
                io::stderr().lock(),
                "note: {} is taken, so another port is used",
                config.listen
            )?;
            let elsewhere = Config {
                listen: Listen::Tcp(ANY_PORT.parse()?),
                ..config.clone()
            };
            Ok(Gateway::bind(&elsewhere, pipelines(config, tasks)?).await?)
        }
        bound => Ok(bound?),
    }
}

/// The pipelines of all upstreams, in order.
fn pipelines(config: &Config, tasks: &TaskTracker) -> anyhow::Result<Vec<Pipeline>> {
    config
        .upstreams
        .iter()
        .map(|upstream| Ok(assemble(upstream, config.state_dir.as_deref(), tasks)?))
        .collect()
}

fn is_taken(error: &BindError) -> bool {
    matches!(error, BindError::Address { reason, .. } if reason.kind() == io::ErrorKind::AddrInUse)
}

/// Runs the burst, then prints how to send more, unless `--once` is given.
async fn show(args: &Args, setup: &DemoSetup, url: &str) -> anyhow::Result<()> {
    let authority = url.trim_start_matches("http://");
    say(&format!(
        "listening on {url}\n\
         upstream: a simulator on {} that admits one chat a second\n\
         five streamed chats at once, through the default pipeline; all in seconds\n",
        setup.origin()
    ))?;
    let totals = demo::show(setup, authority, &mut DemoScreen::new()).await?;
    say(&format!("\n{totals}"))?;
    if args.once {
        return Ok(());
    }
    say(&invitation(setup.model(), url, authority))?;
    future::pending().await
}

fn invitation(model: &str, url: &str, authority: &str) -> String {
    let sample = config::opencode_sample();
    // The sample names the default port.
    let opencode = sample.replace("127.0.0.1:7223", authority);
    format!(
        "\nstill serving; send your own, two at once to see them spaced out:\n\n\
         curl -N {url}/v1/chat/completions \\\n  \
           -H 'content-type: application/json' \\\n  \
           -d '{{\"model\":\"{model}\",\"stream\":true,\n       \
         \"messages\":[{{\"role\":\"user\",\"content\":\"hi\"}}]}}'\n\n\
         or OpenCode, with this in an opencode.jsonc:\n\n{opencode}\n\
         Ctrl-C ends it"
    )
}

fn say(text: &str) -> anyhow::Result<()> {
    writeln!(io::stdout().lock(), "{text}").context("cannot write to stdout")
}
