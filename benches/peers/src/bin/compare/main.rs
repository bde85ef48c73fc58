//! Measures pacegate beside other gateways, on one core each, and reports the figures.
//!
//! `benches/compare` builds and runs this program. What is measured, and how:
//!
//! - The gateway has one core; the load and the upstream share the other. The time *added* to an
//!   exchange is its median minus the median of the same exchange without a gateway, in the same turn.
//!   The latter stays on one core; a gateway adds four wake-ups of another core, which are much of the
//!   added time. To keep their cost stable, neither core may idle during the measurement, and as root
//!   all processes run at a real-time priority.
//! - *Time to first byte* is that of a stream's body: its first event, which the upstream writes after
//!   the response headers. *Delay of a lone event* is from the upstream's write to the client's read,
//!   minus the delay without a gateway.
//! - *CPU per request* is the kernel's count for the gateway's threads and children under 50
//!   connections; *requests a second* is wrk's count meanwhile.
//! - *HTTPS, HTTP/2* has an upstream that offers both versions, as most providers do, and allows 128
//!   streams per connection; nginx uses HTTP/1.1 anyway. The added time includes the upstream's cost of
//!   HTTP/2.
//! - *Memory* is that of a new process, idle and with 1,000 streams: with requests of 1 KB and, in
//!   another new process, of 30 KB. The upstream counts the open streams, because streams that wait in
//!   a gateway cost it little memory.
//! - nginx forwards data at once (`proxy_buffering off`), has Nagle's algorithm off and keeps
//!   connections to the upstream alive; for bulk streams it has buffers of 64 KiB.
//! - A ratio is the median of ratios, each of two figures of one turn, with the error of that median. A
//!   line is marked as not reliable if the error is more than a tenth, if not all streams were open, or
//!   if the gateway did not limit the rate.
//!
//! The budget is in `metric`. *Bare hyper* there is the proxy of this workspace that uses the same
//! protocol towards the upstream as pacegate, without any layers. A figure over its budget is printed
//! with its distance, and does not fail the run. Other promised costs, such as waits for a disk or a
//! shared store, are measured in the tests.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::Context;
use clap::Parser;

use self::{
    gateway::{Gateway, Kind, Scheme, TestBed},
    measure::{Effort, Figures},
    results::{Circumstances, Results},
    upstream::Upstream,
};

mod client;
mod clock;
mod configs;
mod gateway;
mod html;
mod judge;
mod machine;
mod measure;
mod metric;
mod quartiles;
mod results;
mod scale;
mod table;
mod upstream;

/// Measure pacegate beside nginx, haproxy, bare hyper proxies and axum with reqwest
#[derive(Debug, Parser)]
struct Args {
    /// Fewer and shorter rounds, no curves: four minutes where nothing else runs
    #[arg(long)]
    quick: bool,
    /// Rounds; every gateway has its turn in each
    #[arg(long, value_name = "COUNT")]
    rounds: Option<usize>,
    /// Leave the curves out
    #[arg(long)]
    no_curves: bool,
    /// Where compare.json and compare.html go
    #[arg(long, value_name = "FOLDER", default_value = "target/compare")]
    out: PathBuf,
    /// The pacegate to measure
    #[arg(
        long,
        value_name = "PROGRAM",
        default_value = "target/image/release/pacegate"
    )]
    pacegate: PathBuf,
}

const QUICK: Effort = Effort {
    turns: 8,
    lone: Duration::from_millis(30),
    crowds: 1,
    streams: 1,
    uploads: 5,
    starts: 3,
};

const WHOLE: Effort = Effort {
    turns: 20,
    lone: Duration::from_millis(50),
    crowds: 2,
    streams: 4,
    uploads: 15,
    starts: 12,
};

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let start = Instant::now();
    // Child processes inherit the affinity.
    machine::move_to(machine::OURS)?;
    let folder = tempfile::Builder::new().prefix("compare-").tempdir()?;
    let bed = TestBed {
        pacegate: args.pacegate.canonicalize().with_context(|| {
            format!(
                "{} is not there; `cargo build --release` makes it",
                args.pacegate.display()
            )
        })?,
        peers: std::env::current_exe()?
            .parent()
            .map(Path::to_owned)
            .unwrap_or_default(),
        folder: folder.path().to_owned(),
        upstream: Upstream::start()?,
    };
    bed.write_ca()?;
    configs::write_credentials(&bed.folder)?;
    let effort = if args.quick { QUICK } else { WHOLE };
    let rounds = args.rounds.unwrap_or(if args.quick { 3 } else { 7 });

    let mut circumstances = Circumstances {
        command: std::env::args()
            .skip(1)
            .fold("benches/compare".into(), |all, arg| all + " " + &arg),
        machine: machine::description(),
        versions: versions(&bed),
        rounds,
        load_before: machine::load(),
        foreign: machine::OtherPrograms {
            busy: 0.0,
            stolen: 0.0,
        },
    };
    let watch = machine::Watch::start();
    let mut results = Results::default();
    for scheme in Scheme::ALL {
        measure_all(&bed, scheme, rounds, &effort, &args, &mut results)
            .with_context(|| format!("over {}", table::spelled(scheme)))?;
    }
    let curves = if args.quick || args.no_curves {
        Vec::new()
    } else {
        scale::curves(&bed)?
    };
    circumstances.foreign = watch.stop();

    std::fs::create_dir_all(&args.out)?;
    let mut document = results.document(&circumstances);
    document["curves"] = serde_json::to_value(&curves)?;
    std::fs::write(
        args.out.join("compare.json"),
        serde_json::to_string_pretty(&document)?,
    )?;
    let text = table::text(&results, &circumstances);
    let page = html::page(&results, &circumstances, &curves)?;
    std::fs::write(args.out.join("compare.html"), page)?;
    println!("{text}");
    for curve in &curves {
        println!("{}: {}", curve.title, curve.verdict());
    }
    println!(
        "{}; {}",
        circumstances.machine,
        circumstances.versions.join(", ")
    );
    println!(
        "{rounds} rounds, {:.0} s; written to {}",
        start.elapsed().as_secs_f64(),
        args.out.display()
    );
    Ok(())
}

/// All gateways run side by side, and idle except for the one whose turn it is.
fn measure_all(
    bed: &TestBed,
    scheme: Scheme,
    rounds: usize,
    effort: &Effort,
    args: &Args,
    results: &mut Results,
) -> anyhow::Result<()> {
    let start = |kinds: Vec<Kind>| -> anyhow::Result<Vec<Gateway>> {
        kinds.iter().map(|kind| bed.start(kind, scheme)).collect()
    };
    let main_ones = start(Kind::main_ones(scheme))?;
    // A layer costs the same with every scheme: a quick run measures them over HTTP only.
    let pipelines = match scheme {
        Scheme::Http => Kind::pipelines(),
        Scheme::Https if !args.quick => Kind::pipelines(),
        Scheme::Https | Scheme::Http2 => Vec::new(),
    };
    let pipelines = start(pipelines)?;
    for round in 0..rounds {
        eprintln!("{} round {} of {rounds}", table::spelled(scheme), round + 1);
        let quiet = machine::QuietMachine::start()?;
        for turn in 0..effort.turns {
            for gateway in rotated(&main_ones, turn) {
                let figures = measure::lone(gateway, effort)
                    .and_then(|mut figures| {
                        figures.extend(measure::lone_events(gateway, effort)?);
                        Ok(figures)
                    })
                    .with_context(|| gateway.name.clone())?;
                results.add(scheme, &gateway.name, figures);
            }
            for gateway in &pipelines {
                let figures =
                    measure::lone(gateway, effort).with_context(|| gateway.name.clone())?;
                results.add(scheme, &gateway.name, figures);
            }
        }
        drop(quiet);
        for turn in 0..effort.crowds {
            for gateway in rotated(&main_ones, round + turn).chain(&pipelines) {
                let figures =
                    measure::crowd(gateway, &bed.folder).with_context(|| gateway.name.clone())?;
                results.add(scheme, &gateway.name, figures);
            }
        }
        for turn in 0..effort.streams {
            for gateway in rotated(&main_ones, round + turn) {
                let figures = measure::streams(gateway).with_context(|| gateway.name.clone())?;
                results.add(scheme, &gateway.name, figures);
            }
        }
        for gateway in rotated(&main_ones, round) {
            let figures =
                measure::uploads(gateway, effort).with_context(|| gateway.name.clone())?;
            results.add(scheme, &gateway.name, figures);
        }
    }
    drop((main_ones, pipelines));
    // Start-up time and memory are measured on new processes.
    let kinds = Kind::main_ones(scheme);
    for start in 0..effort.starts {
        for kind in kinds.iter().filter(|kind| **kind != Kind::Direct) {
            let gateway = bed.start(kind, scheme)?;
            let mut figures = Figures::new();
            figures.insert("start", gateway.cold_start.as_secs_f64() * 1e3);
            if start < rounds.min(3) {
                figures.extend(bed.size(kind).map(|size| ("binary", size)));
                figures.insert("idle", gateway.rss());
                let open_streams = &bed.upstream.open_streams;
                let small = measure::with_open_streams(&gateway, open_streams, measure::KB_1)
                    .with_context(|| gateway.name.clone())?;
                drop(gateway);
                let gateway = bed.start(kind, scheme)?;
                let large = measure::with_open_streams(&gateway, open_streams, measure::KB_30)
                    .with_context(|| gateway.name.clone())?;
                figures.insert("open", small.memory);
                figures.insert("open 30k", large.memory);
                figures.insert("held", small.open.min(large.open) as f64);
                figures.insert("connections", small.connections as f64);
            }
            results.add(scheme, &kind.name(), figures);
        }
    }
    Ok(())
}

/// All gateways, with a different first one in each turn.
fn rotated(gateways: &[Gateway], turn: usize) -> impl Iterator<Item = &Gateway> {
    let first = turn % gateways.len();
    gateways[first..].iter().chain(&gateways[..first])
}

fn versions(bed: &TestBed) -> Vec<String> {
    let said = |program: &Path, flag: &str| {
        let output = Command::new(program).arg(flag).output().ok()?;
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        let line = text.lines().next()?.trim();
        Some(line.split(" - ").next().unwrap_or(line).to_owned())
    };
    [
        said(&bed.pacegate, "--version"),
        said(Path::new("nginx"), "-v"),
        said(Path::new("haproxy"), "-v"),
        said(Path::new("wrk"), "-v")
            .map(|line| line.split(" [").next().unwrap_or(&line).to_owned()),
    ]
    .into_iter()
    .flatten()
    .collect()
}
