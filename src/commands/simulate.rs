//! `pacegate simulate`: the fake upstream, alone.

use std::{
    fs,
    io::{self, Write},
    net::SocketAddr,
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, anyhow};
use bytesize::ByteSize;
use humantime::parse_duration;
use tokio::{
    runtime,
    signal::unix::{SignalKind, signal},
};

use crate::simulator::{
    Access, Behaviour, ChatLimits, ConnectionOptions, DeviceAnswer, FaultRule, Leaf, Options,
    RefreshFault, ResponseKind, Simulator, TlsOptions, WindowLimit, Wording,
};

/// Options of `pacegate simulate`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Args {
    /// Where to listen; port 0 takes any free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    listen: SocketAddr,

    /// Serve TLS (h2 and http/1.1) under a CA made for this run
    #[arg(long, help_heading = "TLS")]
    tls: bool,
    /// Write the CA's certificate there, as PEM
    #[arg(long, value_name = "FILE", requires = "tls", help_heading = "TLS")]
    write_ca: Option<PathBuf>,
    /// What certificate to show
    #[arg(long, default_value = "good", requires = "tls", help_heading = "TLS")]
    leaf: Leaf,
    /// A name for the certificate besides localhost, 127.0.0.1 and ::1 (repeatable)
    #[arg(
        long = "name",
        value_name = "NAME",
        requires = "tls",
        help_heading = "TLS"
    )]
    names: Vec<String>,
    /// Offer http/1.1 only
    #[arg(long, requires = "tls", help_heading = "TLS")]
    http1_only: bool,
    /// Silence before the server's part of a handshake
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = parse_duration)]
    #[arg(requires = "tls", help_heading = "TLS")]
    handshake_delay: Duration,
    /// Delay only the handshakes of the first so many connections
    #[arg(long, value_name = "COUNT", requires = "tls", help_heading = "TLS")]
    slow_handshakes: Option<u64>,

    /// How many streams an HTTP/2 connection may have at once (SETTINGS_MAX_CONCURRENT_STREAMS)
    #[arg(long, value_name = "COUNT", help_heading = "Connections")]
    max_concurrent_streams: Option<u32>,
    /// Silence at the start of an HTTP/2 connection, before the server's SETTINGS
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = parse_duration)]
    #[arg(help_heading = "Connections")]
    settings_delay: Duration,
    /// End a connection with so many requests: GOAWAY over HTTP/2, else `connection: close`
    #[arg(long, value_name = "COUNT", help_heading = "Connections")]
    max_requests: Option<usize>,
    /// Read nothing more from a connection after so many requests, and keep it open
    #[arg(long, value_name = "COUNT", help_heading = "Connections")]
    silent_after: Option<usize>,

    /// A model to list (repeatable); a chat may name any
    #[arg(long = "model", value_name = "ID", help_heading = "Answers")]
    models: Vec<String>,
    /// What a chat answers with: chat, echo (the request's body), gzip, or blob=SIZE of JSON
    #[arg(long, value_name = "WHAT", default_value = "chat", value_parser = answer)]
    #[arg(help_heading = "Answers")]
    answer: ResponseKind,
    /// Silence before the head of an answer
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = parse_duration)]
    #[arg(help_heading = "Answers")]
    latency: Duration,
    /// Content chunks of a stream
    #[arg(
        long,
        value_name = "COUNT",
        default_value_t = 8,
        help_heading = "Answers"
    )]
    chunks: usize,
    /// Silence before each content chunk
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = parse_duration)]
    #[arg(help_heading = "Answers")]
    chunk_gap: Duration,
    /// An SSE comment before each content chunk, such as PROCESSING
    #[arg(long, value_name = "TEXT", help_heading = "Answers")]
    comment: Option<String>,
    /// Refuse requests without a bearer token: any, issued (by the token endpoint), or a token
    /// that is accepted (repeatable)
    #[arg(long = "require-token", value_name = "WHICH", help_heading = "Answers")]
    tokens: Vec<String>,

    /// Admit so many chats in any stretch of time: 60/1m, 1/1s, 1000/1day (repeatable)
    #[arg(
        long = "limit",
        value_name = "REQUESTS/TIME",
        help_heading = "Limits and faults"
    )]
    limits: Vec<WindowLimit>,
    /// Admit so many chats at once
    #[arg(long, value_name = "COUNT", help_heading = "Limits and faults")]
    concurrency: Option<usize>,
    /// In whose words to refuse
    #[arg(long, default_value = "openai", help_heading = "Limits and faults")]
    wording: Wording,
    /// What goes wrong, [WHEN/]KIND[@CHUNKS][:KEY=VALUE,…] (repeatable; see --help)
    ///
    /// WHEN is `every`, `every3` (each third chat) or the number of a chat; without it, the next
    /// chat. KIND is a status (400-599), 302, reset, stall, truncate, end (without [DONE]), error
    /// (inside a 200 stream), or the error code of an HTTP/2 stream's reset: refused-stream,
    /// http-1-1-required, enhance-your-calm. CHUNKS is how many chunks go out before it. A status takes retry-after=, retry-after-ms=,
    /// date=, date-rfc850=, date-asctime= (seconds from now), reset-requests=, reset-tokens=,
    /// message= and reason= (burst, concurrency, rate, tokens, hours, day, week, month); 302 takes
    /// location=.
    #[arg(
        long = "fault",
        value_name = "FAULT",
        help_heading = "Limits and faults"
    )]
    faults: Vec<FaultRule>,

    /// How long an issued token works
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = parse_duration)]
    #[arg(help_heading = "OAuth")]
    token_lifetime: Duration,
    /// What a device is told before its code is granted (repeatable)
    #[arg(long = "device-answer", value_name = "ANSWER", help_heading = "OAuth")]
    device_answers: Vec<DeviceAnswer>,
    /// How often a device is told to ask
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = parse_duration)]
    #[arg(help_heading = "OAuth")]
    device_interval: Duration,
    /// A refresh token that works from the start
    #[arg(long, value_name = "TOKEN", help_heading = "OAuth")]
    refresh_token: Option<String>,
    /// Accept each refresh token once
    #[arg(long, help_heading = "OAuth")]
    refresh_once: bool,
    /// What goes wrong with a refresh: bad-json, failure, invalid-grant, delay=TIME (repeatable)
    #[arg(long = "refresh-fault", value_name = "FAULT", help_heading = "OAuth")]
    refresh_faults: Vec<RefreshFault>,
    /// resource_url of a token answer
    #[arg(long, value_name = "URL", help_heading = "OAuth")]
    resource_url: Option<String>,
}

const EXAMPLES: &str = "\
Examples:
  pacegate simulate --limit 1/1s --wording dashscope
  pacegate simulate --fault 429:retry-after=3 --fault 2/reset@4
  pacegate simulate --tls --handshake-delay 2s --max-requests 10  slow to connect, and often
  curl $URL/simulator/arrivals                                    what arrived, and when
  curl $URL/simulator/faults -d '[\"every/503:retry-after=1\"]'     other faults, at once
  curl $URL/simulator/reset -d ''                                 forget both";

/// Runs the command: serves until SIGINT or SIGTERM.
///
/// # Errors
///
/// When it cannot listen, or cannot write the CA's file.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(serve(args))
}

async fn serve(args: &Args) -> anyhow::Result<ExitCode> {
    // Before the first line of output, so that a reader of that line may send a signal.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;

    let simulator = Simulator::start(args.options()).await.map_err(|error| {
        anyhow!(
            "cannot serve on {}: {error}\nhint: pick another --listen; port 0 takes any free one",
            args.listen,
        )
    })?;
    if let (Some(path), Some(pem)) = (&args.write_ca, simulator.ca_pem()) {
        fs::write(path, pem).with_context(|| {
            format!(
                "cannot write the CA's certificate to {} (--write-ca)",
                path.display()
            )
        })?;
    }
    let mut stdout = io::stdout();
    writeln!(stdout, "listening on {}", simulator.origin())
        .and_then(|()| stdout.flush())
        .context("cannot write to stdout")?;

    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    simulator.shutdown().await;
    Ok(ExitCode::SUCCESS)
}

// === impl Args ===

impl Args {
    fn options(&self) -> Options {
        let defaults = Options::default();
        Options {
            listen: self.listen,
            tls: self.tls.then(|| TlsOptions {
                leaf: self.leaf,
                names: self.names.clone(),
                h2: !self.http1_only,
            }),
            connections: ConnectionOptions {
                handshake_delay: self.handshake_delay,
                slow_handshakes: self.slow_handshakes,
                max_concurrent_streams: self.max_concurrent_streams,
                settings_delay: self.settings_delay,
                max_requests: self.max_requests,
                silent_after: self.silent_after,
            },
            models: if self.models.is_empty() {
                defaults.models
            } else {
                self.models.clone()
            },
            access: match self.tokens.iter().map(String::as_str).collect::<Vec<_>>()[..] {
                [] => Access::Open,
                ["any"] => Access::AnyToken,
                ["issued"] => Access::Issued,
                _ => Access::Tokens(self.tokens.clone()),
            },
            latency: self.latency,
            response: self.answer.clone(),
            chunks: self.chunks,
            chunk_gap: self.chunk_gap,
            comment: self.comment.clone(),
            limits: ChatLimits {
                windows: self.limits.clone(),
                concurrency: self.concurrency,
            },
            wording: self.wording,
            faults: self.faults.clone(),
            oauth: Behaviour {
                token_lifetime: self.token_lifetime,
                interval: self.device_interval,
                device_answers: self.device_answers.clone(),
                refresh_once: self.refresh_once,
                refresh_faults: self.refresh_faults.clone(),
                refresh_token: self.refresh_token.clone(),
                resource_url: self.resource_url.clone(),
                ..defaults.oauth
            },
        }
    }
}

fn answer(text: &str) -> Result<ResponseKind, &'static str> {
    match text {
        "chat" => Ok(ResponseKind::Chat),
        "echo" => Ok(ResponseKind::Echo),
        "gzip" => Ok(ResponseKind::Gzip),
        _ => text
            .strip_prefix("blob=")
            .and_then(|size| size.parse::<ByteSize>().ok())
            .and_then(|size| usize::try_from(size.as_u64()).ok())
            .map(ResponseKind::Blob)
            .ok_or("expected chat, echo, gzip or blob=SIZE (such as 10MiB)"),
    }
}
