//! The simulator under the service's names, one home, and the programs that share its file.

use std::{
    collections::HashSet,
    env, fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use pacegate::simulator::{
    Access, Arrival, Behaviour, Options, RefreshFault, Simulator, TlsOptions,
};
use serde_json::json;
use tempfile::TempDir;
use tokio::time::{Instant, sleep, sleep_until};

use super::{namespace, reader::Reader};
use crate::{
    ANSWER,
    gateway::{PATIENCE, chat, listening},
    lateness::not_judged,
    program::Program,
};

pub(super) const DEVICE_HOST: &str = "chat.qwen.ai";
pub(super) const SERVICE_HOST: &str = "portal.qwen.ai";

/// The path of the token endpoint.
const TOKEN: &str = "/api/v1/oauth2/token";

/// What is left of a token that the vendor's program takes for expired.
pub(super) const MARGIN: Duration = Duration::from_secs(30);

/// How long a renewal takes, so that the two get into each other's way.
const RENEWAL: Duration = Duration::from_millis(300);

/// How often to look how far a run is.
const GLANCE: Duration = Duration::from_millis(40);

/// Nothing but what makes the simulator's certificate good, and the pacing off: where the service
/// is, how tokens are renewed and which file holds them is the preset's word.
const CONFIG: &str = r#"
listen = "127.0.0.1:0"
log = { level = "debug", format = "json" }

[[upstream]]
name = "qwen"
preset = "qwen-oauth"
tls = { ca-file = "ca.pem" }

[upstream.jitter-throttle]
min-interval = "0s"
jitter = "0s..0s"
quotas = []
"#;

/// Who shares the file.
pub(super) struct Stage {
    pub(super) simulator: Simulator,
    address: String,
    chats: usize,
    gateway: Program,
    lifetime: Duration,
    reader: Reader,
    runs: usize,
    scripts: Vec<PathBuf>,
    slowest: Duration,
    started: Instant,
    // The last one: those above use it.
    home: TempDir,
}

/// When the gateway is asked while the vendor's program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    /// Once the program has begun to renew the token, and then all the time.
    Later,
    /// All the time.
    Throughout,
}

/// What the service was asked.
pub(super) struct Summary {
    /// Renewals.
    pub(super) by_vendors: usize,
    /// Renewals.
    pub(super) by_gateway: usize,
    /// With how many tokens the gateway was let in.
    pub(super) tokens: usize,
    /// Chats, of either program, that were answered with something else than a 200.
    pub(super) refused: usize,
    /// What the slowest run of the vendor's program took: four seconds where there is nothing else
    /// to do.
    pub(super) slowest: Duration,
}

// === impl Stage ===

impl Stage {
    /// Somebody has logged in with the vendor's program, long ago. New tokens have this `lifetime`.
    pub(super) async fn start(lifetime: Duration) -> Self {
        let started = Instant::now();
        let simulator = simulator(lifetime).await;
        let home = tempfile::tempdir().unwrap();
        let folder = home.path();
        let shared = folder.join(".qwen/oauth_creds.json");
        prepare(folder, &shared, &simulator);
        let reader = Reader::start(shared);
        let mut gateway = Program::start(
            namespace::gateway(env!("CARGO_BIN_EXE_pacegate"), folder)
                .args(["serve", "--config"])
                .arg(folder.join("pacegate.toml"))
                .env_clear()
                .envs(env::var_os("PATH").map(|path| ("PATH", path)))
                .env("HOME", folder),
            folder,
            "pacegate",
        );
        let address = listening(&mut gateway).await;
        let scripts = env::var_os("PACEGATE_QWEN_CODE")
            .expect("PACEGATE_QWEN_CODE names no script; tests/run installs them and sets it");
        Self {
            simulator,
            address,
            chats: 0,
            gateway,
            lifetime,
            reader,
            runs: 0,
            scripts: env::split_paths(&scripts).collect(),
            slowest: Duration::ZERO,
            started,
            home,
        }
    }

    /// Asks the gateway a question.
    pub(super) fn ask_gateway(&mut self) {
        let answer = chat(&self.address);
        let log = || self.gateway.output();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}\n{}", log());
        assert!(answer.contains(ANSWER), "{answer}");
        self.chats += 1;
    }

    /// How many kinds of the vendor's program take turns.
    pub(super) fn kinds(&self) -> usize {
        self.scripts.len()
    }

    /// Asks the vendor's program one question, and the gateway at the same time. All access tokens
    /// stop working `revoke` after the start, if that is something. `None` where the machine is so
    /// slow that a new token was over before the program used it.
    pub(super) async fn run_vendors(&mut self, ask: Ask, revoke: Option<Duration>) -> Option<()> {
        let before = self.renewals().0.len();
        let mut vendors = self.start_vendors();
        let start = Instant::now();
        let mut revoke = revoke.map(|after| start + after);
        while vendors.is_running() {
            if self.is_too_late() {
                return None;
            }
            if revoke.take_if(|at| Instant::now() >= *at).is_some() {
                self.simulator.revoke_access_tokens();
            }
            if ask == Ask::Throughout || self.renewals().0.len() > before {
                self.ask_gateway();
            }
            sleep(GLANCE).await;
        }
        self.slowest = self.slowest.max(start.elapsed());
        if self.is_too_late() {
            return None;
        }
        let status = vendors.end(PATIENCE).await;
        assert!(status.success(), "{status}\n{}", vendors.output());
        assert!(vendors.stdout().contains(ANSWER), "{}", vendors.output());
        if revoke.is_some() {
            self.simulator.revoke_access_tokens();
        }
        Some(())
    }

    /// Whether somebody has logged in anew because a token lived too short a time for this machine.
    /// For another reason nobody may.
    fn is_too_late(&self) -> bool {
        let arrivals = self.simulator.arrivals();
        let Some(login) = arrivals.iter().position(|it| it.target.ends_with("/code")) else {
            return false;
        };
        let (before, login) = (&arrivals[..login], &arrivals[login]);
        let renewal = before.iter().rfind(|it| it.target == TOKEN);
        let since = renewal.map(|it| Duration::from_micros(login.at_us - it.at_us));
        // What the service and the program take for the end may differ by a moment.
        let moment = Duration::from_millis(500);
        let enough = self.lifetime.saturating_sub(MARGIN) + RENEWAL;
        let is_late = since.is_some_and(|since| since + moment >= enough);
        assert!(is_late, "somebody logged in anew: {login:#?}");
        not_judged(&format!(
            "one file for two: the program used a token {since:.1?} after it had got it"
        ));
        true
    }

    fn start_vendors(&mut self) -> Program {
        let home = self.home.path();
        let script = &self.scripts[self.runs % self.scripts.len()];
        self.runs += 1;
        Program::start(
            Command::new("node")
                .arg(script)
                .args(["-p", "say hi"])
                .current_dir(home)
                .env_clear()
                .envs(env::var_os("PATH").map(|path| ("PATH", path)))
                .envs([("LANG", "C.UTF-8"), ("NO_COLOR", "1"), ("TERM", "dumb")])
                .env("HOME", home)
                .env("NODE_EXTRA_CA_CERTS", home.join("ca.pem")),
            home,
            "vendors",
        )
    }

    /// Waits until the vendor's program takes the newest token for expired, which the service does
    /// not yet do.
    pub(super) async fn wait_for_margin(&self) {
        let (by_vendors, by_gateway) = self.renewals();
        let newest = by_vendors.iter().chain(&by_gateway).map(|it| it.at_us);
        let newest = Duration::from_micros(newest.max().unwrap());
        // From the end of the renewal, when the program reads its clock.
        let end = self.started + newest + RENEWAL + (self.lifetime - MARGIN);
        sleep_until(end + Duration::from_millis(200)).await;
    }

    /// Asks the gateway until it has renewed the token `count` times.
    pub(super) async fn ask_until_renewed(&mut self, count: usize, limit: Duration) {
        let enough = self.renewals().1.len() + count;
        let deadline = Instant::now() + limit;
        while self.renewals().1.len() < enough {
            assert!(Instant::now() < deadline, "{}", self.gateway.output());
            self.ask_gateway();
            sleep(5 * GLANCE).await;
        }
    }

    /// What the token endpoint was asked: by the vendor's program, and by the gateway.
    fn renewals(&self) -> (Vec<Arrival>, Vec<Arrival>) {
        self.simulator
            .arrivals()
            .into_iter()
            .filter(|it| it.target == TOKEN)
            .partition(|it| !is_gateways(it))
    }

    /// Ends all, and finds nothing wrong that may never be.
    pub(super) async fn stop(mut self) -> Summary {
        self.gateway.terminate();
        let status = self.gateway.end(PATIENCE).await;
        assert!(status.success(), "{status}\n{}", self.gateway.output());
        let (vendors, gateways) = self.renewals();
        let reads = self.reader.stop();
        let arrivals = self.simulator.arrivals();
        self.simulator.shutdown().await;

        let renewals: Vec<_> = vendors.iter().chain(&gateways).collect();
        for renewal in &renewals {
            assert_eq!(renewal.status, Some(200), "spent twice: {renewal:#?}");
            assert_eq!(renewal.header("host"), Some(DEVICE_HOST));
            // Field by field what the vendor's program sends, from the preset alone.
            assert_eq!(renewal.headers, renewals[0].headers);
        }
        let login = arrivals.iter().find(|it| it.target.ends_with("/code"));
        assert!(login.is_none(), "somebody logged in anew: {login:#?}");
        let left: Vec<_> = fs::read_dir(self.home.path().join(".qwen"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.contains("oauth"))
            .collect();
        assert_eq!(left, ["oauth_creds.json"], "a lock or a half was left");
        assert!(reads > 100, "{reads} reads");

        let chats = arrivals
            .iter()
            .filter(|it| it.target == "/v1/chat/completions");
        let (good, refused): (Vec<_>, Vec<_>) = chats.partition(|it| it.status == Some(200));
        let tokens = good.iter().filter(|it| is_gateways(it));
        let tokens: HashSet<_> = tokens.filter_map(|it| it.header("authorization")).collect();
        let summary = Summary {
            by_vendors: vendors.len(),
            by_gateway: gateways.len(),
            tokens: tokens.len(),
            refused: refused.len(),
            slowest: self.slowest,
        };
        println!(
            "{} renewals by the vendor's program in {} runs of {:.1?} at most, {} by the gateway, \
             {} chats through it with {} tokens, {} chats refused, {reads} reads, {:.0?}",
            summary.by_vendors,
            self.runs,
            summary.slowest,
            summary.by_gateway,
            self.chats,
            summary.tokens,
            summary.refused,
            self.started.elapsed(),
        );
        summary
    }
}

fn is_gateways(arrival: &Arrival) -> bool {
    arrival.peer == Some(Ipv4Addr::from(namespace::FOR_GATEWAY).into())
}

async fn simulator(lifetime: Duration) -> Simulator {
    Simulator::start(Options {
        listen: (Ipv4Addr::UNSPECIFIED, 443).into(),
        tls: Some(TlsOptions {
            h2: false,
            names: vec![SERVICE_HOST.to_owned(), DEVICE_HOST.to_owned()],
            ..TlsOptions::default()
        }),
        access: Access::Issued,
        oauth: Behaviour {
            token_lifetime: lifetime,
            refresh_once: true,
            refresh_faults: vec![RefreshFault::Delay(RENEWAL); 1_000],
            resource_url: Some(SERVICE_HOST.to_owned()),
            ..Behaviour::default()
        },
        ..Options::default()
    })
    .await
    .unwrap()
}

fn prepare(home: &Path, shared: &Path, simulator: &Simulator) {
    let grant = simulator.issue();
    // The token is as good as the file says.
    simulator.revoke_access_tokens();
    let credentials = json!({
        "access_token": grant.access_token,
        "token_type": "Bearer",
        "refresh_token": grant.refresh_token,
        "resource_url": SERVICE_HOST,
        "expiry_date": 1,
    });
    let settings = json!({
        "general": { "disableAutoUpdate": true, "disableUpdateNag": true },
        "privacy": { "usageStatisticsEnabled": false },
        // Newer versions know that the service is no more and end at once, unless somebody else
        // is said to look after logins.
        "security": { "auth": { "selectedType": "qwen-oauth", "useExternal": true } },
    });
    fs::create_dir(home.join(".qwen")).unwrap();
    fs::write(shared, credentials.to_string()).unwrap();
    fs::write(home.join(".qwen/settings.json"), settings.to_string()).unwrap();
    fs::write(home.join("ca.pem"), simulator.ca_pem().unwrap()).unwrap();
    fs::write(home.join("pacegate.toml"), CONFIG).unwrap();
}
