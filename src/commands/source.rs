//! The options that select the configuration, shared by all verbs that read it.

use std::{env, path::PathBuf};

use clap::builder::PossibleValuesParser;

use super::UsageError;
use crate::config::{Config, ConfigSource, Credentials, OAuth, Upstream};

/// Which configuration, and what wins over it.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct ConfigArgs {
    /// Read this file [default: $PACEGATE_CONFIG, ~/.config/pacegate/pacegate.toml,
    /// /etc/pacegate/pacegate.toml, else the built-in default]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Read no file: this preset is the only upstream
    #[arg(long, value_name = "NAME", conflicts_with = "config")]
    pub preset: Option<String>,
    /// Listen here: 127.0.0.1:7223, or unix:/run/pacegate.sock
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<String>,
    /// Log this much: error, warn, info, debug, trace, or a filter
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// Log in this form
    #[arg(long, value_name = "FORMAT", value_parser = PossibleValuesParser::new(["auto", "json", "pretty"]))]
    pub log_format: Option<String>,
}

/// The upstream `name` and its login; without a name, the only upstream with a login.
///
/// # Errors
///
/// `UsageError` with the names to choose from.
pub(super) fn with_login<'a>(
    config: &'a Config,
    name: Option<&str>,
) -> anyhow::Result<(&'a Upstream, &'a OAuth)> {
    let mut found: Vec<_> = config
        .upstreams
        .iter()
        .filter_map(|upstream| match &upstream.credentials {
            Credentials::OAuth(oauth) => Some((upstream, &**oauth)),
            Credentials::ApiKey(_) | Credentials::None => None,
        })
        .collect();
    let names: Vec<_> = found.iter().map(|(it, _)| it.name.clone()).collect();
    let names = names.join(", ");
    if let Some(name) = name {
        found.retain(|(upstream, _)| upstream.name == name);
    }
    match (&*found, name) {
        ([only], _) => Ok(*only),
        _ if names.is_empty() => Err(UsageError(
            "no upstream of this config has a login: none has credentials of kind oauth\n  \
             hint: API keys need none; `pacegate status` says whether they are found"
                .into(),
        )
        .into()),
        (_, Some(name)) => Err(UsageError(format!(
            "no upstream {name} has a login\n  hint: those that have one: {names}"
        ))
        .into()),
        (_, None) => Err(UsageError(format!(
            "several upstreams have a login\n  hint: choose one of {names} with --upstream"
        ))
        .into()),
    }
}

impl ConfigArgs {
    /// The configuration to load, with this process's environment.
    pub fn source(&self) -> ConfigSource<'static> {
        ConfigSource {
            config: self.config.clone(),
            preset: self.preset.clone(),
            listen: self.listen.clone(),
            log_level: self.log_level.clone(),
            log_format: self.log_format.clone(),
            ..ConfigSource::new(&|name| env::var(name).ok())
        }
    }
}
