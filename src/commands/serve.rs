//! `pacegate serve`: the gateway, until a signal ends it.

use std::{
    io::{self, Write},
    process::ExitCode,
    time::Duration,
};

use anyhow::Context;
use tokio::{
    runtime::{self, Runtime},
    signal::unix::{SignalKind, signal},
    sync::{mpsc, oneshot},
    time::timeout,
};
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use super::source::ConfigArgs;
use crate::{
    config::{self, Config},
    gateway::Gateway,
    pipeline::{Pipeline, assemble},
    telemetry,
};

/// Options of `pacegate serve`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    source: ConfigArgs,
}

/// A token's refresh that was under way when the signal came has this long to be written down.
const LAST_TASKS: Duration = Duration::from_secs(10);

/// Runs the verb.
///
/// # Errors
///
/// [`config::Error`] for a config that cannot be used; else whatever kept it from listening.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let loaded = config::load(&args.source.source())?;
    let config = loaded.config;
    telemetry::init(&config.log)?;
    info!(source = loaded.source, "Config loaded");
    for notice in &loaded.notices {
        info!(
            key = notice.path,
            notice = notice.text,
            "Setting with less effect than it says"
        );
    }
    runtime(&config)?.block_on(serve(&config))
}

/// The runtime that `config.workers` asks for: one worker needs no second thread.
///
/// # Errors
///
/// When the operating system gives no thread.
pub(super) fn runtime(config: &Config) -> io::Result<Runtime> {
    match config.workers.get() {
        1 => runtime::Builder::new_current_thread(),
        workers => {
            let mut builder = runtime::Builder::new_multi_thread();
            builder.worker_threads(workers);
            builder
        }
    }
    .enable_all()
    .build()
}

/// The pipelines of all upstreams, in order.
///
/// # Errors
///
/// The first upstream that cannot be put together.
pub(super) fn pipelines(config: &Config, tasks: &TaskTracker) -> anyhow::Result<Vec<Pipeline>> {
    config
        .upstreams
        .iter()
        .map(|upstream| Ok(assemble(upstream, config.state_dir.as_deref(), tasks)?))
        .collect()
}

async fn serve(config: &Config) -> anyhow::Result<ExitCode> {
    let mut signals = signals()?;
    let tasks = TaskTracker::new();
    let gateway = Gateway::bind(config, pipelines(config, &tasks)?).await?;
    writeln!(io::stdout().lock(), "listening on {gateway}").context("stdout")?;
    info!(address = %gateway, "Listening");

    let (drain, draining) = oneshot::channel::<()>();
    let served = gateway.serve(async {
        // An error means that the sender is gone, which it is not.
        let _told = draining.await;
    });
    let ended = async {
        let first = signals.recv().await;
        info!(signal = first, "Stopping");
        let _still_serving = drain.send(());
        signals.recv().await
    };
    tokio::select! {
        () = served => {}
        second = ended => {
            warn!(signal = second, "Stopping at once");
            return Ok(ExitCode::FAILURE);
        }
    }
    tasks.close();
    if timeout(LAST_TASKS, tasks.wait()).await.is_err() {
        warn!("A task did not end in time");
    }
    Ok(ExitCode::SUCCESS)
}

/// The names of the signals that ask the process to end, as they come.
pub(super) fn signals() -> anyhow::Result<mpsc::Receiver<&'static str>> {
    let (tell, signals) = mpsc::channel(2);
    let tasks = TaskTracker::new();
    for (kind, name) in [
        (SignalKind::interrupt(), "SIGINT"),
        (SignalKind::terminate(), "SIGTERM"),
    ] {
        let mut stream = signal(kind).with_context(|| name)?;
        let tell = tell.clone();
        tasks.spawn(async move {
            while stream.recv().await.is_some() && tell.send(name).await.is_ok() {}
        });
    }
    Ok(signals)
}
