//! The figures side by side: one line for each, one column for each policy.

use std::{fmt::Write, time::Duration};

use super::{figures::Figures, report::Report};
use crate::config::show_duration;

/// A line of the table: what it is, and how it is shown.
type Line = (&'static str, fn(&Figures) -> String);

/// What the upstream sees, what clients feel, and how well the two are balanced.
const LINES: [Line; 18] = [
    ("requests", |f| f.requests.to_string()),
    ("  answered", |f| f.served.to_string()),
    ("  given up", |f| f.given_up.to_string()),
    ("dispatches", |f| f.dispatches.to_string()),
    ("  answered 429", |f| f.answers_429.to_string()),
    ("  most in any window", |f| f.most_in_window.to_string()),
    ("  a minute", |f| f.per_minute.to_string()),
    ("  of the quota", |f| {
        f.share_of_quota.map_or_else(none, percent)
    }),
    ("gap, least", |f| {
        f.gap_ms.map_or_else(none, |gap| seconds(gap.min))
    }),
    ("  median", |f| {
        f.gap_ms.map_or_else(none, |gap| seconds(gap.median))
    }),
    ("  p99", |f| {
        f.gap_ms.map_or_else(none, |gap| seconds(gap.p99))
    }),
    ("wait, p50", |f| {
        f.wait_ms.map_or_else(none, |wait| seconds(wait.p50))
    }),
    ("  p95", |f| {
        f.wait_ms.map_or_else(none, |wait| seconds(wait.p95))
    }),
    ("  p99", |f| {
        f.wait_ms.map_or_else(none, |wait| seconds(wait.p99))
    }),
    ("  alone", |f| f.lone_wait_ms.map_or_else(none, seconds)),
    ("turned away", |f| f.turned_away.to_string()),
    ("out of order", |f| percent(f.out_of_order)),
    ("fairness", |f| {
        f.fairness.map_or_else(none, |index| format!("{index:.2}"))
    }),
];

/// The table as lines of cells, the first of which is the heading.
pub(super) fn cells(report: &Report) -> Vec<Vec<String>> {
    let column = |heading: &str, cell: &dyn Fn(usize) -> String| -> Vec<String> {
        let cells = (0..report.policies.len()).map(cell);
        std::iter::once(heading.to_owned()).chain(cells).collect()
    };
    let mut lines = vec![column("", &|index| report.policies[index].policy.clone())];
    let limits = report.policies.iter().map(|outcome| outcome.limits.len());
    for limit in 0..limits.max().unwrap_or(0) {
        let heading = if limit == 0 {
            "upstream admits"
        } else {
            "  and"
        };
        lines.push(column(heading, &|index| {
            let limits = &report.policies[index].limits;
            limits.get(limit).cloned().unwrap_or_else(none)
        }));
    }
    for (heading, show) in LINES {
        lines.push(column(heading, &|index| {
            show(&report.policies[index].figures)
        }));
    }
    lines
}

/// The table as text, with what was run above it.
pub fn table(report: &Report) -> String {
    let cells = cells(report);
    let widths: Vec<_> = (0..cells[0].len())
        .map(|column| {
            let widths = cells.iter().map(|line| line[column].chars().count());
            widths.max().unwrap_or(0)
        })
        .collect();
    let answer = show_duration(Duration::from_millis(report.answer_time_ms));
    let mut text = format!("{}; an answer takes {answer}\n\n", report.scenario());
    for line in &cells {
        let mut columns = line.iter().zip(&widths);
        if let Some((heading, width)) = columns.next() {
            let _infallible = write!(text, "{heading:width$}");
        }
        for (cell, width) in columns {
            let _infallible = write!(text, "  {cell:>width$}");
        }
        text.push('\n');
    }
    text
}

fn seconds(millis: f64) -> String {
    format!("{:.2} s", millis / 1000.0)
}

fn percent(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}

fn none() -> String {
    "-".into()
}
