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

use super::{UsageError, source::ConfigArgs};
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
struct UpstreamStatus {
    upstream: String,
    #[serde(flatten)]
    account: Account,
    quotas: Vec<QuotaStatus>,
    /// Why the quotas cannot be read; `quotas` is then empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    quotas_unknown: Option<String>,
}

#[derive(Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
enum Account {
    ApiKey {
        from: String,
        #[serde(flatten)]
        key: KeyStatus,
    },
    None,
    Oauth {
        file: String,
        #[serde(flatten)]
        login: LoginStatus,
    },
}

#[derive(Serialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
enum KeyStatus {
    Found,
    Missing { problem: String },
}

#[derive(Serialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
enum LoginStatus {
    /// The token is valid, or can be refreshed.
    LoggedIn {
        expires: Timestamp,
        refreshed: Timestamp,
    },
    /// The token has expired, and there is no refresh token.
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
struct QuotaStatus {
    quota: String,
    left: usize,
    limit: usize,
    resets: Timestamp,
}

/// Runs the command.
///
/// # Errors
///
/// An invalid config, an unknown upstream, or a closed stdout.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let config = config::without_secrets(&args.config.source())?;
    let asked = |it: &&Upstream| args.upstream.as_ref().is_none_or(|name| it.name == *name);
    let now = SystemTime::now();
    let statuses: Vec<_> = config
        .upstreams
        .iter()
        .filter(asked)
        .map(|upstream| upstream_status(&config, upstream, now))
        .collect();
    if statuses.is_empty() {
        let names: Vec<_> = config.upstreams.iter().map(|it| &*it.name).collect();
        let text = format!("no such upstream\n  hint: there are {}", names.join(", "));
        return Err(UsageError(text).into());
    }
    let mut out = io::stdout().lock();
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&statuses)?)?;
    } else {
        for status in &statuses {
            print(&mut out, status, now)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn upstream_status(config: &Config, upstream: &Upstream, now: SystemTime) -> UpstreamStatus {
    let account = match &upstream.credentials {
        Credentials::None => Account::None,
        Credentials::ApiKey(key) => Account::ApiKey {
            from: key.reference.clone(),
            key: match key.problem.clone() {
                None => KeyStatus::Found,
                Some(problem) => KeyStatus::Missing { problem },
            },
        },
        Credentials::OAuth(oauth) => Account::Oauth {
            file: oauth.file.display().to_string(),
            login: login_status(oauth, now),
        },
    };
    let (quotas, quotas_unknown) = match quota_statuses(config, upstream) {
        Ok(quotas) => (quotas, None),
        Err(problem) => (Vec::new(), Some(problem)),
    };
    UpstreamStatus {
        upstream: upstream.name.clone(),
        account,
        quotas,
        quotas_unknown,
    }
}

fn login_status(oauth: &OAuth, now: SystemTime) -> LoginStatus {
    let stored = match CredentialsFile::new(&oauth.file).read_once() {
        Ok(stored) => stored,
        Err(ReadError::Missing(_)) => return LoginStatus::LoggedOut,
        Err(error) => {
            return LoginStatus::Unreadable {
                problem: error.to_string(),
            };
        }
    };
    let credentials = stored.credentials;
    let expires = timestamp(credentials.expiry());
    let refreshed = timestamp(stored.version.modified());
    let renewable = !credentials.refresh_token.expose_secret().is_empty();
    if renewable || !credentials.valid_for(now).is_zero() {
        LoginStatus::LoggedIn { expires, refreshed }
    } else {
        LoginStatus::Expired { expires, refreshed }
    }
}

/// What is left of each quota, by the state file of the serving process.
fn quota_statuses(config: &Config, upstream: &Upstream) -> Result<Vec<QuotaStatus>, String> {
    let quotas = &upstream.jitter_throttle.quotas;
    if quotas.is_empty() || !upstream.pipeline.contains(&LayerName::JitterThrottle) {
        return Ok(Vec::new());
    }
    let Some(state_dir) = &config.state_dir else {
        return Err("they are counted in memory only: there is no state-dir".into());
    };
    let usage = quotas::peek(&upstream.name, quotas, state_dir, Arc::new(SystemTime::now))
        .map_err(|error| error.to_string())?;
    let quotas = usage.into_iter().map(|usage| QuotaStatus {
        left: usage.limit.saturating_sub(usage.used),
        limit: usage.limit,
        resets: timestamp(usage.resets),
        quota: usage.quota,
    });
    Ok(quotas.collect())
}

fn print(out: &mut impl Write, status: &UpstreamStatus, now: SystemTime) -> io::Result<()> {
    writeln!(out, "upstream {}", status.upstream)?;
    match &status.account {
        Account::ApiKey { from, key } => match key {
            KeyStatus::Found => writeln!(out, "  API key    from {from}")?,
            KeyStatus::Missing { problem } => {
                writeln!(out, "  API key    none in {from}: {problem}; put it there")?;
            }
        },
        Account::None => writeln!(out, "  login      none needed")?,
        Account::Oauth { file, login } => {
            let name = &status.upstream;
            match login {
                LoginStatus::LoggedIn { expires, .. } => {
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
                LoginStatus::Expired { expires, .. } => writeln!(
                    out,
                    "  login      expired at {}; run `pacegate login --upstream {name}`",
                    clock(*expires)
                )?,
                LoginStatus::LoggedOut => writeln!(
                    out,
                    "  login      logged out; run `pacegate login --upstream {name}`"
                )?,
                LoginStatus::Unreadable { problem } => writeln!(
                    out,
                    "  login      {problem}; run `pacegate login --upstream {name}`"
                )?,
            }
            if let LoginStatus::LoggedIn { refreshed, .. }
            | LoginStatus::Expired { refreshed, .. } = login
            {
                writeln!(out, "  refreshed  {}", clock(*refreshed))?;
            }
            writeln!(out, "  file       {file}")?;
        }
    }
    for QuotaStatus {
        quota,
        left,
        limit,
        resets,
    } in &status.quotas
    {
        write!(out, "  quota      {left} left of {quota}")?;
        if left < limit {
            write!(out, ", more at {}", clock(*resets))?;
        }
        writeln!(out)?;
    }
    if let Some(problem) = &status.quotas_unknown {
        writeln!(out, "  quota      not known: {problem}")?;
    }
    Ok(())
}

/// In whole seconds, which are enough and easy to parse.
fn timestamp(time: SystemTime) -> Timestamp {
    let seconds = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |it| i64::try_from(it.as_secs()).unwrap_or(i64::MAX));
    Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX)
}

fn clock(time: Timestamp) -> impl std::fmt::Display {
    time.strftime("%Y-%m-%d %H:%M:%S UTC")
}
