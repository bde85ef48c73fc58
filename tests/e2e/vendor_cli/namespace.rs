//! Namespaces in which the service's names are this machine's: the simulator can have port 443
//! there, and nothing gets out.

use std::{env, ffi::OsStr, fs, path::Path, process::Command, time::Duration};

use super::stage::{DEVICE_HOST, SERVICE_HOST};
use crate::{lateness::not_judged, program::Program};

/// Set where the names are this machine's.
const INSIDE: &str = "PACEGATE_TEST_INSIDE";

/// Where the gateway finds the service. An address of its own makes the peer that the simulator
/// sees the same one, so the two programs are told apart though they send the same bytes.
pub(super) const FOR_GATEWAY: [u8; 4] = [127, 0, 0, 2];

/// Makes a network with both addresses.
const NETWORK: &str = "ip link set lo up && ip address add 127.0.0.2/32 dev lo";

/// Reads the names from the file `$1`, and becomes the rest.
const HOSTS: &str = r#"mount --bind "$1" /etc/hosts && shift && exec "$@""#;

/// Whether this is the test that [`run`] has started.
pub(super) fn is_inside() -> bool {
    env::var_os(INSIDE).is_some()
}

/// Runs `test` again where it can be what it claims, for `limit` at most.
pub(super) async fn run(test: &str, limit: Duration) {
    let folder = tempfile::tempdir().unwrap();
    let hosts = folder.path().join("hosts");
    write_hosts(&hosts, [127, 0, 0, 1]);
    let test = format!("vendor_cli::{test}");
    let mut inside = Program::start(
        Command::new("unshare")
            // What it starts dies with it.
            .args(["--net", "--mount", "--pid", "--fork", "--kill-child"])
            .args(["sh", "-c", &format!("{NETWORK} && {HOSTS}"), "sh"])
            .arg(hosts)
            .arg(env::current_exe().unwrap())
            .args(["--exact", &test, "--nocapture"])
            .env(INSIDE, "1"),
        folder.path(),
        "inside",
    );
    let status = inside.end(limit).await;
    assert!(status.success(), "{status}\n{}", inside.quoted());
    assert!(inside.stdout().contains(" 1 passed"), "no such test");
    println!("{}", inside.quoted());
    let output = inside.output();
    let lines = output.lines();
    lines
        .filter_map(|line| line.strip_prefix("not judged: "))
        .for_each(not_judged);
}

/// A command that finds the service where the gateway is to find it.
pub(super) fn gateway(program: impl AsRef<OsStr>, home: &Path) -> Command {
    let hosts = home.join("hosts");
    write_hosts(&hosts, FOR_GATEWAY);
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "sh", "-c", HOSTS, "sh"])
        .arg(hosts)
        .arg(program);
    command
}

fn write_hosts(path: &Path, service: [u8; 4]) {
    let service = std::net::Ipv4Addr::from(service);
    let names = format!("127.0.0.1 localhost\n{service} {SERVICE_HOST} {DEVICE_HOST}\n");
    fs::write(path, names).unwrap();
}
