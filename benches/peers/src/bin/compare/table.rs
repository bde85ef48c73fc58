//! The table, as text: Markdown, so that it can be pasted.

use std::fmt::Write;

use super::{
    gateway::Scheme,
    metric::METRICS,
    results::{Circumstances, DIRECT, OURS, Results, YARDSTICK},
};

pub(crate) fn text(results: &Results, circumstances: &Circumstances) -> String {
    let mut text = String::new();
    for scheme in [Scheme::Http, Scheme::Https] {
        let names = results.gateways(scheme);
        if !names.contains(&OURS) {
            continue;
        }
        let _infallible = writeln!(text, "\nUpstream over {}\n", spelled(scheme));
        row(
            &mut text,
            std::iter::once(String::new())
                .chain(names.iter().map(|name| (*name).to_owned()))
                .chain(["pacegate / nginx".into(), "budget".into()]),
        );
        row(
            &mut text,
            std::iter::repeat_n("---".to_owned(), names.len() + 3),
        );
        for metric in &METRICS {
            let label = format!(
                "{}{}{}",
                metric.label,
                if metric.unit.is_empty() { "" } else { ", " },
                metric.unit
            );
            let figures = names
                .iter()
                .map(|name| cell(results, scheme, name, metric.key));
            let ratio = results.ratio(scheme, OURS, metric);
            let verdict = ratio.and_then(|ratio| metric.holds(ratio, scheme));
            let mark = match verdict {
                Some(true) => " ok",
                Some(false) => " **over**",
                None => "",
            };
            let ratio = ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}{mark}"));
            let limit = metric.limit(scheme).unwrap_or_default();
            row(
                &mut text,
                std::iter::once(label).chain(figures).chain([ratio, limit]),
            );
        }
    }
    let doubts = results.doubts(circumstances);
    text.push('\n');
    if doubts.is_empty() {
        text.push_str("The machine was calm.\n");
    } else {
        text.push_str("NOT TO BE TRUSTED: the machine was not calm.\n");
        for doubt in doubts {
            let _infallible = writeln!(text, "- {doubt}");
        }
    }
    for scheme in [Scheme::Http, Scheme::Https] {
        for (metric, ratio, holds) in results.verdicts(scheme) {
            if !holds {
                let limit = metric.limit(scheme).unwrap_or_default();
                let _infallible = writeln!(
                    text,
                    "over budget, {}: {}: {ratio:.2} × {YARDSTICK}, budget {limit}",
                    spelled(scheme),
                    metric.label
                );
            }
        }
    }
    text
}

pub(crate) fn spelled(scheme: Scheme) -> &'static str {
    match scheme {
        Scheme::Http => "HTTP",
        Scheme::Https => "HTTPS",
    }
}

pub(crate) fn cell(results: &Results, scheme: Scheme, name: &str, key: &str) -> String {
    let metric = METRICS.iter().find(|metric| metric.key == key);
    let figure = metric.and_then(|metric| {
        // What the others add to is shown as it is.
        let metric = metric;
        if name == DIRECT && metric.added {
            return results.way(scheme, metric);
        }
        results.figure(scheme, name, metric)
    });
    figure.map_or_else(|| "–".into(), |figure| number(figure.median))
}

/// Three figures are as many as are true.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

fn row(text: &mut String, cells: impl Iterator<Item = String>) {
    for cell in cells {
        let _infallible = write!(text, "| {cell} ");
    }
    text.push_str("|\n");
}
