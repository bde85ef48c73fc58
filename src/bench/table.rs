//! The figures side by side: one row for each, one column for each policy.

use std::{fmt::Write, time::Duration};

use super::{figures::Figures, report::BenchReport};
use crate::config::show_duration;

/// Heading of a row, and how to format its figure.
type FigureRow = (&'static str, fn(&Figures) -> String);

/// What the upstream sees, then what clients see.
const FIGURES: [FigureRow; 18] = [
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

/// The table as rows of cells; the first cell of each row is its heading.
pub(super) fn cells(report: &BenchReport) -> Vec<Vec<String>> {
    let column = |heading: &str, cell: &dyn Fn(usize) -> String| -> Vec<String> {
        let cells = (0..report.policies.len()).map(cell);
        std::iter::once(heading.to_owned()).chain(cells).collect()
    };
    let mut rows = vec![column("", &|index| report.policies[index].policy.clone())];
    let limits = report.policies.iter().map(|result| result.limits.len());
    for limit in 0..limits.max().unwrap_or(0) {
        let heading = if limit == 0 {
            "upstream admits"
        } else {
            "  and"
        };
        rows.push(column(heading, &|index| {
            let limits = &report.policies[index].limits;
            limits.get(limit).cloned().unwrap_or_else(none)
        }));
    }
    for (heading, show) in FIGURES {
        rows.push(column(heading, &|index| {
            show(&report.policies[index].figures)
        }));
    }
    rows
}

/// The table as text, below a line that says what was run.
pub fn table(report: &BenchReport) -> String {
    let cells = cells(report);
    let widths: Vec<_> = (0..cells[0].len())
        .map(|column| {
            let widths = cells.iter().map(|row| row[column].chars().count());
            widths.max().unwrap_or(0)
        })
        .collect();
    let answer = show_duration(Duration::from_millis(report.answer_time_ms));
    let mut text = format!("{}; an answer takes {answer}\n\n", report.scenario());
    for row in &cells {
        let mut columns = row.iter().zip(&widths);
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
