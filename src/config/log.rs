//! `[log]`: levels for all targets or by target, and the format.

use tracing_subscriber::filter::Targets;

use super::cursor::Cursor;

/// What to log, and in which format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// `off`, `error`, `warn`, `info`, `debug`, `trace`, or a list with levels of targets, such as
    /// `info,pacegate=debug`.
    pub level: String,
    /// Pretty, JSON, or chosen by whether stderr is a terminal.
    pub format: LogFormat,
}

/// The format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Pretty on a terminal, else JSON.
    Auto,
    /// One JSON object a line.
    Json,
    /// Readable by people.
    Pretty,
}

/// The text is neither a level nor a list of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("neither a level nor a filter such as info,pacegate=debug")]
pub struct BadFilter;

pub(super) fn log(cursor: &Cursor<'_>) -> Option<Log> {
    let mut table = cursor.table()?;
    let level = table.required("level").and_then(|at| level(&at));
    let format = table.required("format").and_then(|format| {
        format.choice(&[
            ("auto", LogFormat::Auto),
            ("json", LogFormat::Json),
            ("pretty", LogFormat::Pretty),
        ])
    });
    table.finish();
    Some(Log {
        level: level?,
        format: format?,
    })
}

fn level(cursor: &Cursor<'_>) -> Option<String> {
    const LEVELS: [(&str, ()); 6] = [
        ("off", ()),
        ("error", ()),
        ("warn", ()),
        ("info", ()),
        ("debug", ()),
        ("trace", ()),
    ];
    let level = cursor.str()?;
    // In a list, a word that is no level names a target; alone, it is a misspelt level.
    if !level.contains(['=', ',', '[']) {
        cursor.choice(&LEVELS)?;
    }
    cursor.parse("a level or a filter", "info,pacegate=debug", |level| {
        targets(level).ok()
    })?;
    Some(level.into())
}

// === impl Log ===

impl Log {
    /// The filter for log records.
    ///
    /// # Errors
    ///
    /// [`BadFilter`] if the level is neither a level nor a filter; a loaded config has no such
    /// level.
    pub fn targets(&self) -> Result<Targets, BadFilter> {
        targets(&self.level)
    }
}

fn targets(level: &str) -> Result<Targets, BadFilter> {
    // Filters by span or field, which other programs support, would be taken for target names here.
    if level.contains(['[', '{']) {
        return Err(BadFilter);
    }
    let parts: Vec<_> = level
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .collect();
    if parts.is_empty() {
        return Err(BadFilter);
    }
    parts.join(",").parse().map_err(|_| BadFilter)
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    #[test]
    fn gives_targets_levels_of_their_own() {
        for list in ["info,pacegate=debug", " pacegate=DEBUG , info,"] {
            let targets = targets(list).unwrap();
            assert!(targets.would_enable("pacegate::edge", &Level::DEBUG));
            assert!(!targets.would_enable("pacegate::edge", &Level::TRACE));
            assert!(targets.would_enable("hyper", &Level::INFO));
            assert!(!targets.would_enable("hyper", &Level::DEBUG));
        }
        let quiet = targets("off").unwrap();
        assert!(!quiet.would_enable("pacegate", &Level::ERROR));
    }

    #[test]
    fn refuses_what_would_let_nothing_through_by_mistake() {
        for text in [
            "",
            ",",
            "pacegate=loud",
            "a=b=c",
            "pacegate[request]=debug",
            "[{id}]=info",
        ] {
            assert_eq!(targets(text), Err(BadFilter), "{text}");
        }
    }
}
