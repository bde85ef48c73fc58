//! `pacegate serve`: runs the gateway until a signal.

use std::{
    cell::Cell,
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::Context;
use tokio::{
    runtime::{self, Runtime},
    signal::unix::{SignalKind, signal},
    sync::{mpsc, oneshot},
    time::{Instant, timeout},
};
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use super::{
    descriptors,
    reload::{ReloadContext, with_recorder},
    source::ConfigArgs,
};
use crate::{
    config::{self, Config, Notice},
    edge::Gateway,
    process, telemetry,
    upstreams::UpstreamSet,
    upstreams::record::Recorder,
};

/// Options of `pacegate serve`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    source: ConfigArgs,
    /// Append a line to this file for each request: when, which session, which model, how large;
    /// never what it says
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
}

/// A token refresh in flight must end within this time after the signal; `docker stop` waits for ten
/// seconds, …
const LAST_TASKS: Duration = Duration::from_secs(9);

/// … and has at least this long after the drain.
const LEAST_LAST_TASKS: Duration = Duration::from_secs(1);

/// Runs the command.
///
/// # Errors
///
/// [`config::Error`] for an invalid config, or the reason why it cannot listen.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let no_dumps = process::disable_core_dumps();
    let loaded = config::load(&args.source.source())?;
    let mut config = loaded.config;
    telemetry::log::init(&config.log)?;
    if let Err(error) = no_dumps {
        warn!(%error, "Cannot turn off core dumps; one would hold tokens and prompts");
    }
    if let Err(error) = process::raise_descriptor_limit() {
        warn!(%error, "Cannot raise the number of open files; there may be room for few streams");
    }
    info!(source = loaded.source, "Config loaded");
    for notice in &loaded.notices {
        info!(
            key = notice.path,
            notice = notice.text,
            "Setting with less effect than it says"
        );
    }
    if let Some(notice) = descriptors::fit(&mut config, process::descriptor_limit()) {
        warn_lowered(&notice);
    }
    let recorder = args.record.as_deref().map(recorder).transpose()?;
    runtime(&config)?.block_on(serve(config, &args.source, recorder.as_ref()))
}

/// Says that a setting was lowered.
pub(super) fn warn_lowered(notice: &Notice) {
    warn!(
        key = notice.path,
        notice = notice.text,
        "Too few files may be open for a setting"
    );
}

/// The runtime that `config.workers` asks for: one worker needs no second thread.
///
/// # Errors
///
/// If the operating system refuses a thread.
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

fn recorder(path: &Path) -> anyhow::Result<Recorder> {
    Recorder::open(path)
        .with_context(|| format!("cannot record arrivals to {} (--record)", path.display()))
}

async fn serve(
    config: Config,
    args: &ConfigArgs,
    recorder: Option<&Recorder>,
) -> anyhow::Result<ExitCode> {
    let mut signals = signals()?;
    let mut hangups = signal(SignalKind::hangup()).context("SIGHUP")?;
    let tasks = TaskTracker::new();
    let upstreams = UpstreamSet::start(&config, tasks.clone())?;
    let gateway = Gateway::bind(&config, with_recorder(&upstreams, recorder)).await?;
    writeln!(io::stdout().lock(), "listening on {gateway}").context("stdout")?;
    info!(address = %gateway, "Listening");

    let mut context = ReloadContext {
        args,
        config,
        upstreams,
        reloader: gateway.reloader(),
        recorder,
    };
    let (drain, draining) = oneshot::channel::<()>();
    let served = gateway.serve(async {
        // The sender is not dropped before it sends, so there is no error.
        let _told = draining.await;
    });
    let stopping = Cell::new(None);
    let ended = async {
        let first = loop {
            tokio::select! {
                first = signals.recv() => break first,
                _hangup = hangups.recv() => context.reload(),
            }
        };
        // Ends the tasks of the pipelines.
        drop(context);
        info!(signal = first, "Stopping");
        stopping.set(Some(Instant::now()));
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
    let passed = stopping
        .get()
        .map_or(Duration::ZERO, |since| since.elapsed());
    let left = LAST_TASKS.saturating_sub(passed).max(LEAST_LAST_TASKS);
    if timeout(left, tasks.wait()).await.is_err() {
        warn!("A task did not end in time");
    }
    Ok(ExitCode::SUCCESS)
}

/// The names of the termination signals, as they arrive.
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
