//! Cores, processes, and the load of other programs.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::Context;
use rustix::thread::{CpuSet, sched_setaffinity};

/// The gateways' core.
pub(crate) const GATEWAYS: usize = 0;

/// The core of the upstream and of the load.
pub(crate) const OURS: usize = 1;

/// Pins the calling thread and its future children to `core`.
pub(crate) fn move_to(core: usize) -> anyhow::Result<()> {
    let mut cores = CpuSet::new();
    cores.set(core);
    sched_setaffinity(None, &cores).context("two cores are needed")
}

/// Calls `run` on `core`.
pub(crate) fn on<T>(core: usize, run: impl FnOnce() -> T) -> anyhow::Result<T> {
    move_to(core)?;
    let outcome = run();
    move_to(OURS)?;
    Ok(outcome)
}

/// Makes the time of a wake-up stable until it is dropped.
///
/// It keeps both cores from idling: waking one takes a virtual machine longer than a gateway takes for
/// a request, and the time varies. If permitted, it also gives this process and the gateways a
/// real-time priority over other programs. It is not for measurements that use a whole core: at that
/// priority they would keep the kernel's threads from delivering packets.
pub(crate) struct QuietMachine(Vec<Child>);

impl QuietMachine {
    pub(crate) fn start() -> anyhow::Result<Self> {
        // Ends by itself if this process is killed.
        const SPIN: &str = "while kill -0 $PPID; do :; done 2>/dev/null";
        prioritise(&["--fifo", "1"])?;
        let mut this = Self(Vec::new());
        for core in [GATEWAYS, OURS] {
            let mut command = Command::new("chrt");
            command.args(["--idle", "0", "sh", "-c", SPIN]);
            let spinning = on(core, || command.stdin(Stdio::null()).spawn())?;
            this.0.push(spinning.context("chrt does not start")?);
        }
        Ok(this)
    }
}

impl Drop for QuietMachine {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _gone_already = child.kill();
            let _reaped = child.wait();
        }
        // If this fails, setting the priority failed, too.
        let _as_it_was = prioritise(&["--other", "0"]);
    }
}

/// Sets the scheduling policy and priority of this process and its children.
fn prioritise(policy: &[&str; 2]) -> anyhow::Result<()> {
    for process in family(std::process::id()) {
        let mut command = Command::new("chrt");
        command.args([policy[0], "--all-tasks", "--pid", policy[1]]);
        command.arg(process.to_string());
        let silent = command.stdout(Stdio::null()).stderr(Stdio::null());
        // Without permission other programs disturb the run, and ratios have larger errors.
        silent.status().context("chrt does not start")?;
    }
    Ok(())
}

/// `process` and its children.
fn family(process: u32) -> Vec<u32> {
    let mut family = vec![process];
    let mut next = 0;
    while let Some(&member) = family.get(next) {
        let threads = fs::read_dir(format!("/proc/{member}/task"));
        for thread in threads.into_iter().flatten().flatten() {
            let children = fs::read_to_string(thread.path().join("children"));
            let children = children.unwrap_or_default();
            family.extend(
                children
                    .split_whitespace()
                    .filter_map(|id| id.parse::<u32>().ok()),
            );
        }
        next += 1;
    }
    family
}

/// CPU time of all threads of `process` and its children.
pub(crate) fn cpu_time(process: u32) -> Duration {
    let ran = |path: &Path| -> Option<u64> {
        let text = fs::read_to_string(path.join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse().ok()
    };
    let nanos: u64 = family(process)
        .into_iter()
        .filter_map(|member| fs::read_dir(format!("/proc/{member}/task")).ok())
        .flat_map(|threads| threads.flatten())
        .filter_map(|thread| ran(&thread.path()))
        .sum();
    Duration::from_nanos(nanos)
}

/// Resident memory of `process` and its children, in MB; shared pages count for each.
pub(crate) fn rss(process: u32) -> f64 {
    let held = |member: u32| -> Option<f64> {
        let status = fs::read_to_string(format!("/proc/{member}/status")).ok()?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
        line.split_whitespace().nth(1)?.parse().ok()
    };
    family(process).into_iter().filter_map(held).sum::<f64>() / 1024.0
}

/// The use of all cores since boot, in ticks of 10 ms.
#[derive(Clone, Copy)]
struct Ticks {
    busy: u64,
    stolen: u64,
}

/// Measures the load of other programs.
pub(crate) struct Watch {
    since: Instant,
    ticks: Ticks,
    ran: Duration,
}

/// The load of other programs, as fractions of all cores.
#[derive(Clone, Copy, serde::Serialize)]
pub(crate) struct OtherPrograms {
    pub(crate) busy: f64,
    pub(crate) stolen: f64,
}

impl Watch {
    pub(crate) fn start() -> Self {
        Self {
            since: Instant::now(),
            ticks: ticks(),
            ran: ours(),
        }
    }

    pub(crate) fn stop(&self) -> OtherPrograms {
        let now = ticks();
        let all = self.since.elapsed().as_secs_f64() * cores() as f64;
        let ours = ours().saturating_sub(self.ran);
        let busy = now.busy.saturating_sub(self.ticks.busy) as f64 / 100.0;
        OtherPrograms {
            busy: ((busy - ours.as_secs_f64()) / all).max(0.0),
            stolen: now.stolen.saturating_sub(self.ticks.stolen) as f64 / 100.0 / all,
        }
    }
}

/// CPU time of this process and its children (gateways, wrk and their children), also of those that
/// have ended.
fn ours() -> Duration {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name, in brackets, may contain spaces.
    let fields = stat.rsplit(')').next().unwrap_or_default();
    let ended: u64 = fields
        .split_whitespace()
        .skip(13)
        .take(2)
        .filter_map(|ticks| ticks.parse::<u64>().ok())
        .sum();
    cpu_time(std::process::id()) + Duration::from_millis(10 * ended)
}

/// The number of cores of the machine; this thread is pinned to one of them.
fn cores() -> usize {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let lines = stat.lines().skip(1);
    lines.filter(|line| line.starts_with("cpu")).count().max(1)
}

fn ticks() -> Ticks {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let fields: Vec<u64> = stat
        .lines()
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .skip(1)
        .map(|field| field.parse().unwrap_or(0))
        .collect();
    let field = |at: usize| fields.get(at).copied().unwrap_or(0);
    Ticks {
        // User, nice, system, irq, softirq.
        busy: [0, 1, 2, 5, 6].into_iter().map(field).sum(),
        stolen: field(7),
    }
}

/// A description of the machine for the report.
pub(crate) fn description() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let info = read("/proc/cpuinfo");
    let model = info
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("unknown", |(_, model)| model);
    let kernel = read("/proc/sys/kernel/osrelease");
    format!("{} cores of {model}, Linux {}", cores(), kernel.trim())
}

/// The load of the last minute.
pub(crate) fn load() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let first = text.split_whitespace().next();
    first.and_then(|load| load.parse().ok()).unwrap_or(0.0)
}
