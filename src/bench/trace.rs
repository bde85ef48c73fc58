//! Recorded arrivals: one JSON document a line, as `serve --record` writes them.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use super::pattern::Request;
use crate::upstreams::record::RecordLine;

/// A recording cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The file is empty.
    #[error("{} holds no arrivals\n  hint: `pacegate serve --record FILE` writes one line for each", .0.display())]
    Empty(PathBuf),
    /// The file is missing or not readable.
    #[error("cannot read {}: {reason}", path.display())]
    File {
        /// Its path.
        path: PathBuf,
        /// Why.
        reason: io::Error,
    },
    /// A line is not a recorded arrival.
    #[error("{}:{number}: {reason}\n  hint: {EXPECTED}", path.display())]
    RecordLine {
        /// The file.
        path: PathBuf,
        /// RecordLine number, counted from 1.
        number: usize,
        /// What is wrong.
        reason: String,
    },
}

const EXPECTED: &str =
    r#"a line looks like {"at_ms": 0.7, "session": "s1", "parent": null, …}, times not negative"#;

/// Gap between the runs of one file.
const BETWEEN_RUNS: Duration = Duration::from_secs(60);

/// Longer than any recording; larger times could overflow.
const LONGEST_MS: f64 = 1e12;

pub(super) fn read(path: &Path) -> Result<Vec<Request>, TraceError> {
    let text = fs::read_to_string(path).map_err(|reason| TraceError::File {
        path: path.into(),
        reason,
    })?;
    let mut requests: Vec<Request> = Vec::new();
    let (mut run, mut offset, mut latest) = (1, Duration::ZERO, Duration::ZERO);
    for (number, line) in (1..).zip(text.lines()) {
        if line.trim().is_empty() {
            continue;
        }
        let line = parse(line).map_err(|reason| TraceError::RecordLine {
            path: path.into(),
            number,
            reason,
        })?;
        let at = Duration::from_secs_f64(line.at_ms / 1000.0);
        // A time before the latest one begins another run, with sessions of its own.
        if at + offset < latest {
            run += 1;
            offset = latest + BETWEEN_RUNS;
        }
        latest = at + offset;
        let named = |session: &str| match run {
            1 => session.into(),
            _ => format!("{run}/{session}").into(),
        };
        requests.push(Request {
            after: Vec::new(),
            pause: latest,
            session: named(&line.session),
            parent: line.parent.as_deref().map(named),
        });
    }
    if requests.is_empty() {
        return Err(TraceError::Empty(path.into()));
    }
    Ok(requests)
}

fn parse(line: &str) -> Result<RecordLine, String> {
    let line: RecordLine = serde_json::from_str(line).map_err(|error| {
        // The position within the line is dropped: the error names the line in the file.
        let text = error.to_string();
        text.split(" at line ").next().unwrap_or(&text).to_owned()
    })?;
    if (0.0..LONGEST_MS).contains(&line.at_ms) {
        Ok(line)
    } else {
        Err(format!("at_ms is {}", line.at_ms))
    }
}
