//! The vendor's real command-line program and the real gateway on one credentials file.
//!
//! Both reach the service by its own names. So the test runs itself again in namespaces where those
//! names are this machine's: the simulator can have port 443 there, and nothing gets out. That
//! needs root, `unshare` and `ip`; `tests/run` looks for them, installs the program and names it
//! in `PACEGATE_QWEN_CODE`.

use std::{
    collections::HashSet,
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use pacegate::simulator::{Access, Arrival, Behaviour, Options, RefreshFault, Simulator, Tls};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::{
    ANSWER,
    gateway::{chat, listening},
    program::Program,
};

/// A token's life. The vendor's program calls one expired that has 30 s left, so each of its runs
/// that comes three seconds after a renewal begins with another. (A shorter life makes it log in
/// anew each time, which writes in place.)
const LIFETIME: Duration = Duration::from_secs(33);

/// How long a renewal takes, so that the two get into each other's way.
const RENEWAL: Duration = Duration::from_millis(300);

/// How often the program runs. In each run the service ends all tokens: nobody can wait for ten
/// lives of 33 s.
const RUNS: u32 = 10;

/// In every other run the gateway is asked all the time, and the end comes by this much later than
/// in the run before. The program renews about two seconds after its start.
const LATER: Duration = Duration::from_millis(280);

/// How often to look how far a run is.
const GLANCE: Duration = Duration::from_millis(40);

/// What one run may take: three seconds where there is nothing else to do.
const RUN_LIMIT: Duration = Duration::from_secs(60);

const DEVICE_HOST: &str = "chat.qwen.ai";
const SERVICE_HOST: &str = "portal.qwen.ai";

/// Nothing but what makes the simulator's certificate good, and the pacing off: where the service
/// is, how tokens are renewed and which file holds them is the preset's word.
const CONFIG: &str = r#"
listen = "127.0.0.1:0"
log = { level = "debug", format = "json" }

[[upstream]]
name = "qwen"
preset = "qwen-oauth"
tls = { ca-file = "ca.pem" }

# Under pacegate's own name, which tells its renewals from those of the vendor's program.
[upstream.credentials]
headers = []

[upstream.jitter-throttle]
min-interval = "0s"
jitter = "0s..0s"
quotas = []
"#;

/// Makes the namespaces what the test needs, and becomes the test. `$1` is the file of hosts.
const ENTER: &str = r#"ip link set lo up && mount --bind "$1" /etc/hosts && shift && exec "$@""#;

/// Set where the names are this machine's.
const INSIDE: &str = "PACEGATE_TEST_INSIDE";

// A chat blocks its thread, and the simulator needs one to answer it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shares_one_file_with_the_vendors_program_through_ten_expiries() {
    if env::var_os(INSIDE).is_some() {
        share().await;
    } else {
        run_inside("vendor_cli::shares_one_file_with_the_vendors_program_through_ten_expiries")
            .await;
    }
}

async fn run_inside(test: &str) {
    let folder = tempfile::tempdir().unwrap();
    let hosts = folder.path().join("hosts");
    let names = format!("127.0.0.1 localhost {SERVICE_HOST} {DEVICE_HOST}\n");
    fs::write(&hosts, names).unwrap();
    let mut inside = Program::start(
        Command::new("unshare")
            // What it starts dies with it.
            .args(["--net", "--mount", "--pid", "--fork", "--kill-child"])
            .args(["sh", "-c", ENTER, "sh"])
            .arg(hosts)
            .arg(env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture"])
            .env(INSIDE, "1"),
        folder.path(),
        "inside",
    );
    let status = inside.end(RUN_LIMIT * 2).await;
    assert!(status.success(), "{status}\n{}", inside.output());
    assert!(inside.stdout().contains(" 1 passed"), "no such test");
    println!("{}", inside.stdout());
}

async fn share() {
    let simulator = simulator().await;
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    let shared = home.join(".qwen/oauth_creds.json");
    prepare(home, &shared, &simulator);
    let reader = Reader::start(shared);
    let mut gateway = Program::start(
        Command::new(env!("CARGO_BIN_EXE_pacegate"))
            .args(["serve", "--config"])
            .arg(home.join("pacegate.toml"))
            .env_clear()
            .env("HOME", home),
        home,
        "pacegate",
    );
    let address = listening(&mut gateway).await;

    let mut through_gateway = 0;
    let mut ask_gateway = || {
        let answer = chat(&address);
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert!(answer.contains(ANSWER), "{answer}");
        through_gateway += 1;
    };
    for run in 0..RUNS {
        // In the other runs the gateway comes when the program has begun to renew.
        let waits = run % 2 == 1;
        let before = renewals(&simulator).0.len();
        let mut vendors = run_vendors(home);
        let end = Instant::now() + if waits { Duration::ZERO } else { LATER * run };
        let mut end = Some(end);
        while vendors.is_running() {
            if end.take_if(|end| Instant::now() >= *end).is_some() {
                simulator.revoke_access_tokens();
            }
            if !waits || renewals(&simulator).0.len() > before {
                ask_gateway();
            }
            sleep(GLANCE).await;
        }
        let status = vendors.end(RUN_LIMIT).await;
        assert!(status.success(), "{status}\n{}", vendors.output());
        assert!(vendors.stdout().contains(ANSWER), "{}", vendors.output());
        if end.is_some() {
            simulator.revoke_access_tokens();
        }
        ask_gateway();
    }
    gateway.terminate();
    let status = gateway.end(Duration::from_secs(20)).await;
    assert!(status.success(), "{status}\n{}", gateway.output());
    let reads = reader.stop();

    let (vendors, ours) = renewals(&simulator);
    for renewal in vendors.iter().chain(&ours) {
        assert_eq!(renewal.status, Some(200), "spent twice: {renewal:#?}");
        assert_eq!(renewal.header("host"), Some(DEVICE_HOST));
    }
    let summary = format!(
        "{} renewals by the vendor's program, {} by the gateway, {through_gateway} chats, {reads} reads",
        vendors.len(),
        ours.len(),
    );
    println!("{summary}");
    let runs = RUNS as usize;
    assert!(vendors.len() >= runs / 2, "{summary}");
    assert!(ours.len() >= 2, "{summary}");
    assert!(vendors.len() + ours.len() >= runs, "{summary}");
    assert!(tokens_of_gateway(&simulator) >= runs, "{summary}");
    assert!(reads > 1_000, "{summary}");
    let arrivals = simulator.arrivals();
    let login = arrivals.iter().find(|it| it.target.ends_with("/code"));
    assert!(login.is_none(), "somebody logged in anew: {login:#?}");
    let left: Vec<_> = fs::read_dir(home.join(".qwen"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.contains("oauth"))
        .collect();
    assert_eq!(left, ["oauth_creds.json"], "a lock or a half was left");
    simulator.shutdown().await;
}

async fn simulator() -> Simulator {
    Simulator::start(Options {
        listen: ([127, 0, 0, 1], 443).into(),
        tls: Some(Tls {
            h2: false,
            names: vec![SERVICE_HOST.to_owned(), DEVICE_HOST.to_owned()],
            ..Tls::default()
        }),
        access: Access::Issued,
        oauth: Behaviour {
            token_lifetime: LIFETIME,
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

/// A home where somebody has logged in, long ago, with the vendor's program.
fn prepare(home: &Path, shared: &Path, simulator: &Simulator) {
    let grant = simulator.issue();
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
        "security": { "auth": { "selectedType": "qwen-oauth" } },
    });
    fs::create_dir(home.join(".qwen")).unwrap();
    fs::write(shared, credentials.to_string()).unwrap();
    fs::write(home.join(".qwen/settings.json"), settings.to_string()).unwrap();
    fs::write(home.join("ca.pem"), simulator.ca_pem().unwrap()).unwrap();
    fs::write(home.join("pacegate.toml"), CONFIG).unwrap();
}

/// Asks one question.
fn run_vendors(home: &Path) -> Program {
    let script = env::var_os("PACEGATE_QWEN_CODE")
        .expect("PACEGATE_QWEN_CODE names no script; tests/run installs one and sets it");
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

/// What the token endpoint was asked: by the vendor's program, and by the gateway.
fn renewals(simulator: &Simulator) -> (Vec<Arrival>, Vec<Arrival>) {
    simulator
        .arrivals()
        .into_iter()
        .filter(|it| it.target == "/api/v1/oauth2/token")
        .partition(|it| it.header("user-agent") == Some("node"))
}

/// With how many tokens the gateway was let in.
fn tokens_of_gateway(simulator: &Simulator) -> usize {
    let arrivals = simulator.arrivals();
    let tokens = arrivals
        .iter()
        .filter(|it| it.target == "/v1/chat/completions" && it.status == Some(200))
        // The profile's version, which is not the version of the program that runs here.
        .filter(|it| {
            it.header("user-agent")
                .is_some_and(|agent| agent.starts_with("QwenCode/0.10."))
        })
        .filter_map(|it| it.header("authorization"));
    tokens.collect::<HashSet<_>>().len()
}

// === Reader ===

/// Reads the file again and again, as any program may. Each reading has to be whole.
struct Reader {
    reading: thread::JoinHandle<usize>,
    stop: Arc<AtomicBool>,
}

impl Reader {
    fn start(path: PathBuf) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let reading = thread::spawn(move || {
            let mut reads = 0;
            while !told.load(Ordering::Relaxed) {
                let text = fs::read(&path).unwrap();
                let file: Value = serde_json::from_slice(&text)
                    .unwrap_or_else(|error| panic!("a torn file: {error} "));
                for field in ["access_token", "refresh_token", "token_type"] {
                    assert!(file[field].is_string(), "no {field}");
                }
                assert!(file["expiry_date"].is_u64(), "no expiry_date");
                reads += 1;
                // Often enough to meet any write, and little enough to leave them a processor.
                thread::sleep(Duration::from_micros(300));
            }
            reads
        });
        Self { reading, stop }
    }

    /// How often it has read.
    fn stop(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        self.reading.join().expect("a reading was not whole")
    }
}
