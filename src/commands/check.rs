//! `pacegate check`.

use std::{
    fs,
    io::{self, Write},
    path::Path,
    process::ExitCode,
};

use super::{descriptors, source::ConfigArgs};
use crate::{
    config::{
        self, Config, Credentials, JitterThrottleSettings, LayerName, Listen, Notice, QueueOrder,
        Upstream, show_duration as duration,
    },
    edge::Reloader,
    process,
};

/// Options of `pacegate check`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    config: ConfigArgs,
}

/// Runs the command.
///
/// # Errors
///
/// An invalid config or certificate, or a closed stdout.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let mut loaded = config::load(&args.config.source())?;
    // Loads what `serve` loads, so that errors are found here.
    Reloader::prepare(&loaded.config)?;
    // As in `serve`, if that runs under the same limit: a service has one of its own.
    if let Err(error) = process::raise_descriptor_limit() {
        loaded.notices.push(Notice {
            path: "limits.max-connections".into(),
            text: format!("the limit on open files cannot be raised: {error}"),
        });
    }
    let lowered = descriptors::fit(&mut loaded.config, process::descriptor_limit());
    loaded.notices.extend(lowered);
    let mut out = io::stdout().lock();
    writeln!(out, "config   {}", loaded.source)?;
    server(&mut out, &loaded.config)?;
    for each in &loaded.config.upstreams {
        upstream(&mut out, each)?;
    }
    if !loaded.notices.is_empty() {
        writeln!(out)?;
    }
    for notice in &loaded.notices {
        writeln!(out, "note: {}: {}", notice.path, notice.text)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn server(out: &mut impl Write, config: &Config) -> io::Result<()> {
    match &config.listen {
        Listen::Tcp(address) if config.listen_tls.is_some() => {
            writeln!(out, "listen   https://{address}")?;
        }
        Listen::Tcp(address) => writeln!(out, "listen   http://{address}")?,
        Listen::Unix(path) => writeln!(out, "listen   unix:{}", path.display())?,
    }
    match config.client_keys.len() {
        0 => writeln!(out, "clients  need no key"),
        1 => writeln!(out, "clients  need the key"),
        count => writeln!(out, "clients  need one of {count} keys"),
    }
}

fn upstream(out: &mut impl Write, upstream: &Upstream) -> io::Result<()> {
    write!(out, "\nupstream {}", upstream.name)?;
    if let Some(preset) = &upstream.preset {
        write!(out, " (preset {preset})")?;
    }
    writeln!(out, "\n  base-url     {}", upstream.base_url)?;
    let models: Vec<_> = upstream
        .models
        .iter()
        .map(|model| model.id.as_str())
        .collect();
    let models = if models.is_empty() {
        "none listed: requests are routed here by /u/NAME/, or if this is the first".into()
    } else {
        models.join(", ")
    };
    writeln!(out, "  models       {models}")?;
    writeln!(out, "  dialect      {}", upstream.dialect.name)?;
    writeln!(out, "  credentials  {}", credentials(&upstream.credentials))?;
    writeln!(out, "  pipeline")?;
    for (index, layer) in upstream.pipeline.iter().enumerate() {
        let settings = settings(upstream, *layer);
        writeln!(out, "    {} {:16} {settings}", index + 1, layer.name())?;
    }
    if let Credentials::OAuth(oauth) = &upstream.credentials
        && let Some(trouble) = trouble(&oauth.file)
    {
        let file = oauth.file.display();
        writeln!(out, "  warning: {file}: {trouble}; log in before you serve")?;
    }
    Ok(())
}

fn credentials(credentials: &Credentials) -> String {
    match credentials {
        Credentials::None => "none".into(),
        Credentials::ApiKey(key) => format!("API key from {}", key.reference),
        Credentials::OAuth(oauth) => format!("OAuth, file {}", oauth.file.display()),
    }
}

fn settings(upstream: &Upstream, layer: LayerName) -> String {
    match layer {
        LayerName::HeaderAlign => {
            let align = &upstream.header_align;
            let names: Vec<_> = align.pass.iter().map(|name| name.as_str()).collect();
            let pass = if names.is_empty() {
                "nothing".into()
            } else {
                names.join(", ")
            };
            format!("profile {}; of the client's: {pass}", align.profile)
        }
        LayerName::RetryOn429 => {
            let retry = &upstream.retry_on_429;
            format!(
                "at most {} retries within {}; waits {} where the upstream names no time",
                retry.max_retries,
                duration(retry.max_hold),
                duration(retry.default_wait)
            )
        }
        LayerName::TokenRefresh => {
            let early = duration(upstream.token_refresh.early);
            format!("renews the token {early} before its end and when it is refused")
        }
        LayerName::JitterThrottle => throttle(&upstream.jitter_throttle),
        LayerName::BearerAuth => "sends the token of the credentials".into(),
    }
}

fn throttle(throttle: &JitterThrottleSettings) -> String {
    let (from, to) = throttle.jitter;
    let flight = match throttle.concurrency {
        Some(most) => format!("at most {most} in flight"),
        None => "any number in flight".into(),
    };
    let busy = throttle.busy.as_ref().map(|busy| {
        let (from, to) = busy.jitter;
        format!(
            ", from {} in {} on plus {} to {}",
            busy.from,
            duration(busy.within),
            duration(from),
            duration(to)
        )
    });
    let quotas: String = throttle
        .quotas
        .iter()
        .map(|quota| format!("at most {quota}; "))
        .collect();
    let order = match throttle.order {
        QueueOrder::Fair => "sessions take turns",
        QueueOrder::Fifo => "first come, first served",
    };
    format!(
        "{} apart plus {} to {}{}; {quotas}{flight}; {order}; at most {} waiting for at most {}",
        duration(throttle.min_interval),
        duration(from),
        duration(to),
        busy.unwrap_or_default(),
        throttle.max_queue,
        duration(throttle.max_wait)
    )
}

/// What is wrong with a credentials file. The config is valid: a login fixes the file.
fn trouble(file: &Path) -> Option<String> {
    let text = match fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) => return Some(error.to_string()),
    };
    let whole = serde_json::from_str::<serde_json::Value>(&text).is_ok_and(|credentials| {
        ["access_token", "refresh_token"]
            .iter()
            .all(|field| credentials[field].is_string())
    });
    (!whole).then(|| "not a whole credentials file".into())
}
