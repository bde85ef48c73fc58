//! Real gateways on one credentials file, over many expiries and some misfortune.
//!
//! With `PACEGATE_TEST_FULL` set, there are a hundred expiries; without it, three.

use std::{
    env,
    fs::{File, Permissions},
    io::{BufRead, BufReader},
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use super::*;
use crate::support::{client::post_json, gateway::named_upstream};

const PACING: &str = "min-interval = \"0s\"\nconcurrency = 10";
const EXPOSED: &str = "Others on this machine may open";

/// Ten requests at every expiry, spread over so many gateways, whose refresh tokens work once.
async fn expiries(processes: usize) {
    // Long enough for a loaded machine to answer ten requests before the next quarter begins.
    const LIFETIME: Duration = Duration::from_secs(2);
    let expiries = if env::var_os("PACEGATE_TEST_FULL").is_some() {
        100
    } else {
        3
    };
    let simulator = issuer(LIFETIME).await;
    let shared = TempDir::new().unwrap();
    let file = shared.path().join("creds.json");
    write_credentials(shared.path(), &simulator.issue(), LIFETIME);
    fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
    let config = with_tokens(&simulator, PACING).replace("creds.json", file.to_str().unwrap());
    let gateways: Vec<_> = (0..processes).map(|_| Gateway::start(&config)).collect();

    for expiry in 1..=expiries {
        let before = refreshes(&simulator);
        sleep(LIFETIME + Duration::from_millis(20)).await;
        let expired = Instant::now();
        // Time for everybody to find the token expired before the first has another.
        simulator.push_refresh_fault(RefreshFault::Delay(Duration::from_millis(60)));
        let asking = (0..10).map(|request| gateways[request % processes].chat(plain("m")));
        for answer in join_all(asking).await {
            assert_ok(&answer.unwrap());
        }
        let renewed = refreshes(&simulator) - before;
        if renewed > 1 && expired.elapsed() >= LIFETIME * 3 / 4 {
            not_judged(&format!(
                "expiry {expiry}: the answers took longer than a token lives"
            ));
        } else {
            assert_eq!(renewed, 1, "expiry {expiry}");
        }
    }
    assert_eq!(chats(&simulator).len(), 10 * expiries, "some were replayed");
    let mode = fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    for gateway in &gateways {
        assert_eq!(gateway.log().matches(EXPOSED).count(), 1);
    }
    assert_eq!(fs::read_dir(shared.path()).unwrap().count(), 1);
}

#[tokio::test]
async fn ten_requests_with_an_expired_token_cost_one_refresh_at_every_expiry() {
    expiries(1).await;
}

#[tokio::test]
async fn two_processes_on_one_file_spend_one_refresh_at_every_expiry_and_fail_no_request() {
    expiries(2).await;
}

#[tokio::test]
async fn a_refused_refresh_token_is_said_once_in_the_log_and_to_every_request() {
    let simulator = issuer(Duration::from_secs(3600)).await;
    simulator.push_refresh_fault(RefreshFault::InvalidGrant);
    let folder = TempDir::new().unwrap();
    write_credentials(folder.path(), &simulator.issue(), Duration::ZERO);
    let before = fs::read(folder.path().join("creds.json")).unwrap();
    let gateway = Gateway::start_in(folder, &with_tokens(&simulator, PACING));
    for _ in 0..2 {
        for answer in join_all((0..5).map(|_| gateway.chat(plain("m")))).await {
            let answer = answer.unwrap();
            assert_refused(&answer, 401, "login_required");
            let text = answer.text();
            assert!(
                text.contains("creds.json") && text.contains("pacegate login"),
                "{text}"
            );
        }
    }
    gateway.logged("Login required").await;
    assert_eq!(gateway.log().matches("Login required").count(), 1);
    assert_eq!(refreshes(&simulator), 1);
    assert_eq!(
        fs::read(gateway.folder().join("creds.json")).unwrap(),
        before
    );
}

#[tokio::test]
async fn upstreams_of_every_kind_of_credentials_stand_side_by_side_and_follow_their_files() {
    const LIFETIME: Duration = Duration::from_secs(3600);
    let simulator = simulator(Options::default()).await;
    let folder = TempDir::new().unwrap();
    let first = simulator.issue();
    write_credentials(folder.path(), &first, LIFETIME);
    fs::write(folder.path().join("key"), "sk-first\n").unwrap();
    let key = "pipeline = [\"bearer-auth\"]\n[upstream.credentials]\nkind = \"api-key\"\n\
               key = { file = \"key\" }";
    let config = with_tokens(&simulator, PACING)
        + &named_upstream("keyed", &simulator.base_url(), key)
        + &named_upstream("open", &simulator.base_url(), "");
    let gateway = Gateway::start_in(folder, &config);
    let sent = async |name: &str| {
        let url = gateway.url(&format!("/u/{name}/v1/chat/completions"));
        assert_ok(&post_json(&url, plain("m"), &[]).await.unwrap());
        let last = chats(&simulator).pop().unwrap();
        last.header("authorization").map(str::to_owned)
    };
    let bearer = |token: &str| Some(format!("Bearer {token}"));
    assert_eq!(sent("sim").await, bearer(&first.access_token));
    assert_eq!(sent("keyed").await, bearer("sk-first"));
    assert_eq!(sent("open").await, None);

    let second = simulator.issue();
    write_credentials(gateway.folder(), &second, LIFETIME);
    fs::write(gateway.folder().join("key"), "sk-second\n").unwrap();
    let lateness = Lateness::watch();
    let written = Instant::now();
    for (name, token) in [("sim", &*second.access_token), ("keyed", "sk-second")] {
        while sent(name).await != bearer(token) {
            assert!(written.elapsed() < PATIENCE, "{name}");
            sleep(Duration::from_millis(50)).await;
        }
        lateness.assert_within(name, written.elapsed(), Duration::from_secs(6));
    }
    assert_eq!(refreshes(&simulator), 0);
    assert!(!gateway.log().contains("sk-"));
}

#[tokio::test]
async fn a_full_disk_leaves_the_old_file_whole_and_the_new_token_in_use() {
    const FULL: &str = "mkdir disk && mount -t tmpfs -o size=64k tmpfs disk && \
        cp creds.json disk/ && ! head -c 99999 /dev/zero 2>/dev/null >disk/ballast";
    let Some(house) = Namespace::start(FULL, "disk/creds.json").await else {
        return;
    };
    house.asks_thrice().await;
    let disk = house.inside("disk");
    assert_eq!(fs::read(disk.join("creds.json")).unwrap(), house.before);
    let mut names: Vec<_> = fs::read_dir(disk)
        .unwrap()
        .map(|it| it.unwrap().file_name())
        .collect();
    names.sort();
    assert_eq!(names, ["ballast", "creds.json"]);
    let log = house.log();
    assert!(
        log.contains("Keeping the renewed token in memory") && log.contains("No space left"),
        "{log}"
    );
    assert!(!log.contains("sim-access") && !log.contains("sim-refresh"));
}

#[tokio::test]
async fn a_file_that_is_a_mount_is_written_in_place_with_a_warning() {
    const MOUNT: &str = "mount --bind creds.json creds.json";
    let Some(house) = Namespace::start(MOUNT, "creds.json").await else {
        return;
    };
    house.asks_thrice().await;
    let after = fs::read_to_string(house.inside("creds.json")).unwrap();
    assert_ne!(after.as_bytes(), house.before);
    assert!(after.contains("sim-refresh-") && after.ends_with('}'));
    assert_eq!(
        house.log().matches("mount its directory instead").count(),
        1
    );
}

/// A gateway that sees a file system of its own, with an expired token.
struct Namespace {
    simulator: Simulator,
    folder: TempDir,
    before: Vec<u8>,
    origin: String,
    gateway: Child,
}

impl Namespace {
    /// Starts it after the script `prepare`, with the credentials `file`; `None` where that is not
    /// allowed.
    async fn start(prepare: &str, file: &str) -> Option<Self> {
        let mut probe = Command::new("unshare");
        probe.args(["--mount", "true"]).stderr(Stdio::null());
        if !probe.status().is_ok_and(|it| it.success()) {
            eprintln!("skipped: a mount of its own needs root and unshare");
            return None;
        }
        let simulator = issuer(Duration::from_secs(3600)).await;
        let folder = TempDir::new().unwrap();
        let at = |name: &str| folder.path().join(name);
        write_credentials(folder.path(), &simulator.issue(), Duration::ZERO);
        let tokens = with_tokens(&simulator, PACING).replace("creds.json", file);
        fs::write(at("config"), format!("listen = \"127.0.0.1:0\"\n{tokens}")).unwrap();
        let script = format!("{prepare} && exec \"$0\" serve --config config");
        let mut gateway = Command::new("unshare")
            .args(["--mount", "sh", "-c", &script])
            .arg(env!("CARGO_BIN_EXE_pacegate"))
            .current_dir(folder.path())
            .env("HOME", folder.path())
            .stdout(Stdio::piped())
            .stderr(File::create(at("log")).unwrap())
            .spawn()
            .unwrap();
        let mut origin = String::new();
        let mut stdout = BufReader::new(gateway.stdout.take().unwrap());
        let mut house = Self {
            before: fs::read(at("creds.json")).unwrap(),
            simulator,
            folder,
            origin: String::new(),
            gateway,
        };
        stdout.read_line(&mut origin).unwrap();
        let origin = origin.trim_end().strip_prefix("listening on ");
        house.origin = origin
            .unwrap_or_else(|| panic!("{}", house.log()))
            .to_owned();
        Some(house)
    }

    async fn asks_thrice(&self) {
        let url = format!("{}/v1/chat/completions", self.origin);
        for _ in 0..3 {
            assert_ok(&post_json(&url, plain("m"), &[]).await.unwrap());
        }
        assert_eq!(refreshes(&self.simulator), 1);
    }

    /// A path of the folder as the gateway sees it.
    fn inside(&self, name: &str) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.gateway.id()));
        let folder = self.folder.path().strip_prefix("/").unwrap();
        root.join(folder).join(name)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _gone = self.gateway.kill();
        let _gone = self.gateway.wait();
    }
}
