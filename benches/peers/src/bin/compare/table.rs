//! The table, as text: Markdown, so that it can be pasted.

use std::fmt::Write;

use super::{
    gateway::Scheme,
    metric::{METRICS, Metric},
    middle::Middle,
    results::{Circumstances, DIRECT, OURS, Results, YARDSTICK},
};

pub(crate) fn text(results: &Results, circumstances: &Circumstances) -> String {
    let mut text = String::new();
    for scheme in Scheme::ALL {
        let names = results.gateways(scheme);
        if !names.contains(&OURS) {
            continue;
        }
        let _infallible = writeln!(text, "\nUpstream over {}\n", spelled(scheme));
        beside_each_other(&mut text, results, scheme, &names);
        let pipelines = results.pipelines(scheme);
        if pipelines.len() > 1 {
            text.push_str("\nWithout some of its layers\n\n");
            layers(&mut text, results, scheme, &pipelines);
        }
    }
    let doubts = results.doubts(circumstances);
    text.push('\n');
    if doubts.is_empty() {
        text.push_str("The machine was calm.\n");
    } else {
        text.push_str("NOT TO BE TRUSTED:\n");
        for doubt in doubts {
            let _infallible = writeln!(text, "- {doubt}");
        }
    }
    for scheme in Scheme::ALL {
        for (metric, ratio, holds) in results.verdicts(scheme) {
            if !holds {
                let limit = metric.limit(scheme).unwrap_or_default();
                let _infallible = writeln!(
                    text,
                    "over budget, {}: {}: {} × {YARDSTICK}, budget {limit}",
                    spelled(scheme),
                    metric.label,
                    known(ratio)
                );
            }
        }
    }
    text
}

fn beside_each_other(text: &mut String, results: &Results, scheme: Scheme, names: &[&str]) {
    head(text, names, &["pacegate / nginx", "budget"]);
    for metric in &METRICS {
        let figures = names
            .iter()
            .map(|name| cell(results, scheme, name, metric.key));
        let ratio = results.ratio(scheme, OURS, metric);
        let mark = match ratio.and_then(|ratio| metric.holds(ratio.median, scheme)) {
            Some(true) => " ok",
            Some(false) => " **over**",
            None => "",
        };
        let ratio = ratio.map_or_else(String::new, |ratio| known(ratio) + mark);
        let limit = metric.limit(scheme).unwrap_or_default();
        let label = std::iter::once(metric.heading());
        row(text, label.chain(figures).chain([ratio, limit]));
    }
}

fn layers(text: &mut String, results: &Results, scheme: Scheme, names: &[&str]) {
    head(text, names, &[]);
    for metric in measured_of_all(results, scheme, names) {
        let figures = names
            .iter()
            .map(|name| cell(results, scheme, name, metric.key));
        row(text, std::iter::once(metric.heading()).chain(figures));
    }
}

/// The figures that each of `names` has.
pub(crate) fn measured_of_all(
    results: &Results,
    scheme: Scheme,
    names: &[&str],
) -> impl Iterator<Item = &'static Metric> {
    let has = move |metric: &&Metric| {
        let mut figures = names
            .iter()
            .map(|name| results.figure(scheme, name, metric));
        figures.all(|figure| figure.is_some())
    };
    METRICS.iter().filter(has)
}

pub(crate) fn spelled(scheme: Scheme) -> &'static str {
    match scheme {
        Scheme::Http => "HTTP",
        Scheme::Https => "HTTPS",
        Scheme::Http2 => "HTTPS, HTTP/2",
    }
}

pub(crate) fn cell(results: &Results, scheme: Scheme, name: &str, key: &str) -> String {
    let metric = METRICS.iter().find(|metric| metric.key == key);
    let figure = metric.and_then(|metric| {
        // What the others add to is shown as it is.
        if name == DIRECT && metric.added {
            return results.way(scheme, metric);
        }
        results.figure(scheme, name, metric)
    });
    figure.map_or_else(|| "–".into(), |figure| number(figure.median))
}

/// A ratio, and how well it is known.
pub(crate) fn known(ratio: Middle) -> String {
    let doubt = ratio.doubt();
    let doubt = doubt.map_or_else(String::new, |doubt| format!(" ± {doubt:.2}"));
    format!("{:.2}{doubt}", ratio.median)
}

/// Three figures are as many as are true.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

fn head(text: &mut String, names: &[&str], more: &[&str]) {
    let cells = std::iter::once(&"").chain(names).chain(more);
    row(text, cells.map(|cell| (*cell).to_owned()));
    row(
        text,
        std::iter::repeat_n("---".into(), names.len() + more.len() + 1),
    );
}

fn row(text: &mut String, cells: impl Iterator<Item = String>) {
    for cell in cells {
        let _infallible = write!(text, "| {cell} ");
    }
    text.push_str("|\n");
}
