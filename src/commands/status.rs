//! `pacegate status`: who is logged in, until when, and what is left of each quota.

use std::{
    io::{self, Write},
    process::ExitCode,
    sync::Arc,
    time::{Duration, SystemTime},
};

use jiff::Timestamp;
use secrecy::ExposeSecret;
use serde::Serialize;

use super::{Usage, source::ConfigArgs};
use crate::{
    config::{self, Config, Credentials, LayerName, OAuth, Upstream, show_duration},
    credentials::store::{CredentialsFile, ReadError},
    quotas,
};

/// Options of `pacegate status`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only this upstream
    #[arg(long, value_name = "NAME")]
    upstream: Option<String>,
    /// Say it as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    config: ConfigArgs,
}

#[derive(Serialize)]
struct Report {
    upstream: String,
    #[serde(flatten)]
    account: Account,
    quotas: Vec<Left>,
    /// Why `quotas` is empty although there are some.
    #[serde(skip_serializing_if = "Option::is_none")]
    quotas_unknown: Option<String>,
}

#[derive(Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
enum Account {
    ApiKey {
        from: String,
        #[serde(flatten)]
        key: Key,
    },
    None,
    Oauth {
        file: String,
        #[serde(flatten)]
        login: Login,
    },
}

#[derive(Serialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
enum Key {
    Found,
    Missing { problem: String },
}

#[derive(Serialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
enum Login {
    /// The token is good, or can be renewed.
    LoggedIn {
        expires: Timestamp,
        refreshed: Timestamp,
    },
    /// The token is over, and there is nothing to renew it with.
    Expired {
        expires: Timestamp,
        refreshed: Timestamp,
    },
    LoggedOut,
    Unreadable {
        problem: String,
    },
}

#[derive(Serialize)]
struct Left {
    quota: String,
    left: usize,
    limit: usize,
    resets: Timestamp,
}

/// Runs the verb.
///
/// # Errors
///
/// A config that cannot be used, an upstream that is not there, or a closed stdout.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let config = config::without_secrets(&args.config.source())?;
    let asked = |it: &&Upstream| args.upstream.as_ref().is_none_or(|name| it.name == *name);
    let now = SystemTime::now();
    let reports: Vec<_> = config
        .upstreams
        .iter()
        .filter(asked)
        .map(|upstream| report(&config, upstream, now))
        .collect();
    if reports.is_empty() {
        let names: Vec<_> = config.upstreams.iter().map(|it| &*it.name).collect();
        let text = format!("no such upstream\n  hint: there are {}", names.join(", "));
        return Err(Usage(text).into());
    }
    let mut out = io::stdout().lock();
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&reports)?)?;
    } else {
        for report in &reports {
            print(&mut out, report, now)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn report(config: &Config, upstream: &Upstream, now: SystemTime) -> Report {
    let account = match &upstream.credentials {
        Credentials::None => Account::None,
        Credentials::ApiKey(key) => Account::ApiKey {
            from: key.reference.clone(),
            key: match key.problem.clone() {
                None => Key::Found,
                Some(problem) => Key::Missing { problem },
            },
        },
        Credentials::OAuth(oauth) => Account::Oauth {
            file: oauth.file.display().to_string(),
            login: login(oauth, now),
        },
    };
    let (quotas, quotas_unknown) = match left(config, upstream) {
        Ok(quotas) => (quotas, None),
        Err(problem) => (Vec::new(), Some(problem)),
    };
    Report {
        upstream: upstream.name.clone(),
        account,
        quotas,
        quotas_unknown,
    }
}

fn login(oauth: &OAuth, now: SystemTime) -> Login {
    let stored = match CredentialsFile::new(&oauth.file).read_once() {
        Ok(stored) => stored,
        Err(ReadError::Missing(_)) => return Login::LoggedOut,
        Err(error) => {
            return Login::Unreadable {
                problem: error.to_string(),
            };
        }
    };
    let credentials = stored.credentials;
    let expires = timestamp(credentials.expiry());
    let refreshed = timestamp(stored.stamp.modified());
    let renewable = !credentials.refresh_token.expose_secret().is_empty();
    if renewable || !credentials.valid_for(now).is_zero() {
        Login::LoggedIn { expires, refreshed }
    } else {
        Login::Expired { expires, refreshed }
    }
}

/// What is left by the file that whoever serves counts in.
fn left(config: &Config, upstream: &Upstream) -> Result<Vec<Left>, String> {
    let quotas = &upstream.jitter_throttle.quotas;
    if quotas.is_empty() || !upstream.pipeline.contains(&LayerName::JitterThrottle) {
        return Ok(Vec::new());
    }
    let Some(state_dir) = &config.state_dir else {
        return Err("they are counted in memory only: there is no state-dir".into());
    };
    let usage = quotas::peek(&upstream.name, quotas, state_dir, Arc::new(SystemTime::now))
        .map_err(|error| error.to_string())?;
    let left = usage.into_iter().map(|usage| Left {
        left: usage.limit.saturating_sub(usage.used),
        limit: usage.limit,
        resets: timestamp(usage.resets),
        quota: usage.quota,
    });
    Ok(left.collect())
}

fn print(out: &mut impl Write, report: &Report, now: SystemTime) -> io::Result<()> {
    writeln!(out, "upstream {}", report.upstream)?;
    match &report.account {
        Account::ApiKey { from, key } => match key {
            Key::Found => writeln!(out, "  API key    from {from}")?,
            Key::Missing { problem } => {
                writeln!(out, "  API key    none in {from}: {problem}; put it there")?;
            }
        },
        Account::None => writeln!(out, "  login      none needed")?,
        Account::Oauth { file, login } => {
            let name = &report.upstream;
            match login {
                Login::LoggedIn { expires, .. } => {
                    let expires = *expires;
                    match u64::try_from(expires.as_second() - timestamp(now).as_second()) {
                        Ok(left) => writeln!(
                            out,
                            "  login      logged in until {} (for {}), then renewed",
                            clock(expires),
                            show_duration(Duration::from_secs(left))
                        )?,
                        Err(_) => writeln!(
                            out,
                            "  login      logged in; the token has expired at {} and is renewed with \
                             the next request",
                            clock(expires)
                        )?,
                    }
                }
                Login::Expired { expires, .. } => writeln!(
                    out,
                    "  login      expired at {}; run `pacegate login --upstream {name}`",
                    clock(*expires)
                )?,
                Login::LoggedOut => writeln!(
                    out,
                    "  login      logged out; run `pacegate login --upstream {name}`"
                )?,
                Login::Unreadable { problem } => writeln!(
                    out,
                    "  login      {problem}; run `pacegate login --upstream {name}`"
                )?,
            }
            if let Login::LoggedIn { refreshed, .. } | Login::Expired { refreshed, .. } = login {
                writeln!(out, "  refreshed  {}", clock(*refreshed))?;
            }
            writeln!(out, "  file       {file}")?;
        }
    }
    for Left {
        quota,
        left,
        limit,
        resets,
    } in &report.quotas
    {
        write!(out, "  quota      {left} left of {quota}")?;
        if left < limit {
            write!(out, ", more at {}", clock(*resets))?;
        }
        writeln!(out)?;
    }
    if let Some(problem) = &report.quotas_unknown {
        writeln!(out, "  quota      not known: {problem}")?;
    }
    Ok(())
}

/// Whole seconds: nobody asks for more, and programs read them more easily.
fn timestamp(time: SystemTime) -> Timestamp {
    let seconds = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |it| i64::try_from(it.as_secs()).unwrap_or(i64::MAX));
    Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX)
}

fn clock(time: Timestamp) -> impl std::fmt::Display {
    time.strftime("%Y-%m-%d %H:%M:%S UTC")
}
