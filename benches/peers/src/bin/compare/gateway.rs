//! The gateways: how each is configured, started and stopped.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow};

use super::{
    client::{self, Connection},
    configs, machine,
    upstream::Upstream,
};

/// The gateway between client and upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    AxumReqwest,
    /// No gateway.
    Direct,
    Haproxy,
    /// hyper-util's client: a task for each connection.
    Hyper,
    /// hyper's HTTP/2 client.
    HyperHttp2,
    /// hyper's HTTP/1.1 client; the waiting task polls the connection.
    HyperInline,
    Nginx,
    /// pacegate with these layers.
    Pacegate(Vec<&'static str>),
}

/// The protocol towards the upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Scheme {
    Http,
    /// HTTPS with HTTP/1.1.
    Https,
    /// HTTPS with HTTP/2, for the gateways that support it.
    Http2,
}

/// The programs, files and upstream of a run.
pub(crate) struct TestBed {
    pub(crate) pacegate: PathBuf,
    /// The directory of the other proxies.
    pub(crate) peers: PathBuf,
    /// The directory of this run's config files.
    pub(crate) folder: PathBuf,
    pub(crate) upstream: Upstream,
}

/// A running gateway; it is stopped when dropped.
pub(crate) struct Gateway {
    pub(crate) name: String,
    pub(crate) address: SocketAddr,
    /// The address for bulk streams: for nginx with buffers of 64 KiB, for others the same address.
    pub(crate) bulk_address: SocketAddr,
    child: Option<Child>,
    /// From its start to the end of its first response.
    pub(crate) cold_start: Duration,
}

/// All layers, in the order of the built-in config.
pub(crate) const LAYERS: [&str; 5] = [
    "retry-on-429",
    "token-refresh",
    "jitter-throttle",
    "header-align",
    "bearer-auth",
];

const PATIENCE: Duration = Duration::from_secs(10);

// === impl Kind ===

impl Kind {
    /// The whole pipeline.
    pub(crate) fn pacegate() -> Self {
        Self::Pacegate(LAYERS.to_vec())
    }

    /// The gateways of the table, in its order.
    pub(crate) fn main_ones(scheme: Scheme) -> Vec<Self> {
        match scheme {
            Scheme::Http | Scheme::Https => vec![
                Self::Direct,
                Self::Nginx,
                Self::Haproxy,
                Self::Hyper,
                Self::HyperInline,
                Self::AxumReqwest,
                Self::pacegate(),
            ],
            // nginx uses HTTP/1.1 towards any upstream.
            Scheme::Http2 => vec![
                Self::Direct,
                Self::Nginx,
                Self::HyperHttp2,
                Self::pacegate(),
            ],
        }
    }

    /// pacegate without one of its layers at a time, and without all.
    pub(crate) fn pipelines() -> Vec<Self> {
        let without = |dropped: &str| {
            let kept = LAYERS.into_iter().filter(|layer| {
                // The config refuses token-refresh without bearer-auth.
                *layer != dropped && !(dropped == "bearer-auth" && *layer == "token-refresh")
            });
            Self::Pacegate(kept.collect())
        };
        let mut all: Vec<_> = LAYERS.into_iter().map(without).collect();
        all.push(Self::Pacegate(Vec::new()));
        all
    }

    pub(crate) fn name(&self) -> String {
        match self {
            Self::AxumReqwest => "axum + reqwest".into(),
            Self::Direct => "no gateway".into(),
            Self::Haproxy => "haproxy".into(),
            Self::Hyper => "bare hyper, pooled".into(),
            Self::HyperHttp2 => "bare hyper, HTTP/2".into(),
            Self::HyperInline => "bare hyper, inline".into(),
            Self::Nginx => "nginx".into(),
            Self::Pacegate(layers) if layers.is_empty() => "pacegate, no layers".into(),
            Self::Pacegate(layers) => {
                let missing: Vec<_> = LAYERS
                    .into_iter()
                    .filter(|layer| !layers.contains(layer))
                    .collect();
                if missing.is_empty() {
                    "pacegate".into()
                } else {
                    format!("pacegate - {}", missing.join(" - "))
                }
            }
        }
    }

    /// The program of this workspace.
    fn peer(&self) -> Option<&'static str> {
        match self {
            Self::AxumReqwest => Some("axum-proxy"),
            Self::Hyper => Some("hyper-proxy"),
            Self::HyperHttp2 => Some("hyper-http2-proxy"),
            Self::HyperInline => Some("hyper-inline-proxy"),
            Self::Direct | Self::Haproxy | Self::Nginx | Self::Pacegate(_) => None,
        }
    }
}

// === impl Scheme ===

impl Scheme {
    pub(crate) const ALL: [Self; 3] = [Self::Http, Self::Https, Self::Http2];

    /// The version in pacegate's config. `auto` is the default, and offers both.
    fn version(self) -> &'static str {
        match self {
            Self::Http | Self::Https => "h1",
            Self::Http2 => "auto",
        }
    }
}

// === impl TestBed ===

impl TestBed {
    /// The address of the upstream for `scheme`.
    pub(crate) fn upstream(&self, scheme: Scheme) -> SocketAddr {
        match scheme {
            Scheme::Http => self.upstream.listens.http,
            Scheme::Https => self.upstream.listens.https,
            Scheme::Http2 => self.upstream.listens.http2,
        }
    }

    pub(crate) fn ca(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }

    pub(crate) fn write_ca(&self) -> anyhow::Result<()> {
        Ok(fs::write(self.ca(), &self.upstream.ca)?)
    }

    fn url(&self, scheme: Scheme) -> String {
        let port = self.upstream(scheme).port();
        match scheme {
            Scheme::Http => format!("http://127.0.0.1:{port}"),
            Scheme::Https | Scheme::Http2 => format!("https://localhost:{port}"),
        }
    }

    fn write(&self, name: &str, text: &str) -> anyhow::Result<PathBuf> {
        let path = self.folder.join(name);
        fs::write(&path, text)?;
        Ok(path)
    }

    fn command(
        &self,
        kind: &Kind,
        scheme: Scheme,
        listen: SocketAddr,
        bulk: SocketAddr,
    ) -> anyhow::Result<Command> {
        let file = |kind: &str| format!("{}-{}.{kind}", listen.port(), bulk.port());
        let program = match kind {
            Kind::Direct => return Err(anyhow!("nothing to start")),
            Kind::AxumReqwest | Kind::Hyper | Kind::HyperHttp2 | Kind::HyperInline => {
                let name = kind.peer().context("none of this workspace")?;
                let mut command = Command::new(self.peers.join(name));
                command.args([listen.to_string(), self.url(scheme)]);
                command.arg(self.ca());
                command
            }
            Kind::Nginx => {
                let config =
                    self.write(&file("nginx"), &configs::nginx(self, scheme, listen, bulk))?;
                let mut command = Command::new("nginx");
                command.arg("-c").arg(config).arg("-p").arg(&self.folder);
                command
            }
            Kind::Haproxy => {
                let config =
                    self.write(&file("haproxy"), &configs::haproxy(self, scheme, listen))?;
                let mut command = Command::new("haproxy");
                command.arg("-db").arg("-f").arg(config);
                command
            }
            Kind::Pacegate(layers) => {
                let config = configs::pacegate(
                    &[self.url(scheme)],
                    scheme.version(),
                    layers,
                    configs::WIDE_OPEN,
                    &self.folder,
                );
                let config = self.write(&file("toml"), &config)?;
                let mut command = Command::new(&self.pacegate);
                command.arg("serve").arg("--config").arg(config);
                command.arg("--listen").arg(listen.to_string());
                command
            }
        };
        Ok(program)
    }

    /// Size of the program in MB, if it is one file.
    pub(crate) fn size(&self, kind: &Kind) -> Option<f64> {
        let file = match kind {
            Kind::Pacegate(_) => self.pacegate.clone(),
            peer => self.peers.join(peer.peer()?),
        };
        Some(fs::metadata(file).ok()?.len() as f64 / 1e6)
    }

    /// Starts `kind` and waits for its first response.
    pub(crate) fn start(&self, kind: &Kind, scheme: Scheme) -> anyhow::Result<Gateway> {
        if *kind == Kind::Direct {
            let address = self.upstream.listens.http;
            return Ok(Gateway {
                name: kind.name(),
                address,
                bulk_address: address,
                child: None,
                cold_start: Duration::ZERO,
            });
        }
        let (listen, bulk) = (free_port()?, free_port()?);
        let command = self.command(kind, scheme, listen, bulk)?;
        let mut gateway = self.run(command, kind.name(), listen)?;
        if *kind == Kind::Nginx {
            gateway.bulk_address = bulk;
        }
        Ok(gateway)
    }

    /// Starts pacegate with the same upstream under many names.
    pub(crate) fn start_pacegate(
        &self,
        upstreams: usize,
        settings: &str,
    ) -> anyhow::Result<Gateway> {
        let listen = free_port()?;
        let urls = vec![self.url(Scheme::Http); upstreams];
        let config = configs::pacegate(&urls, "h1", &LAYERS, settings, &self.folder);
        let config = self.write(&format!("{}.toml", listen.port()), &config)?;
        let mut command = Command::new(&self.pacegate);
        command.arg("serve").arg("--config").arg(config);
        command.arg("--listen").arg(listen.to_string());
        self.run(command, format!("pacegate, {upstreams} upstreams"), listen)
    }

    fn run(
        &self,
        mut command: Command,
        name: String,
        listen: SocketAddr,
    ) -> anyhow::Result<Gateway> {
        let log = fs::File::create(self.folder.join(format!("{}.log", listen.port())))?;
        command
            .env(
                "XDG_STATE_HOME",
                self.folder.join(listen.port().to_string()),
            )
            .env("COMPARE_KEY", "sk-compare-0123456789")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        let start = Instant::now();
        let child = machine::on(machine::GATEWAYS, || command.spawn())?;
        let child = child.with_context(|| format!("{name} does not start"))?;
        let mut gateway = Gateway {
            name,
            address: listen,
            bulk_address: listen,
            child: Some(child),
            cold_start: Duration::ZERO,
        };
        let request = client::request("json", "m", 0);
        loop {
            let answered = Connection::open(listen).and_then(|mut gateway| gateway.ask(&request));
            match answered {
                Ok(_) => break,
                Err(error) if start.elapsed() > PATIENCE => {
                    let log =
                        fs::read_to_string(self.folder.join(format!("{}.log", listen.port())));
                    return Err(error.context(format!(
                        "{} does not answer: {}",
                        gateway.name,
                        log.unwrap_or_default()
                    )));
                }
                Err(_) => thread::sleep(Duration::from_micros(100)),
            }
        }
        gateway.cold_start = start.elapsed();
        Ok(gateway)
    }
}

// === impl Gateway ===

impl Gateway {
    /// The process, if there is one.
    pub(crate) fn process(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    pub(crate) fn cpu_time(&self) -> Duration {
        self.process().map_or(Duration::ZERO, machine::cpu_time)
    }

    pub(crate) fn rss(&self) -> f64 {
        self.process().map_or(0.0, machine::rss)
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let Some(child) = &mut self.child else {
            return;
        };
        // nginx ends its workers on a signal; if it were killed, they would stay.
        if let Some(id) = i32::try_from(child.id())
            .ok()
            .and_then(rustix::process::Pid::from_raw)
        {
            let _gone_already = rustix::process::kill_process(id, rustix::process::Signal::TERM);
        }
        let patience = Instant::now() + Duration::from_secs(2);
        while Instant::now() < patience {
            if matches!(child.try_wait(), Ok(Some(_)) | Err(_)) {
                return;
            }
            thread::sleep(Duration::from_millis(1));
        }
        let _gone_already = child.kill();
        let _reaped = child.wait();
    }
}

fn free_port() -> anyhow::Result<SocketAddr> {
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    Ok(TcpListener::bind(any)?.local_addr()?)
}
