//! Measures pacegate beside other gateways, on one core each, and writes down what came out.
//!
//! `benches/compare` builds what it needs and calls it. What is measured, and how:
//!
//! - The gateway has one core, the load and the upstream the other. What is *added* to an exchange is
//!   its median less that of the same exchange without a gateway, of the same turn. The latter never
//!   leaves its core; with a gateway there are four wake-ups of another core, which are much of what is
//!   added, by any gateway. So that they cost the same each time, neither core is let idle meanwhile,
//!   and as root everything that takes part runs at a real-time priority.
//! - *Time to first byte* is that of a stream's body, its first event, which the upstream writes after
//!   the head. *Delay of a lone event* is from the upstream's write to the client's read, likewise
//!   without the way itself.
//! - *CPU per request* is what the kernel has counted for the gateway's threads and children under a
//!   crowd of 50 connections; *requests a second* is what wrk saw meanwhile.
//! - *HTTPS, HTTP/2* has an upstream that offers both versions, as most providers do, and allows 128
//!   streams of a connection; nginx speaks HTTP/1.1 to it all the same. What is added to an exchange
//!   includes what HTTP/2 costs the upstream.
//! - *Memory* is that of a new process, idle and with 1,000 streams: of requests of 1 KB and, in another
//!   new process, of 30 KB. How many of them are open at once the upstream counts: those that wait in
//!   the gateway cost it little, and their clients the answer.
//! - nginx hands on what it gets at once (`proxy_buffering off`), has Nagle's algorithm off and keeps
//!   connections to the upstream; for bulk streams it has buffers of 64 KiB.
//! - A ratio is the median of ratios, each of two figures of one turn, with how far that median may be
//!   off. A line that is known to more than a tenth only, whose streams were not all open, or whose
//!   gateway was not what limited a rate, says that it is not to be trusted.
//!
//! The budget is in `metric`. *Bare hyper* there is the proxy of this workspace that speaks to the
//! upstream as pacegate does, without any layers. What is over its budget is printed with its distance
//! and fails nothing. What else is promised of the cost, such as waits for a disk or a shared store, is
//! measured where it is tested.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::Context;
use clap::Parser;

use self::{
    gateway::{Gateway, Kind, Place, Scheme},
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
mod middle;
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
    // What is started from here on inherits it.
    machine::move_to(machine::OURS)?;
    let folder = tempfile::Builder::new().prefix("compare-").tempdir()?;
    let place = Place {
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
    place.write_ca()?;
    configs::write_credentials(&place.folder)?;
    let effort = if args.quick { QUICK } else { WHOLE };
    let rounds = args.rounds.unwrap_or(if args.quick { 3 } else { 7 });

    let mut circumstances = Circumstances {
        command: std::env::args()
            .skip(1)
            .fold("benches/compare".into(), |all, arg| all + " " + &arg),
        machine: machine::description(),
        versions: versions(&place),
        rounds,
        load_before: machine::load(),
        foreign: machine::Foreign {
            busy: 0.0,
            stolen: 0.0,
        },
    };
    let watch = machine::Watch::start();
    let mut results = Results::default();
    for scheme in Scheme::ALL {
        measure_all(&place, scheme, rounds, &effort, &args, &mut results)
            .with_context(|| format!("over {}", table::spelled(scheme)))?;
    }
    let curves = if args.quick || args.no_curves {
        Vec::new()
    } else {
        scale::curves(&place)?
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

/// All gateways run side by side and idle but for the one whose turn it is.
fn measure_all(
    place: &Place,
    scheme: Scheme,
    rounds: usize,
    effort: &Effort,
    args: &Args,
    results: &mut Results,
) -> anyhow::Result<()> {
    let start = |kinds: Vec<Kind>| -> anyhow::Result<Vec<Gateway>> {
        kinds.iter().map(|kind| place.start(kind, scheme)).collect()
    };
    let main_ones = start(Kind::main_ones(scheme))?;
    // A layer costs the same however the upstream is spoken to: in a hurry they are looked at once.
    let pipelines = match scheme {
        Scheme::Http => Kind::pipelines(),
        Scheme::Https if !args.quick => Kind::pipelines(),
        Scheme::Https | Scheme::Http2 => Vec::new(),
    };
    let pipelines = start(pipelines)?;
    for round in 0..rounds {
        eprintln!("{} round {} of {rounds}", table::spelled(scheme), round + 1);
        let undisturbed = machine::Undisturbed::start()?;
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
        drop(undisturbed);
        for turn in 0..effort.crowds {
            for gateway in rotated(&main_ones, round + turn).chain(&pipelines) {
                let figures =
                    measure::crowd(gateway, &place.folder).with_context(|| gateway.name.clone())?;
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
    // Start and memory belong to a process that has done nothing yet.
    let kinds = Kind::main_ones(scheme);
    for start in 0..effort.starts {
        for kind in kinds.iter().filter(|kind| **kind != Kind::Direct) {
            let gateway = place.start(kind, scheme)?;
            let mut figures = Figures::new();
            figures.insert("start", gateway.cold_start.as_secs_f64() * 1e3);
            if start < rounds.min(3) {
                figures.extend(place.size(kind).map(|size| ("binary", size)));
                figures.insert("idle", gateway.rss());
                let held = &place.upstream.held;
                let small = measure::crowded(&gateway, held, measure::KB_1)
                    .with_context(|| gateway.name.clone())?;
                drop(gateway);
                let gateway = place.start(kind, scheme)?;
                let large = measure::crowded(&gateway, held, measure::KB_30)
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

/// All, another one first in each turn.
fn rotated(gateways: &[Gateway], turn: usize) -> impl Iterator<Item = &Gateway> {
    let first = turn % gateways.len();
    gateways[first..].iter().chain(&gateways[..first])
}

fn versions(place: &Place) -> Vec<String> {
    let said = |program: &Path, flag: &str| {
        let output = Command::new(program).arg(flag).output().ok()?;
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        let line = text.lines().next()?.trim();
        Some(line.split(" - ").next().unwrap_or(line).to_owned())
    };
    [
        said(&place.pacegate, "--version"),
        said(Path::new("nginx"), "-v"),
        said(Path::new("haproxy"), "-v"),
        said(Path::new("wrk"), "-v")
            .map(|line| line.split(" [").next().unwrap_or(&line).to_owned()),
    ]
    .into_iter()
    .flatten()
    .collect()
}
