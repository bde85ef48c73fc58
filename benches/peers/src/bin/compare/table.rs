//! The table as Markdown.

use std::fmt::Write;

use super::{
    gateway::Scheme,
    judge::Judgement,
    metric::{METRICS, Metric, Yardstick},
    quartiles::Quartiles,
    results::{Circumstances, DIRECT, OURS, Results},
};

pub(crate) fn text(results: &Results, circumstances: &Circumstances) -> String {
    let mut text = String::new();
    for scheme in Scheme::ALL {
        let names = results.gateways(scheme);
        if !names.iter().any(|name| name == OURS) {
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
        for judgement in Judgement::all(results, scheme) {
            said_of(&mut text, scheme, &judgement);
        }
    }
    text
}

/// A line for each figure that is over its budget or not reliable.
fn said_of(text: &mut String, scheme: Scheme, judgement: &Judgement) {
    let verdict = match (judgement.over(), &judgement.doubt) {
        (None, None) => return,
        (Some(_), _) => judgement.verdict(),
        (None, Some(_)) => "within budget".into(),
    };
    let trust = judgement.doubt.as_ref();
    let trust = trust.map_or_else(String::new, |doubt| format!("; NOT TO BE TRUSTED: {doubt}"));
    let _infallible = writeln!(
        text,
        "{}: {}: {}, budget {}: {verdict}{trust}",
        spelled(scheme),
        judgement.metric.label,
        judgement.value(),
        judgement.bound(),
    );
}

fn beside_each_other(text: &mut String, results: &Results, scheme: Scheme, names: &[String]) {
    let judgements = Judgement::all(results, scheme);
    let headings = RATIOS.map(|against| heading(against, scheme));
    head(text, names, &[&headings[..], &["budget".into()]].concat());
    for metric in &METRICS {
        let figures = names
            .iter()
            .map(|name| cell(results, scheme, name, metric.key));
        let ratios = RATIOS.map(|against| ratio(results, scheme, metric, against));
        let budget = judgements
            .iter()
            .filter(|judgement| judgement.metric.key == metric.key)
            .map(|judgement| {
                let mark = if judgement.over().is_some() { "**" } else { "" };
                let trust = judgement
                    .doubt
                    .as_ref()
                    .map_or("", |_| ", not to be trusted");
                format!(
                    "{}: {mark}{}{mark}{trust}",
                    judgement.limit(),
                    judgement.verdict()
                )
            });
        let budget = budget.collect::<Vec<_>>().join("; ");
        let label = std::iter::once(metric.heading());
        row(text, label.chain(figures).chain(ratios).chain([budget]));
    }
}

/// The ratios that have a column.
pub(crate) const RATIOS: [Yardstick; 2] = [Yardstick::BareHyper, Yardstick::Nginx];

/// The heading of a ratio's column.
pub(crate) fn heading(against: Yardstick, scheme: Scheme) -> String {
    let whose = against.whose(scheme).map(|kind| kind.name());
    format!("{OURS} / {}", whose.unwrap_or_default())
}

/// The ratio of pacegate's figure to another gateway's.
pub(crate) fn ratio(
    results: &Results,
    scheme: Scheme,
    metric: &Metric,
    against: Yardstick,
) -> String {
    let yardstick = against.whose(scheme).map(|kind| kind.name());
    let ratio = yardstick.and_then(|name| results.ratio(scheme, OURS, metric, &name));
    ratio.map_or_else(String::new, known)
}

fn layers(text: &mut String, results: &Results, scheme: Scheme, names: &[String]) {
    head(text, names, &[]);
    for metric in measured_of_all(results, scheme, names) {
        let figures = names
            .iter()
            .map(|name| cell(results, scheme, name, metric.key));
        row(text, std::iter::once(metric.heading()).chain(figures));
    }
}

/// The figures of each of `names`.
pub(crate) fn measured_of_all(
    results: &Results,
    scheme: Scheme,
    names: &[String],
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
        // Without a gateway the figure is shown as measured.
        if name == DIRECT && metric.added {
            return results.way(scheme, metric);
        }
        results.figure(scheme, name, metric)
    });
    figure.map_or_else(|| "–".into(), |figure| number(figure.median))
}

/// A ratio and its error.
pub(crate) fn known(ratio: Quartiles) -> String {
    let doubt = ratio.doubt();
    let doubt = doubt.map_or_else(String::new, |doubt| format!(" ± {doubt:.2}"));
    format!("{:.2}{doubt}", ratio.median)
}

/// Three significant digits: more would be noise.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

fn head(text: &mut String, names: &[String], more: &[String]) {
    let cells = std::iter::once(String::new()).chain(names.iter().chain(more).cloned());
    row(text, cells);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{gateway::Kind, machine::OtherPrograms, measure::Figures};

    fn calm() -> Circumstances {
        Circumstances {
            command: "benches/compare".into(),
            machine: "2 cores".into(),
            versions: Vec::new(),
            rounds: 7,
            load_before: 0.0,
            foreign: OtherPrograms {
                busy: 0.0,
                stolen: 0.0,
            },
        }
    }

    #[test]
    fn a_line_over_budget_is_printed_with_its_distance_and_its_doubt() {
        let mut results = Results::default();
        let mut add = |kind: &Kind, figures| results.add(Scheme::Http2, &kind.name(), figures);
        for noise in [0.0, 10.0, 40.0] {
            let theirs = Figures::from([("cpu", 20.0), ("bulk", 500.0)]);
            add(&Kind::HyperHttp2, theirs.clone());
            add(&Kind::Nginx, theirs);
            let bulk = 400.0 - 10.0 * noise;
            add(
                &Kind::pacegate(),
                Figures::from([("cpu", 33.0), ("bulk", bulk)]),
            );
        }
        let text = text(&results, &calm());
        for said in [
            "Upstream over HTTPS, HTTP/2\n",
            "|  | nginx | bare hyper, HTTP/2 | pacegate | pacegate / bare hyper, HTTP/2 | pacegate / nginx | budget |",
            "| CPU per request, µs | 20.0 | 20.0 | 33.0 | 1.65 ± 0.00 | 1.65 ± 0.00 | \
             ≤ 1.5 × bare hyper, HTTP/2: **over by 1.10 ×** |",
            "≥ 0.75 × nginx: **over by 1.25 ×**, not to be trusted |",
            "The machine was calm.",
            "HTTPS, HTTP/2: CPU per request: 1.65 ± 0.00 × bare hyper, HTTP/2, budget ≤ 1.5: \
             over by 1.10 ×\n",
            "over by 1.25 ×; NOT TO BE TRUSTED: it is known to ± ",
        ] {
            assert!(text.contains(said), "{said}\n{text}");
        }
    }
}
