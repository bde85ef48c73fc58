//! `pacegate health`: asks a running gateway whether it is healthy.

use std::{
    io::{self, Write},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, anyhow, bail, ensure};
use bytes::Bytes;
use http::{Request, StatusCode, Uri, header};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, runtime, time::timeout};

/// Options of `pacegate health`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to ask
    #[arg(
        long,
        value_name = "URL",
        default_value = "http://127.0.0.1:7223/healthz"
    )]
    url: Uri,
}

/// Timeout, about that of a container's health check.
const PATIENCE: Duration = Duration::from_secs(5);

/// Runs the command.
///
/// # Errors
///
/// If the gateway cannot be reached or is not healthy; the exit code is then 1.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let status = runtime
        .block_on(async { timeout(PATIENCE, ask(&args.url)).await })
        .map_err(|_| anyhow!("{}: no answer within {PATIENCE:?}", args.url))??;
    ensure!(status.is_success(), "{}: {status}", args.url);
    writeln!(io::stdout().lock(), "ok")?;
    Ok(ExitCode::SUCCESS)
}

async fn ask(url: &Uri) -> anyhow::Result<StatusCode> {
    let (Some("http"), Some(authority)) = (url.scheme_str(), url.authority()) else {
        bail!("{url}: expected a URL such as http://127.0.0.1:7223/healthz");
    };
    let address = (authority.host(), authority.port_u16().unwrap_or(80));
    let stream = TcpStream::connect(address)
        .await
        .with_context(|| format!("{url}: nobody listens there"))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get(url.path())
        .header(header::HOST, authority.as_str())
        .body(Empty::<Bytes>::new())?;
    tokio::select! {
        response = sender.send_request(request) => Ok(response?.status()),
        ended = connection => {
            ended?;
            bail!("{url}: the connection was closed without an answer")
        }
    }
}
