//! `pacegate bench throttle`: what a pacing policy does to clients and upstream.

use std::{
    fs::File,
    io::{self, IsTerminal, Write},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, anyhow};
use clap::{Subcommand, value_parser};
use humantime::parse_duration;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::{
    bench::{
        self, BenchReport, Extent, Limit, Pattern, Policy, PolicyChoice, PolicyResult, Scenario,
        Span, run_real, run_virtual,
    },
    simulator::WindowLimit,
};

/// Options of `pacegate bench`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: Benchmark,
}

/// What is measured.
#[derive(Debug, Subcommand)]
enum Benchmark {
    /// What a pacing policy does to latency, throughput and 429s
    Throttle(ThrottleArgs),
}

/// Options of `pacegate bench throttle`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
struct ThrottleArgs {
    /// A throttle profile, a preset, a config file (its first upstream), or one to compare with:
    /// plugin, plugin-fixed, governor-jitter (repeatable) [default: those and the profiles]
    #[arg(long = "policy", value_name = "POLICY")]
    policies: Vec<PolicyChoice>,
    /// When requests arrive: burst:50, poisson:28/min, steady:1/s, opencode:8-agents or trace:FILE
    #[arg(long, value_name = "PATTERN", default_value = "burst:50", value_parser = pattern)]
    pattern: PatternArg,
    /// So many requests and no more
    #[arg(long, value_name = "COUNT", value_parser = value_parser!(u32).range(1..=100_000))]
    requests: Option<u32>,
    /// Requests that arrive within this time; not for opencode [default: 10m for poisson and steady]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    duration: Option<Duration>,
    /// Sessions that take turns to ask in burst, poisson and steady
    #[arg(long, value_name = "COUNT", default_value_t = 8, value_parser = value_parser!(u16).range(1..=10_000))]
    sessions: u16,
    /// What the upstream admits: 60/1m, 1000/1day (repeatable) [default: the quotas of the policy's
    /// preset or config, else of the built-in one]
    #[arg(long = "limit", value_name = "REQUESTS/TIME")]
    limits: Vec<WindowLimit>,
    /// What the upstream takes for an answer, on average
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = duration)]
    answer_time: Duration,
    /// Decides everything that is left to chance
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    seed: u64,

    /// Model the upstream, and wait in virtual time (the default)
    #[arg(long = "virtual", conflicts_with = "real")]
    modelled: bool,
    /// Send over sockets to the simulator, and wait
    #[arg(long)]
    real: bool,

    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Write a page with drawings, too
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

/// A pattern, and its text.
#[derive(Clone, Debug)]
struct PatternArg {
    text: String,
    pattern: Pattern,
}

const EXAMPLES: &str = "\
Examples:
  pacegate bench throttle --pattern burst:200
  pacegate bench throttle --pattern poisson:1000/day --duration 1day --policy quota
  pacegate bench throttle --pattern opencode:8-agents --html bench.html
  pacegate serve --record arrivals.jsonl
  pacegate bench throttle --pattern trace:arrivals.jsonl --policy ./pacegate.toml";

/// Runs the command.
///
/// # Errors
///
/// An invalid config, a recording that cannot be read, a page that cannot be written.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let Benchmark::Throttle(args) = &args.what;
    let policies = args.policies()?;
    let scenario = args.scenario()?;
    // Opened first: the runs may take minutes.
    let page = args.html.as_ref().map(|path| {
        let file = File::create(path);
        file.map_err(|error| anyhow!("cannot write {} (--html): {error}", path.display()))
    });
    let page = page.transpose()?;

    let report = BenchReport {
        pattern: args.pattern.text.clone(),
        seed: args.seed,
        clock: if args.real { "real" } else { "virtual" },
        answer_time_ms: u64::try_from(args.answer_time.as_millis()).unwrap_or(u64::MAX),
        policies: args.results(&policies, &scenario)?,
    };
    if let Some(mut page) = page {
        let text = bench::page(&report).map_err(|error| anyhow!("cannot draw: {error}"))?;
        page.write_all(text.as_bytes())
            .context("cannot write the page (--html)")?;
    }
    let text = if args.json {
        report.json()
    } else {
        bench::table(&report)
    };
    match io::stdout().lock().write_all(text.as_bytes()) {
        // A reader such as `head` closed the pipe.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
        written => written.context("cannot write to stdout")?,
    }
    Ok(ExitCode::SUCCESS)
}

// === impl ThrottleArgs ===

impl ThrottleArgs {
    fn policies(&self) -> anyhow::Result<Vec<Policy>> {
        let choices = if self.policies.is_empty() {
            PolicyChoice::defaults()
        } else {
            self.policies.clone()
        };
        let limits: Vec<_> = self.limits.iter().filter_map(limit).collect();
        choices
            .iter()
            .map(|choice| Ok(choice.load(&limits)?))
            .collect()
    }

    fn scenario(&self) -> anyhow::Result<Scenario> {
        let extent = Extent {
            requests: self.requests.and_then(|count| count.try_into().ok()),
            duration: self.duration,
            sessions: self.sessions.into(),
        };
        Ok(Scenario {
            requests: self.pattern.pattern.requests(&extent, self.seed)?,
            seed: self.seed,
            answer_time: self.answer_time,
        })
    }

    fn results(
        &self,
        policies: &[Policy],
        scenario: &Scenario,
    ) -> anyhow::Result<Vec<PolicyResult>> {
        let progress = self.progress(policies.len() * scenario.requests.len())?;
        let results = policies.iter().map(|policy| {
            progress.set_message(policy.name().to_owned());
            Ok(if self.real {
                run_real(policy, scenario, &|| progress.inc(1))?
            } else {
                run_virtual(policy, scenario)?
            })
        });
        let results = results.collect();
        progress.finish_and_clear();
        results
    }

    /// A progress bar, hidden in virtual time and without a terminal.
    fn progress(&self, steps: usize) -> anyhow::Result<ProgressBar> {
        if !self.real || !io::stderr().is_terminal() {
            return Ok(ProgressBar::hidden());
        }
        let style = "{msg:>16} {wide_bar} {pos}/{len} requests, {elapsed} so far";
        let progress = ProgressBar::with_draw_target(
            Some(u64::try_from(steps)?),
            ProgressDrawTarget::stderr(),
        )
        .with_style(ProgressStyle::with_template(style)?);
        // No request may end for a minute, and the elapsed time is shown meanwhile.
        progress.enable_steady_tick(Duration::from_millis(200));
        Ok(progress)
    }
}

fn pattern(text: &str) -> Result<PatternArg, bench::BadPattern> {
    Ok(PatternArg {
        text: text.to_owned(),
        pattern: text.parse()?,
    })
}

/// Above zero, and short enough that sums do not overflow.
fn duration(text: &str) -> Result<Duration, String> {
    const LONGEST: Duration = Duration::from_secs(10 * 366 * 24 * 60 * 60);
    let duration = parse_duration(text).map_err(|error| error.to_string())?;
    if duration.is_zero() || duration > LONGEST {
        return Err("expected more than 0s and less than ten years".into());
    }
    Ok(duration)
}

/// Never `None`: the simulator's parser refuses a window without requests.
fn limit(window: &WindowLimit) -> Option<Limit> {
    Some(Limit {
        requests: window.requests.try_into().ok()?,
        per: window.per,
        span: Span::Rolling,
    })
}
